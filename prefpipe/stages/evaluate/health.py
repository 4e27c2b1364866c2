"""Whether training has harmed the policy in ways that a reward does not show: rows for the table, and what to look at."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prefpipe.text.numbers import interval, number

LEAST_PROMPTS = 10
"""Below so many prompts a percentile interval is too narrow to warn by."""
LEAST_CHANGE = 0.1
"""Change of the length that is worth a word, as a share of the baseline's."""


class Watched(NamedTuple):
    """A measure: its row's label, its name in a sentence, its form, and the direction that is worse, 0 for neither."""

    label: str
    name: str
    form: str
    worse: int


SHARED = {
    "repetition": Watched("repeated 4-grams", "repetition within a response", "{:.1%}", 1),
    "truncated": Watched("cut at the token limit", "responses cut at the token limit", "{:.1%}", 1),
}
"""Measures that stand at the top of ``summary.json``, over the prompts that are rated on both sides."""
HEALTH = {
    "refused": Watched("refusals", "refusals", "{:.1%}", 1),
    "empty": Watched("empty responses", "empty responses", "{:.1%}", 1),
    "copied": Watched("copies within a prompt", "copies among a prompt's responses", "{:.1%}", 1),
    "distinct_1": Watched("distinct-1", "distinct-1", "{:.3f}", 0),
    "distinct_2": Watched("distinct-2", "distinct-2", "{:.3f}", 0),
    "distinct_2_equal": Watched("  at equal length", "distinct-2 at equal length", "{:.3f}", -1),
    "self_bleu": Watched("self-BLEU", "self-BLEU", "{:.3f}", 1),
    "embedding_diversity": Watched(
        "embedding distance", "embedding distance among a prompt's responses", "{:.3f}", -1
    ),
}
KL = {
    "kl_per_token": ("KL to the reference", "nats a token"),
    "kl_per_response": ("", "nats a response"),
}


def health_rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield label, baseline, policy, difference and its standard error; a measure without any value has no row.

    Args:
        figures: what ``summary.json`` holds.
    """
    health = figures.get("health", {})  # the summary of an earlier release has none
    for key, (label, unit) in KL.items():
        if key in health and "reason" not in health[key]:
            found = health[key]["policy"]
            yield (
                f"{label or '  the same'}, {unit}",
                "",
                interval(found, "{:.3f}"),
                "",
                number(found["se"], "{:.3f}"),
            )
    for watched, values in _measures(figures):
        if values["difference"]["mean"] is not None:
            yield (
                watched.label,
                interval(values["baseline"], watched.form),
                interval(values["policy"], watched.form),
                interval(values["difference"], watched.form, signed=True),
                number(values["difference"]["se"], watched.form),
            )


def health_notes(figures: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each measure that got worse by more than its interval, and for a length that moved by a tenth.

    Args:
        figures: what ``summary.json`` holds.
    """
    notes = []
    has_tokens = figures["n_tokens"]["difference"]["mean"] is not None  # imports have none
    measure, form, unit = (
        ("n_tokens", "{:.1f}", "tokens") if has_tokens else ("length_chars", "{:.0f}", "characters")
    )
    lengths = figures[measure]
    if _moved(lengths) and lengths["baseline"]["mean"]:
        change = lengths["difference"]["mean"] / lengths["baseline"]["mean"]
        if abs(change) >= LEAST_CHANGE:
            name = f"responses are {abs(change):.0%} {'longer' if change > 0 else 'shorter'}"
            notes.append(f"{name}: {_change(lengths, form)} {unit}")
    for watched, values in _measures(figures):
        if watched.worse and _moved(values) == watched.worse:
            verb = "rose" if watched.worse > 0 else "fell"
            notes.append(f"{watched.name} {verb}: {_change(values, watched.form)}")
    return notes


def _measures(figures: Mapping[str, Any]) -> Iterator[tuple[Watched, Mapping[str, Any]]]:
    yield from ((watched, figures[key]) for key, watched in SHARED.items())
    yield from (
        (watched, figures["health"][key])
        for key, watched in HEALTH.items()
        if key in figures.get("health", {})
    )


def _moved(values: Mapping[str, Any]) -> int:
    """Return 1 or -1 where the whole interval of the difference is above or below 0, else 0."""
    difference = values["difference"]
    if difference["low"] is None or difference["n"] < LEAST_PROMPTS:
        return 0
    return int(difference["low"] > 0) - int(difference["high"] < 0)


def _change(values: Mapping[str, Any], form: str) -> str:
    before, after = (number(values[side]["mean"], form) for side in ("baseline", "policy"))
    return f"{before} to {after}, difference {interval(values['difference'], form, signed=True)}"
