"""Training on groups.

- ``groups``: what is trained on, checked; ``evaluation_split``: what is kept out of it.
- ``encoding``: text to token ids, where none are stored; ``batches``, ``shared_prompt``: groups to
  tensors, and their order.
- ``forward``, ``projection``: tensors to log-probabilities; ``head_scores``: the same for reward
  models.
- ``scoring``: a model's output to scores, losses and measures; ``measures``: what is logged of
  them.
- ``settings``, ``trainer``, ``ranks``: the Hugging Face trainer over groups, on one device or
  several.
- ``callbacks``, ``early_stopping``, ``time_budget``, ``throughput``: what happens beside the steps.
- ``checkpoints``: where to go on from; ``tables``: the Parquet files of a run.
- ``policy``, ``reward_model``, ``quantisation``: models in and out; ``merge``, ``merge_check``:
  adapters into their base.
"""
