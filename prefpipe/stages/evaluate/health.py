"""Whether training harmed the policy in ways that the reward does not show.

This file makes the rows of the table, and notes on what to look at.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prefpipe.text.numbers import interval, number

LEAST_PROMPTS = 10
"""Below so many prompts a percentile interval is too narrow to warn by."""
LEAST_CHANGE = 0.1
"""Change of the length that is worth a note, as a share of the baseline's."""


class HealthMeasure(NamedTuple):
    """How a measure is shown, and when it is a bad sign.

    ``label`` of its row, ``name`` in a sentence, ``form`` of its numbers; ``worse``: the direction
    that is worse, 0 for neither; ``no_value``: the reason if it has no value.
    """

    label: str
    name: str
    form: str
    worse: int
    no_value: str = ""


SHARED = {
    "repetition": HealthMeasure("repeated 4-grams", "repetition within a response", "{:.1%}", 1),
    "truncated": HealthMeasure(
        "cut at the token limit", "responses cut at the token limit", "{:.1%}", 1
    ),
}
"""Measures at the top of ``summary.json``, over the prompts that are rated on both sides."""
HEALTH = {
    "refused": HealthMeasure(
        "refusals", "refusals", "{:.1%}", 1, no_value="no response on both sides"
    ),
    "empty": HealthMeasure(
        "empty responses", "empty responses", "{:.1%}", 1, no_value="no response on both sides"
    ),
    "copied": HealthMeasure(
        "copies within a prompt",
        "copies among a prompt's responses",
        "{:.1%}",
        1,
        no_value="no prompt has two responses on both sides; sample with --n 2 or more",
    ),
    "distinct_1": HealthMeasure(
        "distinct-1", "distinct-1", "{:.3f}", 0, no_value="no prompt has a word on both sides"
    ),
    "distinct_2": HealthMeasure(
        "distinct-2",
        "distinct-2",
        "{:.3f}",
        0,
        no_value="no prompt has two words in a row on both sides",
    ),
    "distinct_2_equal": HealthMeasure(
        "  at equal length",
        "distinct-2 at equal length",
        "{:.3f}",
        -1,
        no_value="no prompt has two words in a row on both sides",
    ),
    "self_bleu": HealthMeasure(
        "self-BLEU",
        "self-BLEU",
        "{:.3f}",
        1,
        no_value="no prompt has two responses with words on both sides; sample with --n 2 or more",
    ),
    "embedding_diversity": HealthMeasure(
        "embedding distance",
        "embedding distance among a prompt's responses",
        "{:.3f}",
        -1,
        no_value="no prompt has two embeddings on both sides; pass --policy-embeddings and "
        "--baseline-embeddings",
    ),
}
"""Measures under ``health`` in ``summary.json``, over all prompts where both sides have a value."""
KL = {
    "kl_per_token": ("KL to the reference", "nats per token"),
    "kl_per_response": ("", "nats per response"),
}


def health_rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield label, baseline, policy, difference and its standard error of each measure.

    A measure without any value has no row.

    Args:
        figures: what ``summary.json`` holds.
    """
    health = figures.get("health", {})  # the summary of an earlier release has none
    for key, (label, unit) in KL.items():
        if key in health and "reason" not in health[key]:
            divergence = health[key]["policy"]
            se = number(divergence["se"], "{:.3f}")
            name = label or "  the same"
            yield f"{name}, {unit}", "", interval(divergence, "{:.3f}"), "", se

    for measure, values in _measures(figures):
        difference = values["difference"]
        if difference["mean"] is not None:
            yield (
                measure.label,
                interval(values["baseline"], measure.form),
                interval(values["policy"], measure.form),
                interval(difference, measure.form, signed=True),
                number(difference["se"], measure.form),
            )


def health_notes(figures: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each measure that got worse by more than its interval.

    Lengths get a sentence if they moved by a tenth.

    Args:
        figures: what ``summary.json`` holds.
    """
    notes = []
    lengths, form, unit = figures["n_tokens"], "{:.1f}", "tokens"
    if lengths["difference"]["mean"] is None:  # imports have no tokens
        lengths, form, unit = figures["length_chars"], "{:.0f}", "characters"
    if _moved(lengths) and lengths["baseline"]["mean"]:
        change = lengths["difference"]["mean"] / lengths["baseline"]["mean"]
        if abs(change) >= LEAST_CHANGE:
            direction = "longer" if change > 0 else "shorter"
            notes.append(
                f"responses are {abs(change):.0%} {direction}: {_change(lengths, form)} {unit}"
            )

    for measure, values in _measures(figures):
        if measure.worse and _moved(values) == measure.worse:
            verb = "rose" if measure.worse > 0 else "fell"
            notes.append(f"{measure.name} {verb}: {_change(values, measure.form)}")
    return notes


def _measures(figures: Mapping[str, Any]) -> Iterator[tuple[HealthMeasure, Mapping[str, Any]]]:
    """Yield every measure that the figures have, with its values."""
    for key, measure in SHARED.items():
        yield measure, figures[key]
    health = figures.get("health", {})
    for key, measure in HEALTH.items():
        if key in health:
            yield measure, health[key]


def _moved(values: Mapping[str, Any]) -> int:
    """Return 1 or -1 where the whole interval of the difference is above or below 0, else 0."""
    difference = values["difference"]
    if difference["low"] is None or difference["n"] < LEAST_PROMPTS:
        return 0
    return int(difference["low"] > 0) - int(difference["high"] < 0)


def _change(values: Mapping[str, Any], form: str) -> str:
    before = number(values["baseline"]["mean"], form)
    after = number(values["policy"]["mean"], form)
    return f"{before} to {after}, difference {interval(values['difference'], form, signed=True)}"
