"""The rows of ``verdicts``: two presentation orders, and the preference computed from them."""

from collections.abc import Callable, Sequence
from typing import Any

from prefpipe.artifacts.schemas import VERDICTS
from prefpipe.backends.protocol import PairRequest, PairVerdict
from prefpipe.stages.judge.pairs import ResponsePair
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.text.begun_turns import with_whole_answer

ORDERS = ("a_first", "b_first")
FIELDS = (
    "preference",
    "verdict",
    "mass",
    "raw",
    "status",
    "reason",
    "request",
    "prompt_tokens",
    "completion_tokens",
)
"""Columns of each order."""
IDENTICAL = "identical"
"""The verdict of two equal texts, for which no judge is asked."""
PairKey = tuple[str, int | None, int | None]
"""``(prompt_id, a_sample_idx, b_sample_idx)``."""


def key_of_pair(row: Row) -> PairKey:
    """Return the key of a row."""
    return row["prompt_id"], row["a_sample_idx"], row["b_sample_idx"]


def orders_of(orders: str) -> tuple[str, ...]:
    """Return the orders that ``--orders`` asks for."""
    return ORDERS if orders == "both" else (orders.replace("-", "_"),)


def blank_row(pair: ResponsePair) -> Row:
    """Return a pair's row before any verdict."""
    row: Row = dict.fromkeys(VERDICTS.column_names)
    row |= {"prompt_id": pair.prompt_id, "status": pair.status, "reason": pair.reason}
    for name, candidate in (("a", pair.a), ("b", pair.b)):
        if candidate is not None:
            text = candidate["response"]
            row[f"{name}_sample_idx"] = candidate["sample_idx"]
            row[f"{name}_length_chars"] = None if text is None else len(text)
    return row


def are_identical(pair: ResponsePair) -> bool:
    """Return whether a pair's texts are equal, character for character."""
    return pair.a is not None and pair.b is not None and pair.a["response"] == pair.b["response"]


def request_of(pair: ResponsePair, order: str) -> PairRequest:
    """Return the request to a judge in one order."""
    assert pair.a is not None
    assert pair.b is not None
    # begun answers are compared whole
    turns, a = with_whole_answer(pair.messages, pair.a["response"])
    _, b = with_whole_answer(pair.messages, pair.b["response"])
    if order == "a_first":
        return PairRequest(turns, a, b)
    return PairRequest(turns, b, a)


def order_columns(verdict: PairVerdict, order: str) -> dict[str, Any]:
    """Return a verdict as an order's columns, converted to a preference for A over B."""
    preference = verdict.preference
    winners = {"first": "a", "second": "b", "tie": "tie"}
    if order == "b_first":
        winners = {"first": "b", "second": "a", "tie": "tie"}
        preference = None if preference is None else 1.0 - preference

    columns = {
        "preference": preference,
        "verdict": winners.get(verdict.choice or ""),
        "mass": verdict.mass,
        "raw": verdict.raw,
        "status": verdict.status,
        "reason": verdict.reason,
        "request": verdict.request,
        "prompt_tokens": verdict.n_prompt_tokens,
        "completion_tokens": verdict.n_completion_tokens,
    }
    return {f"{order}_{name}": value for name, value in columns.items()}


def identical_columns(order: str) -> dict[str, Any]:
    """Return an order's columns for equal texts: they tie, and no judge is needed."""
    return {f"{order}_preference": 0.5, f"{order}_verdict": IDENTICAL, f"{order}_status": "ok"}


def finish_row(row: Row, orders: Sequence[str]) -> Row:
    """Return a row with preference, disagreement, status and reason filled in.

    The preference is the mean over the orders. If one order has no verdict, there is no preference:
    half of a pair would bring back the bias that the other half cancels.
    """
    for order in orders:
        status = row[f"{order}_status"]
        if status != "ok":
            return row | {"status": status, "reason": f"{order}: {row[f'{order}_reason']}"}

    preferences = [row[f"{order}_preference"] for order in orders]
    row = row | {"preference": sum(preferences) / len(preferences), "status": "ok", "reason": None}
    if len(orders) == 2:
        row["disagree"] = (preferences[0] - 0.5) * (preferences[1] - 0.5) < 0
    return row


def kept_orders(
    row: Row | None, orders: Sequence[str], is_kept: Callable[[str], bool]
) -> dict[str, Any]:
    """Return the columns of an earlier row's orders that can be kept.

    Those are the orders whose status is kept.
    """
    columns: dict[str, Any] = {}
    if row is None:
        return columns
    for order in orders:
        status = row[f"{order}_status"]
        if status is not None and is_kept(status):
            columns |= {f"{order}_{name}": row[f"{order}_{name}"] for name in FIELDS}
    return columns
