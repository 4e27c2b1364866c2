"""``prefpipe train``: a policy or a reward model, trained on groups."""
