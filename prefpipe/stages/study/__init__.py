"""``prefpipe study``: arms that are compared over seeds, on one pool and one held-out set."""
