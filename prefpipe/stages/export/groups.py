"""Write groups as a file that another trainer reads.

Reads: ``groups``. Writes: one file, or a folder with a data file and its description. Promises: prompts in the order of the
groups; every pair that select chose, or every positive with every negative, with both scores and the margin; rejected
prompts are counted and left out; the file appears whole or not at all, and memory does not grow with the number of prompts.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shlex import quote
from typing import Any

from prefpipe.artifacts.atomic import atomic_write, make_folder, sweep_temporary_files
from prefpipe.artifacts.interchange.data_descriptions import (
    DATA_FILE,
    DESCRIPTIONS,
    description,
    is_lost_in_template,
    other_names,
)
from prefpipe.artifacts.interchange.group_exports import (
    ROWS,
    SCHEMAS,
    Group,
    alternates,
    groups_of,
    nemo_group_rows,
)
from prefpipe.artifacts.interchange.row_writers import RowWriter, row_writer
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Artifact, open_input, refuse_nesting
from prefpipe.artifacts.tool_calls import refuse_tools, rows_of
from prefpipe.configs.export_groups import ExportConfig
from prefpipe.errors import InputError, StoppedEarly, UsageError
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.runtime import Runtime, Summary

TOOLS_HINT = "--format jsonl writes tools and tool calls; or take these prompts out, or sample them with --leave-out tools"


def run(config: ExportConfig, runtime: Runtime) -> Summary:
    """Write the file, or the folder."""
    groups = open_input(config.groups, schema=GROUPS.name, name="GROUPS")
    refuse_nesting(config.output, {"GROUPS": config.groups})
    indices = groups.present(range(groups.n_parts), allow_partial=config.allow_partial)
    _refuse_existing(config)
    work = _Work(config, groups)
    with (
        runtime.finishing(),  # so that 75 means that there is no file yet
        _opened(config) as writer,
        runtime.progress(f"{config.stage}: part", len(indices)) as advance,
    ):
        for index in indices:
            if runtime.should_stop():
                raise StoppedEarly(
                    "export stopped as asked; nothing was written",
                    hint="run the same command again",
                )
            writer.write(work.rows_of_part(index))
            advance(1)
        work.refuse_empty()
    summary = Summary(config.stage, config.output, n_parts_made=len(indices))
    work.describe(summary)
    return summary


def _refuse_existing(config: ExportConfig) -> None:
    """Refuse to replace anything that was not asked to be replaced, or that no export wrote."""
    path = config.output
    if config.format not in DESCRIPTIONS:
        if path.is_dir():
            raise UsageError(
                f"output {path} is a folder, and {config.format} is a file",
                hint="choose another name with -o",
            )
        if path.exists() and not config.overwrite:
            raise UsageError(
                f"output {path} exists",
                hint="choose another name with -o, or replace it with --overwrite",
            )
        return
    if path.is_file():
        raise UsageError(
            f"output {path} is a file, and {config.format} gets a folder",
            hint="choose another name with -o",
        )
    label = path / DESCRIPTIONS[config.format]
    strangers = (
        sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
        if path.is_dir()
        else []
    )
    strangers = [name for name in strangers if name not in (DATA_FILE, label.name)]
    if strangers:
        raise UsageError(
            f"output {path} holds {strangers[0]}, which no export wrote",
            hint="choose an empty or new folder with -o",
        )
    if (
        label.exists() and not config.overwrite
    ):  # it is written last: without it an earlier attempt did not end
        raise UsageError(
            f"output {path} holds an export",
            hint="choose another folder with -o, or replace it with --overwrite",
        )
    others = (
        other_names(label.read_bytes())
        if label.exists() and config.format == "llama-factory"
        else []
    )
    if others:
        raise UsageError(
            f"{label} describes {others[0]} as well, which --overwrite would lose",
            hint="choose another folder with -o",
        )


@contextmanager
def _opened(config: ExportConfig) -> Iterator[RowWriter]:
    """Open the data file; a folder's description is written when the data are whole."""
    is_folder = config.format in DESCRIPTIONS
    folder = config.output if is_folder else config.output.parent
    make_folder(folder)
    sweep_temporary_files(folder, None if is_folder else config.output.name)
    with row_writer(
        folder / DATA_FILE if is_folder else config.output, SCHEMAS.get(config.format)
    ) as writer:
        yield writer
    if is_folder:
        with atomic_write(folder / DESCRIPTIONS[config.format]) as file:
            file.write(description(config.format, folder))


class _Work:
    """One run's state: counts for the summary, and the margins, eight bytes a pair, for their median."""

    def __init__(self, config: ExportConfig, groups: Artifact) -> None:
        self.config, self.groups = config, groups
        self.to_rows = nemo_group_rows if config.whole_groups else ROWS[config.format]
        strategy = groups.record.identity.get("strategy")
        self.strategy = strategy if isinstance(strategy, str) else None
        self.n_rows, self.n_prompts, self.n_pairs, self.n_responses, self.n_edged = 0, 0, 0, 0, 0
        self.n_lost_in_template = 0
        self.left_out: Counter[str] = Counter()
        self.margins = array("d")

    def rows_of_part(self, index: int) -> list[Row]:
        """Return the rows that a part of the groups becomes."""
        groups, rejected = groups_of(
            rows_of(self.groups.read(index, GROUPS.column_names)[0]), self.strategy
        )
        self.left_out.update(row["status"] for row in rejected)
        rows: list[Row] = []
        for group in groups:
            if self.config.format != "jsonl":
                refuse_tools(group.messages, group.prompt_id, self.config.format, hint=TOOLS_HINT)
            made = list(self.to_rows(group)) if self._fits(group) else []
            if made:
                self._count(group, len(made))
            rows += made
        return rows

    def _fits(self, group: Group) -> bool:
        """Return whether a group can be told in the format; count it under the reason where it cannot."""
        if self.config.format == "llama-factory" and not alternates(group.messages):
            self.left_out["turns_do_not_alternate"] += 1  # LLaMA-Factory skips such a row
            return False
        if (
            not group.pairs
            and self.config.format not in ("jsonl", "trl-unpaired")
            and not self.config.whole_groups
        ):
            self.left_out["no_pairs"] += 1
            return False
        return True

    def _count(self, group: Group, n_rows: int) -> None:
        self.n_rows += n_rows
        self.n_prompts += 1
        self.n_pairs += len(group.pairs)
        self.n_responses += len(group.responses)
        self.margins.extend(pair.margin for pair in group.pairs)
        self.n_edged += sum(row["response"] != row["response"].strip() for row in group.responses)
        if self.config.format == "axolotl":
            self.n_lost_in_template += sum(
                is_lost_in_template(row["response"] or "") for row in group.responses
            )

    def refuse_empty(self) -> None:
        """Refuse to write a file without rows: a trainer would fail on it, and later."""
        if not self.n_rows:
            told = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.most_common())
            raise InputError(
                f"{self.config.groups} holds nothing to export: {told or 'it has no prompts'}",
                hint=f"run `prefpipe inspect {quote(str(self.config.groups))}` for what select rejected",
            )

    def describe(self, summary: Summary) -> None:
        """Add the lines and the facts."""
        summary.notes.append(
            f"{self.n_rows:,} rows in {summary.path}: {self.n_prompts:,} prompts, {self.n_responses:,} responses, "
            f"{self.n_pairs:,} pairs"
        )
        summary.notes += [
            f"{count:,} prompts left out: {reason}" for reason, count in self.left_out.most_common()
        ]
        facts: dict[str, Any] = {
            "format": self.config.format,
            "n_rows": self.n_rows,
            "n_prompts": self.n_prompts,
            "n_responses": self.n_responses,
            "n_pairs": self.n_pairs,
            "left_out": dict(self.left_out),
        }
        if self.margins:
            facts["margin"] = dict(
                zip(("lowest", "median", "highest"), _spread(self.margins), strict=True)
            )
            words = ", ".join(f"{name} {value:g}" for name, value in facts["margin"].items())
            summary.notes.append(f"margin: {words}")
        if self.config.format == "axolotl" and self.n_edged:
            summary.notes.append(
                f"{self.n_edged:,} responses begin or end with white space: under a chat template that strips it, axolotl "
                "does not find them in the templated text and loses them"
            )
            facts["n_responses_with_outer_white_space"] = self.n_edged
        if self.config.format == "axolotl" and self.n_lost_in_template:
            summary.notes.append(
                f"{self.n_lost_in_template:,} responses stand in the text that chat templates write before them (ChatML, Qwen, "
                "SmolLM2, Llama 3, Gemma, Mistral, Phi), such as `user` or `a`: axolotl takes that place for the response's and "
                "trains on the template's text; leave those prompts out, or train with TRL or LLaMA-Factory"
            )
            facts["n_responses_in_template_text"] = self.n_lost_in_template
        summary.facts |= facts


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lowest, the median (of an even number the mean of the middle two) and the highest."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return ordered[0], median, ordered[-1]
