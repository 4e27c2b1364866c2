"""Commands, flags, console output and exit codes."""
