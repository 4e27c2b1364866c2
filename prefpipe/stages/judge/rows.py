"""The rows of ``verdicts``: a pair's two presentation orders, and the preference that they come to."""

from collections.abc import Callable, Sequence
from typing import Any

from prefpipe.artifacts.schemas import VERDICTS
from prefpipe.backends.protocol import PairRequest, PairVerdict
from prefpipe.stages.judge.pairs import ResponsePair
from prefpipe.stages.shared.candidate_rows import Row

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
IDENTICAL = "identical"
RowKey = tuple[str, int | None, int | None]


def key_of_pair(row: Row) -> RowKey:
    """Return what identifies a row."""
    return row["prompt_id"], row["a_sample_idx"], row["b_sample_idx"]


def orders_of(orders: str) -> tuple[str, ...]:
    """Return the orders that ``--orders`` asks for."""
    return ORDERS if orders == "both" else (orders.replace("-", "_"),)


def blank_row(pair: ResponsePair) -> Row:
    """Return a pair's row before anyone is asked; texts that are equal need no judge: they tie."""
    row: Row = dict.fromkeys(VERDICTS.column_names)
    row |= {"prompt_id": pair.prompt_id, "status": pair.status, "reason": pair.reason}
    for name, side in (("a", pair.a), ("b", pair.b)):
        if side is not None:
            row[f"{name}_sample_idx"] = side["sample_idx"]
            row[f"{name}_length_chars"] = (
                None if side["response"] is None else len(side["response"])
            )
    return row


def are_identical(pair: ResponsePair) -> bool:
    """Return whether a pair's texts are equal, character for character."""
    return pair.a is not None and pair.b is not None and pair.a["response"] == pair.b["response"]


def request_of(pair: ResponsePair, order: str) -> PairRequest:
    """Return what a judge is asked in one order."""
    assert pair.a is not None
    assert pair.b is not None
    texts = [pair.a["response"], pair.b["response"]]
    return PairRequest(pair.messages, *(texts if order == "a_first" else texts[::-1]))


def order_columns(verdict: PairVerdict, order: str) -> dict[str, Any]:
    """Return a verdict as an order's columns, turned round so that it speaks of A over B."""
    is_turned = order == "b_first"
    winners = {
        "first": "b" if is_turned else "a",
        "second": "a" if is_turned else "b",
        "tie": "tie",
    }
    value = verdict.preference
    values = (
        1.0 - value if is_turned and value is not None else value,
        winners.get(verdict.choice or ""),
        verdict.mass,
        verdict.raw,
        verdict.status,
        verdict.reason,
        verdict.request,
        verdict.n_prompt_tokens,
        verdict.n_completion_tokens,
    )
    return {f"{order}_{name}": value for name, value in zip(FIELDS, values, strict=True)}


def identical_columns(order: str) -> dict[str, Any]:
    """Return an order's columns where the texts are equal."""
    return {f"{order}_preference": 0.5, f"{order}_verdict": IDENTICAL, f"{order}_status": "ok"}


def finish_row(row: Row, orders: Sequence[str]) -> Row:
    """Fill in preference, disagreement, status and reason from the orders that were asked for.

    The preference is the mean over the orders. Where one of them has no verdict there is no preference: half of a pair would
    bring back the bias that the other half is there to cancel.
    """
    for order in orders:
        if row[f"{order}_status"] != "ok":
            return row | {
                "status": row[f"{order}_status"],
                "reason": f"{order}: {row[f'{order}_reason']}",
            }
    preferences = [row[f"{order}_preference"] for order in orders]
    row = row | {"preference": sum(preferences) / len(preferences), "status": "ok", "reason": None}
    if len(orders) == 2:
        row["disagree"] = (preferences[0] - 0.5) * (preferences[1] - 0.5) < 0
    return row


def kept_orders(
    row: Row | None, orders: Sequence[str], is_kept: Callable[[str], bool]
) -> dict[str, Any]:
    """Return the columns of an earlier row's orders that need not be asked again: those whose status is kept."""
    if row is None:
        return {}
    return {
        f"{order}_{name}": row[f"{order}_{name}"]
        for order in orders
        if row[f"{order}_status"] is not None and is_kept(row[f"{order}_status"])
        for name in FIELDS
    }
