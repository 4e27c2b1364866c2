"""What several stages need: the runtime, rows of candidates and groups, recipes."""
