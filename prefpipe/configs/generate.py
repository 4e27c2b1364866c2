"""The knobs of ``prefpipe generate``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.configs.options import ShardedConfig, option
from prefpipe.configs.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingConfig, ShardedConfig):
    """Sample several responses to every prompt from one or more models."""

    stage: ClassVar[str] = "generate"
    VERSION: ClassVar[int] = 1

    prompts: str = option(
        positional=True,
        identity=False,
        metavar="PROMPTS",
        help="JSONL, JSON, CSV or Parquet file with `prompt` or `messages`, a datasets folder, or hf:org/name[@revision][:split]",
    )
    model: tuple[str, ...] = option(
        identity=False,
        metavar="MODEL",
        help="folder, org/name[@revision], .gguf file or bundled:NAME; repeat to let several models feed one pool",
    )
    columns: str | None = option(
        None,
        help="the user's columns to pass through, comma-separated, `none` for none; default all",
    )
    extend: bool = option(
        False, identity=False, help="grow a finished run to a larger --n, sampling only what is new"
    )
    retry_errors: bool = option(
        False, identity=False, help="sample again the rows whose status is `error`"
    )

    def problems(self) -> list[str]:
        found = super().problems()
        n_pairs = len(self.model) * len(self.temperature)
        checks = (
            (bool(self.model), "--model is needed"),
            (len(set(self.model)) == len(self.model), "--model names the same model twice"),
            (
                self.n >= n_pairs or self.n < 1,
                f"--n {self.n} is fewer than the {n_pairs} pairs of model and temperature",
            ),
            (
                not (self.extend and self.overwrite),
                "--extend and --overwrite contradict each other",
            ),
            (
                not (self.retry_errors and self.overwrite),
                "--retry-errors and --overwrite contradict each other",
            ),
        )
        return found + [sentence for holds, sentence in checks if not holds]

    @property
    def kept_columns(self) -> list[str] | None:
        """The user's columns to keep; None for all."""
        if self.columns is None:
            return None
        return (
            []
            if self.columns == "none"
            else [name.strip() for name in self.columns.split(",") if name.strip()]
        )
