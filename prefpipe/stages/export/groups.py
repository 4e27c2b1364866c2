"""Write groups as a file that another trainer reads.

Reads: ``groups``.
Writes: one file, or a folder with a data file and its description.
Promises: prompts in the order of the groups; every pair that select chose, or every positive with
every negative, with both scores and the margin; rejected prompts are counted and left out; the file
appears whole or not at all, and memory does not grow with the number of prompts.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from prefpipe.artifacts.atomic import make_folder, sweep_temporary_files
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
    WITHOUT_PAIRS,
    ExportedGroup,
    alternates,
    groups_of,
    nemo_group_rows,
)
from prefpipe.artifacts.interchange.row_writers import RowWriter, row_writer
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.local_copies import written_whole
from prefpipe.artifacts.store import Artifact, open_input, refuse_nesting
from prefpipe.artifacts.tool_calls import refuse_tools, rows_of
from prefpipe.configs.export import ExportConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.stages.export.output_file import (
    look,
    refuse_existing_file,
    refuse_no_rows,
    sweep_beside,
    write_parts,
)
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.partwise import Summary
from prefpipe.text.begun_turns import is_begun, with_whole_answer

TOOLS_HINT = (
    "use --format jsonl, which writes tools and tool calls; or remove these prompts, or sample "
    "them with --leave-out tools"
)


def run(config: ExportConfig, runtime: Runtime) -> Summary:
    """Write the file, or the folder."""
    groups = open_input(config.groups, schema=GROUPS.name, name="GROUPS")
    refuse_nesting(config.output, {"GROUPS": config.groups})
    indices = groups.present(range(groups.n_parts), allow_partial=config.allow_partial)
    _refuse_existing(config)

    exported = GroupRows(config, groups)
    with (
        runtime.finishing(),  # so that 75 means that there is no file yet
        _opened(config) as writer,
    ):
        write_parts(config, writer, exported.of_part, indices, runtime)
        # Inside the block, so that a refusal leaves no file.
        if not exported.n_rows:
            exported.refuse_no_rows()
    summary = Summary(config.stage, config.output, n_parts_made=len(indices))
    exported.describe(summary)
    return summary


def _refuse_existing(config: ExportConfig) -> None:
    """Refuse to replace anything without ``--overwrite``, or that no export wrote."""
    if config.format not in DESCRIPTIONS:
        refuse_existing_file(config)
        return

    path = config.output
    if look(files.is_file, path):
        raise UsageError(
            f"output {path} is a file, and {config.format} writes a folder",
            hint="choose another name with -o",
        )

    label = path / DESCRIPTIONS[config.format]
    names = look(files.names_in, path)
    for name in sorted(names):
        if not name.startswith(".") and name not in (DATA_FILE, label.name):
            raise UsageError(
                f"output {path} holds {name}, which was not written by an export",
                hint="choose an empty or new folder with -o",
            )

    # The description is written last: without it an earlier attempt did not end.
    if label.name not in names:
        return
    if not config.overwrite:
        raise UsageError(
            f"output {path} already holds an export",
            hint="choose another folder with -o, or replace it with --overwrite",
        )
    others = other_names(look(files.read, label)) if config.format == "llama-factory" else []
    if others:
        raise UsageError(
            f"{label} describes {others[0]} as well, and --overwrite would lose that",
            hint="choose another folder with -o",
        )


@contextmanager
def _opened(config: ExportConfig) -> Iterator[RowWriter]:
    """Open the data file; a folder's description is written when the data are whole."""
    schema = SCHEMAS.get(config.format)
    if config.format not in DESCRIPTIONS:
        sweep_beside(config.output)
        with row_writer(config.output, schema) as writer:
            yield writer
        return

    folder = config.output
    if isinstance(folder, Path):
        make_folder(folder)
        sweep_temporary_files(folder, None)
    with row_writer(folder / DATA_FILE, schema) as writer:
        yield writer
    with written_whole(folder / DESCRIPTIONS[config.format]) as file:
        file.write(description(config.format, folder))


class GroupRows:
    """Rows of a trainer's file, and their figures for the summary.

    Margins are kept for their median, eight bytes a pair.
    """

    def __init__(self, config: ExportConfig, groups: Artifact) -> None:
        self.config, self.groups = config, groups
        self.to_rows = nemo_group_rows if config.whole_groups else ROWS[config.format]
        strategy = groups.record.identity.get("strategy")
        self.strategy = strategy if isinstance(strategy, str) else None
        self.n_rows, self.n_prompts, self.n_pairs, self.n_responses = 0, 0, 0, 0
        self.n_edged, self.n_lost_in_template = 0, 0
        self.left_out: Counter[str] = Counter()
        self.margins = array("d")

    def of_part(self, index: int) -> list[Row]:
        """Return the rows of a part of the groups."""
        table, _ = self.groups.read(index, GROUPS.column_names)
        rows_of_part = [_with_whole_answer(row) for row in rows_of(table)]
        groups, rejected = groups_of(rows_of_part, self.strategy)
        self.left_out.update(row["status"] for row in rejected)

        rows: list[Row] = []
        for group in groups:
            if self.config.format != "jsonl":
                refuse_tools(group.messages, group.prompt_id, self.config.format, hint=TOOLS_HINT)
            reason = self._why_left_out(group)
            if reason is not None:
                self.left_out[reason] += 1
                continue

            rows_of_group = list(self.to_rows(group))
            if rows_of_group:
                self._count(group, len(rows_of_group))
            rows += rows_of_group
        return rows

    def refuse_no_rows(self) -> None:
        """Refuse to write nothing.

        Raises:
            InputError: with the reasons, and for groups of positives alone the formats for them.
        """
        rule = STRATEGIES.get(self.strategy or "")
        if rule is not None and rule.n_negatives == 0 and self.left_out["no_pairs"]:
            raise InputError(
                f"{self.config.groups} holds only positives (--strategy {self.strategy}), and "
                f"{self.config.format} needs pairs",
                hint="export them with --format trl-sft or sft",
            )
        refuse_no_rows(self.config, self.left_out, " to see what select rejected")

    def describe(self, summary: Summary) -> None:
        """Add the lines and the facts."""
        summary.notes.append(
            f"{self.n_rows:,} rows in {summary.path}: {self.n_prompts:,} prompts, "
            f"{self.n_responses:,} responses, {self.n_pairs:,} pairs"
        )
        for reason, count in self.left_out.most_common():
            summary.notes.append(f"{count:,} prompts left out: {reason}")

        summary.facts |= {
            "format": self.config.format,
            "n_rows": self.n_rows,
            "n_prompts": self.n_prompts,
            "n_responses": self.n_responses,
            "n_pairs": self.n_pairs,
            "left_out": dict(self.left_out),
        }

        if self.margins:
            margins = {
                "lowest": min(self.margins),
                "median": median(self.margins),
                "highest": max(self.margins),
            }
            summary.facts["margin"] = margins
            line = ", ".join(f"{name} {value:g}" for name, value in margins.items())
            summary.notes.append(f"margin: {line}")
        if self.config.format == "axolotl":
            self._describe_losses_of_axolotl(summary)

    def _why_left_out(self, group: ExportedGroup) -> str | None:
        """Return why the format cannot hold a group, None if it can."""
        if self.config.format == "llama-factory" and not alternates(group.messages):
            return "turns_do_not_alternate"  # LLaMA-Factory skips such a row
        needs_pairs = self.config.format not in WITHOUT_PAIRS
        if needs_pairs and not group.pairs and not self.config.whole_groups:
            return "no_pairs"
        return None

    def _count(self, group: ExportedGroup, n_rows: int) -> None:
        self.n_rows += n_rows
        self.n_prompts += 1
        self.n_pairs += len(group.pairs)
        self.n_responses += len(group.responses)
        self.margins.extend(pair.margin for pair in group.pairs)
        for row in group.responses:
            self.n_edged += row["response"] != row["response"].strip()
            if self.config.format == "axolotl":
                self.n_lost_in_template += is_lost_in_template(row["response"] or "")

    def _describe_losses_of_axolotl(self, summary: Summary) -> None:
        """Add how many responses axolotl would not find, or find in the wrong place."""
        if self.n_edged:
            summary.notes.append(
                f"{self.n_edged:,} responses begin or end with white space: with a chat template "
                "that strips it, axolotl does not find them in the formatted text and drops them"
            )
            summary.facts["n_responses_with_outer_white_space"] = self.n_edged

        if self.n_lost_in_template:
            summary.notes.append(
                f"{self.n_lost_in_template:,} responses also occur in the text that chat "
                "templates write before them (ChatML, Qwen, SmolLM2, Llama 3, Gemma, Mistral, "
                "Phi), such as `user` or `a`: axolotl then trains on the template's text instead "
                "of the response; leave those prompts out, or train with TRL or LLaMA-Factory"
            )
            summary.facts["n_responses_in_template_text"] = self.n_lost_in_template


def _with_whole_answer(row: Row) -> Row:
    """Return a row whose begun answer is complete.

    Other tools would read a prompt's last turn and the response that continues it as two turns.
    """
    if row["response"] is None or not is_begun(row["messages"]):
        return row
    turns, answer = with_whole_answer(row["messages"], row["response"])
    return row | {"messages": turns, "response": answer}
