"""Evaluation: means with intervals, win rates, calibration, benchmarks' figures."""
