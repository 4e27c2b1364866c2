"""Training on groups.

- ``groups``: checked training data; ``evaluation_split``: prompts held out of it.
- ``encoding``: text to token ids if none are stored; ``batches``, ``shared_prompt``: groups to
  tensors, and their order.
- ``forward``, ``projection``: tensors to log-probabilities; ``head_scores``: the same for reward
  models.
- ``scoring``: a model's output to scores, losses and measures; ``measures``: the logged measures.
- ``settings``, ``trainer``, ``ranks``: the Hugging Face trainer over groups, on one device or
  several.
- ``callbacks``, ``early_stopping``, ``time_budget``, ``throughput``: work beside the steps.
- ``checkpoints``: where to resume from; ``tables``: the Parquet files of a run.
- ``policy``, ``reward_model``, ``quantisation``: models in and out; ``merge``, ``merge_check``:
  adapters into their base.
"""
