"""Objectives: from log-probabilities and rewards to a loss.

- `registry`: the table of names, scores, comparisons, targets and knobs; read without PyTorch.
- `logps`: from logits to log-probabilities; `scores`: from those to scores, and to the loss.
- `losses`: the functions by name (``LOSSES``); they are in `group`, `pairwise`, `graded` (with
  MMPO's target) and `reward_head`, and use `masked`.
"""
