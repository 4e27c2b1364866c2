"""Terminal plots and tables."""
