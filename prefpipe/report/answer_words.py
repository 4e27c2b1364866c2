"""The answers of a report's first screen in words, and as rows of its tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefpipe.report.answers import (
    BETTER,
    CANNOT_TELL,
    HIGHER,
    LOWER,
    MIXED,
    NOT_MEASURED,
    UNCHANGED,
    WORSE,
)
from prefpipe.text.numbers import figure, interval, number

NONE = "\N{EN DASH}"
VERDICTS = {
    BETTER: "Yes.",
    WORSE: "No, it got worse.",
    MIXED: "Mixed.",
    CANNOT_TELL: "Cannot tell.",
    UNCHANGED: "No change.",
    NOT_MEASURED: "Not measured.",
}
SIGNS = {BETTER: "▲", WORSE: "▼", HIGHER: "↑", LOWER: "↓", CANNOT_TELL: "?", UNCHANGED: "="}
"""Beside the words, so that no colour is needed to tell them apart."""
LENGTH_KEYS = ("n_tokens", "length_chars")
OF_KL = {HIGHER: "above zero"}


def verdict_of(answers: Mapping[str, Any]) -> dict[str, str]:
    """Return the answer to "did it get better": ``word``, ``sentence``, and the ``state`` it shows.

    A policy that is better, but not clearly so at equal length, gets no bare "Yes".
    """
    state = answers["state"]
    word = VERDICTS[state]
    if state == NOT_MEASURED:
        sentence = "No evaluation compares the policy with a baseline."
        return {"word": word, "sentence": sentence, "state": state}

    rows = [row for row in answers["gains"] if row["difference"] is not None]
    clauses = [_clause(row) for row in rows if row["key"] != "length_controlled"]
    by_key = {row["key"]: row for row in rows}
    controlled = by_key.get("length_controlled")
    is_qualified = state == BETTER and controlled is not None and controlled["state"] != BETTER
    if controlled is not None and is_qualified:
        word, state = _qualified_yes(answers, controlled), MIXED
    # Else only where it says something else than the win rate.
    if controlled and (is_qualified or controlled["state"] != by_key["win_rate"]["state"]):
        clauses.append(_clause(controlled))
    sentence = "; ".join(clauses)
    if answers["n_prompts"] is not None:
        sentence = f"On {figure(answers['n_prompts'])} held-out prompts {sentence}"
    else:
        sentence = f"{sentence[:1].upper()}{sentence[1:]}"
    return {"word": word, "sentence": f"{sentence}.", "state": state}


def _qualified_yes(answers: Mapping[str, Any], controlled: Mapping[str, Any]) -> str:
    """Return the word for a policy that is better, where lengths may be the reason.

    Such as ``Yes, and responses became shorter: at equal length it cannot be told.``
    """
    moved = {row["key"]: row["state"] for row in answers.get("changes", ())}
    length = next((moved[key] for key in LENGTH_KEYS if key in moved), None)
    start = {
        HIGHER: "Yes, and responses became longer: ",
        LOWER: "Yes, and responses became shorter: ",
    }.get(length or "", "Yes, but ")
    if controlled["state"] == WORSE:
        return f"{start}at equal length it got worse."
    if controlled["state"] == UNCHANGED:
        return f"{start}at equal length nothing changed."
    return f"{start}at equal length it cannot be told."


def _clause(row: Mapping[str, Any]) -> str:
    """Return what a measure did, such as ``the mean reward rose by +0.12 [+0.10, +0.14]``."""
    form, state = row["form"], row["state"]
    if row["key"] == "reward":
        moved = {BETTER: "rose", WORSE: "fell"}.get(state, "moved")
        before = number(row["baseline"]["mean"], form)
        after = number(row["policy"]["mean"], form)
        change = interval(row["difference"], form, signed=True)
        clause = f"the {row['label']} {moved} from {before} to {after}, by {change}"
        return f"{clause}, an interval that includes zero" if state == CANNOT_TELL else clause

    subject = "the win rate" if row["key"] == "win_rate" else "at equal length it"
    clause = f"{subject} is {interval(row['policy'], form)}"
    return f"{clause}, an interval that includes 50%" if state == CANNOT_TELL else clause


def gain_rows(answers: Mapping[str, Any], states: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of "by how much".

    Args:
        answers: of the run.
        states: of the artifacts that are not done, by name.
    """
    for row in answers["gains"]:
        yield _cells(row, states)


def change_rows(answers: Mapping[str, Any], states: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of "what else changed", those that got worse first."""
    rows = sorted(answers["changes"], key=lambda row: row["state"] != WORSE)
    for row in rows:
        yield _cells(row, states)


def _cells(row: Mapping[str, Any], states: Mapping[str, str]) -> dict[str, Any]:
    form = row["form"]
    # a win rate's difference to 50 % says what the rate itself says
    is_rate = row["key"] in ("win_rate", "length_controlled")
    difference = None if is_rate else row["difference"]
    return {
        "key": row["key"],
        "label": _capital(marked(row["label"], [row["made_of"]], states)),
        "baseline": _one(row["baseline"], form),
        "policy": _one(row["policy"], form, with_interval=is_rate or row["key"] == "kl_per_token"),
        "difference": NONE if difference is None else interval(difference, form, signed=True),
        "state": row["state"],
        "words": state_words(row),
        "missing": row["missing"],
    }


def state_words(row: Mapping[str, Any]) -> str:
    """Return a state with its sign, such as ``▲ better``."""
    state = row["state"]
    word = OF_KL.get(state, state) if row["key"] == "kl_per_token" else state
    return f"{SIGNS[state]} {word}" if state in SIGNS else word


def worse_sentence(answers: Mapping[str, Any]) -> str:
    """Return what got worse in one sentence."""
    if not answers["changes"]:
        return "Not measured."
    worse = [row["label"] for row in answers["changes"] if row["state"] == WORSE]
    untold = [row["label"] for row in answers["changes"] if row["state"] == CANNOT_TELL]
    sentence = f"Worse: {', '.join(worse)}." if worse else "No measure got clearly worse."
    if untold:
        sentence += f" Cannot tell for {len(untold)}: the interval includes zero."
    return sentence


def cost_tiles(answers: Mapping[str, Any], states: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield ``value`` and ``label`` of what a run cost."""
    costs = answers["costs"]
    made_of = costs["made_of"]

    def tile(value: str, label: str, of: str = "sampled") -> dict[str, str]:
        return {"value": value, "label": marked(label, made_of[of], states)}

    yield tile(figure(costs["n_prompts"]), "prompts")
    yield tile(figure(costs["n_responses"]), "responses sampled")
    if costs["n_tokens"] is not None:
        label = "response tokens sampled"
        if costs["n_without_tokens"]:
            label += f", {figure(costs['n_without_tokens'])} responses not counted"
        yield tile(short_count(costs["n_tokens"]), label)
    if costs["n_kept"] is not None:
        yield tile(figure(costs["n_kept"]), "responses kept to train on", "kept")
    if costs["trained_tokens"] is not None:
        yield tile(short_count(costs["trained_tokens"]), "response tokens trained on", "trained")
    if costs["training_hours"] is not None:
        value, unit = duration(costs["training_hours"])
        yield tile(
            f"≥ {value} {unit}", "of training, by the tokens per second it logged", "trained"
        )
    if costs["saved_share"] is not None:
        yield tile(
            f"{100 * costs['saved_share']:.0f}%",
            "of the training compute saved by selecting",
            "kept",
        )


def missing_costs(answers: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what is not known of the cost, each ``what`` and the ``command`` that records it."""
    costs = answers["costs"]
    missing = []
    if costs["n_tokens"] is None:
        missing.append({"what": "Tokens sampled", "command": "prefpipe generate"})
    if costs["n_kept"] is None:
        missing.append({"what": "Compute saved", "command": "prefpipe select"})
    if costs["training_hours"] is None:
        missing.append({"what": "Training time", "command": "prefpipe train"})
    return missing


def pair_rows(story: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of two runs side by side."""
    states: dict[str, str] = {}
    for row in story["rows"]:
        form, difference = row["form"], row["difference"]
        yield {
            "key": row["key"],
            "label": _capital(marked(row["label"], [], states)),
            "first": _one(row["first"], form, with_interval=True),
            "second": _one(row["second"], form, with_interval=True),
            "difference": NONE if difference is None else interval(difference, form, signed=True),
            "n_prompts": NONE if row["n_prompts"] is None else figure(row["n_prompts"]),
            "state": row["state"],
            "words": row["why"] or state_words(row),
        }


def pair_cost_rows(story: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a cost: its name, and its value in both runs."""
    tiles = [
        {tile["label"]: tile["value"] for tile in cost_tiles(run["answers"], {})}
        for run in story["runs"]
    ]
    labels = {**tiles[0], **tiles[1]}
    return [[_capital(label), *(each.get(label, NONE) for each in tiles)] for label in labels]


def marked(label: str, made_of: Sequence[str | None], states: Mapping[str, str]) -> str:
    """Return a label with the states of what its figure is made of that is not done."""
    marks = dict.fromkeys(states[name] for name in made_of if name is not None and name in states)
    return f"{label} ({', '.join(marks)})" if marks else label


def states_of(not_done: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the states of what is not done, by name."""
    return {entry["name"]: entry["state"] for entry in not_done}


def short_count(count: float) -> str:
    """Return a count with three digits: ``9.22 million``."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return figure(round(count))


def duration(hours: float) -> tuple[str, str]:
    """Return hours as a value and a unit: hours, minutes or seconds."""
    for per, unit in ((1, "hours"), (60, "minutes")):
        if hours * per >= 1:
            return f"{hours * per:.3g}", unit
    return f"{hours * 3600:.3g}", "seconds"


def _one(figures: Mapping[str, Any] | None, form: str, *, with_interval: bool = False) -> str:
    if figures is None:
        return NONE
    return interval(figures, form) if with_interval else number(figures["mean"], form)


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
