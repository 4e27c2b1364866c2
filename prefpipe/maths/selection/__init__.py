"""Which candidates of a prompt become its positives and its negatives.

- `select_responses`: the public function, for arrays; `validation` checks its arguments.
- `screening`: which candidates are usable, and whether a prompt is worth training on.
- `select_pools`: positives, candidate negatives and weights of many prompts; then the strategy.
- `registry`: the table of strategies; `strategies`: their rules, by the same names.
- `opt_select`: the one rule that is an optimisation problem, with its proven bound.
- `explanation`: the cost and coverage of a choice by any strategy.
- `pairs`: pairs of the kept responses, for pairwise objectives; `rewards`: reward expressions.
"""
