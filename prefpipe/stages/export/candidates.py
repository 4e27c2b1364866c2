"""Write candidates as a file that a benchmark judges: one response a prompt.

Reads: ``candidates``. Writes: one file. Promises: prompts in the order of the candidates; a prompt without the response is left
out and counted; the file appears whole or not at all, and memory does not grow with the number of prompts.
"""

from collections import Counter
from shlex import quote

from prefpipe.artifacts.atomic import make_folder, sweep_temporary_files
from prefpipe.artifacts.interchange.benchmark_answers import ANSWER_ROWS
from prefpipe.artifacts.interchange.row_writers import row_writer
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Artifact, open_input, refuse_nesting
from prefpipe.artifacts.tool_calls import refuse_tools, rows_of
from prefpipe.configs.export_groups import ExportConfig
from prefpipe.errors import InputError, StoppedEarly, UsageError
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.runtime import Runtime, Summary

TOOLS_HINT = "take these prompts out, or sample them with --leave-out tools"


def run(config: ExportConfig, runtime: Runtime) -> Summary:
    """Write the file."""
    candidates = open_input(config.groups, schema=CANDIDATES.name, name="CANDIDATES")
    refuse_nesting(config.output, {"CANDIDATES": config.groups})
    indices = candidates.present(range(candidates.n_parts), allow_partial=config.allow_partial)
    path = config.output
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
    make_folder(path.parent)
    sweep_temporary_files(path.parent, path.name)
    work = _Work(config, candidates)
    with (
        runtime.finishing(),  # so that 75 means that there is no file yet
        row_writer(path, None) as writer,
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
    return work.describe(Summary(config.stage, config.output, n_parts_made=len(indices)))


class _Work:
    """One run's state: what was written, under which name, and what was left out."""

    def __init__(self, config: ExportConfig, candidates: Artifact) -> None:
        self.config, self.candidates = config, candidates
        self.n_rows, self.n_uncounted, self.n_samples = 0, 0, 0
        self.left_out: Counter[str] = Counter()
        self.models: Counter[str] = Counter()

    def rows_of_part(self, index: int) -> list[Row]:
        """Return the rows that a part of the candidates becomes."""
        rows: list[Row] = []
        prompts: dict[str, Row | None] = {}
        for candidate in rows_of(self.candidates.read(index)[0]):
            prompts.setdefault(candidate["prompt_id"], None)
            if candidate["sample_idx"] == self.config.sample_idx:
                prompts[candidate["prompt_id"]] = candidate
            self.n_samples = max(self.n_samples, candidate["sample_idx"] + 1)
        for chosen in prompts.values():
            if chosen is not None:
                refuse_tools(
                    chosen["messages"], chosen["prompt_id"], self.config.format, hint=TOOLS_HINT
                )
            if chosen is None or chosen["response"] is None:
                self.left_out[chosen["status"] if chosen is not None else "no_such_sample"] += 1
                continue
            made = ANSWER_ROWS[self.config.format](chosen, self._name(chosen["model"]))
            if isinstance(made, str):
                self.left_out[made] += 1
                continue
            self.models[chosen["model"]] += 1
            self.n_uncounted += chosen["n_response_tokens"] is None
            rows.append(made)
        self.n_rows += len(rows)
        return rows

    def _name(self, model: str) -> str:
        """Return the model's name in the file; Arena-Hard finds answers by the file's name."""
        if self.config.format == "arena-hard":
            return self.config.output.stem
        return self.config.model_name or model

    def refuse_empty(self) -> None:
        """Refuse to write a file without rows, or of several models under one name."""
        if not self.n_rows:
            told = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.most_common())
            raise InputError(
                f"{self.config.groups} holds nothing to export: {told or 'it has no prompts'}",
                hint=f"run `prefpipe inspect {quote(str(self.config.groups))}`",
            )
        if len(self.models) > 1 and (
            self.config.format == "arena-hard" or self.config.model_name is not None
        ):
            raise InputError(
                f"sample {self.config.sample_idx} is of {len(self.models)} models: {', '.join(self.models)}",
                hint="choose a sample that all prompts have from one model with --sample-idx",
            )

    def describe(self, summary: Summary) -> Summary:
        """Add the lines and the facts."""
        of_how_many = (
            f", sample {self.config.sample_idx} of up to {self.n_samples}"
            if self.n_samples > 1
            else ""
        )
        summary.notes.append(
            f"{self.n_rows:,} prompts in {summary.path}, one response each{of_how_many}"
        )
        summary.notes += [
            f"{count:,} prompts left out: {reason}" for reason, count in self.left_out.most_common()
        ]
        if self.config.format == "arena-hard" and self.n_uncounted:
            summary.notes.append(
                f"{self.n_uncounted:,} responses have no token count, which Arena-Hard's style control needs"
            )
        summary.facts |= {
            "format": self.config.format,
            "n_rows": self.n_rows,
            "left_out": dict(self.left_out),
            "models": dict(self.models),
            "sample_idx": self.config.sample_idx,
        }
        return summary
