"""The data that ``prefpipe inspect`` collects about an artifact or one prompt."""
