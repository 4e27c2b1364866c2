"""The knobs of ``prefpipe export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.options import option
from prefpipe.configs.stage import StageConfig

LINES_OR_PARQUET = (".jsonl", ".parquet")
SUFFIXES = {
    "trl": LINES_OR_PARQUET,
    "trl-implicit": LINES_OR_PARQUET,
    "trl-unpaired": LINES_OR_PARQUET,
    "trl-sft": LINES_OR_PARQUET,
    "sft": LINES_OR_PARQUET,
    "nemo-rl": LINES_OR_PARQUET,
    "jsonl": (".jsonl",),
    "alpaca-eval": (".json",),
    "arena-hard": (".jsonl",),
}
"""Formats that are one file, with the names it may have."""
FOLDER_FORMATS = ("llama-factory", "axolotl")
ANSWER_FORMATS = ("alpaca-eval", "arena-hard")
"""Formats of benchmarks, which are made of candidates and not of groups."""
FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
"""Names that no folder has."""
FORMATS = (
    "trl",
    "trl-implicit",
    "trl-unpaired",
    "trl-sft",
    "sft",
    "nemo-rl",
    *FOLDER_FORMATS,
    "jsonl",
    *ANSWER_FORMATS,
)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StageConfig):
    """Write groups as a file for another trainer, or candidates as one that a benchmark judges."""

    stage: ClassVar[str] = "export"
    VERSION: ClassVar[int] = 1

    output: Path = option(
        help="file to write, .jsonl or .parquet; for llama-factory and axolotl a folder, for "
        "alpaca-eval .json",
        identity=False,
        flag="-o",
        metavar="OUT",
    )
    overwrite: Overwrite = option(
        Overwrite.NO,
        identity=False,
        choices=tuple(Overwrite),
        help="replace what OUT holds; =stale does the same: a file does not say what it was made "
        "of",
    )
    groups: Path = option(
        positional=True,
        identity=False,
        metavar="GROUPS",
        help="folder written by select; for alpaca-eval and arena-hard one of candidates",
    )
    format: str = option(
        choices=FORMATS,
        help="which tool is to read it; docs/guides/interchange.md has a row of each",
    )
    whole_groups: bool = option(
        False,
        help="nemo-rl: one row a prompt with every kept response ranked, which its released "
        "loaders do not take",
    )
    sample_idx: int = option(
        0,
        minimum=0,
        help="alpaca-eval, arena-hard: which response of each prompt, by its number",
    )
    model_name: str | None = option(
        None,
        help="alpaca-eval: name of the model; default as the candidates say. Arena-Hard's is the "
        "name of OUT",
    )
    allow_partial: bool = option(
        False, identity=False, help="write the parts that are there instead of refusing"
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.whole_groups and self.format != "nemo-rl":
            problems.append(f"--whole-groups goes with --format nemo-rl, not {self.format}")
        if self.sample_idx and self.format not in ANSWER_FORMATS:
            formats = " and ".join(ANSWER_FORMATS)
            problems.append(f"--sample-idx goes with --format {formats}, not {self.format}")
        if self.model_name is not None and self.format != "alpaca-eval":
            problems.append(f"--model-name goes with --format alpaca-eval, not {self.format}")

        suffix = self.output.suffix.lower()
        allowed = SUFFIXES.get(self.format)
        if allowed is not None and suffix not in allowed:
            problems.append(
                f"--output {self.output}: the name of a file of format {self.format} ends in "
                f"{' or '.join(allowed)}"
            )
        if allowed is None and suffix in FILE_SUFFIXES:
            problems.append(
                f"--output {self.output}: {self.format} gets a folder, with the data and its "
                "description in it"
            )
        return problems
