"""Code that several stages share: the runtime, rows of candidates and groups, recipes."""
