"""Evaluation: means with intervals, win rates, calibration, benchmarks' figures.

Every interval is drawn by the one resampler in `bootstrap`, from prompts: `prompt_rows` says which
rows are of one prompt, `clustered_means` weighs pairs, `intervals` has means, differences and
ratios.
"""
