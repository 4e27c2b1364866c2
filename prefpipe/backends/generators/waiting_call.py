"""A call that waits while another thread answers its requests, together with others'."""

import threading
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from prefpipe.backends.open_calls import NONE_OPEN, Answered

Answer = TypeVar("Answer")


def answered_of(calls: "Iterable[WaitingCall[Any]]") -> Answered:
    """Return how many requests of waiting calls are answered."""
    total = NONE_OPEN
    for call in calls:
        total = total.plus(Answered(call.n_answered, call.n_requests))
    return total


class WaitingCall(Generic[Answer]):
    """An answer to each of a caller's requests."""

    def __init__(self, n_requests: int) -> None:
        self._answers: dict[int, Answer] = {}
        self.n_requests = n_requests
        self.is_over = threading.Event()
        """Set when all answers have arrived, or no more will come."""

    @property
    def n_answered(self) -> int:
        """How many answers have arrived."""
        return len(self._answers)

    @property
    def is_answered(self) -> bool:
        """Whether no answer is missing."""
        return len(self._answers) == self.n_requests

    @property
    def answers(self) -> list[Answer]:
        """The answers, in the order of the requests, once none is missing."""
        return [self._answers[place] for place in range(self.n_requests)]

    def take(self, place: int, answer: Answer) -> None:
        """Take the answer to a request; the last one ends the call."""
        self._answers[place] = answer
        if self.is_answered:
            self.is_over.set()
