"""What ``prefpipe inspect`` gathers of an artifact or of one prompt."""
