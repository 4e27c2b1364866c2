"""Compare the responses of two candidates folders with a judge.

Reads: ``candidates`` of A and of B.
Writes: ``verdicts``, one row for every pair with both presentation orders, and ``summary.json``
once all parts are there.
Promises: sides are joined by prompt_id, never by position; a response without a partner is a row; a
verdict that could not be parsed is null, keeps the judge's words, and is requested again on the
next run; no answer is paid for twice.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts import parts
from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES, VERDICTS
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, Output, add_tallies, open_input, refuse_nesting
from prefpipe.artifacts.summary_file import write_summary
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.backends.protocol import PairVerdict, PairwiseJudge
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import parse_judge
from prefpipe.errors import CorruptPartError, InputError
from prefpipe.execution.lazy_engine import MOST_OPEN, LazyEngine
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.judge.figures import COLUMNS as COLUMNS_OF_FIGURES
from prefpipe.stages.judge.figures import figures_of, notes_of
from prefpipe.stages.judge.pairs import (
    COLUMNS,
    CandidatesByPrompt,
    ResponsePair,
    by_prompt,
    pairs_of,
    prompt_ids,
)
from prefpipe.stages.judge.rows import (
    PairKey,
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
from prefpipe.stages.shared.partwise import (
    Summary,
    begin_retry,
    check_error_rate,
    loop_over_parts,
    open_stage_output,
)
from prefpipe.stages.shared.recipe import check_sampling, notes_on_force, recipe_of_pairs

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


N_VERDICTS = "n_verdicts"
"""Of a tally: verdicts that a judge gave, one for each order of a pair."""


class Judge(NamedTuple):
    """A judge that can be opened.

    It has an entry in the fingerprint, knows whether it depends on presentation order, and loads
    itself.
    """

    identity: Mapping[str, Any]
    sees_order: bool
    open: Callable[[], PairwiseJudge]


def run(config: JudgeConfig, judge: Judge, runtime: Runtime) -> Summary:
    """Judge the parts of this shard that are missing or hold verdicts to ask for again."""
    refuse_nesting(config.output, {"A": config.a, "B": config.b})
    a = open_input(config.a, schema=CANDIDATES.name, name="A")
    b = open_input(config.b, schema=CANDIDATES.name, name="B")
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
    indices_of_b = b.present(range(b.n_parts), allow_partial=config.allow_partial)
    b_by_prompt = CandidatesByPrompt(b, indices_of_b)
    # Parts of B that are missing could hold a prompt of A.
    if len(indices_of_b) == b.n_parts:
        _refuse_no_prompt_in_common(config, a, b_by_prompt)

    # A part of A is compared with responses of any part of B.
    parents = parent_digests(indices, a=a)
    digest_of_b = b.digest(indices_of_b)
    for digests in parents.values():
        digests["b"] = digest_of_b
    output = open_stage_output(config, record, runtime)

    summary = Summary(config.stage, config.output, notes=notes_on_force(differences))
    started = time.perf_counter()
    opening = f"opening the judge {config.judge}"
    with LazyEngine(judge.open, runtime, opening, most_open=MOST_OPEN) as engine:
        orders = orders_of(config.orders) if judge.sees_order else ("a_first",)
        asking = Asking(config, orders, a, b_by_prompt, engine)

        if config.emit_batch is not None:
            maker = VerdictMaker(asking, output, parents)
            for index in indices:
                maker.ask(maker.prepare(index))
            write_open_questions([engine.opened], config.emit_batch, summary)
            return summary

        to_mend: set[int] = set()
        if config.retry_errors:
            output, to_mend = begin_retry(output, indices, runtime, keep=NOT_RETRIED)
        loop_over_parts(
            config,
            output,
            VerdictMaker(asking, output, parents),
            runtime,
            summary,
            indices=indices,
            parents_of=parents.__getitem__,
            redo=to_mend.__contains__,
        )

    facts_of_spending(summary, summary.counted_now, config)
    if summary.n_parts_made:
        elapsed_s = time.perf_counter() - started
        n_verdicts = int(summary.counted_now[N_VERDICTS])
        summary.notes.append(f"{n_verdicts:,} verdicts in {elapsed_s:.1f} s")

    # Before the error rate, which may end the command: what was judged has its figures anyway.
    _sum_up(config, output, indices, summary, recipe_of_pairs(a, b, record, differences))
    failing = [status for status in summary.counts if status not in NOT_FAILED]
    check_error_rate(summary, failing, config.max_error_rate)
    return summary


def _made_with(config: JudgeConfig, judge: Judge) -> list[dict[str, Any]]:
    """Return the judge's model, if it has files, so that ``status`` sees when they change."""
    if "content_hash" not in judge.identity:
        return []
    return [ingredient("judge", parse_judge(config.judge).model, judge.identity)]


class Asking(NamedTuple):
    """How a part's questions are made, and for which candidates.

    ``orders``: in which each pair is shown; ``a``: candidates, whose part i belongs to part i of
    the verdicts; ``b``: the candidates that they are compared with.
    """

    config: JudgeConfig
    orders: Sequence[str]
    a: Artifact
    b: CandidatesByPrompt
    judge: LazyEngine[PairwiseJudge]


class PairsToJudge(NamedTuple):
    """The inputs of one part.

    ``rows`` are its rows, with the known verdicts; ``to_ask``: the row and the order of each
    unknown verdict.
    """

    pairs: Sequence[ResponsePair]
    rows: Sequence[Row]
    to_ask: Sequence[tuple[int, str]]


class VerdictMaker:
    """Makes the parts of ``verdicts``."""

    def __init__(
        self, asking: Asking, output: Output, parents: Mapping[int, Mapping[str, str]]
    ) -> None:
        """Prepare.

        Args:
            asking: how questions are made.
            output: where the parts go.
            parents: digests of the candidates that each part is made of.
        """
        self.config, self.orders, self.a, self.b, self.judge = asking
        self.output, self.parents = output, parents

    def has_room(self, n_open: int) -> bool:
        """Return whether the judge would be idle without another part."""
        return self.judge.has_room(n_open)

    def inputs_of(self, index: int) -> list[Location]:
        """Return the parts that a part is made from."""
        return [self.a.part_path(index)]

    def prepare(self, index: int) -> PairsToJudge:
        """Read and join the pairs of a part; find what to ask about them."""
        pairs = self._pairs(index)
        rows = [blank_row(pair) for pair in pairs]
        earlier = self._earlier(index)
        # What is known without asking: equal texts tie, and earlier verdicts are paid for.
        to_ask: list[tuple[int, str]] = []
        for place, pair in enumerate(pairs):
            row = rows[place]
            if pair.status != "ok":
                continue
            if are_identical(pair):
                for order in self.orders:
                    row |= identical_columns(order)
                continue
            row |= kept_orders(earlier.get(key_of_pair(row)), self.orders, self._is_kept)
            not_kept = [order for order in self.orders if row[f"{order}_status"] is None]
            to_ask += [(place, order) for order in not_kept]
        return PairsToJudge(pairs, rows, to_ask)

    def complete(self, index: int, prepared: PairsToJudge) -> Tally:
        """Ask the judge and write a part."""
        verdicts = self.ask(prepared)
        rows = list(prepared.rows)
        for (place, order), verdict in zip(prepared.to_ask, verdicts, strict=True):
            rows[place] |= order_columns(verdict, order)
        for place, pair in enumerate(prepared.pairs):
            if pair.status == "ok":
                rows[place] = finish_row(rows[place], self.orders)

        table = pa.Table.from_pylist(rows, schema=VERDICTS.arrow())
        counts = count_by_status(rows)
        self.output.write(index, table, counts=counts, parents=self.parents[index])
        return add_tallies([{N_VERDICTS: len(verdicts)}, *(each.tally for each in verdicts)])

    def ask(self, prepared: PairsToJudge) -> list[PairVerdict]:
        """Return the verdicts that are not known yet."""
        if not prepared.to_ask:
            return []
        # All of a part's questions at once, for the judge to answer side by side.
        requests = [request_of(prepared.pairs[place], order) for place, order in prepared.to_ask]
        return self.judge.get().judge(requests)

    def _pairs(self, index: int) -> list[ResponsePair]:
        """Return the pairs of a part of A.

        B's responses to prompts that A lacks go with one part or another.
        """
        table, _ = self.a.read(index, COLUMNS)
        pairs: list[ResponsePair] = []
        for prompt_id, rows in by_prompt(rows_of(table)).items():
            pairs += pairs_of(prompt_id, rows, self.b.rows(prompt_id), self.config.pairing)
        for prompt_id in self.b.prompts_of_b_alone(self._prompts_of_a, index, self.a.n_parts):
            pairs += pairs_of(prompt_id, [], self.b.rows(prompt_id), self.config.pairing)
        return pairs

    @cached_property
    def _prompts_of_a(self) -> set[str]:
        present = self.a.present(range(self.a.n_parts), allow_partial=True)
        return _prompts_of_parts(self.a, present)

    def _is_kept(self, status: str) -> bool:
        return status in NOT_RETRIED or not self.config.retry_errors

    def _earlier(self, index: int) -> dict[PairKey, Row]:
        """Return the rows of this run's earlier part, made from the same candidates, by key."""
        try:
            path = self.output.part_path(index)
            table, footer = parts.read_part(path, VERDICTS.column_names)
        except (CorruptPartError, InputError):
            return {}
        is_of_this_run = footer.fingerprint == self.output.record.fingerprint
        if not is_of_this_run or dict(footer.parents) != dict(self.parents[index]):
            return {}
        return {key_of_pair(row): row for row in table.to_pylist()}


def _prompts_of_parts(candidates: Artifact, indices: Sequence[int]) -> set[str]:
    prompts: set[str] = set()
    for index in indices:
        prompts.update(prompt_ids(candidates, index))
    return prompts


def _refuse_no_prompt_in_common(config: JudgeConfig, a: Artifact, b: CandidatesByPrompt) -> None:
    """Refuse two whole sides without a prompt in common.

    Nothing could be judged, and only a table would show it.

    Raises:
        InputError: no prompt of A is one of B's.
    """
    present = a.present(range(a.n_parts), allow_partial=True)
    if len(present) == a.n_parts and not b.shares_any(_prompts_of_parts(a, present)):
        raise InputError(
            f"{config.a} and {config.b} have no prompt in common",
            hint="sample both sides from the same prompts file; prompts are joined by prompt_id",
        )


def _sum_up(
    config: JudgeConfig,
    output: Output,
    indices: Sequence[int],
    summary: Summary,
    recipe: Mapping[str, Any],
) -> None:
    """Add the figures of this shard's parts; write those of the whole when all parts are there."""
    figures = figures_of(
        (output.read(index, COLUMNS_OF_FIGURES)[0] for index in output.in_turn(indices)), config
    )
    summary.facts |= figures | {"recipe": recipe}
    summary.notes += notes_of(figures)
    if output.missing():
        return

    if len(indices) < output.n_parts:
        try:
            parts_of_all = [output.read(i, COLUMNS_OF_FIGURES)[0] for i in range(output.n_parts)]
        except CorruptPartError:
            # Another shard's part is of an earlier run; that shard sums up when it has made it
            # again.
            return
        figures = figures_of(parts_of_all, config)
    whole = {
        "judge": config.judge,
        "a": str(config.a),
        "b": str(config.b),
        **figures,
        "recipe": recipe,
    }
    write_summary(config.output, whole)
