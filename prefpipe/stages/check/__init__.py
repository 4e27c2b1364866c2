"""``prefpipe check``: groups as training data, checked before you request a GPU."""
