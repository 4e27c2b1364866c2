"""The story of a run as one HTML page: the template, its style, its scripts, and what puts them together."""
