"""Files of other tools become candidates and scores, and groups become files of other tools."""
