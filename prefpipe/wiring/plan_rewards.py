"""Rewards and weights that a plan names, checked against the scorers of its commands."""

from collections.abc import Sequence

from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.select import BY_UNCERTAINTY, SelectConfig
from prefpipe.errors import UsageError
from prefpipe.maths.selection.rewards import parse_reward


def reward_problem(config: SelectConfig | EvalConfig, names: Sequence[str]) -> str | None:
    """Return why these scorers do not give the reward, or the spread of a strategy."""
    stage, scorers = config.stage, ", ".join(names) or "none"
    if not names:
        return f"{stage}: `scorer` is missing"
    if config.reward is None and len(names) > 1:
        return f"{stage}: `reward` is missing: the scorers are {scorers}"
    try:
        of_reward = names if config.reward is None else parse_reward(config.reward).names
    except UsageError as error:
        return f"{stage}: {error.message}"
    unknown = [name for name in of_reward if name not in names]
    if unknown:
        return (
            f"{stage}: the reward {config.reward!r} names `{unknown[0]}`, and the scorers are: "
            f"{scorers}"
        )

    if not isinstance(config, SelectConfig) or config.strategy not in BY_UNCERTAINTY:
        return None
    of_spread = config.spread_of or of_reward
    unknown = [name for name in of_spread if name not in names]
    if unknown:
        return f"{stage}: `spread_of` names `{unknown[0]}`, and the scorers are: {scorers}"
    if len(of_spread) < 2:
        return (
            f"{stage}: {config.strategy} needs the spread of at least two scorers, and the "
            f"reward names only {of_spread[0]}"
        )
    return None


def weight_problem(text: str) -> str | None:
    """Return why a `weight_by` is not an expression; its names are checked with the groups."""
    from prefpipe.stages.train.loss_weights import WORDING

    try:
        parse_reward(text, WORDING)
    except UsageError as error:
        return f"train: {error.message}"
    return None
