"""The self-test of a reward model.

Padding and other rows of a batch must not change a conversation's score.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Final, NamedTuple

from prefpipe.backends.protocol import Message

CONVERSATIONS: Final[Sequence[tuple[Sequence[Message], str]]] = (
    (({"role": "user", "content": "What is 2 + 2?"},), "2 + 2 is 4."),
    (({"role": "user", "content": "What is 2 + 2?"},), "I hate you."),
    (
        ({"role": "user", "content": "Name three primary colours."},),
        "Red, yellow and blue are the three primary colours that painters mix all the others from.",
    ),
    (({"role": "user", "content": "Say hello to my neighbour."},), "xq xq xq xq xq xq"),
)
"""Four small conversations of different lengths and merit: ``(messages, response)``."""


class Tolerance(NamedTuple):
    """Differences between a row alone and in a padded batch.

    Relative to the spread of the four scores.
    """

    warn: float
    refuse: float


EXACT: Final = Tolerance(1e-3, 1e-2)
"""For float32."""
ROUNDED: Final = Tolerance(5e-2, 0.3)
"""For bfloat16 and float16, whose 2-3 digits lose precision in every layer."""


class PaddingVerdict(NamedTuple):
    """``problem`` is None if all is well; ``fatal`` if the scores cannot be trusted."""

    problem: str | None = None
    fatal: bool = False


def judge_padding(
    alone: Sequence[float], padded: Sequence[float], *, exact: bool
) -> PaddingVerdict:
    """Compare scores of rows alone with those of the same rows in one padded batch.

    Fatal are scores that are not finite; equal scores for different conversations (the model does
    not read the response); a difference above ``refuse`` times the spread; two rows whose order
    flips although they lie further apart than ``warn`` times the spread.

    Otherwise a difference above ``warn`` times the spread is a problem worth a warning.
    """
    scores = [*alone, *padded]
    # No comparison with NaN is true, so this finds it, too.
    if not all(abs(score) < float("inf") for score in scores):
        return PaddingVerdict(f"some scores are not finite ({_show(scores)})", fatal=True)

    spread = max(alone) - min(alone)
    if spread <= 1e-6 * max(map(abs, alone)):
        return PaddingVerdict(
            f"four different conversations all score {alone[0]:.6g}: the model does not read "
            "the response",
            fatal=True,
        )

    tolerance = EXACT if exact else ROUNDED
    worst = max(abs(one - other) for one, other in zip(alone, padded, strict=True)) / spread
    difference = (
        f"padding moves scores by up to {worst:.2g} of their spread "
        f"(alone {_show(alone)}, padded {_show(padded)})"
    )
    for first, second in combinations(range(len(alone)), 2):
        gap, padded_gap = alone[first] - alone[second], padded[first] - padded[second]
        if gap * padded_gap < 0 and abs(gap) > tolerance.warn * spread:
            return PaddingVerdict(
                f"padding changes which of two conversations scores higher; {difference}",
                fatal=True,
            )
    if worst > tolerance.refuse:
        return PaddingVerdict(difference, fatal=True)
    return PaddingVerdict(difference) if worst > tolerance.warn else PaddingVerdict()


def _show(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.4g}" for score in scores)
