"""Verdicts: from a judge's answer, or its token probabilities, to a preference or a rating.

Strict on purpose: an unclear verdict is None. In ``line`` form the answer has a separate line,
``VERDICT 3fa9c210: A``. The code is in no text under test, so a verdict quoted from a response does
not count. In ``bare`` form the whole answer is the verdict.
"""

import re
from collections.abc import Mapping, Sequence
from math import exp
from typing import NamedTuple

from prefpipe.text.judging.judge_prompt import VERDICT_LINE, Form, Kind

VERDICT_VALUES: Mapping[str, float] = {"A": 1.0, "B": 0.0, "C": 0.5}
"""Preference for the response shown first."""
LOWEST_RATING, HIGHEST_RATING = 1, 10
RATING_VALUES: Mapping[str, float] = {
    str(rating): float(rating) for rating in range(LOWEST_RATING, HIGHEST_RATING + 1)
}
MIN_MASS = 0.1
"""Minimum total probability of the verdict's tokens.

Below it, renormalising would turn noise into a verdict.
"""

_DECORATION = " \t\r\n*_`\"'[]().:"
_VALUES: Mapping[Kind, Mapping[str, float]] = {
    "pairwise": VERDICT_VALUES,
    "pointwise": RATING_VALUES,
}
_CHOICES: Mapping[Kind, str] = {"pairwise": "[ABC]", "pointwise": "10|[1-9]"}


class TokenChoice(NamedTuple):
    """One sampled token, its natural log-probability, and the most likely tokens at its place."""

    token: str
    logprob: float
    top: Mapping[str, float]


class Reading(NamedTuple):
    """A verdict read from an answer.

    ``value`` is the preference for the response shown first, in [0, 1], or the rating; None with
    the ``problem`` in words. ``choice`` is the label, ``A``, ``B``, ``C`` or ``1`` to ``10``; with
    probabilities the most probable one. ``mass`` is the probability of all labels together, None
    for a verdict read from text. ``unsplit_one`` (ratings) is the probability of a token ``1`` that
    may begin 10; None if it cannot.
    """

    value: float | None
    choice: str | None = None
    problem: str | None = None
    mass: float | None = None
    unsplit_one: float | None = None


def read_verdict(answer: str, kind: Kind, form: Form, nonce: str) -> Reading:
    """Return the verdict stated in the text."""
    values = _VALUES[kind]
    # Text in a judge's thoughts is not a verdict.
    conclusion = without_thoughts(answer)
    if form == "bare":
        choice = conclusion.strip(_DECORATION)
        if choice in values:
            return Reading(values[choice], choice)
        return Reading(None, problem=f"the answer is not one of {', '.join(values)} alone")

    # A line may be repeated, and may be bold, a list item, or in brackets.
    begin = rf"^[ \t*_`]*{VERDICT_LINE[kind]} {nonce}:[ \t*_`\[]*"
    line = rf"{begin}({_CHOICES[kind]})[ \t*_`\].]*\r?$"
    choices = set(re.findall(line, conclusion, re.MULTILINE))
    if not choices:
        return Reading(None, problem=f"the answer has no line `{VERDICT_LINE[kind]} {nonce}: ...`")
    if len(choices) > 1:
        return Reading(None, problem=f"the answer contradicts itself: {', '.join(sorted(choices))}")
    (choice,) = choices
    return Reading(values[choice], choice)


def without_thoughts(answer: str) -> str:
    """Return the text after a model's thoughts, if a server leaves them in the answer."""
    return answer.rpartition("</think>")[2]


def read_verdict_from_probabilities(
    tokens: Sequence[TokenChoice], kind: Kind, form: Form, nonce: str
) -> Reading:
    """Return the verdict weighted by the judge's probabilities at the verdict's place.

    With p_l the summed probability of the tokens that read as label l (white space, quotes and
    brackets aside)::

        value = sum_l p_l * v_l / sum_l p_l        v: A 1, B 0, C 1/2; or the rating itself

    A rating of 10 is one token for some tokenizers and ``1``, ``0`` for others. If a token ``10``
    is among the most probable ones, ``1`` means 1. If the answer itself is ``1``, ``0``, the second
    token's distribution splits the first's. Otherwise ``1`` counts as 1, and ``unsplit_one`` gives
    its probability: the value could be higher by at most 9 times that.
    """
    values = _VALUES[kind]
    place = _verdict_place(tokens, kind, form, nonce)
    if place is None:
        return Reading(None, problem="the tokens have no one place for the verdict")

    masses = _label_masses(tokens[place], values)
    unsplit = None
    if kind == "pointwise":
        masses, unsplit = _split_ten(masses, tokens, place)

    mass = sum(masses.values())
    if mass < MIN_MASS:
        problem = f"the tokens {', '.join(values)} have probability {mass:.3g} together"
        return Reading(None, problem=problem, mass=mass)
    value = sum(masses[label] * values[label] for label in masses) / mass
    best = max(masses, key=lambda label: masses[label])
    return Reading(value, best, mass=min(mass, 1.0), unsplit_one=unsplit)


def _verdict_place(tokens: Sequence[TokenChoice], kind: Kind, form: Form, nonce: str) -> int | None:
    """Return the token that holds the first character of the verdict."""
    # Tokens may split the line anywhere, so their joined text is searched.
    text = "".join(choice.token for choice in tokens)
    conclusion = without_thoughts(text)
    start = len(text) - len(conclusion)
    if form == "line":
        line = rf"{VERDICT_LINE[kind]} {nonce}:[ \t*_`\[]*(?=\S)"
        matches = list(re.finditer(line, conclusion))
        if len(matches) != 1:
            return None
        start += matches[0].end()
    else:
        start = len(text) - len(conclusion.lstrip(_DECORATION))

    end = 0
    for place, choice in enumerate(tokens):
        end += len(choice.token)
        if end > start:
            return place
    return None


def _label_masses(choice: TokenChoice, values: Mapping[str, float]) -> dict[str, float]:
    """Return the probability of each label at one place."""
    # The sampled token need not be among the most likely ones.
    candidates = {choice.token: choice.logprob, **choice.top}
    masses: dict[str, float] = {}
    for token, logprob in candidates.items():
        label = token.strip(_DECORATION)
        if label in values:
            # Capped at 1, whatever a server says.
            masses[label] = masses.get(label, 0.0) + exp(min(logprob, 0.0))
    return masses


def _split_ten(
    masses: dict[str, float], tokens: Sequence[TokenChoice], place: int
) -> tuple[dict[str, float], float | None]:
    """Divide the probability of ``1`` between 1 and 10, if that is known.

    Returns:
        The masses, and the probability of a ``1`` that cannot be divided; None if there is none.
    """
    one = masses.get("1")
    if "10" in masses or not one:
        return masses, None
    if tokens[place].token.strip(_DECORATION) != "1":
        return masses, one
    # The answer ended there: no digit followed.
    if place + 1 == len(tokens):
        return masses, None

    # p(10) = p(1) p(0 | 1)
    zero = _label_masses(tokens[place + 1], {"0": 0.0}).get("0", 0.0)
    return masses | {"1": one * (1 - zero), "10": one * zero}, None
