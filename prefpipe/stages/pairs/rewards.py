"""Pairs rated by a reward model: each response in the model's own chat template, as ``score`` rates it."""

from prefpipe.backends.scorers.reward_model import RewardModelScorer
from prefpipe.configs.pairs import PairsConfig
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.stages.pairs.rating import PairRater, scorer_rater


def reward_rater(config: PairsConfig, model: ModelFiles) -> PairRater:
    """Return the rater of ``--model`` with ``--reward-model``.

    Raises:
        ModelError: no chat template; what else is wrong with a reward model is found when it is opened.
    """
    require_chat_template(model)

    def open_scorer() -> RewardModelScorer:
        scorer = RewardModelScorer(
            model,
            dtype=config.dtype,
            device=config.device,
            batch_size=config.batch_size,
            trust_remote_code=config.trust_remote_code,
        )
        if config.max_length is not None:  # beyond its own limit it cannot read
            scorer.max_length = min(scorer.max_length, config.max_length)
        return scorer

    return scorer_rater(model.identity(), model.requested, open_scorer)
