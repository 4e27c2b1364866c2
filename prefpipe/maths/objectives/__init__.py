"""Objectives: from log-probabilities and rewards to a loss."""
