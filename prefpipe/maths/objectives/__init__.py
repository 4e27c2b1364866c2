"""Objectives: from log-probabilities and rewards to a loss.

- `registry`: the table of names, scores, comparisons, targets and knobs; read without PyTorch.
- `logps`: from logits to log-probabilities; `scores`: from those to scores, and to the loss.
- `losses`: the functions by name (``LOSSES``); they stand in `group`, `pairwise`, `graded` (MMPO's
  target among them) and `reward_head`, and are made of what is in `masked`.
"""
