"""Judges of pairs and of single responses: a language model that is asked, or a reward model."""
