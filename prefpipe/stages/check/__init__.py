"""``prefpipe check``: groups as training data, looked at before a GPU is asked for."""
