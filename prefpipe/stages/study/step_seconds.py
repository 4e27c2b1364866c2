"""How long a step of a study will take, estimated from its finished steps.

A step takes the start-up time of its command, plus its tokens at the rate at which this machine
samples or trains. Steps without tokens take as long as other steps of their stage.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts.prompts import load_prompts
from prefpipe.artifacts.step_ledger import StepEntry
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.study_steps import StudyStep
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import PrefpipeError
from prefpipe.maths.objectives.registry import objective_of
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.stages.study.step_tokens import tokens_of
from prefpipe.stages.train.seen_tokens import tokens_by_step
from prefpipe.training.start_values import START_VALUES

SAMPLING = ("generate", "eval")
START_S = 7.0
"""What a command of a small model takes before its first token, until a step has shown it."""


class Rates(NamedTuple):
    """The time that this machine needs for a study.

    Attributes:
        start_s: seconds before the first token of a command.
        sampled_per_s: response tokens; None if not known.
        trained_per_s: response tokens; None if not known.
        of_stages: mean seconds of a step by stage.
    """

    start_s: float
    sampled_per_s: float | None
    trained_per_s: float | None
    of_stages: dict[str, float]


def rates_of(
    entries: Sequence[StepEntry],
    *,
    sampled_per_s: float | None = None,
    trained_per_s: float | None = None,
) -> Rates:
    """Return the given rates, and for the others those of finished steps.

    Args:
        entries: of the study's ledger.
        sampled_per_s: response tokens that are sampled in a second.
        trained_per_s: response tokens that are trained on in a second.
    """
    done = [entry for entry in entries if entry.is_done]
    by_stage: dict[str, list[float]] = {}
    for entry in done:
        by_stage.setdefault(entry.stage, []).append(entry.seconds)
    # the quickest command did little beside starting
    start_s = min((entry.seconds for entry in done), default=START_S)
    return Rates(
        start_s,
        sampled_per_s or _rate(done, SAMPLING, start_s),
        trained_per_s or _rate(done, ("train",), start_s),
        {stage: sum(seconds) / len(seconds) for stage, seconds in by_stage.items()},
    )


def estimated_seconds(
    step: StudyStep, rates: Rates, *, most_of_group: int | None = None
) -> float | None:
    """Return how long a step takes from its beginning, None if not known.

    Responses not sampled yet count as ``max_tokens`` long.

    Args:
        step: of the study.
        rates: of `rates_of`.
        most_of_group: response tokens of a group at most, for groups that are not there yet.
    """
    if step.stage in SAMPLING:
        rate, n_tokens = rates.sampled_per_s, _sampled_tokens(step)
    elif step.stage == "train":
        rate, n_tokens = rates.trained_per_s, _trained_tokens(step, most_of_group)
    else:
        return rates.of_stages.get(step.stage)
    if rate is None or n_tokens is None:
        return rates.of_stages.get(step.stage)
    return rates.start_s + n_tokens / rate


def _rate(entries: Iterable[StepEntry], stages: Sequence[str], start_s: float) -> float | None:
    """Return tokens a second over all steps of some stages, None if not known."""
    n_tokens, seconds = 0, 0.0
    for entry in entries:
        if entry.stage in stages and entry.n_tokens:
            n_tokens += entry.n_tokens
            seconds += max(0.0, entry.seconds - start_s)
    return n_tokens / seconds if n_tokens and seconds > 0 else None


def _sampled_tokens(step: StudyStep) -> int | None:
    """Return the response tokens that a step samples: at most, or as many as the base sampled."""
    config = step.config
    if isinstance(config, EvalConfig):
        sampled = tokens_of("generate", Path(str(config.baseline)))
        if sampled is not None:
            return sampled
    if not isinstance(config, EvalConfig | GenerateConfig) or config.prompts is None:
        return None
    try:
        n_prompts = len(load_prompts(str(config.prompts), drop_duplicates=True).rows)
    except PrefpipeError:
        return None
    share = getattr(config, "prompt_share", None)
    if share:
        number, n_shares = (int(text) for text in str(share).split("/"))
        n_prompts = n_prompts * number // n_shares - n_prompts * (number - 1) // n_shares
    return n_prompts * config.n * config.max_tokens


def most_tokens_of_groups(
    pool: GenerateConfig, selections: Iterable[StudyStep]
) -> dict[str | None, int]:
    """Return the most response tokens of a group, by arm.

    Args:
        pool: how the pool is sampled.
        selections: of the arms.
    """
    most = {}
    for step in selections:
        if not isinstance(step.config, SelectConfig):
            continue
        strategy = STRATEGIES[step.config.strategy]
        n_negatives = strategy.n_negatives
        if n_negatives is None:
            n_negatives = step.config.k
        n_kept = pool.n if n_negatives == "all" else n_negatives + step.config.positives
        most[step.arm] = min(n_kept, pool.n) * pool.max_tokens
    return most


def _trained_tokens(step: StudyStep, most_of_group: int | None) -> int | None:
    """Return the response tokens that a training sees, at most if its groups do not exist yet."""
    config = step.config
    if not isinstance(config, TrainConfig) or config.max_steps is None:
        return None
    size = config.global_batch_size
    if size is None:
        objective = objective_of(config.target, config.objective)
        size = START_VALUES[objective].global_batch_size
    try:
        seen = tokens_by_step(
            config.groups,
            seed=config.seed,
            global_batch_size=size,
            n_steps=config.max_steps,
            training=config,
        )
    except PrefpipeError:
        return None if most_of_group is None else config.max_steps * size * most_of_group
    return int(seen[-1])
