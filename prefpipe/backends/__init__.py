"""One small protocol and a house for each engine."""
