"""``prefpipe export``: files that other tools read."""
