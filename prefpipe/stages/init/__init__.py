"""``prefpipe init``: settings and a script to start from."""
