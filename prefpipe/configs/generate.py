"""The knobs of ``prefpipe generate``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.artifacts.prompt_shares import PromptShare, parse_prompt_share
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.conversations import split_columns
from prefpipe.configs.options import option
from prefpipe.configs.sampling import SamplingConfig
from prefpipe.configs.stage import ShardedConfig
from prefpipe.configs.workers import WorkersConfig
from prefpipe.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingConfig, ShardedConfig, WorkersConfig):
    """Sample several responses to every prompt.

    Writes a folder of candidates, one row per response. Several models can share one run.
    """

    stage: ClassVar[str] = "generate"
    VERSION: ClassVar[int] = 1
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: (
            "output",
            "model",
            "columns",
            "prompt_share",
            "overwrite",
            "extend",
            "retry_errors",
        ),
    }
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe generate prompts.jsonl -o run/candidates --model Qwen/Qwen3-4B --n 32 "
            "--temperature 0.8"
        ),
        (
            "prefpipe generate prompts.jsonl -o run/candidates --model gpt-4.1-mini --backend "
            "openai --n 8"
        ),
    )

    prompts: str = option(
        positional=True,
        identity=False,
        metavar="PROMPTS",
        common=True,
        help="JSONL, JSON, CSV or Parquet file with `prompt` or `messages`, a datasets folder, "
        "or hf:org/name[@revision][:split]",
    )
    model: tuple[str, ...] = option(
        identity=False,
        metavar="MODEL",
        common=True,
        help="folder, org/name[@revision], .gguf file or bundled:NAME; repeat to sample from "
        "several models",
    )
    columns: str | None = option(
        None,
        help="columns of your file to pass through, comma-separated, or `none`; default: all",
    )
    prompt_share: str | None = option(
        None,
        help="use the I-th of N disjoint shares of the prompts, I/N such as 2/3; prompt ids "
        "alone decide, not file order or --seed",
    )
    extend: bool = option(
        False, identity=False, help="sample the responses that a larger --n adds to a finished run"
    )
    retry_errors: bool = option(
        False, identity=False, help="sample the rows with status `error` again"
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if not self.model:
            problems.append("--model is needed")
        if len(set(self.model)) < len(self.model):
            problems.append("--model names the same model twice")

        n_samplers = len(self.model) * len(self.temperature)
        # an n below 1 is named by its bound already
        if 1 <= self.n < n_samplers:
            problems.append(
                f"--n {self.n} is fewer than the {n_samplers} pairs of model and temperature"
            )

        if self.prompt_share is not None:
            try:
                parse_prompt_share(self.prompt_share)
            except UsageError as error:
                problems.append(error.message)

        if self.extend and self.overwrite:
            problems.append("--extend and --overwrite contradict each other")
        if self.retry_errors and self.overwrite:
            problems.append("--retry-errors and --overwrite contradict each other")
        return problems

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows; a share of the prompts only where one was asked for."""
        identity = super().identity()
        if self.prompt_share is None:
            del identity["prompt_share"]
        return identity

    @property
    def share(self) -> PromptShare | None:
        """The share of the prompts to sample; None for all.

        Raises:
            UsageError: it is no share.
        """
        return None if self.prompt_share is None else parse_prompt_share(self.prompt_share)

    @property
    def kept_columns(self) -> list[str] | None:
        """The user's columns to keep; None for all."""
        return None if self.columns is None else split_columns(self.columns)
