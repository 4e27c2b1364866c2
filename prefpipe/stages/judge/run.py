"""Compare the responses of two candidates folders with a judge.

Reads: ``candidates`` of A and of B. Writes: ``verdicts``, one row for every pair with both presentation orders, and
``summary.json`` once all parts are there. Promises: sides are joined by prompt_id, never by position; a response without a
partner is a row; a verdict that could not be read is null with the judge's words, and asked for again on the next run; no answer
is paid for twice.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts import parts
from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES, VERDICTS
from prefpipe.artifacts.store import Artifact, Output, open_input, open_output, refuse_nesting
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.backends.protocol import PairwiseJudge
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import parse_judge
from prefpipe.errors import CorruptPartError, InputError
from prefpipe.stages.judge.figures import notes_of, tally_of
from prefpipe.stages.judge.pairs import COLUMNS, OtherSide, ResponsePair, by_prompt, pairs_of
from prefpipe.stages.judge.rows import (
    are_identical,
    blank_row,
    finish_row,
    identical_columns,
    kept_orders,
    key_of_pair,
    order_columns,
    orders_of,
    request_of,
)
from prefpipe.stages.shared.candidate_rows import (
    Row,
    count_by_status,
    parent_digests,
    parent_identity,
)
from prefpipe.stages.shared.judge_spending import facts_of_spending, write_open_questions
from prefpipe.stages.shared.recipe import check_sampling, notes_on_force, recipe_of_pairs
from prefpipe.stages.shared.runtime import (
    Runtime,
    Summary,
    begin_retry,
    check_error_rate,
    loop_over_parts,
)

NOT_FAILED = ("ok", "no_partner", "no_response")
NOT_RETRIED = (
    *NOT_FAILED,
    "refused",
    "prompt_too_long",
    "too_long",
    "template_error",
    "not_finite",
)
"""Statuses that another try would not mend."""
SUMMARY_FILE = "summary.json"


class Judge(NamedTuple):
    """A judge that can be opened: what it is in the fingerprint, whether it sees an order, and how to load it."""

    identity: Mapping[str, Any]
    sees_order: bool
    open: Callable[[], PairwiseJudge]


def run(config: JudgeConfig, judge: Judge, runtime: Runtime) -> Summary:
    """Judge the parts of this shard that are missing or hold verdicts to ask for again."""
    refuse_nesting(config.output, {"A": config.a, "B": config.b})
    a, b = (
        open_input(path, schema=CANDIDATES.name, name=name)
        for name, path in (("A", config.a), ("B", config.b))
    )
    differences = check_sampling(a, b, force=config.force)
    record = RunRecord(
        stage=config.stage,
        schema=VERDICTS.tag,
        n_parts=a.n_parts,
        context={**runtime.context, MADE_WITH: _made_with(config, judge)},
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            "pairing": config.pairing,
            "orders": config.orders if judge.sees_order else "one",
            "judge": dict(judge.identity),
            "a": parent_identity(a),
            "b": parent_identity(b),
        },
        parents={"a": str(config.a), "b": str(config.b)},
    )
    indices = a.present(runtime.shard.parts(a.n_parts), allow_partial=config.allow_partial)
    theirs = b.present(range(b.n_parts), allow_partial=config.allow_partial)
    other = OtherSide(b, theirs)
    if len(theirs) == b.n_parts:
        _refuse_strangers(config, a, other)
    digest = b.digest(theirs)
    parents = {
        index: found | {"b": digest} for index, found in parent_digests(indices, a=a).items()
    }
    output = open_output(config.output, record, shard=runtime.shard, overwrite=config.overwrite)
    summary = Summary(config.stage, config.output, notes=notes_on_force(differences))
    started = time.perf_counter()
    with ExitStack() as stack:
        work = _Work(config, judge, a, other, stack, runtime)
        if config.emit_batch is not None:
            _emit(work, config.emit_batch, output, parents, summary)
            return summary
        output, failed = (
            begin_retry(output, indices, keep=NOT_RETRIED)
            if config.retry_errors
            else (output, set())
        )
        loop_over_parts(
            output,
            parents.__getitem__,
            lambda index: work.make(output, index, parents[index]),
            runtime,
            summary,
            indices=indices,
            redo=failed.__contains__,
        )
        if work.opened is not None:
            facts_of_spending(summary, work.opened, config)
    if summary.n_parts_made:
        summary.notes.append(f"{work.n_orders:,} verdicts in {time.perf_counter() - started:.1f} s")
    _sum_up(config, output, indices, summary, recipe_of_pairs(a, b, record, differences))
    check_error_rate(
        summary,
        [status for status in summary.counts if status not in NOT_FAILED],
        config.max_error_rate,
    )
    return summary


def _made_with(config: JudgeConfig, judge: Judge) -> list[dict[str, Any]]:
    if "content_hash" not in judge.identity:
        return []
    return [ingredient("judge", parse_judge(config.judge).model, judge.identity)]


class _Work:
    """One run's state: the judge, opened when first needed."""

    def __init__(
        self,
        config: JudgeConfig,
        judge: Judge,
        a: Artifact,
        b: OtherSide,
        stack: ExitStack,
        runtime: Runtime,
    ) -> None:
        self.config, self.a, self.b = config, a, b
        self.judge, self.stack, self.runtime = judge, stack, runtime
        self.orders = orders_of(config.orders) if judge.sees_order else ("a_first",)
        self.opened: PairwiseJudge | None = None
        self.n_orders = 0
        self._known: set[str] | None = None

    def make(self, output: Output, index: int, parents: Mapping[str, str]) -> None:
        """Judge and write one part."""
        rows = self.rows(output, index, parents)
        table = pa.Table.from_pylist(rows, schema=VERDICTS.arrow())
        output.write(index, table, counts=count_by_status(rows), parents=parents)

    def rows(self, output: Output, index: int, parents: Mapping[str, str]) -> list[Row]:
        """Return a part's rows, those that have a verdict kept and the rest judged."""
        pairs = self._pairs(index)
        rows = [blank_row(pair) for pair in pairs]
        earlier = self._earlier(output, index, parents)
        to_ask: list[tuple[int, str]] = []
        for place, pair in enumerate(pairs):
            if pair.status != "ok":
                continue
            if are_identical(pair):
                for order in self.orders:
                    rows[place] |= identical_columns(order)
                continue
            rows[place] |= kept_orders(
                earlier.get(key_of_pair(rows[place])), self.orders, self._is_kept
            )
            to_ask += [
                (place, order) for order in self.orders if rows[place][f"{order}_status"] is None
            ]
        if to_ask:
            verdicts = self._open().judge(
                [request_of(pairs[place], order) for place, order in to_ask]
            )
            for (place, order), verdict in zip(to_ask, verdicts, strict=True):
                rows[place] |= order_columns(verdict, order)
            self.n_orders += len(to_ask)
        return [
            finish_row(row, self.orders) if pair.status == "ok" else row
            for row, pair in zip(rows, pairs, strict=True)
        ]

    def _pairs(self, index: int) -> list[ResponsePair]:
        ours = by_prompt(rows_of(self.a.read(index, COLUMNS)[0]))
        found = [
            pair
            for prompt_id, rows in ours.items()
            for pair in pairs_of(prompt_id, rows, self.b.rows(prompt_id), self.config.pairing)
        ]
        for prompt_id in self.b.only_here(self._prompts_of_a(), index, self.a.n_parts):
            found += pairs_of(prompt_id, [], self.b.rows(prompt_id), self.config.pairing)
        return found

    def _prompts_of_a(self) -> set[str]:
        if self._known is None:
            self._known = _prompt_ids(
                self.a, self.a.present(range(self.a.n_parts), allow_partial=True)
            )
        return self._known

    def _is_kept(self, status: str) -> bool:
        return status in NOT_RETRIED or not self.config.retry_errors

    def _earlier(self, output: Output, index: int, parents: Mapping[str, str]) -> dict[Any, Row]:
        """Return the rows of this run's earlier part, made from the same candidates, by key."""
        try:
            table, footer = parts.read_part(output.part_path(index), VERDICTS.column_names)
        except (CorruptPartError, InputError):
            return {}
        if footer.fingerprint != output.record.fingerprint or dict(footer.parents) != dict(parents):
            return {}
        return {key_of_pair(row): row for row in table.to_pylist()}

    def _open(self) -> PairwiseJudge:
        if self.opened is None:
            self.runtime.log(f"opening the judge {self.config.judge}")
            with self.runtime.interruptible():
                self.opened = self.judge.open()
            self.stack.callback(self.opened.close)
        return self.opened


def _prompt_ids(side: Artifact, parts_there: Sequence[int]) -> set[str]:
    return {
        name
        for index in parts_there
        for name in side.read(index, ["prompt_id"])[0]["prompt_id"].to_pylist()
    }


def _refuse_strangers(config: JudgeConfig, a: Artifact, b: OtherSide) -> None:
    """Refuse two whole sides without a prompt in common: nothing could be judged, and a table alone would say so.

    Raises:
        InputError: no prompt of A is one of B's.
    """
    present = a.present(range(a.n_parts), allow_partial=True)
    if len(present) == a.n_parts and not b.shares_any(_prompt_ids(a, present)):
        raise InputError(
            f"{config.a} and {config.b} have no prompt in common",
            hint="sample both sides from the same prompts file; prompts are joined by prompt_id",
        )


def _emit(
    work: _Work,
    path: Path,
    output: Output,
    parents: Mapping[int, Mapping[str, str]],
    summary: Summary,
) -> None:
    """Write the questions that nobody has answered yet; no part is touched."""
    for index in parents:
        work.rows(output, index, parents[index])
    write_open_questions([work.opened], path, summary)


def _sum_up(
    config: JudgeConfig,
    output: Output,
    indices: Sequence[int],
    summary: Summary,
    recipe: Mapping[str, Any],
) -> None:
    """Tell the figures of this shard's parts, and write those of the whole when all parts are there."""
    figures = tally_of(output.read(index)[0] for index in indices).figures(config)
    summary.facts |= figures | {"recipe": recipe}
    summary.notes += notes_of(figures)
    if output.missing():
        return
    try:
        whole = tally_of(output.read(index)[0] for index in range(output.n_parts)).figures(config)
    except CorruptPartError:
        return  # another shard's part is of an earlier run; that shard sums up when it has made it again
    whole = {
        "judge": config.judge,
        "a": str(config.a),
        "b": str(config.b),
        **whole,
        "recipe": recipe,
    }
    with atomic_write(config.output / SUMMARY_FILE) as file:
        file.write((json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode())
