"""Judges of pairs and of single responses: a language model or a reward model."""
