"""Questions to judges, and verdicts read from their answers."""
