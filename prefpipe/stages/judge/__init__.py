"""``prefpipe judge``: pairs of responses, compared by a judge."""
