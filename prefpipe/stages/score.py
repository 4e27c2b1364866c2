"""Rate candidates.

Reads: ``candidates``.
Writes: ``scores``, one row for every candidate and scorer.
Promises: rows follow the order of the candidates, scorers in the order given; a score is never
dropped, averaged away or made up: what could not be rated has a null reward, a status and a reason.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES, SCORES
from prefpipe.artifacts.store import Artifact, Output, open_input, refuse_nesting
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT, rows_of
from prefpipe.backends.protocol import Score, Scorer, ScoreRequest
from prefpipe.backends.scorers.checks_scorer import IFEVAL_COLUMNS
from prefpipe.configs.judging import parse_judge
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.errors import InputError
from prefpipe.execution.lazy_engine import LazyEngine
from prefpipe.execution.part_maker import OneAtATime
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.shared.candidate_rows import (
    UNUSABLE,
    Key,
    Row,
    count_by_status,
    key_of,
    parent_digests,
    parent_identity,
    user_columns,
)
from prefpipe.stages.shared.judge_spending import facts_of_spending, write_open_questions
from prefpipe.stages.shared.partwise import (
    Summary,
    begin_retry,
    check_error_rate,
    loop_over_parts,
    open_stage_output,
)
from prefpipe.stages.shared.skipped_rows import context_of_skipped_rows, report_skipped_rows
from prefpipe.text.checks.ifeval import IFEVAL_VERSION

NOT_FAILED = ("ok", "no_response")
"""Statuses that are not the scorer's failure; every scorer has words of its own for the others."""
OF_ONE_KIND = (
    "dtype",
    "max_length",
    "rating_column",
    "on_duplicate",
    "judge_max_tokens",
    "judge_temperature",
)
"""Fields that say something of one kind of scorer, whose own identity carries them."""
TRIED_AGAIN = ("parse_error", "error", "no_logprobs", "not_answered")
"""Statuses of judges alone, which the next run tries to mend without being told."""


CANDIDATE_COLUMNS = (
    "prompt_id",
    "sample_idx",
    "messages",
    "response",
    "status",
    "reason",
    TEMPLATE_INPUT,
)
"""What scorers see of a candidate, beside the user's columns."""


class Rater(NamedTuple):
    """A scorer that can be opened: the name its rows carry, its identity, and how to load it."""

    name: str
    identity: Mapping[str, Any]
    open: Callable[[], Scorer]

    @property
    def kind(self) -> str | None:
        """``ratings``, ``checks``, ``judge``, ...; None for one that does not say."""
        return self.identity.get("kind")


def run(config: ScoreConfig, raters: Sequence[Rater], runtime: Runtime) -> Summary:
    """Score the parts of this shard that are missing."""
    refuse_nesting(config.output, {"CANDIDATES": config.candidates})
    candidates = open_input(config.candidates, schema=CANDIDATES.name, name="CANDIDATES")
    # Read before the run is recorded, which says what was left out of them.
    on_file = [rater for rater in raters if rater.kind == "ratings"]
    skipped: list[BadRow] = []
    for rater in on_file:
        ratings: Any = rater.open()
        skipped += ratings.skipped

    columns = _user_columns_of(candidates)
    record = RunRecord(
        stage=config.stage,
        schema=SCORES.tag,
        n_parts=candidates.n_parts,
        context={
            **runtime.context,
            MADE_WITH: _made_with(config, raters),
            **context_of_skipped_rows(skipped),
        },
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **_relevant(config),
            "scorers": [{"name": rater.name, **_identity(rater, columns)} for rater in raters],
            "candidates": parent_identity(candidates),
        },
        parents={"candidates": str(config.candidates)},
    )

    indices = candidates.present(
        runtime.shard.parts(candidates.n_parts), allow_partial=config.allow_partial
    )
    parents = parent_digests(indices, candidates=candidates)

    # Before run.json records a file that has to be corrected.
    for rater in on_file:
        refuse_strangers(rater, candidates)

    output = open_stage_output(config, record, runtime)
    summary = Summary(config.stage, config.output)
    started = time.perf_counter()
    with ExitStack() as stack:
        maker = ScoreMaker(candidates, raters, runtime, stack)
        if config.emit_batch is not None:
            judges = maker.ask_judges(output, parents)
            write_open_questions(judges, config.emit_batch, summary)
            return summary

        if config.retry_errors:
            output, to_mend = begin_retry(output, indices, runtime, keep=NOT_FAILED)
            of_judges: set[int] = set()
        else:
            output, to_mend = begin_retry(output, indices, runtime, only=TRIED_AGAIN)
            of_judges = to_mend  # made again for their judges' sake: other scorers' ratings stay
        loop_over_parts(
            config,
            output,
            OneAtATime(
                lambda index: maker.make(
                    output, index, parents[index], judges_alone=index in of_judges
                )
            ),
            runtime,
            summary,
            indices=indices,
            parents_of=parents.__getitem__,
            redo=to_mend.__contains__,
        )
        for scorer in maker.opened.values():
            facts_of_spending(summary, scorer, config)

    if summary.n_parts_made:
        elapsed_s = time.perf_counter() - started
        summary.notes.append(f"{maker.n_rated:,} ratings in {elapsed_s:.1f} s")
    summary.notes += maker.notes()

    report_skipped_rows(config, skipped, summary)
    # Last, for it may end the command: what was left out is in its file by then.
    failing = [status for status in summary.counts if status not in NOT_FAILED]
    check_error_rate(summary, failing, config.max_error_rate)
    return summary


def _user_columns_of(candidates: Artifact) -> list[str]:
    """Return the names of the user's columns; none where no part is there yet."""
    for index in range(candidates.n_parts):
        if candidates.part_path(index).exists():
            return list(user_columns(candidates.read(index)[0]).column_names)
    return []


def _identity(rater: Rater, columns: Sequence[str]) -> dict[str, Any]:
    """Return what a rater is in the fingerprint.

    Checks that are made of IFEval's columns carry that version as well.
    """
    identity = dict(rater.identity)
    if rater.kind == "checks" and set(IFEVAL_COLUMNS) <= set(columns):
        identity["ifeval_version"] = IFEVAL_VERSION
    return identity


def _made_with(config: ScoreConfig, raters: Sequence[Rater]) -> list[dict[str, Any]]:
    """Return the models and files that rate, so that ``status`` can tell when one has changed."""
    specs = {spec.name: spec for spec in map(parse_scorer, config.scorer)}
    ingredients = []
    for rater in raters:
        spec = specs.get(rater.name)
        if spec is None:
            continue

        if "ratings_sha256" in rater.identity:
            sha256 = {"sha256": rater.identity["ratings_sha256"]}
            ingredients.append(ingredient("ratings", spec.target, sha256))
        elif "content_hash" in rater.identity and spec.kind == "judge":
            model = parse_judge(spec.target).model
            ingredients.append(ingredient("judge", model, rater.identity))
        elif "content_hash" in rater.identity:
            ingredients.append(ingredient("reward model", spec.target, rater.identity))
    return ingredients


def _relevant(config: ScoreConfig) -> dict[str, Any]:
    """Leave out fields that a scorer's own identity carries where they apply.

    A model's dtype says nothing of checks.
    """
    return {name: value for name, value in config.identity().items() if name not in OF_ONE_KIND}


def refuse_strangers(rater: Rater, candidates: Artifact) -> None:
    """Refuse ratings of candidates that these candidates do not hold: they were made for others.

    Raises:
        InputError: naming the first such key. Incomplete candidates are not judged.
    """
    if candidates.missing():
        return
    known: set[tuple[str, int, str | None]] = set()
    columns = ["prompt_id", "sample_idx", "response"]
    for index in range(candidates.n_parts):
        table, _ = candidates.read(index, columns)
        known.update(zip(*(table[name].to_pylist() for name in columns), strict=True))

    ratings: Any = rater.open()
    strangers = ratings.unknown_keys(known)
    if strangers:
        raise InputError(
            f"{rater.name}: {len(strangers)} ratings are for other candidates than "
            f"{candidates.path} holds, the first for {strangers[0]}",
            hint="pass the ratings that were made for these candidates, or remove the rows",
        )


class ScoreMaker:
    """Makes the parts of ``scores``, and adds up the rewards for the summary."""

    def __init__(
        self, candidates: Artifact, raters: Sequence[Rater], runtime: Runtime, stack: ExitStack
    ) -> None:
        """Prepare.

        Args:
            candidates: what is rated.
            raters: in the order of their rows.
            runtime: where to log, and whether to stop.
            stack: closes the scorers that were opened.
        """
        self.candidates, self.raters, self.runtime = candidates, raters, runtime
        self.scorers: dict[str, LazyEngine[Scorer]] = {}
        for rater in raters:
            scorer = LazyEngine(partial(self._open, rater), runtime, f"loading scorer {rater.name}")
            self.scorers[rater.name] = stack.enter_context(scorer)
        self.totals: dict[str, tuple[int, float]] = {}
        """Number and sum of the rewards that each scorer gave now."""

    @property
    def n_rated(self) -> int:
        """Rewards that were given now."""
        return sum(count for count, _ in self.totals.values())

    @property
    def opened(self) -> dict[str, Scorer]:
        """The scorers that were needed, by name."""
        return {
            name: scorer.opened
            for name, scorer in self.scorers.items()
            if scorer.opened is not None
        }

    def make(
        self, output: Output, index: int, parents: Mapping[str, str], *, judges_alone: bool
    ) -> None:
        """Score and write one part.

        Args:
            output: where it goes.
            index: of the part.
            parents: digests of the candidates it is made of.
            judges_alone: take what other scorers than judges said from the part on disk, where it
                is of these candidates.
        """
        candidates, columns = self._rows(index)
        kept = self._kept_scores(output, index, parents) if judges_alone else {}
        scores: dict[str, list[Score]] = {}
        for rater in self.raters:
            if kept and rater.kind != "judge":
                scores[rater.name] = [kept[rater.name, key_of(row)] for row in candidates]
            else:
                scores[rater.name] = self._rate(rater, candidates, columns)

        rows = []
        for place, candidate in enumerate(candidates):
            for rater in self.raters:
                score = scores[rater.name][place]
                rows.append(
                    {
                        "prompt_id": candidate["prompt_id"],
                        "sample_idx": candidate["sample_idx"],
                        "scorer": rater.name,
                        "reward": score.reward,
                        "detail": score.detail,
                        "status": score.status,
                        "reason": score.reason,
                    }
                )
        table = pa.Table.from_pylist(rows, schema=SCORES.arrow())
        output.write(index, table, counts=count_by_status(rows), parents=parents)

    def ask_judges(self, output: Output, parents: Mapping[int, Mapping[str, str]]) -> list[Scorer]:
        """Ask judges that collect their questions about every part that is not finished.

        No part is touched.

        Returns:
            The judges, with the questions that nobody has answered yet.
        """
        for index, digests in parents.items():
            if output.is_done(index, digests):
                statuses = output.footer(index).counts.keys()
                if statuses.isdisjoint(TRIED_AGAIN):
                    continue
            for rater in self.raters:
                if rater.kind == "judge":
                    self._rate(rater, *self._rows(index))
        return list(self.opened.values())

    def notes(self) -> list[str]:
        """Return a line for each scorer that was used now, and what the scorers say themselves."""
        lines = []
        for name, (count, total) in self.totals.items():
            if count:
                lines.append(f"{name}: mean reward {total / count:.4f} over {count:,} ratings")
        for name, scorer in self.opened.items():
            if hasattr(scorer, "notes"):
                lines += [f"{name}: {note}" for note in scorer.notes()]
        return lines

    def _open(self, rater: Rater) -> Scorer:
        scorer = rater.open()
        example = getattr(scorer, "example", None)
        if example:
            self.runtime.log(f"{rater.name} sees, for example:\n{example}")
        return scorer

    def _rows(self, index: int) -> tuple[list[Row], list[Row]]:
        """Return a part's candidates, and the user's own columns beside them."""
        table, _ = self.candidates.read(index)
        columns = [name for name in CANDIDATE_COLUMNS if name in table.column_names]
        return rows_of(table.select(columns)), python_rows(user_columns(table))

    def _kept_scores(
        self, output: Output, index: int, parents: Mapping[str, str]
    ) -> dict[tuple[str, Key], Score]:
        """Return what the part on disk holds, by scorer and candidate.

        It is {} where the part was made from other candidates.
        """
        table, footer = output.read(index)
        if dict(footer.parents) != dict(parents):
            return {}
        kept = {}
        for row in table.to_pylist():
            score = Score(row["reward"], row["status"], row["reason"], row["detail"])
            kept[row["scorer"], key_of(row)] = score
        return kept

    def _rate(self, rater: Rater, candidates: Sequence[Row], columns: Sequence[Row]) -> list[Score]:
        """Return one score for each candidate.

        Those without a response are not shown to the scorer.
        """
        rated: list[Score] = []
        places, requests = [], []
        for place, (row, user_row) in enumerate(zip(candidates, columns, strict=True)):
            # What a candidate without a response gets; the answers take the others' places.
            reason = f"generation ended with {row['status']}: {row['reason']}"
            rated.append(Score(None, "no_response", reason))
            if row["status"] not in UNUSABLE:
                places.append(place)
                request = ScoreRequest(
                    *key_of(row), row["messages"], row["response"] or "", user_row
                )
                requests.append(request)

        answers = self.scorers[rater.name].get().score(requests) if requests else []
        for place, answer in zip(places, answers, strict=True):
            rated[place] = checked(answer)

        rewards = [score.reward for score in rated if score.reward is not None]
        count, total = self.totals.get(rater.name, (0, 0.0))
        self.totals[rater.name] = (count + len(rewards), total + sum(rewards))
        return rated


def checked(score: Score) -> Score:
    """Return the score, a reward that is not finite turned into a status."""
    if score.reward is not None and not isfinite(score.reward):
        return Score(None, "not_finite", f"the scorer gave {score.reward}", score.detail)
    return score
