"""Which round of training an artifact belongs to.

A round is one pass of the pipeline whose policy samples the next. A policy records in the context
of its ``run.json`` the `ROUND` that it comes from: one more than that of the models that sampled
its candidates and that it started from, which is 0 for a model that prefpipe did not train.
Candidates and groups record the `SAMPLER_ROUND` of the models that sampled them, an evaluation the
`ROUND` of its policy.
"""

from collections.abc import Iterable
from typing import Any

from prefpipe.artifacts.run_record import RunRecord

ROUND = "round"
SAMPLER_ROUND = "sampler_round"


def round_of(record: RunRecord) -> int | None:
    """Return the round of a policy or of an evaluation, None if its record does not say."""
    return _number(record, ROUND)


def sampler_round_of(records: Iterable[RunRecord]) -> int | None:
    """Return the latest round whose models sampled the artifacts of the records.

    None if none records it: imports, and artifacts of an earlier release.
    """
    known = [_number(record, SAMPLER_ROUND) for record in records]
    return max((number for number in known if number is not None), default=None)


def describe_sampler(number: int) -> str:
    """Name the model of a round: ``the policy of round 1``."""
    return f"the policy of round {number}" if number else "a model of no round"


def context_of_round(key: str, number: int | None) -> dict[str, Any]:
    """Return the entry of a record's context, {} if the round is not known."""
    return {} if number is None else {key: number}


def _number(record: RunRecord, key: str) -> int | None:
    number = record.context.get(key)
    return number if isinstance(number, int) else None
