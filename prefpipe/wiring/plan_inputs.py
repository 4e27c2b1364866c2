"""What the steps of a plan load and read, looked at before the first of them runs.

A night of sampling should not end at a model that does not exist.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts.run_record import FILE_NAME as RUN_RECORD
from prefpipe.artifacts.storage.files import exists, is_file
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.judging import parse_judge
from prefpipe.configs.round_steps import Step, number_of_folder
from prefpipe.configs.sampling import SERVED
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, ModelError, PrefpipeError


class Need(NamedTuple):
    """What a step needs: its kind and its name, and a look at it that raises what is wrong."""

    kind: str
    name: str
    look: Callable[[], object]


def require_inputs(steps: Sequence[Step], run: Path, plan: Path) -> None:
    """Refuse models, files and prompts that a step could not use.

    What the steps make themselves is not looked at, and what several steps need is once.

    Args:
        steps: those that will run.
        run: the folder that they write to.
        plan: its file, for hints.

    Raises:
        InputError: with the round and the stage that needs it.
    """
    seen = set()
    for step in steps:
        for need in _needs_of(step.config):
            key = (need.kind, need.name)
            if key in seen or _is_of_a_round(need.name, run):
                continue
            seen.add(key)
            try:
                need.look()
            except PrefpipeError as error:
                raise InputError(
                    f"round {step.number}, {step.stage}: {error.message}",
                    hint=error.hint or f"correct {plan}",
                ) from error


def is_missing(source: str) -> bool:
    """Return whether there is no file of prompts; the hub's data sets are not looked at.

    Raises:
        InputError: a bucket does not say.
        UsageError: an address that nothing is read from.
    """
    place = place_of(source)
    if place is None:
        return False
    try:
        return not exists(place.expanduser() if isinstance(place, Path) else place)
    except OSError as error:
        raise unreadable(place, error) from error


def _is_of_a_round(name: str, run: Path) -> bool:
    """Return whether a path lies in the folder of a round."""
    path = Path(name)
    if not path.is_relative_to(run):
        return False
    places = path.relative_to(run).parts
    return bool(places) and number_of_folder(places[0]) is not None


def _needs_of(config: StageConfig) -> Iterator[Need]:
    """Yield what a step needs."""
    if isinstance(config, GenerateConfig):
        if config.backend not in SERVED:
            yield from map(_model, config.model)
        yield Need("prompts", config.prompts, partial(_read_prompts, config))
    elif isinstance(config, ScoreConfig):
        yield from _needs_of_scorers(config)
    elif isinstance(config, EmbedConfig):
        if config.model != "fake":
            yield _model(config.model)
    elif isinstance(config, TrainConfig):
        yield from _needs_of_training(config)
    elif isinstance(config, EvalConfig):
        yield from _needs_of_evaluation(config)


def _needs_of_training(config: TrainConfig) -> Iterator[Need]:
    yield _model(config.model)
    if config.reference_model is not None:
        yield _model(config.reference_model)
    for flag in ("chat_template", "rater_scores", "eval_groups"):
        path = getattr(config, flag)
        if path is not None:
            yield Need(flag, str(path), partial(_require_path, flag, path))


def _needs_of_evaluation(config: EvalConfig) -> Iterator[Need]:
    from prefpipe.stages.evaluate.sides import rating_of_side, sampling_of_side

    if config.backend not in SERVED:
        yield _model(config.baseline)
    if config.kl_reference is not None:
        yield _model(config.kl_reference)
    yield from _needs_of_scorers(rating_of_side(config, config.output, config.output))
    sampling = sampling_of_side(config, "policy", config.output)
    yield Need("held-out prompts", sampling.prompts, partial(_read_prompts, sampling))


def _needs_of_scorers(config: ScoreConfig) -> Iterator[Need]:
    for text in config.scorer:
        scorer = parse_scorer(text)
        if scorer.kind == "reward-model":
            yield _model(scorer.target)
        elif scorer.kind == "ratings":
            yield Need("ratings", scorer.target, partial(_read_ratings, config, scorer.target))
        elif scorer.kind == "judge":
            judge = parse_judge(scorer.target)
            if judge.kind == "openai":
                yield Need("server", config.base_url or "", partial(_require_server, config))
            else:
                yield _model(judge.model)
            if config.judge_prompt is not None:
                prompt = config.judge_prompt
                yield Need("judge prompt", prompt, partial(_read_judge_prompt, prompt))


def _model(reference: str) -> Need:
    return Need("model", reference, partial(_require_model, reference))


def _require_model(reference: str) -> None:
    from prefpipe.models.location import require_model

    require_model(reference)


def _require_path(flag: str, path: Location) -> None:
    if not exists(path):
        raise InputError(f"`{flag}`: {path} does not exist")


def _read_prompts(config: GenerateConfig) -> None:
    from prefpipe.stages.generate import count_parts

    count_parts(config)


def _read_ratings(config: ScoreConfig, path: str) -> None:
    from prefpipe.backends.scorers.ratings import RatingsScorer

    RatingsScorer(
        path,
        rating_column=config.rating_column,
        on_duplicate=config.on_duplicate,
        skip_bad_rows=config.skip_bad_rows,
    )


def _read_judge_prompt(reference: str) -> None:
    from prefpipe.backends.judges.prompt_files import read_judge_prompt

    read_judge_prompt(reference, "pointwise")


def _require_server(config: ScoreConfig) -> None:
    """Refuse to ask OpenAI's own server without a key."""
    # a step that goes on may have all its answers
    if is_file(config.output / RUN_RECORD):
        return
    has_address = config.base_url or os.environ.get("OPENAI_BASE_URL")
    if not has_address and not os.environ.get("OPENAI_API_KEY"):
        raise ModelError(
            "OPENAI_API_KEY is not set, and OpenAI's server needs a key",
            hint="set OPENAI_API_KEY, or name your own server with `base_url` in the plan",
        )
