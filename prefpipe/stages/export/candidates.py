"""Write candidates as a file for a benchmark's judge: one response per prompt.

Reads: ``candidates``.
Writes: one file.
Promises: prompts in the order of the candidates; a prompt without the response is left out and
counted; the file appears whole or not at all, and memory does not grow with the number of prompts.
"""

from collections import Counter

from prefpipe.artifacts.interchange.benchmark_answers import ANSWER_ROWS
from prefpipe.artifacts.interchange.row_writers import row_writer
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Artifact, open_input, refuse_nesting
from prefpipe.artifacts.tool_calls import refuse_tools, rows_of
from prefpipe.configs.export import ExportConfig
from prefpipe.errors import InputError
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.export.output_file import (
    refuse_existing_file,
    refuse_no_rows,
    sweep_beside,
    write_parts,
)
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.partwise import Summary
from prefpipe.text.begun_turns import with_whole_answer

TOOLS_HINT = "remove these prompts, or sample them with --leave-out tools"


def run(config: ExportConfig, runtime: Runtime) -> Summary:
    """Write the file."""
    candidates = open_input(config.groups, schema=CANDIDATES.name, name="CANDIDATES")
    refuse_nesting(config.output, {"CANDIDATES": config.groups})
    indices = candidates.present(range(candidates.n_parts), allow_partial=config.allow_partial)
    refuse_existing_file(config)
    sweep_beside(config.output)

    answers = AnswerRows(config, candidates)
    with (
        runtime.finishing(),  # so that 75 means that there is no file yet
        row_writer(config.output, None) as writer,
    ):
        write_parts(config, writer, answers.of_part, indices, runtime)
        # Inside the block, so that what is refused leaves no file.
        answers.check()
    summary = Summary(config.stage, config.output, n_parts_made=len(indices))
    answers.describe(summary)
    return summary


class AnswerRows:
    """Rows of a benchmark's file, and counts of rows written and prompts left out."""

    def __init__(self, config: ExportConfig, candidates: Artifact) -> None:
        self.config, self.candidates = config, candidates
        self.n_rows, self.n_uncounted, self.n_samples = 0, 0, 0
        self.left_out: Counter[str] = Counter()
        self.models: Counter[str] = Counter()

    def of_part(self, index: int) -> list[Row]:
        """Return the rows of a part of the candidates."""
        # the wanted sample of each prompt, None if it has none
        wanted: dict[str, Row | None] = {}
        for candidate in rows_of(self.candidates.read(index)[0]):
            wanted.setdefault(candidate["prompt_id"], None)
            if candidate["sample_idx"] == self.config.sample_idx:
                wanted[candidate["prompt_id"]] = candidate
            self.n_samples = max(self.n_samples, candidate["sample_idx"] + 1)

        rows: list[Row] = []
        for sample in wanted.values():
            row = self._row(sample)
            if isinstance(row, str):
                self.left_out[row] += 1
            else:
                rows.append(row)
        self.n_rows += len(rows)
        return rows

    def check(self) -> None:
        """Refuse to write a file without rows, or of several models under one name.

        Raises:
            InputError: with the reasons, or with the models.
        """
        if not self.n_rows:
            refuse_no_rows(self.config, self.left_out)
        has_one_name = self.config.format == "arena-hard" or self.config.model_name is not None
        if has_one_name and len(self.models) > 1:
            raise InputError(
                f"sample {self.config.sample_idx} comes from {len(self.models)} models: "
                f"{', '.join(self.models)}",
                hint="choose with --sample-idx a sample that comes from one model for all prompts",
            )

    def describe(self, summary: Summary) -> None:
        """Add the lines and the facts."""
        which = ""
        if self.n_samples > 1:
            which = f", sample {self.config.sample_idx} of up to {self.n_samples}"
        summary.notes.append(f"{self.n_rows:,} prompts in {summary.path}, one response each{which}")
        for reason, count in self.left_out.most_common():
            summary.notes.append(f"{count:,} prompts left out: {reason}")
        if self.config.format == "arena-hard" and self.n_uncounted:
            summary.notes.append(
                f"{self.n_uncounted:,} responses have no token count, which Arena-Hard's style "
                "control needs"
            )

        summary.facts |= {
            "format": self.config.format,
            "n_rows": self.n_rows,
            "left_out": dict(self.left_out),
            "models": dict(self.models),
            "sample_idx": self.config.sample_idx,
        }

    def _row(self, candidate: Row | None) -> Row | str:
        """Return a prompt's row, or the reason why it has none."""
        if candidate is None:
            return "no_such_sample"
        refuse_tools(
            candidate["messages"], candidate["prompt_id"], self.config.format, hint=TOOLS_HINT
        )
        if candidate["response"] is None:
            return str(candidate["status"])

        turns, answer = with_whole_answer(candidate["messages"], candidate["response"])
        candidate = candidate | {"messages": turns, "response": answer}
        model = candidate["model"]
        row = ANSWER_ROWS[self.config.format](candidate, self._name(model))
        if not isinstance(row, str):
            self.models[model] += 1
            self.n_uncounted += candidate["n_response_tokens"] is None
        return row

    def _name(self, model: str) -> str:
        """Return the model's name in the file; Arena-Hard finds answers by the file's name."""
        if self.config.format == "arena-hard":
            return self.config.output.stem
        return self.config.model_name or model
