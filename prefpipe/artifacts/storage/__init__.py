"""Where artifacts lie, on a disk or in a bucket, and the operations on their files."""
