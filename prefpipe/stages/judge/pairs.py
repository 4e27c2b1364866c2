"""Which responses of two candidates folders are compared.

They are joined by prompt_id, never by position.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.errors import InputError
from prefpipe.stages.shared.candidate_rows import UNUSABLE, Row

COLUMNS = ["prompt_id", "sample_idx", "messages", "response", "status", "reason"]
NO_PARTNER, NO_RESPONSE = "no_partner", "no_response"
MOST_PARTS_HELD = 4
"""Parts of B in memory: A and B mostly hold the same prompts in the same order."""


class ResponsePair(NamedTuple):
    """Two responses to compare, or one without a partner.

    ``status`` is ``ok`` if they can be compared.
    """

    prompt_id: str
    a: Row | None
    b: Row | None
    messages: Sequence[Mapping[str, str]]
    status: str = "ok"
    reason: str | None = None


class CandidatesByPrompt:
    """B's candidates by prompt, read part by part as A's parts need them."""

    def __init__(self, artifact: Artifact, present: Sequence[int]) -> None:
        """Prepare.

        Args:
            artifact: B's candidates.
            present: its parts that are there.
        """
        self._artifact, self._present = artifact, present
        self._held: dict[int, dict[str, list[Row]]] = {}

    @cached_property
    def _parts_of_prompt(self) -> dict[str, list[int]]:
        """Return which parts hold each prompt."""
        parts: dict[str, list[int]] = {}
        for index in self._artifact.in_turn(self._present):
            for prompt_id in prompt_ids(self._artifact, index):
                parts.setdefault(prompt_id, []).append(index)
        return parts

    def rows(self, prompt_id: str) -> list[Row]:
        """Return B's rows of a prompt, [] when B does not hold it."""
        rows: list[Row] = []
        for index in self._parts_of_prompt.get(prompt_id, ()):
            rows += self._part(index).get(prompt_id, ())
        return rows

    def shares_any(self, prompt_ids: Iterable[str]) -> bool:
        """Return whether B holds any of these prompts."""
        return not self._parts_of_prompt.keys().isdisjoint(prompt_ids)

    def prompts_of_b_alone(self, known: set[str], index: int, n_parts: int) -> Iterator[str]:
        """Yield the prompts that A lacks whose rows go with A's part ``index``.

        They are those of B's parts ``index``, ``index + n``, ...

        Args:
            known: A's prompts.
            index: of A's part.
            n_parts: of A, the n above.
        """
        for prompt_id, parts in self._parts_of_prompt.items():
            if prompt_id not in known and parts[0] % n_parts == index:
                yield prompt_id

    def _part(self, index: int) -> dict[str, list[Row]]:
        if index not in self._held:
            if len(self._held) >= MOST_PARTS_HELD:
                oldest = next(iter(self._held))
                del self._held[oldest]
            self._held[index] = by_prompt(rows_of(self._artifact.read(index, COLUMNS)[0]))
        return self._held[index]


def prompt_ids(candidates: Artifact, index: int) -> list[str]:
    """Return the prompts of a part, each once, in order."""
    table, _ = candidates.read(index, ["prompt_id"])
    return list(dict.fromkeys(table["prompt_id"].to_pylist()))


def by_prompt(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by prompt, in order."""
    rows_of_prompt: dict[str, list[Row]] = {}
    for row in rows:
        rows_of_prompt.setdefault(row["prompt_id"], []).append(row)
    return rows_of_prompt


def pairs_of(
    prompt_id: str, a_rows: Sequence[Row], b_rows: Sequence[Row], pairing: str
) -> list[ResponsePair]:
    """Return a prompt's pairs, and a pair without a partner for each unpaired response.

    ``same-index`` pairs equal ``sample_idx``; ``all`` pairs each of A with each of B.

    Raises:
        InputError: the two sides answer different conversations under this id.
    """
    if pairing == "all" and a_rows and b_rows:
        return [_pair(prompt_id, a, b) for a in a_rows for b in b_rows]

    a_by_index = {row["sample_idx"]: row for row in a_rows}
    b_by_index = {row["sample_idx"]: row for row in b_rows}
    indices = sorted(a_by_index.keys() | b_by_index.keys())
    return [_pair(prompt_id, a_by_index.get(i), b_by_index.get(i)) for i in indices]


def _pair(prompt_id: str, a: Row | None, b: Row | None) -> ResponsePair:
    if a is None or b is None:
        present, name, absent = a, "A", "B"
        if present is None:
            present, name, absent = b, "B", "A"
        assert present is not None
        reason = f"{absent} has no response to compare with {name}'s sample {present['sample_idx']}"
        return ResponsePair(prompt_id, a, b, present["messages"], NO_PARTNER, reason)

    messages = _shared_messages(prompt_id, a, b)
    for name, row in (("A", a), ("B", b)):
        if row["status"] in UNUSABLE or row["response"] is None:
            reason = f"{name}: {row['status']}: {row['reason']}"
            return ResponsePair(prompt_id, a, b, messages, NO_RESPONSE, reason)
    return ResponsePair(prompt_id, a, b, messages)


def _shared_messages(prompt_id: str, a: Row, b: Row) -> list[dict[str, str]]:
    """Return the conversation that both answer.

    If their system prompts differ, it is the rest after them.
    """
    if a["messages"] == b["messages"]:
        return list(a["messages"])
    of_a = [turn for turn in a["messages"] if turn["role"] != "system"]
    of_b = [turn for turn in b["messages"] if turn["role"] != "system"]
    if of_a != of_b:
        raise InputError(
            f"prompt {prompt_id!r} has different conversations in A and B, so their responses "
            "cannot be compared",
            hint="sample both sides from the same prompts file, or give different prompts "
            "different ids",
        )
    return of_a
