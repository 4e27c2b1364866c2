"""Checks: a candidate goes in, a grade between 0 and 1 and a short reason come out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from pydantic.dataclasses import dataclass

from prefpipe.text.checks.parameters import Count


class CheckedResponse(NamedTuple):
    """A response, the conversation it answers and the user's own columns of the prompt."""

    response: str
    messages: Sequence[Mapping[str, str]] = ()
    columns: Mapping[str, Any] = MappingProxyType({})


class Grade(NamedTuple):
    """``score`` in [0, 1], 1 for fully satisfied; ``reason`` describes the finding briefly."""

    score: float
    reason: str


class Check(Protocol):
    """A verifiable constraint: a frozen dataclass whose fields are its parameters."""

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return how well the response satisfies the constraint."""
        ...


def passed(satisfied: bool, reason: str) -> Grade:
    """Return the grade of an all-or-nothing check."""
    return Grade(1.0 if satisfied else 0.0, reason)


def grade_count(count: int, least: int | None, most: int | None) -> float:
    """Return 1 inside [least, most], falling linearly to 0 at 0 and at twice the upper limit.

    Below: ``count / least``. Above: ``max(0, 1 - (count - most) / most)``; with ``most = 0`` any
    excess scores 0. With ``least = most = m`` this is ``max(0, 1 - |count - m| / m)``.
    """
    if least is not None and count < least:
        return count / least
    if most is not None and count > most:
        return max(0.0, 1.0 - (count - most) / most) if most else 0.0
    return 1.0


@dataclass(frozen=True, kw_only=True)
class CountCheck(ABC):
    """A count that must be between ``min`` and ``max``, or ``exactly`` a number."""

    min: Count | None = None
    max: Count | None = None
    exactly: Count | None = None

    def __post_init__(self) -> None:
        """Refuse limits that nothing can satisfy or that do not limit anything."""
        has_range = self.min is not None or self.max is not None
        if not has_range and self.exactly is None:
            raise ValueError("one of 'min', 'max', 'exactly' is needed")
        if has_range and self.exactly is not None:
            raise ValueError("'exactly' excludes 'min' and 'max'")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"'min' {self.min} is above 'max' {self.max}")

    @abstractmethod
    def count(self, text: str) -> int:
        """Return how many of the counted things ``text`` holds."""

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return ``grade_count`` of the count."""
        count = self.count(candidate.response)
        least = self.min if self.exactly is None else self.exactly
        most = self.max if self.exactly is None else self.exactly
        return Grade(grade_count(count, least, most), f"found {count}, wanted {self._wanted()}")

    def _wanted(self) -> str:
        if self.exactly is not None:
            return f"exactly {self.exactly}"
        if self.max is None:
            return f"at least {self.min}"
        if self.min is None:
            return f"at most {self.max}"
        return f"{self.min} to {self.max}"
