"""Raters of single responses: reward models, ratings on file, verifiable checks."""
