"""Where artifacts lie, on a disk or in a bucket, and six operations on their files."""
