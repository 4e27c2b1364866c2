"""Questions to judges, and what their answers say."""
