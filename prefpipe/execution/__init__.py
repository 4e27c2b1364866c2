"""Who makes which part: this process, workers on this node, Ray actors, claims."""
