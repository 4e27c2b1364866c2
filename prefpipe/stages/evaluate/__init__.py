"""``prefpipe eval``: a policy against a baseline."""
