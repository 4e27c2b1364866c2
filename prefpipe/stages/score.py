"""Rate candidates.

Reads: ``candidates``.
Writes: ``scores``, one row for every candidate and scorer.
Promises: rows follow the order of the candidates, scorers in the order given; a score is never
dropped, averaged away or invented: a candidate that could not be rated has a null reward, a status
and a reason.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES, SCORES
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, Output, add_tallies, open_input, refuse_nesting
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT, rows_of
from prefpipe.backends.protocol import Score, Scorer, ScoreRequest
from prefpipe.backends.scorers.checks_scorer import IFEVAL_COLUMNS
from prefpipe.configs.judging import parse_judge
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.errors import CorruptPartError, InputError
from prefpipe.execution.lazy_engine import MOST_OPEN, LazyEngine
from prefpipe.execution.main_thread import MainThread
from prefpipe.execution.part_maker import Tally
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
from prefpipe.stages.shared.rating_notes import notes_on_texts
from prefpipe.stages.shared.skipped_rows import context_of_skipped_rows, report_skipped_rows
from prefpipe.text.begun_turns import with_whole_answer
from prefpipe.text.checks.ifeval import IFEVAL_VERSION

NOT_FAILED = ("ok", "no_response")
"""Statuses that are not the scorer's failure; every scorer has its own words for the others."""
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
"""Statuses of judges alone, which the next run retries automatically."""


N_RATED, SUM_OF_REWARDS = "n_rated", "sum_of_rewards"
"""Of a scorer's tally: rewards that it gave, and their sum."""

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
        scorers = _scorers(raters, runtime, stack)
        if config.emit_batch is not None:
            maker = ScoreMaker(
                config, candidates, output, raters, scorers, parents, runtime.main_thread
            )
            judges = maker.ask_judges()
            write_open_questions(judges, config.emit_batch, summary)
            return summary

        to_mend: set[int] = set()
        if config.retry_errors:
            output, to_mend = begin_retry(output, indices, runtime, keep=NOT_FAILED)
        elif _have_judge(raters):
            output, to_mend = begin_retry(output, indices, runtime, only=TRIED_AGAIN)
        loop_over_parts(
            config,
            output,
            ScoreMaker(config, candidates, output, raters, scorers, parents, runtime.main_thread),
            runtime,
            summary,
            indices=indices,
            parents_of=parents.__getitem__,
            redo=to_mend.__contains__,
        )

    counted = {rater.name: counted_for(rater.name, summary.counted_now) for rater in raters}
    for tally in counted.values():
        facts_of_spending(summary, tally, config)
    if summary.n_parts_made:
        elapsed_s = time.perf_counter() - started
        n_rated = sum(int(tally.get(N_RATED, 0)) for tally in counted.values())
        summary.notes.append(f"{n_rated:,} ratings in {elapsed_s:.1f} s")
    summary.notes += notes_on_ratings(counted)

    report_skipped_rows(config, skipped, summary)
    # Last, for it may end the command: what was left out is in its file by then.
    failing = [status for status in summary.counts if status not in NOT_FAILED]
    check_error_rate(summary, failing, config.max_error_rate)
    return summary


def _have_judge(raters: Sequence[Rater]) -> bool:
    return any(rater.kind == "judge" for rater in raters)


def _user_columns_of(candidates: Artifact) -> list[str]:
    """Return the names of the user's columns; none where no part is there yet."""
    for index in candidates.present(range(candidates.n_parts), allow_partial=True)[:1]:
        return list(user_columns(candidates.read(index)[0]).column_names)
    return []


def _identity(rater: Rater, columns: Sequence[str]) -> dict[str, Any]:
    """Return a rater's entry in the fingerprint.

    Checks that are made of IFEval's columns carry that version as well.
    """
    identity = dict(rater.identity)
    if rater.kind == "checks" and set(IFEVAL_COLUMNS) <= set(columns):
        identity["ifeval_version"] = IFEVAL_VERSION
    return identity


def _made_with(config: ScoreConfig, raters: Sequence[Rater]) -> list[dict[str, Any]]:
    """Return the models and files that rate, so that ``status`` can tell when one changed."""
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
    """Leave out fields that a scorer's own identity carries if they apply.

    A model's dtype, for example, does not apply to checks.
    """
    return {name: value for name, value in config.identity().items() if name not in OF_ONE_KIND}


def refuse_strangers(rater: Rater, candidates: Artifact) -> None:
    """Refuse ratings of candidates that are not here: they were made for others.

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
            f"{rater.name}: {len(strangers)} ratings are for candidates that {candidates.path} "
            f"does not hold, first {strangers[0]}",
            hint="pass the ratings that were made for these candidates, or remove those rows",
        )


def _scorers(
    raters: Sequence[Rater], runtime: Runtime, stack: ExitStack
) -> dict[str, LazyEngine[Scorer]]:
    """Return the scorers by name, each to be opened when it is needed and closed by ``stack``."""

    def open_scorer(rater: Rater) -> Scorer:
        scorer = rater.open()
        example = getattr(scorer, "example", None)
        if example:
            runtime.log(f"{rater.name} sees, for example:\n{example}")
        return scorer

    scorers: dict[str, LazyEngine[Scorer]] = {}
    for rater in raters:
        scorer = LazyEngine(
            partial(open_scorer, rater),
            runtime,
            f"loading scorer {rater.name}",
            most_open=MOST_OPEN,
        )
        scorers[rater.name] = stack.enter_context(scorer)
    return scorers


class CandidatesToRate(NamedTuple):
    """The inputs of one part.

    ``requests`` are the ratings to ask for, ``places`` of which candidate each is. ``kept``:
    ratings of the part on disk, by scorer and candidate, {} if they cannot be used.
    """

    candidates: Sequence[Row]
    requests: Sequence[ScoreRequest]
    places: Sequence[int]
    kept: Mapping[tuple[str, Key], Score]


class ScoreMaker:
    """Makes the parts of ``scores``. A part goes to one scorer after another."""

    def __init__(
        self,
        config: ScoreConfig,
        candidates: Artifact,
        output: Output,
        raters: Sequence[Rater],
        scorers: Mapping[str, LazyEngine[Scorer]],
        parents: Mapping[int, Mapping[str, str]],
        main_thread: MainThread,
    ) -> None:
        """Prepare.

        Args:
            config: the stage's knobs.
            candidates: what is rated.
            output: where the parts go.
            raters: in the order of their rows.
            scorers: one for each rater, by name.
            parents: digests of the candidates that each part is made of.
            main_thread: calls the functions of users.
        """
        self.main_thread = main_thread
        self.config, self.candidates, self.output = config, candidates, output
        self.raters, self.scorers, self.parents = raters, scorers, parents
        self._scorer_of_part: dict[int, str] = {}
        """The scorer that each part is with; those behind the first are looked at."""

    def has_room(self, n_open: int) -> bool:
        """Return whether another part keeps every scorer busy.

        Without this, parts of faster scorers would wait in memory for a busy one.
        """
        n_with = Counter(self._scorer_of_part.copy().values())
        first, *later = (rater.name for rater in self.raters)
        # What is being read or written counts with the first.
        n_with[first] = n_open - sum(n_with[name] for name in later)
        return all(scorer.has_room(n_with[name]) for name, scorer in self.scorers.items())

    def size_of(self, index: int) -> int:
        """Return how many candidates a part is made from."""
        return self.candidates.footer(index).n_rows

    def inputs_of(self, index: int) -> list[Location]:
        """Return the parts that a part is made from."""
        return [self.candidates.part_path(index)]

    def prepare(self, index: int) -> CandidatesToRate:
        """Read the candidates of a part, the user's own columns beside them."""
        table, _ = self.candidates.read(index)
        names = [name for name in CANDIDATE_COLUMNS if name in table.column_names]
        candidates = rows_of(table.select(names))
        columns = python_rows(user_columns(table))

        places, requests = [], []
        for place, (row, user_row) in enumerate(zip(candidates, columns, strict=True)):
            # Candidates without a response are not shown to a scorer.
            if row["status"] not in UNUSABLE:
                # a begun answer is rated whole
                turns, answer = with_whole_answer(row["messages"], row["response"] or "")
                places.append(place)
                requests.append(ScoreRequest(*key_of(row), turns, answer, user_row))
        return CandidatesToRate(candidates, requests, places, self._kept_scores(index))

    def complete(self, index: int, prepared: CandidatesToRate) -> Tally:
        """Rate and write a part."""
        scores: dict[str, list[Score]] = {}
        tally: dict[str, float] = {}
        try:
            for rater in self.raters:
                self._scorer_of_part[index] = rater.name
                if prepared.kept and rater.kind != "judge":
                    keys = [(rater.name, key_of(row)) for row in prepared.candidates]
                    scores[rater.name] = [prepared.kept[key] for key in keys]
                    continue
                rated = self._rate(rater, prepared)
                scores[rater.name] = rated
                for name, value in tally_of(rated).items():
                    tally[f"{rater.name}/{name}"] = value
        finally:
            self._scorer_of_part.pop(index, None)

        rows = []
        for place, candidate in enumerate(prepared.candidates):
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
        counts = count_by_status(rows)
        self.output.write(index, table, counts=counts, parents=self.parents[index])
        return tally

    def ask_judges(self) -> list[Scorer]:
        """Ask judges that collect their questions about every part that is not finished.

        No part is touched.

        Returns:
            The judges, with the questions that nobody has answered yet.
        """
        for index, digests in self.parents.items():
            if self.output.is_done(index, digests):
                statuses = self.output.footer(index).counts.keys()
                if statuses.isdisjoint(TRIED_AGAIN):
                    continue
            prepared = self.prepare(index)
            for rater in self.raters:
                if rater.kind == "judge":
                    self._rate(rater, prepared)
        return [scorer.opened for scorer in self.scorers.values() if scorer.opened is not None]

    def _kept_scores(self, index: int) -> dict[tuple[str, Key], Score]:
        """Return the ratings of a part on disk that is made again for its judges.

        Other scorers' ratings stay. It is {} if there is no part of this run and of these
        candidates, or every failed rating is requested again.
        """
        if self.config.retry_errors or not _have_judge(self.raters):
            return {}
        try:
            table, footer = self.output.read(index)
        except CorruptPartError:
            return {}
        if dict(footer.parents) != dict(self.parents[index]):
            return {}

        kept = {}
        for row in table.to_pylist():
            score = Score(row["reward"], row["status"], row["reason"], row["detail"])
            kept[row["scorer"], key_of(row)] = score
        return kept

    def _rate(self, rater: Rater, prepared: CandidatesToRate) -> list[Score]:
        """Return one score for each candidate."""
        # What a candidate without a response gets; the answers take the others' places.
        rated: list[Score] = []
        for row in prepared.candidates:
            reason = f"generation ended with {row['status']}: {row['reason']}"
            rated.append(Score(None, "no_response", reason))

        answers: Sequence[Score] = []
        if prepared.requests:
            answers = self._ask(rater, prepared.requests)
        for place, answer in zip(prepared.places, answers, strict=True):
            rated[place] = checked(answer)
        return rated

    def _ask(self, rater: Rater, requests: Sequence[ScoreRequest]) -> list[Score]:
        scorer = self.scorers[rater.name].get()
        if rater.kind != "checks":
            return scorer.score(requests)
        # A user's own function may set a timer, which Python allows in the main thread alone.
        return self.main_thread.do(lambda: scorer.score(requests))


def tally_of(rated: Sequence[Score]) -> dict[str, float]:
    """Return number and sum of a scorer's rewards, and its own counts."""
    rewards = [score.reward for score in rated if score.reward is not None]
    counted = {N_RATED: len(rewards), SUM_OF_REWARDS: sum(rewards)}
    return add_tallies([counted, *(score.tally for score in rated)])


def counted_for(scorer: str, tally: Mapping[str, float]) -> dict[str, float]:
    """Return what was counted for one scorer, of a tally of all."""
    prefix = f"{scorer}/"
    return {
        name.removeprefix(prefix): value for name, value in tally.items() if name.startswith(prefix)
    }


def notes_on_ratings(counted: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a line for each scorer used in this call, and notes on the texts.

    Args:
        counted: tallies by scorer.
    """
    means, notes = [], []
    for scorer, tally in counted.items():
        n_rated = int(tally.get(N_RATED, 0))
        if n_rated:
            mean = tally[SUM_OF_REWARDS] / n_rated
            means.append(f"{scorer}: mean reward {mean:.4f} over {n_rated:,} ratings")
        notes += [f"{scorer}: {note}" for note in notes_on_texts(tally)]
    return means + notes


def checked(score: Score) -> Score:
    """Return the score; a reward that is not finite becomes a status."""
    if score.reward is not None and not isfinite(score.reward):
        reason = f"the scorer gave {score.reward}"
        return score._replace(reward=None, status="not_finite", reason=reason)
    return score
