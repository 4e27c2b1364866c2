"""A study on disk: how far its runs are, where each is judged, its tables and its figures."""
