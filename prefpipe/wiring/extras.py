"""Which optional packages a command needs, checked before it reads or writes anything.

The core runs without PyTorch. Each extra of pyproject.toml brings what one kind of work needs; a
command whose extra is missing ends with one line that says what to install.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts.run_record import FILE_NAME as RUN_RECORD
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.storage.files import is_file
from prefpipe.configs.check import CheckConfig
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.inspect import InspectConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import parse_judge
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.merge import MergeConfig
from prefpipe.configs.pairs import FAKE, PairsConfig
from prefpipe.configs.report import ReportConfig
from prefpipe.configs.sampling import AUTO, SERVED
from prefpipe.configs.savings import SavingsConfig
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.study import StudyConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.configs.workers import WorkersConfig
from prefpipe.errors import InputError, MissingExtraError
from prefpipe.maths.compute.training_compute import parse_size


class Extra(NamedTuple):
    """An extra, and the modules of it that are imported."""

    name: str
    modules: tuple[str, ...]


class Need(NamedTuple):
    """What of a command needs an extra: ``prefpipe generate --backend vllm``."""

    what: str
    extra: Extra


TRAIN = Extra("train", ("torch", "transformers", "accelerate", "peft", "tensorboard"))
GENERATE = Extra("generate", ("torch", "transformers", "peft"))
VLLM = Extra("vllm", ("vllm",))
EMBED = Extra("embed", ("torch", "sentence_transformers"))
MAP = Extra("embed", ("sklearn",))
REPORT = Extra("report", ("sklearn",))
JUDGE = Extra("judge", ("openai",))
QLORA = Extra("qlora", ("bitsandbytes",))

OF_BACKEND = {"transformers": GENERATE, "vllm": VLLM, "openai": JUDGE, "reward-model": GENERATE}
"""What samples or rates, and the extra that runs it. ``fake`` needs none."""
PACKAGES = {"sklearn": "scikit-learn", "sentence_transformers": "sentence-transformers"}
"""Modules whose package has another name."""


def require_extras(config: StageConfig | CommandConfig) -> None:
    """Check that every optional package which a command needs is installed.

    A run that is on disk already may be finished and need no engine: what opens one checks again,
    see `require`.

    Raises:
        MissingExtraError: naming the first package that is missing, and its extra.
    """
    if isinstance(config, WorkersConfig):
        # a cluster's nodes have the engines: this process only deals out parts
        is_elsewhere = config.on is not None
        goes_on = is_file(config.output / RUN_RECORD) and not config.overwrite
        if (is_elsewhere or goes_on) and not isinstance(config, LogprobsConfig | EvalConfig):
            return
    for need in _needs(config):
        require(need.extra, need.what)


def require(extra: Extra, what: str) -> None:
    """Check that an extra is installed.

    Args:
        extra: the extra.
        what: what needs it, the beginning of the message.

    Raises:
        MissingExtraError: naming the first package that is missing.
    """
    for module in extra.modules:
        if not is_installed(module):
            raise MissingExtraError(what, PACKAGES.get(module, module), extra.name)


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    spec = importlib.util.find_spec(module)
    # a folder of that name is found, too, and has no origin
    return spec is not None and spec.origin is not None


def _needs(config: StageConfig | CommandConfig) -> Iterator[Need]:
    """Yield what a command needs, in the order in which it is used."""
    if isinstance(config, GenerateConfig):
        yield from _of_backend("prefpipe generate", config.backend)
    elif isinstance(config, ScoreConfig):
        yield from _of_scorers("prefpipe score", config.scorer, asks=config.answers_mode == "ask")
    elif isinstance(config, JudgeConfig):
        kind = parse_judge(config.judge).kind
        asks = config.answers_mode == "ask"
        yield from _of_rater(f"prefpipe judge --judge {kind}:MODEL", kind, asks=asks)
    elif isinstance(config, EmbedConfig):
        if config.model != "fake":
            yield Need("`prefpipe embed`", EMBED)
    elif isinstance(config, TrainConfig):
        yield Need("`prefpipe train`", TRAIN)
        if config.load_in_4bit:
            yield Need("`prefpipe train --load-in-4bit`", QLORA)
    elif isinstance(config, LogprobsConfig):
        yield Need("`prefpipe logprobs`", TRAIN)
        if config.dtype.startswith("nf4"):
            yield Need(f"`prefpipe logprobs --dtype {config.dtype}`", QLORA)
    elif isinstance(config, EvalConfig):
        yield from _of_evaluation(config)
    elif isinstance(config, PairsConfig):
        if config.model not in (None, FAKE):
            yield Need(f"`prefpipe {config.stage} --model`", TRAIN)
    else:
        yield from _of_command(config)


def _of_command(config: StageConfig | CommandConfig) -> Iterator[Need]:
    """Yield what a command that is no stage needs."""
    if isinstance(config, CheckConfig):
        yield Need("`prefpipe check`", TRAIN)
    elif isinstance(config, MergeConfig):
        yield Need("`prefpipe merge`", TRAIN)
    elif isinstance(config, StudyConfig):
        yield Need("`prefpipe study`", TRAIN)
    elif isinstance(config, SavingsConfig):
        if _names_a_model(config.model):
            yield Need(f"`prefpipe savings --model {config.model}`", TRAIN)
    elif isinstance(config, ReportConfig):
        yield Need("`prefpipe report`", REPORT)
        if config.model is not None and _names_a_model(config.model):
            yield Need(f"`prefpipe report --model {config.model}`", TRAIN)
    elif isinstance(config, InspectConfig) and config.draw_map:
        yield Need("`prefpipe inspect --map`", MAP)


def _of_evaluation(config: EvalConfig) -> Iterator[Need]:
    """Yield what samples a side, rates it, and measures the distance to the reference."""
    sampled = [side for side in (config.policy, config.baseline) if not _is_candidates(side)]
    if sampled:
        yield from _of_backend("prefpipe eval", config.backend)
    yield from _of_scorers("prefpipe eval", config.scorer)

    samples_here = config.backend not in SERVED
    has_reference = config.kl_reference is not None
    if config.kl and (has_reference or (config.baseline in sampled and samples_here)):
        yield Need("the KL divergence of `prefpipe eval` (--no-kl leaves it out)", TRAIN)


def _of_backend(command: str, backend: str) -> Iterator[Need]:
    # a plan's steps settle it one by one, each in a process of its own
    if backend == AUTO:
        backend = "vllm" if is_installed("vllm") else "transformers"
    extra = OF_BACKEND.get(backend)
    if extra is not None:
        yield Need(f"`{command} --backend {backend}`", extra)


def _of_scorers(command: str, scorers: tuple[str, ...], *, asks: bool = True) -> Iterator[Need]:
    for text in scorers:
        scorer = parse_scorer(text)
        kind = parse_judge(scorer.target).kind if scorer.kind == "judge" else scorer.kind
        named = f"judge:{kind}" if scorer.kind == "judge" else kind
        yield from _of_rater(f"{command} --scorer {named}:MODEL", kind, asks=asks)


def _of_rater(command: str, kind: str, *, asks: bool) -> Iterator[Need]:
    """Yield what runs a rater; a batch is a file, and no server is asked."""
    extra = OF_BACKEND.get(kind)
    if extra is not None and (asks or extra is not JUDGE):
        yield Need(f"`{command}`", extra)


def _names_a_model(text: str) -> bool:
    """Return whether ``--model`` is no mere size, as ``8B`` is: a folder may be called so."""
    return Path(text).is_dir() or parse_size(text) is None


def _is_candidates(side: str) -> bool:
    try:
        return read_run_record(Path(side)).kind == "candidates"
    except InputError:
        return False
