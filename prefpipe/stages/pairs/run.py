"""Score pairs of a chosen and a rejected response, for ``eval rewardbench`` and ``eval calibration`` alike.

Reads: a file of pairs, or a folder that one of the two wrote. Writes: ``pair_scores``, one row for every pair of the file in its
order, and ``summary.json`` with all figures of both commands once all parts are there. Promises: a pair is scored whole or kept
with its reason, never cut; the same folder is scored once, whichever of the two commands goes on.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.interchange.formats import content_hash
from prefpipe.artifacts.interchange.pair_rows import HINT, PairFile, ScoredTexts, read_pairs
from prefpipe.artifacts.interchange.rewardbench_two_rows import (
    ITEM_SCHEMA,
    holds_completions,
    read_completions,
)
from prefpipe.artifacts.interchange.user_table import file_of, read_user_table
from prefpipe.artifacts.run_record import FILE_NAME, RunRecord
from prefpipe.artifacts.schemas import PAIR_SCORES
from prefpipe.artifacts.store import Artifact, Output, open_input, open_output, refuse_nesting
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.configs.pairs import PairsConfig
from prefpipe.errors import CorruptPartError, ErrorRateError, InputError, UsageError
from prefpipe.stages.pairs.figures import figures_of
from prefpipe.stages.pairs.notes import notes_of
from prefpipe.stages.pairs.rating import OpenRater, PairRater, given_scores, pair_row
from prefpipe.stages.pairs.tables import pairs_page
from prefpipe.stages.shared.candidate_rows import (
    Row,
    count_by_status,
    parent_digests,
    parent_identity,
)
from prefpipe.stages.shared.runtime import Runtime, Summary, check_error_rate, loop_over_parts
from prefpipe.stages.shared.skipped_rows import (
    context_of_skipped_rows,
    read_users_rows,
    report_skipped_rows,
)

FAILING = ("template_error", "not_finite", "missing_text", "unreadable", "no_score")
SUMMARY_FILE = "summary.json"
FLAG = "--pairs"


def run(config: PairsConfig, rater: PairRater | None, runtime: Runtime) -> Summary:
    """Score the parts of this shard that are missing, and sum up when all are there.

    Args:
        config: the knobs.
        rater: the model; None where the file has the scores, or a folder is read.
        runtime: the surroundings.
    """
    source = _source(config, rater, runtime)
    output = open_output(
        config.output,
        source.record(runtime.context),
        shard=runtime.shard,
        overwrite=config.overwrite,
    )
    indices = runtime.shard.parts(output.n_parts)
    parents = source.parents(indices)
    summary = Summary(config.stage, config.output)
    started = time.perf_counter()
    try:
        loop_over_parts(
            output,
            parents.__getitem__,
            lambda index: source.make(output, index, parents[index]),
            runtime,
            summary,
            indices=indices,
        )
    finally:
        source.close()
    if summary.n_parts_made and rater is not None:
        summary.facts["elapsed_s"] = elapsed_s = time.perf_counter() - started
        summary.notes.append(f"{source.n_scored:,} pairs in {elapsed_s:.1f} s")
        summary.notes += source.notes
    try:
        check_error_rate(summary, FAILING, config.max_error_rate)
    except ErrorRateError:
        with suppress(InputError):  # no pair was scored: the error rate says it
            _sum_up(config, output, rater, summary)
        raise
    _sum_up(config, output, rater, summary)
    report_skipped_rows(config, source.skipped, summary)
    return summary


class _FromFile:
    """Pairs of a file, rated by a model or by the file itself."""

    def __init__(self, config: PairsConfig, rater: PairRater | None, runtime: Runtime) -> None:
        path = file_of(config.pairs)
        if path is not None and path.exists():
            refuse_nesting(config.output, {FLAG: path})
        self.config, self.rater, self.runtime = config, rater, runtime
        self.file: PairFile
        self.file, self.skipped = read_users_rows(
            config, lambda: _read(config, needs_texts=rater is not None)
        )
        self.is_of_completions = self.file.rows[0].of_item is not None
        for note in self.file.notes:
            runtime.log(note)
        self.kind = "given" if rater is None else rater.kind
        self.opened: OpenRater | None = None
        self.n_scored = 0
        self.notes: list[str] = []

    def record(self, context: Mapping[str, Any]) -> RunRecord:
        models = [] if self.rater is None else [dict(each) for each in self.rater.models]
        columns = self.file.score_columns
        return RunRecord(
            stage=self.config.stage,
            schema=PAIR_SCORES.tag,
            n_parts=-(-len(self.file.rows) // self.config.part_size),
            identity={
                "stage": PAIR_SCORES.name,
                "version": self.config.VERSION,
                **self.config.identity(),
                "pairs": content_hash(self.config.pairs),
                "score_kind": self.kind,
                "models": models,
                **({"completions": 1} if self.is_of_completions else {}),
            },
            parents={"pairs": self.config.pairs},
            context={
                **context,
                "models": [] if self.rater is None else list(self.rater.names),
                "score_columns": None if columns is None else list(columns),
                **context_of_skipped_rows(self.skipped),
            },
        )

    def parents(self, indices: Sequence[int]) -> dict[int, dict[str, str]]:
        return {index: {} for index in indices}  # the file's hash is in the fingerprint

    def make(self, output: Output, index: int, parents: Mapping[str, str]) -> None:
        """Rate and write one part."""
        size = self.config.part_size
        pairs = self.file.rows[index * size : (index + 1) * size]
        rows = self._rows(pairs)
        self.n_scored += sum(row["margin"] is not None for row in rows)
        schema = PAIR_SCORES.arrow(ITEM_SCHEMA if self.is_of_completions else None)
        output.write(
            index,
            pa.Table.from_pylist(rows, schema=schema),
            counts=count_by_status(rows),
            parents=parents,
            tally={"n_contradictions": sum(pair.is_contrary for pair in pairs)},
        )

    def _rows(self, pairs: Sequence[ScoredTexts]) -> list[Row]:
        readable = [pair for pair in pairs if pair.problem is None]
        if self.rater is None:  # nobody reads the texts
            rated = {pair.pair_idx: given_scores(pair) for pair in pairs if pair.scores is not None}
        else:
            if self.opened is None and readable:
                with self.runtime.interruptible():
                    self.opened = self.rater.open()
            found = self.opened.rate(readable) if self.opened is not None else []
            rated = {pair.pair_idx: each for pair, each in zip(readable, found, strict=True)}
        return [pair_row(pair, rated.get(pair.pair_idx), self.kind) for pair in pairs]

    def close(self) -> None:
        if self.opened is not None:
            self.notes = self.opened.notes()
            self.opened.close()


class _FromFolder:
    """Pairs that were scored before."""

    n_scored = 0
    notes: Sequence[str] = ()

    def __init__(self, config: PairsConfig, rater: PairRater | None) -> None:
        self.skipped: list[BadRow] = []
        path = Path(config.pairs)
        if rater is not None:
            raise UsageError(
                f"{FLAG} {path} holds scores already, and --model would score them again",
                hint="leave out --model, or pass the file of pairs",
            )
        refuse_nesting(config.output, {FLAG: path})
        self.config, self.earlier = config, open_input(path, schema=PAIR_SCORES.name, name=FLAG)

    def record(self, context: Mapping[str, Any]) -> RunRecord:
        earlier = self.earlier.record
        names = ("models", "score_columns")
        return RunRecord(
            stage=self.config.stage,
            schema=PAIR_SCORES.tag,
            n_parts=self.earlier.n_parts,
            identity={
                "stage": PAIR_SCORES.name,
                "version": self.config.VERSION,
                PAIR_SCORES.name: parent_identity(self.earlier),
            },
            parents={PAIR_SCORES.name: str(self.earlier.path)},
            context={**context, **{name: earlier.context.get(name) for name in names}},
        )

    def parents(self, indices: Sequence[int]) -> dict[int, dict[str, str]]:
        self.earlier.present(indices, allow_partial=False)
        return parent_digests(indices, pair_scores=self.earlier)

    def make(self, output: Output, index: int, parents: Mapping[str, str]) -> None:
        """Take one part over as it is."""
        table, footer = self.earlier.read(index)
        output.write(index, table, counts=footer.counts, parents=parents, tally=footer.tally)

    def close(self) -> None:
        """Do nothing: no model was opened."""


def _source(
    config: PairsConfig, rater: PairRater | None, runtime: Runtime
) -> _FromFile | _FromFolder:
    if file_of(config.pairs) is not None and (Path(config.pairs) / FILE_NAME).exists():
        return _FromFolder(config, rater)
    return _FromFile(config, rater, runtime)


def _read(config: PairsConfig, *, needs_texts: bool) -> PairFile:
    """Read pairs, or the completions of RewardBench 2 as pairs."""
    table = read_user_table(
        config.pairs, text_columns=("chosen", "rejected", "subset", "id"), hint=HINT
    )
    if holds_completions(table):
        return read_completions(table, needs_texts=needs_texts, rules=config.reading_rules)
    return read_pairs(config.pairs, needs_texts=needs_texts, rules=config.reading_rules)


def _sum_up(
    config: PairsConfig, output: Artifact, rater: PairRater | None, summary: Summary
) -> None:
    """Tell and write the figures when all parts are there."""
    if output.missing():
        summary.notes.append(
            "other shards' parts are missing: the figures come with the last of them"
        )
        return
    try:
        figures = figures_of(config, output)
    except CorruptPartError:
        return  # another shard's part is of an earlier run; that shard sums up when it has made it again
    shows, of_rater = (
        config.stage.removeprefix("eval "),
        list(rater.notes) if rater is not None else [],
    )
    figures["notes"] = of_rater + notes_of(figures)
    with atomic_write(config.output / SUMMARY_FILE) as file:
        file.write(
            (json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
        )
    summary.facts |= figures
    summary.table = pairs_page(figures, shows=shows)
    summary.notes += of_rater + notes_of(figures, shows=shows)
