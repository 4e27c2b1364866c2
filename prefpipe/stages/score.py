"""Rate candidates.

Reads: ``candidates``. Writes: ``scores``, one row for every candidate and scorer. Promises: rows follow the order of
the candidates, scorers in the order given; a score is never dropped, averaged away or made up: what could not be
rated has a null reward, a status and a reason.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES, SCORES
from prefpipe.artifacts.store import Artifact, Output, open_input, open_output, refuse_nesting
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT, rows_of
from prefpipe.backends.protocol import Score, Scorer, ScoreRequest
from prefpipe.backends.scorers.checks_scorer import IFEVAL_COLUMNS
from prefpipe.configs.judging import parse_judge
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.errors import InputError
from prefpipe.stages.shared.candidate_rows import (
    UNUSABLE,
    Row,
    count_by_status,
    key_of,
    parent_digests,
    parent_identity,
    user_columns,
)
from prefpipe.stages.shared.judge_spending import facts_of_spending, write_open_questions
from prefpipe.stages.shared.runtime import (
    Runtime,
    Summary,
    begin_retry,
    check_error_rate,
    loop_over_parts,
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


class Rater(NamedTuple):
    """A scorer that can be opened: the name its rows carry, its identity, and how to load it."""

    name: str
    identity: Mapping[str, Any]
    open: Callable[[], Scorer]


def run(config: ScoreConfig, raters: Sequence[Rater], runtime: Runtime) -> Summary:
    """Score the parts of this shard that are missing."""
    refuse_nesting(config.output, {"CANDIDATES": config.candidates})
    candidates = open_input(config.candidates, schema=CANDIDATES.name, name="CANDIDATES")
    ratings: list[Any] = [
        rater.open() for rater in raters if rater.identity.get("kind") == "ratings"
    ]
    skipped = [row for scorer in ratings for row in scorer.skipped]
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
    for rater in raters:
        if (
            rater.identity.get("kind") == "ratings"
        ):  # before run.json records a file that has to be corrected
            refuse_strangers(rater, candidates)
    output = open_output(config.output, record, shard=runtime.shard, overwrite=config.overwrite)
    summary = Summary(config.stage, config.output)
    if config.emit_batch is not None:
        _emit(config.emit_batch, raters, (candidates, output, indices, parents), runtime, summary)
        return summary
    output, failed = begin_retry(
        output, indices, **({"keep": NOT_FAILED} if config.retry_errors else {"only": TRIED_AGAIN})
    )
    started = time.perf_counter()
    with ExitStack() as stack:
        work = _Work(candidates, output, raters, stack, runtime)
        work.kept_parts = set() if config.retry_errors else failed
        loop_over_parts(
            output,
            parents.__getitem__,
            lambda index: work.make(index, parents[index]),
            runtime,
            summary,
            indices=indices,
            redo=failed.__contains__,
        )
        for scorer in work.scorers.values():
            facts_of_spending(summary, scorer, config)
    if summary.n_parts_made:
        summary.notes.append(f"{work.n_rated:,} ratings in {time.perf_counter() - started:.1f} s")
    summary.notes += work.describe()
    report_skipped_rows(config, skipped, summary)
    check_error_rate(
        summary,
        [status for status in summary.counts if status not in NOT_FAILED],
        config.max_error_rate,
    )
    return summary


def _user_columns_of(candidates: Artifact) -> list[str]:
    """Return the names of the user's columns; none where no part is there yet."""
    present = next(
        (index for index in range(candidates.n_parts) if candidates.part_path(index).exists()), None
    )
    return user_columns(candidates.read(present)[0]).column_names if present is not None else []


def _identity(rater: Rater, columns: Sequence[str]) -> dict[str, Any]:
    """Return what a rater is in the fingerprint: checks that are made of IFEval's columns carry that version as well."""
    identity = dict(rater.identity)
    if identity.get("kind") == "checks" and set(IFEVAL_COLUMNS) <= set(columns):
        identity["ifeval_version"] = IFEVAL_VERSION
    return identity


def _made_with(config: ScoreConfig, raters: Sequence[Rater]) -> list[dict[str, Any]]:
    """Return the models and files that rate, so that ``status`` can tell when one of them has changed."""
    specs = {spec.name: spec for spec in map(parse_scorer, config.scorer)}
    found = []
    for rater in raters:
        spec = specs.get(rater.name)
        if spec is None:
            continue
        if "content_hash" in rater.identity:
            model = parse_judge(spec.target).model if spec.kind == "judge" else spec.target
            found.append(
                ingredient(
                    "judge" if spec.kind == "judge" else "reward model", model, rater.identity
                )
            )
        elif "ratings_sha256" in rater.identity:
            found.append(
                ingredient("ratings", spec.target, {"sha256": rater.identity["ratings_sha256"]})
            )
    return found


def _relevant(config: ScoreConfig) -> dict[str, Any]:
    """Leave out fields that a scorer's own identity carries where they apply: a model's dtype says nothing of checks."""
    return {name: value for name, value in config.identity().items() if name not in OF_ONE_KIND}


def _emit(
    path: Path, raters: Sequence[Rater], parts: tuple[Any, ...], runtime: Runtime, summary: Summary
) -> None:
    """Write the questions to judges that nobody has answered yet; no part is touched."""
    candidates, output, indices, parents = parts
    with ExitStack() as stack:
        work = _Work(candidates, output, raters, stack, runtime)
        for index in indices:
            if output.is_done(index, parents[index]) and not set(TRIED_AGAIN) & set(
                output.footer(index).counts
            ):
                continue
            for rater in raters:
                if rater.identity.get("kind") == "judge":
                    work.rate(rater, *work.rows(index))
        write_open_questions(work.scorers.values(), path, summary)


def refuse_strangers(rater: Rater, candidates: Artifact) -> None:
    """Refuse ratings of candidates that these candidates do not hold: they were made for others.

    Raises:
        InputError: naming the first such key. Incomplete candidates are not judged.
    """
    if candidates.missing():
        return
    known = set()
    for index in range(candidates.n_parts):
        rows = candidates.read(index, ["prompt_id", "sample_idx", "response"])[0].to_pylist()
        known |= {(row["prompt_id"], row["sample_idx"], row["response"]) for row in rows}
    scorer: Any = rater.open()
    strangers = scorer.unknown_keys(known)
    if strangers:
        raise InputError(
            f"{rater.name}: {len(strangers)} ratings are for other candidates than {candidates.path} holds, "
            f"the first for {strangers[0]}",
            hint="pass the ratings that were made for these candidates, or remove the rows",
        )


class _Work:
    """One run's state: scorers opened when first needed, reward sums for the summary."""

    def __init__(
        self,
        candidates: Artifact,
        output: Output,
        raters: Sequence[Rater],
        stack: ExitStack,
        runtime: Runtime,
    ) -> None:
        self.candidates, self.output, self.raters = candidates, output, raters
        self.stack, self.runtime = stack, runtime
        self.scorers: dict[str, Scorer] = {}
        self.n_rated = 0
        self.totals: dict[str, tuple[int, float]] = {}
        self.kept_parts: set[int] = set()
        """Parts that are made again for their judges' sake: what other scorers said there stays."""

    def make(self, index: int, parents: Mapping[str, str]) -> None:
        """Score and write one part."""
        rows, theirs = self.rows(index)
        kept = self._kept(index, parents) if index in self.kept_parts else {}
        scored: dict[str, list[Score]] = {
            rater.name: [kept[rater.name, key_of(row)] for row in rows]
            if kept and rater.identity.get("kind") != "judge"
            else self.rate(rater, rows, theirs)
            for rater in self.raters
        }
        out = [
            {
                "prompt_id": row["prompt_id"],
                "sample_idx": row["sample_idx"],
                "scorer": rater.name,
                "reward": score.reward,
                "detail": score.detail,
                "status": score.status,
                "reason": score.reason,
            }
            for position, row in enumerate(rows)
            for rater in self.raters
            for score in (scored[rater.name][position],)
        ]
        written = pa.Table.from_pylist(out, schema=SCORES.arrow())
        self.output.write(index, written, counts=count_by_status(out), parents=parents)

    def rows(self, index: int) -> tuple[list[Row], list[Row]]:
        """Return a part's candidates and the user's own columns."""
        table, _ = self.candidates.read(index)
        names = [
            "prompt_id",
            "sample_idx",
            "messages",
            "response",
            "status",
            "reason",
            TEMPLATE_INPUT,
        ]
        rows = rows_of(table.select([name for name in names if name in table.column_names]))
        return rows, python_rows(user_columns(table))

    def _kept(
        self, index: int, parents: Mapping[str, str]
    ) -> dict[tuple[str, tuple[str, int]], Score]:
        """Return what the part on disk holds, by scorer and candidate; {} where it was made from other candidates."""
        table, footer = self.output.read(index)
        if dict(footer.parents) != dict(parents):
            return {}
        return {
            (row["scorer"], key_of(row)): Score(
                row["reward"], row["status"], row["reason"], row["detail"]
            )
            for row in table.to_pylist()
        }

    def rate(self, rater: Rater, rows: Sequence[Row], theirs: Sequence[Row]) -> list[Score]:
        """Return one score for each candidate; those without a response are not shown to the scorer."""
        usable = [position for position, row in enumerate(rows) if row["status"] not in UNUSABLE]
        requests = [
            ScoreRequest(
                *key_of(rows[i]), rows[i]["messages"], rows[i]["response"] or "", theirs[i]
            )
            for i in usable
        ]
        answers = self._scorer(rater).score(requests) if requests else []
        result = [
            Score(None, "no_response", f"generation ended with {row['status']}: {row['reason']}")
            for row in rows
        ]
        for position, answer in zip(usable, answers, strict=True):
            result[position] = checked(answer)
        rewards = [score.reward for score in result if score.reward is not None]
        count, total = self.totals.get(rater.name, (0, 0.0))
        self.totals[rater.name] = (count + len(rewards), total + sum(rewards))
        self.n_rated += len(rewards)
        return result

    def _scorer(self, rater: Rater) -> Scorer:
        if rater.name not in self.scorers:
            self.runtime.log(f"loading scorer {rater.name}")
            with self.runtime.interruptible():
                scorer = rater.open()
            self.stack.callback(scorer.close)
            example = getattr(scorer, "example", None)
            if example:
                self.runtime.log(f"{rater.name} sees, for example:\n{example}")
            self.scorers[rater.name] = scorer
        return self.scorers[rater.name]

    def describe(self) -> list[str]:
        """Return a line for each scorer that was used now."""
        lines = [
            f"{name}: mean reward {total / count:.4f} over {count:,} ratings"
            for name, (count, total) in self.totals.items()
            if count
        ]
        for name, scorer in self.scorers.items():
            if hasattr(scorer, "notes"):
                lines += [f"{name}: {note}" for note in scorer.notes()]
        return lines


def checked(score: Score) -> Score:
    """Return the score, a reward that is not finite turned into a status."""
    if score.reward is not None and not isfinite(score.reward):
        return Score(None, "not_finite", f"the scorer gave {score.reward}", score.detail)
    return score
