"""Engines behind small protocols: generators, scorers, judges, embedders."""
