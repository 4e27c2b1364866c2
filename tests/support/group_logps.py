"""A policy's log-probabilities by group, as the trainer reads them of a batch."""

from prefpipe.training.forward import batch_logps, by_group


def group_logps(model, batch, *, entropy=False):
    """Return the log-probabilities of a batch's responses, each (P, R), 0 where there is no response."""
    return by_group([batch_logps(model, batch, entropy=entropy)], batch["slots"])
