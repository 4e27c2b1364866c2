"""Training on groups.

groups: what is trained on, checked. batches: groups to tensors, and their order. forward: tensors to log-probabilities.
settings, trainer: the Hugging Face trainer over groups. measures, callbacks: what is logged and where. checkpoints: where to
go on from. policy: models in and out. targets: what is trained and what its scores are. head_scores, reward_model: the same as
forward and policy, for reward models.
"""
