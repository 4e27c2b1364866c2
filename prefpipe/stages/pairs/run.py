"""Score pairs of a chosen and a rejected response.

``eval rewardbench`` and ``eval calibration`` share this stage.

Reads: a file of pairs, or a folder that one of the two wrote.
Writes: ``pair_scores``, one row for every pair of the file in its order, and ``summary.json`` with
all figures of both commands once all parts are there.
Promises: a pair is scored completely or kept with its reason, never truncated; a folder is scored
once, whichever of the two commands continues it.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from math import ceil
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.interchange.formats import content_hash
from prefpipe.artifacts.interchange.pair_rows import HINT, PairFile, ScoredTexts, read_pairs
from prefpipe.artifacts.interchange.rewardbench_two_rows import (
    ITEM_SCHEMA,
    holds_completions,
    read_completions,
)
from prefpipe.artifacts.interchange.user_table import read_user_table
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import PAIR_SCORES
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import (
    Artifact,
    Output,
    add_tallies,
    has_record,
    open_input,
    open_output,
    refuse_nesting,
)
from prefpipe.artifacts.summary_file import write_summary
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.configs.pairs import PairsConfig
from prefpipe.errors import CorruptPartError, ErrorRateError, InputError, UsageError
from prefpipe.execution.lazy_engine import MOST_OPEN, LazyEngine
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.pairs.figures import figures_of
from prefpipe.stages.pairs.notes import notes_of
from prefpipe.stages.pairs.rating import OpenRater, PairRater, Rated, given_scores, pair_row
from prefpipe.stages.pairs.tables import pairs_page
from prefpipe.stages.shared.candidate_rows import (
    count_by_status,
    parent_digests,
    parent_identity,
)
from prefpipe.stages.shared.partwise import Summary, check_error_rate, loop_over_parts
from prefpipe.stages.shared.rating_notes import notes_on_texts
from prefpipe.stages.shared.skipped_rows import (
    context_of_skipped_rows,
    read_users_rows,
    report_skipped_rows,
)
from prefpipe.training.encoding import notes_on_encoding

FAILING = ("template_error", "not_finite", "missing_text", "unreadable", "no_score")
FLAG = "--pairs"
N_SCORED = "n_scored"
"""Of a tally: pairs that have a margin."""


def run(config: PairsConfig, rater: PairRater | None, runtime: Runtime) -> Summary:
    """Score the parts of this shard that are missing, and sum up when all are there.

    Args:
        config: the knobs.
        rater: the model; None if the file has the scores, or a folder is read.
        runtime: the surroundings.
    """
    with ExitStack() as stack:
        source = _source(config, rater, runtime, stack)
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
        loop_over_parts(
            config,
            output,
            PairMaker(source, output, parents),
            runtime,
            summary,
            indices=indices,
            parents_of=parents.__getitem__,
        )
    if summary.n_parts_made and rater is not None:
        elapsed_s = time.perf_counter() - started
        summary.facts["elapsed_s"] = elapsed_s
        counted = summary.counted_now
        summary.notes.append(f"{int(counted[N_SCORED]):,} pairs in {elapsed_s:.1f} s")
        summary.notes += notes_on_encoding(counted) + notes_on_texts(counted)

    # What was scored has its figures, and what was left out its file, even where too much failed.
    try:
        check_error_rate(summary, FAILING, config.max_error_rate)
    except ErrorRateError:
        with suppress(InputError):  # no pair was scored: the error rate says it
            _sum_up(config, output, rater, summary)
        report_skipped_rows(config, source.skipped, summary)
        raise
    _sum_up(config, output, rater, summary)
    report_skipped_rows(config, source.skipped, summary)
    return summary


class PairsOfFile:
    """Pairs of a file, rated by a model or by the file itself."""

    def __init__(
        self, config: PairsConfig, rater: PairRater | None, runtime: Runtime, stack: ExitStack
    ) -> None:
        """Read the file.

        Args:
            config: the knobs.
            rater: the model; None if the file has the scores.
            runtime: where to log, and whether to stop.
            stack: closes the model, where it was opened.
        """
        place = place_of(config.pairs)
        if place is not None and files.can_be_found(place):
            refuse_nesting(config.output, {FLAG: place})
        self.config, self.rater = config, rater
        self.file, self.skipped = read_users_rows(
            config, lambda: _read(config, needs_texts=rater is not None)
        )
        for note in self.file.notes:
            runtime.log(note)
        self.is_of_completions = self.file.rows[0].of_item is not None

        self.kind = "given"
        self.model: LazyEngine[OpenRater] | None = None
        if rater is not None:
            self.kind = rater.kind
            self.model = stack.enter_context(LazyEngine(rater.open, runtime, most_open=MOST_OPEN))

    def record(self, context: Mapping[str, Any]) -> RunRecord:
        """Return what is written into ``run.json``."""
        identities: list[dict[str, Any]] = []
        names: list[str] = []
        if self.rater is not None:
            identities = [dict(identity) for identity in self.rater.models]
            names = list(self.rater.names)

        columns = self.file.score_columns
        # Not the command's name: the two that share this stage go on with each other's folders.
        identity = {
            "stage": PAIR_SCORES.name,
            "version": self.config.VERSION,
            **self.config.identity(),
            "pairs": content_hash(self.config.pairs),
            "score_kind": self.kind,
            "models": identities,
        }
        # Of other files there is no such entry, and their fingerprints stay as they were.
        if self.is_of_completions:
            identity["completions"] = 1

        return RunRecord(
            stage=self.config.stage,
            schema=PAIR_SCORES.tag,
            n_parts=ceil(len(self.file.rows) / self.config.part_size),
            identity=identity,
            parents={"pairs": self.config.pairs},
            context={
                **context,
                "models": names,
                "score_columns": None if columns is None else list(columns),
                **context_of_skipped_rows(self.skipped),
            },
        )

    def parents(self, indices: Sequence[int]) -> dict[int, dict[str, str]]:
        """Return no digests: the file's hash is in the fingerprint."""
        return {index: {} for index in indices}

    def has_room(self, n_open: int) -> bool:
        """Return whether the model would run empty without another part."""
        return n_open == 0 if self.model is None else self.model.has_room(n_open)

    def make(self, output: Output, index: int, parents: Mapping[str, str]) -> Tally:
        """Rate and write one part."""
        start = index * self.config.part_size
        pairs = self.file.rows[start : start + self.config.part_size]
        rated = self._rate(pairs)
        rows = [pair_row(pair, rated.get(pair.pair_idx), self.kind) for pair in pairs]
        schema = PAIR_SCORES.arrow(ITEM_SCHEMA if self.is_of_completions else None)
        output.write(
            index,
            pa.Table.from_pylist(rows, schema=schema),
            counts=count_by_status(rows),
            parents=parents,
            tally={"n_contradictions": sum(pair.is_contrary for pair in pairs)},
        )
        counted = {N_SCORED: sum(row["margin"] is not None for row in rows)}
        return add_tallies([counted, *(each.tally for each in rated.values())])

    def _rate(self, pairs: Sequence[ScoredTexts]) -> dict[int, Rated]:
        """Return the scores of those pairs whose texts can be used."""
        readable = [pair for pair in pairs if pair.problem is None]
        if self.model is None:  # nobody reads the texts
            return {pair.pair_idx: given_scores(pair) for pair in pairs if pair.scores is not None}
        if not readable:
            return {}
        rated = self.model.get().rate(readable)
        return {pair.pair_idx: each for pair, each in zip(readable, rated, strict=True)}


class PairsOfFolder:
    """Pairs that were scored before."""

    skipped: Sequence[BadRow] = ()

    def __init__(self, config: PairsConfig, place: Location, rater: PairRater | None) -> None:
        if rater is not None:
            raise UsageError(
                f"{FLAG} {place} already holds scores, and --model would score the pairs again",
                hint="leave out --model, or pass the file of pairs",
            )
        refuse_nesting(config.output, {FLAG: place})
        self.config, self.earlier = config, open_input(place, schema=PAIR_SCORES.name, name=FLAG)

    def record(self, context: Mapping[str, Any]) -> RunRecord:
        """Return what is written into ``run.json``."""
        earlier = self.earlier.record
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
            context={
                **context,
                "models": earlier.context.get("models"),
                "score_columns": earlier.context.get("score_columns"),
            },
        )

    def parents(self, indices: Sequence[int]) -> dict[int, dict[str, str]]:
        """Return the digest of the earlier part for each part."""
        self.earlier.present(indices, allow_partial=False)
        return parent_digests(indices, pair_scores=self.earlier)

    def has_room(self, n_open: int) -> bool:
        """Return whether no part is being copied."""
        return n_open == 0

    def make(self, output: Output, index: int, parents: Mapping[str, str]) -> Tally:
        """Take one part over as it is."""
        table, footer = self.earlier.read(index)
        output.write(index, table, counts=footer.counts, parents=parents, tally=footer.tally)
        return {}


class PairMaker:
    """Makes the parts of ``pair_scores``."""

    def __init__(
        self,
        source: PairsOfFile | PairsOfFolder,
        output: Output,
        parents: Mapping[int, Mapping[str, str]],
    ) -> None:
        self.source, self.output, self.parents = source, output, parents

    def has_room(self, n_open: int) -> bool:
        """Return whether another part should be opened."""
        return self.source.has_room(n_open)

    def prepare(self, index: int) -> int:
        """Read nothing: the pairs of a file are in memory."""
        return index

    def complete(self, index: int, prepared: int) -> Tally:  # noqa: ARG002
        """Rate and write a part."""
        return self.source.make(self.output, index, self.parents[index])


def _source(
    config: PairsConfig, rater: PairRater | None, runtime: Runtime, stack: ExitStack
) -> PairsOfFile | PairsOfFolder:
    place = place_of(config.pairs)
    if place is not None and has_record(place):
        return PairsOfFolder(config, place, rater)
    return PairsOfFile(config, rater, runtime, stack)


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
    """Add and write the figures when all parts are there."""
    if output.missing():
        summary.notes.append(
            "parts of other shards are missing: the shard that finishes last writes the figures"
        )
        return
    try:
        figures = figures_of(config, output)
    except CorruptPartError:
        # Another shard's part is of an earlier run; that shard sums up when it has made it again.
        return

    notes_of_rater = [] if rater is None else list(rater.notes)
    figures["notes"] = notes_of_rater + notes_of(figures)
    write_summary(config.output, figures)
    summary.facts |= figures
    shows = config.stage.removeprefix("eval ")
    summary.table = pairs_page(figures, shows=shows)
    summary.notes += notes_of_rater + notes_of(figures, shows=shows)
