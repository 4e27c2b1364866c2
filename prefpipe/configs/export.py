"""The knobs of ``prefpipe export``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
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
    """Write groups or candidates for another tool.

    Groups become a file for another trainer, candidates one for a benchmark (AlpacaEval,
    Arena-Hard).
    """

    stage: ClassVar[str] = "export"
    VERSION: ClassVar[int] = 1
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "format", "overwrite", "allow_partial"),
        "Settings of one format": ("model_name", "sample_idx", "whole_groups"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe export run/groups -o pairs.parquet --format trl",
    )

    output: Location = option(
        common=True,
        help="file to write, .jsonl or .parquet (alpaca-eval: .json); llama-factory and "
        "axolotl write a folder",
        identity=False,
        flag="-o",
        metavar="OUT",
    )
    overwrite: Overwrite = option(
        Overwrite.NO,
        identity=False,
        choices=tuple(Overwrite),
        common=True,
        help="replace what OUT holds; `=stale` does the same, as a file does not record what "
        "it was made from",
    )
    groups: Location = option(
        positional=True,
        identity=False,
        metavar="GROUPS",
        common=True,
        help="folder written by select; for alpaca-eval and arena-hard a folder of candidates",
    )
    format: str = option(
        choices=FORMATS,
        common=True,
        help="tool that will read the file; docs/guides/interchange.md has a row for each",
    )
    whole_groups: bool = option(
        False,
        common=True,
        help="nemo-rl: write one row per prompt with all kept responses ranked; its released "
        "loaders do not read this",
    )
    sample_idx: int = option(
        0,
        minimum=0,
        common=True,
        help="alpaca-eval, arena-hard: number of the response to export for each prompt",
    )
    model_name: str | None = option(
        None,
        common=True,
        help="alpaca-eval: name of the model; default: the candidates' model. arena-hard uses "
        "the name of OUT",
    )
    allow_partial: bool = option(
        False,
        identity=False,
        common=True,
        help="export the parts that exist, instead of refusing unfinished groups",
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
