"""``helpsteer2``, ``helpsteer3``, ``pku-saferlhf`` and ``nemo-rl``: published layouts of two or more responses a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules
from prefpipe.artifacts.interchange.long_rows import ColumnNames, read_long_rows
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.response_lists import Item, Items, Layout, gather_items
from prefpipe.artifacts.interchange.user_table import (
    UserTable,
    checked_list,
    checked_number,
    read_user_table,
    told,
)
from prefpipe.errors import InputError

HELPSTEER_SCORES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""What HelpSteer's raters gave each response, from 0 to 4; complexity and verbosity measure, and are no merit in themselves."""
HELPSTEER_HINT = "each row of HelpSteer2 has `prompt`, `response` and scores such as `helpfulness`"
PREFERENCE_LAYOUTS = (
    ("context", "response1", "response2", "overall_preference"),
    ("prompt", "response_1", "response_2", "preference_strength"),
)
"""HelpSteer3, and HelpSteer2's own preferences: the prompt, both responses, and a number that is negative for the first."""
STRONGEST = 3
PKU_HINT = "each row of PKU-SafeRLHF has `prompt`, `response_0`, `response_1`, `better_response_id` and `safer_response_id`"
NEMO_HINT = "each row has `context`, turns, and `completions`, each with `rank` and `completion`, the assistant's turn in a list"


def read_helpsteer(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read HelpSteer2: a row a response with its scores; the rows of one prompt stand together there, and need not.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    table = read_user_table(source, text_columns=PREFERENCE_LAYOUTS[1][:3], hint=HELPSTEER_HINT)
    if all(name in table.names for name in PREFERENCE_LAYOUTS[1]):
        return _preferences(table, PREFERENCE_LAYOUTS[1], columns, reserved, rules)
    table.require(["prompt", "response", HELPSTEER_SCORES[0]], hint=HELPSTEER_HINT)
    rewards = {name: name for name in HELPSTEER_SCORES if name in table.names}
    return read_long_rows(
        source, ColumnNames(rewards=rewards), columns=columns, reserved=reserved, rules=rules
    )


def read_helpsteer_preferences(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read HelpSteer3: two responses and a preference from -3, for the first, to 3, for the second.

    The preferred one has the preference's size as its reward and the other 0, which is what NeMo-RL makes of it; the mean of the
    individual preferences is a second scorer, made alike.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    layout = PREFERENCE_LAYOUTS[0]
    hint = "each row of HelpSteer3 has `context`, `response1`, `response2` and `overall_preference`"
    table = read_user_table(source, text_columns=layout[:3], hint=hint)
    table.require(layout, hint=hint)
    return _preferences(table, layout, columns, reserved, rules)


def _preferences(
    table: UserTable,
    layout: tuple[str, str, str, str],
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules,
) -> Pool:
    prompt, *responses, preference = layout
    individual = next(
        (
            name
            for name in ("individual_preference", "individual_preferences")
            if name in table.names
        ),
        None,
    )
    values = {name: table.values(name) for name in (*responses, preference)}
    of_raters = table.values_or_none(individual)
    scorers = (preference, "mean_preference") if individual is not None else (preference,)

    def items_of(row: int) -> Items:
        strengths: dict[str, float | None] = {}
        strengths[preference], problem = _strength(values[preference][row], preference)
        if problem is None and individual is not None:
            strengths["mean_preference"], problem = _mean_strength(of_raters[row], individual)
        if problem is not None:
            return [], problem
        items = []
        for side, name in zip((-1.0, 1.0), responses, strict=True):
            scores: dict[str, tuple[Any, str]] = {}
            for scorer, strength in strengths.items():
                scores[scorer] = (
                    None if strength is None else max(side * strength, 0.0) + 0.0,
                    scorer,
                )
            items.append(Item(name, values[name][row], scores))
        return items, None

    used = {*layout, *([individual] if individual is not None else []), "prompt_id", *reserved}
    pool = gather_items(
        table,
        Layout(prompt, responses[0], {}),
        items_of,
        scorers,
        columns,
        used,
        rules,
        on_duplicate=rules.on_duplicate or "mean",
    )
    pool.notes.extend(_notes_on_comparisons(pool))
    return pool


def _strength(value: Any, name: str) -> tuple[float | None, str | None]:
    number, problem = checked_number(value, name)
    if problem is None and number is not None and not -STRONGEST <= number <= STRONGEST:
        problem = f"`{name}` is {told(value)}, which lies not within -{STRONGEST} and {STRONGEST}"
    return number, problem


def _mean_strength(value: Any, name: str) -> tuple[float | None, str | None]:
    """Return the mean of the raters' preferences, and what is wrong with one of them."""
    if value is None or value == []:
        return None, None
    members, problem = checked_list(value, name)
    if problem is not None:
        return None, problem
    numbers = []
    for number, member in enumerate(members):
        score = member.get("score") if isinstance(member, Mapping) else member
        strength, problem = _strength(score, f"{name}[{number}].score")
        if problem is not None:
            return None, problem
        if strength is not None:
            numbers.append(strength)
    return (sum(numbers) / len(numbers) if numbers else None), None


def _notes_on_comparisons(pool: Pool) -> list[str]:
    """Return a note on prompts whose responses were compared in several rows: the scores are of different comparisons."""
    n_several = sum(len({response.row for response in members}) > 1 for members in pool.responses)
    if not n_several:
        return []
    return [
        f"prompts with several rows: {n_several:,}; the scores say how a response fared in its own comparison"
    ]


def read_pku(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read PKU-SafeRLHF: two responses, which is better, which is safer, and whether each is safe.

    Rewards, as far as the file has them: ``better`` and ``safer`` (1 for the response that is named, else 0), ``safe`` (1 or 0)
    and ``minus_severity`` (0 for harmless, -3 for the worst).

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    responses = ("response_0", "response_1")
    text_columns = [*responses, *(f"{name}_source" for name in responses)]
    table = read_user_table(source, text_columns=text_columns, hint=PKU_HINT)
    table.require(["prompt", *responses], hint=PKU_HINT)
    which = {
        scorer: f"{scorer}_response_id"
        for scorer in ("better", "safer")
        if f"{scorer}_response_id" in table.names
    }
    has_safety = all(f"is_{name}_safe" in table.names for name in responses)
    has_severity = all(f"{name}_severity_level" in table.names for name in responses)
    if not which and not has_safety:
        raise InputError(
            f"{source} has neither `better_response_id` nor `safer_response_id`; its columns are: {', '.join(table.names)}",
            hint=PKU_HINT,
        )
    scorers = (
        *which,
        *(["safe"] if has_safety else []),
        *(["minus_severity"] if has_severity else []),
    )
    values = {name: table.values(name) for name in table.names}
    none = [None] * table.table.num_rows

    def items_of(row: int) -> Items:
        items = []
        for number, name in enumerate(responses):
            scores: dict[str, tuple[Any, str]] = {}
            for scorer, column in which.items():
                wins, problem = _is_named(values[column][row], column, number)
                if problem is not None:
                    return [], problem
                scores[scorer] = (wins, column)
            if has_safety:
                column = f"is_{name}_safe"
                is_safe = values[column][row]
                if is_safe not in (None, True, False):
                    return [], f"`{column}` is {told(is_safe)}, which is neither true nor false"
                scores["safe"] = (None if is_safe is None else float(is_safe), column)
            if has_severity:
                column = f"{name}_severity_level"
                level, problem = checked_number(values[column][row], column)
                if problem is not None:
                    return [], problem
                scores["minus_severity"] = (None if level is None else 0.0 - level, column)
            items.append(
                Item(name, values[name][row], scores, values.get(f"{name}_source", none)[row])
            )
        return items, None

    used = {name for name in table.names if name.startswith(("response_", "is_response_"))} | {
        *which.values(),
        "prompt",
        *reserved,
    }
    pool = gather_items(
        table,
        Layout("prompt", responses[0], {}),
        items_of,
        scorers,
        columns,
        used,
        rules,
        on_duplicate=rules.on_duplicate or "mean",
    )
    pool.notes.extend(_notes_on_comparisons(pool))
    return pool


def _is_named(value: Any, column: str, number: int) -> tuple[float | None, str | None]:
    """Return 1 where a response is the one that a column names, else 0."""
    which, problem = checked_number(value, column)
    if problem is None and which not in (None, 0.0, 1.0):
        problem = f"`{column}` is {told(value)}, which is neither 0 nor 1"
    return (None if which is None else float(which == number)), problem


def read_ranked(
    source: str,
    *,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:
    """Read NeMo-RL's ranked completions, those of ``prefpipe export --format nemo-rl`` under their own keys and scores.

    Without ``score`` and ``reward`` the reward is minus the rank, since rank 0 is the best.

    Raises:
        InputError: missing columns, and every row that cannot be used.
    """
    table = read_user_table(source, hint=NEMO_HINT)
    table.require(["context", "completions"], hint=NEMO_HINT)
    values = table.values("completions")
    objects = [
        item for value in values for item in checked_list(value, "")[0] if isinstance(item, Mapping)
    ]
    scorer = next(
        (key for key in ("score", "reward") if any(item.get(key) is not None for item in objects)),
        "minus_rank",
    )
    ids = table.values_or_none("prompt_id")
    contexts = table.values("context")
    known: dict[Any, Any] = {}  # a response of several pairs stands in several rows

    def items_of(row: int) -> Items:
        found, problem = checked_list(values[row], "completions")
        if problem is not None:
            return [], problem
        items = []
        for number, value in enumerate(found):
            item, problem = _ranked_item(value, f"completions[{number}]", scorer)
            if item is None:
                return [], problem
            if item.sample_idx is not None:
                key = (ids[row] if ids[row] is not None else repr(contexts[row]), item.sample_idx)
                held = (item.text, item.scores[scorer][0], item.model)
                if known.get(key) == held:
                    continue
                known[key] = held
            items.append(item)
        return items, None

    used = {"context", "completions", "prompt_id", "scores", "margin", *reserved}
    has_keys = any(item.get("sample_idx") is not None for item in objects)
    pool = gather_items(
        table,
        Layout("context", "completions", {}),
        items_of,
        (scorer,),
        columns,
        used,
        rules,
        on_duplicate=None if has_keys else rules.on_duplicate or "mean",
    )
    if scorer == "minus_rank":
        pool.notes.append(
            "the file holds ranks and no scores: the reward of a response is minus its rank"
        )
    return pool


def _ranked_item(value: Any, name: str, scorer: str) -> tuple[Item | None, str | None]:
    """Return one completion, and what is wrong with it."""
    if not isinstance(value, Mapping):
        return (
            None,
            f"`{name}` is {told(value)}, where an object with `rank` and `completion` is needed",
        )
    turns = value.get("completion")
    turns = [{"role": "assistant", "content": turns}] if isinstance(turns, str) else turns
    if (
        not isinstance(turns, list)
        or len(turns) != 1
        or not isinstance(turns[0], Mapping)
        or turns[0].get("role") != "assistant"
    ):
        return (
            None,
            f"`{name}.completion` is {told(value.get('completion'))}; one turn of the assistant's is needed",
        )
    strangers = sorted(
        key
        for key, held in turns[0].items()
        if key not in ("role", "content") and held not in (None, [], "")
    )
    if strangers:
        return None, f"`{name}.completion` has `{strangers[0]}`, and prefpipe carries texts alone"

    score, where = value.get(scorer), f"{name}.{scorer}"
    if scorer == "minus_rank":
        where = f"{name}.rank"
        rank, problem = checked_number(value.get("rank"), where)
        if problem is not None or rank is None:
            return None, problem or f"`{where}` is null"
        score = 0.0 - rank
    scores = {scorer: (score, where)}
    return Item(
        f"{name}.completion",
        turns[0].get("content"),
        scores,
        value.get("model"),
        value.get("sample_idx"),
    ), None
