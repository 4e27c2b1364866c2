"""``prefpipe select``: a small informative group of each prompt's candidates."""
