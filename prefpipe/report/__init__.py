"""The story of a run as one HTML file."""
