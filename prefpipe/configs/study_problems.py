"""What is wrong with the values of a plan of ``prefpipe study``: everything, with its place.

Looked at is what the plan itself says. What a command makes of its section is for the command.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

from prefpipe.configs.options import Bounds
from prefpipe.configs.plan_sections import SECTIONS, by_field, is_whole, or_nothing
from prefpipe.configs.study_keys import (
    ARM_KEYS,
    AT_EPOCH,
    BASE,
    HELDOUT_FOLDERS,
    LIKE,
    NAME,
    NAME_WORDS,
    OF_ARMS,
    OF_POOL,
    POLICY,
    POOL_FOLDERS,
    PROMPTS,
    RESPONSE_TOKENS,
    REWARD,
    ROUNDS_KEYS,
    RULES,
    TOP_LEVEL,
    TRAINER_PLACES,
)
from prefpipe.configs.study_measures import MEASURES, PAIR_MEASURES
from prefpipe.spelling import did_you_mean

_NEEDED = ("study", "model", "seeds", "pool", "heldout", "arms")
_AT_LEAST_ONE = Bounds(minimum=1)
_SEED = Bounds(minimum=0, maximum=2**31 - 1)
"""Tables hold a seed in 32 bits."""


def plan_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a plan, by its keys."""
    for key in given:
        if key not in TOP_LEVEL:
            yield f"unknown key `{key}`{RULES.home_of(key) or did_you_mean(key, TOP_LEVEL)}"
    missing = [f"`{key}`" for key in _NEEDED if given.get(key) is None]
    if missing:
        yield f"it needs {', '.join(missing)}"

    yield from _name_problems(given)
    yield from _seed_problems(given)
    yield from _pool_problems(given)
    yield from _heldout_problems(given)
    for stage in ("eval", *OF_ARMS):
        if stage in given:
            yield from RULES.key_problems(stage, or_nothing(given[stage]), stage)
    yield from _arm_problems(given)
    yield from _judging_problems(given)
    yield from _budget_problems(given)
    yield from _measure_problems(given)
    yield from _contrast_problems(given)


def _name_problems(given: Mapping[str, Any]) -> Iterator[str]:
    study, model = given.get("study"), given.get("model")
    if study is not None and not (isinstance(study, str) and NAME.fullmatch(study)):
        yield f"`study` must be a name of {NAME_WORDS}, not {study!r}"
    if model is not None and (not isinstance(model, str) or not model):
        yield f"`model` must be a text, not {model!r}"

    target = given.get("target", POLICY)
    if target not in (POLICY, REWARD):
        guess = did_you_mean(target, (POLICY, REWARD))
        yield f"`target` must be {POLICY} or {REWARD}, not {target!r}{guess}"


def _seed_problems(given: Mapping[str, Any]) -> Iterator[str]:
    seeds = given.get("seeds")
    if seeds is None:
        return
    if not isinstance(seeds, list) or not seeds:
        yield f"`seeds` must be a list of whole numbers, [0, 1, 2] say, not {seeds!r}"
        return
    for seed in seeds:
        if not is_whole(seed) or not _SEED.hold(seed):
            yield f"`seeds`: a seed must be a whole number, {_SEED}, not {seed!r}"
    yield from _twice("seeds", "the seed", seeds)


def _pool_problems(given: Mapping[str, Any]) -> Iterator[str]:
    pool = given.get("pool")
    if pool is None:
        return
    known = (PROMPTS, *OF_POOL, *POOL_FOLDERS)
    yield from _mapping_problems(pool, "pool", known)
    if not isinstance(pool, dict):
        return
    values = by_field(pool)
    yield from _text_problems(values, "pool", (PROMPTS, *POOL_FOLDERS))

    folders = [key for key in POOL_FOLDERS if values.get(key) is not None]
    sampled = [key for key in (PROMPTS, *OF_POOL) if key in values]
    if folders and sampled:
        yield (
            f"pool: `{folders[0]}` is a folder that is there, and `{sampled[0]}` makes one: "
            "give either folders, or prompts and sections"
        )
    elif folders:
        needed = [key for key in ("candidates", "scores") if key not in folders]
        yield from (f"pool: it needs `{key}` beside `{folders[0]}`" for key in needed)
    else:
        needed = [key for key in (PROMPTS, "generate", "score") if values.get(key) is None]
        if needed:
            named = ", ".join(f"`{key}`" for key in needed)
            yield f"pool: it needs {named}, or `candidates` and `scores`, folders that are there"
        if given.get("target") == REWARD:
            yield (
                "pool: with `target: reward` the plan's `model` samples nothing: make the pool "
                "before, and give `candidates` and `scores`"
            )
    for stage in OF_POOL:
        if stage in values:
            yield from RULES.key_problems(stage, or_nothing(values[stage]), f"pool, {stage}")


def _heldout_problems(given: Mapping[str, Any]) -> Iterator[str]:
    heldout = given.get("heldout")
    if heldout is None:
        return
    known = (PROMPTS, *HELDOUT_FOLDERS)
    yield from _mapping_problems(heldout, "heldout", known)
    if not isinstance(heldout, dict):
        return
    values = by_field(heldout)
    yield from _text_problems(values, "heldout", known)

    folders = [key for key in HELDOUT_FOLDERS if values.get(key) is not None]
    if len(folders) == 1:
        other = next(key for key in HELDOUT_FOLDERS if key not in folders)
        yield f"heldout: it needs `{other}` beside `{folders[0]}`"
    has_prompts = values.get(PROMPTS) is not None
    is_sampled_from = given.get("truth") is None
    if is_sampled_from and not has_prompts:
        yield (
            "heldout: it needs `prompts`: each policy is sampled for them; `candidates` and "
            "`scores` beside them are the model's own responses, if made"
        )
    if not is_sampled_from and not folders and given.get("target") == REWARD:
        yield (
            "heldout: with `target: reward` the plan's `model` samples nothing: make the held-out "
            "responses before, and give `candidates` and `scores`"
        )
    elif not is_sampled_from and not folders and not has_prompts:
        yield "heldout: it needs `prompts`, or `candidates` and `scores`, folders that are there"
    elif not is_sampled_from and folders and has_prompts:
        yield (
            "heldout: `prompts` are of no use beside `candidates`: with `truth` the pairs of "
            "responses that are there are judged"
        )

    # judged by what it samples, or sampled once to be judged by
    is_eval_used = is_sampled_from or not folders
    if is_eval_used and "eval" not in given:
        yield "it needs `eval`: how held-out responses are sampled and rated"
    elif not is_eval_used and given.get("eval"):
        yield "`eval` has no effect: with `truth` the existing held-out responses are judged"


def _arm_problems(given: Mapping[str, Any]) -> Iterator[str]:
    arms = given.get("arms")
    if arms is None:
        return
    if not isinstance(arms, dict) or not arms:
        yield f"`arms` must hold an arm a line, `bottom-k: {{...}}`, not {arms!r}"
        return

    folded: dict[str, str] = {}
    for name, arm in arms.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield f"arms: an arm is called by {NAME_WORDS}, as its folder is, not {name!r}"
            continue
        if name.lower() == BASE:
            yield f"arms: `{name}` is what tables call the model before any training"
        # where a file system keeps no case, two arms would write one folder
        other = folded.setdefault(name.lower(), name)
        if other != name:
            yield f"arms: `{other}` and `{name}` would be one folder on some file systems"
        yield from _problems_of_arm(f"arms, {name}", or_nothing(arm), given)
    yield from _like_problems(arms)


def _problems_of_arm(place: str, arm: object, given: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(arm, dict):
        yield f"{place} must hold `key: value` lines, not {arm!r}"
        return
    values = by_field(arm)
    if len(values) < len(arm):
        yield f"{place}: a key stands there twice, with _ and with -"
    for key in values:
        if key in ARM_KEYS:
            continue
        if key in TOP_LEVEL or key in OF_POOL:
            yield f"{place}: `{key}` is shared by all arms; an arm has {_listed(ARM_KEYS)}"
        else:
            guess = RULES.home_of(key) or did_you_mean(key, ARM_KEYS)
            yield f"{place}: unknown key `{key}`{guess}"

    for stage in OF_ARMS:
        if stage in values:
            yield from RULES.key_problems(stage, values[stage], f"{place}, {stage}")
    if values.get("rounds") is not None:
        yield from _rounds_problems(f"{place}, rounds", values["rounds"], given)
    if values.get("trainer") is not None:
        yield from _trainer_problems(f"{place}, trainer", values["trainer"], given)
        if values.get("train"):
            yield f"{place}: `train` has no effect beside `trainer`; its command has its own flags"
        if values.get("rounds") is not None:
            yield f"{place}: `trainer` and `rounds` exclude each other"


def _rounds_problems(place: str, rounds: object, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the rounds of an arm, beside what a plan of rounds refuses."""
    if not isinstance(rounds, dict):
        yield f"{place} must hold `key: value` lines, not {rounds!r}"
        return
    for key in by_field(rounds):
        if key not in ROUNDS_KEYS:
            is_shared = key in TOP_LEVEL or key in SECTIONS
            guess = "" if is_shared else did_you_mean(key, ROUNDS_KEYS)
            known = _listed(ROUNDS_KEYS)
            yield f"{place}: `{key}` does not stand there{guess}; an arm sets {known}"
    if given.get("target") == REWARD or given.get("truth") is not None:
        yield f"{place}: rounds sample from a policy, and are judged by what it samples"
    pool = given.get("pool")
    if isinstance(pool, dict) and pool.get(PROMPTS) is None:
        yield (
            f"{place}: each round samples a pool of its own, and needs `prompts`, `generate` and "
            "`score` in `pool`, not folders"
        )


def _trainer_problems(place: str, trainer: object, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the command of another trainer."""
    if not isinstance(trainer, str) or not trainer.strip():
        example = "`python other.py {groups} -o {policy}`"
        yield f"{place} must be a command, {example}, not {trainer!r}"
        return
    try:
        words = shlex.split(trainer)
        fields = [part[1:] for word in words for part in Formatter().parse(word)]
    except ValueError as error:
        yield f"{place}: the command cannot be read: {error}; write {{{{ for a brace of its own"
        return
    named = [(name, form, conversion) for name, form, conversion in fields if name is not None]
    for name, form, conversion in named:
        if name not in TRAINER_PLACES or form or conversion:
            guess = did_you_mean(name, TRAINER_PLACES)
            yield (
                f"{place}: `{{{name}}}` is no place{guess}; a command has "
                f"{', '.join(f'{{{each}}}' for each in TRAINER_PLACES)}"
            )
    names = {name for name, _, _ in named}
    for needed in ("groups", "policy"):
        if needed not in names:
            yield f"{place}: it needs {{{needed}}}, a folder that the study gives it"
    if "steps" not in names:
        yield f"{place}: it needs {{steps}}: arms are compared where they have trained as far"
    seeds = given.get("seeds")
    if "seed" not in names and isinstance(seeds, list) and len(seeds) > 1:
        yield f"{place}: it needs {{seed}}: one training over and over is not {len(seeds)} seeds"
    if given.get("truth") is not None and given.get("target", POLICY) == POLICY:
        yield (
            f"{place}: with `truth` a policy is judged by the score of its objective, which is not "
            "known of another trainer"
        )


def _like_problems(arms: Mapping[Any, Any]) -> Iterator[str]:
    """Yield arms that are like one that is not there, or like themselves in the end."""
    likes = {}
    for name, arm in arms.items():
        like = by_field(arm).get("like") if isinstance(arm, dict) else None
        if like is None:
            continue
        if not isinstance(like, str) or like not in arms:
            guess = did_you_mean(like, [str(each) for each in arms])
            yield f"arms, {name}: `like` must name an arm of the plan, not {like!r}{guess}"
        else:
            likes[name] = like

    said: set[str] = set()
    for name in likes:
        path = [name]
        while path[-1] in likes and likes[path[-1]] not in path:
            path.append(likes[path[-1]])
        if likes.get(path[-1]) == name and not said & set(path):
            said |= set(path)
            yield f"arms, {name}: `like` goes round in a circle: {', '.join([*path, name])}"


def _judging_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the truth of pairs, and with what needs it."""
    truth = given.get("truth")
    if truth is None:
        if given.get("target") == REWARD:
            yield "it needs `truth`: a reward model is judged by held-out pairs"
        if given.get("epochs") is not None:
            yield "`epochs` go with `truth`; arms that are judged by samples have `budgets`"
        return

    yield from _mapping_problems(truth, "truth", ("reward", "gamma"))
    if isinstance(truth, dict):
        yield from _text_problems(truth, "truth", ("reward",))
        missing = [f"`{key}`" for key in ("reward", "gamma") if truth.get(key) is None]
        if missing:
            yield f"truth: it needs {' and '.join(missing)}"
        yield from _number_problems(truth, "gamma", Bounds(above=0), place="truth")

    epochs = given.get("epochs")
    if given.get("budgets") is not None:
        yield "`budgets` are of no use with `truth`: arms are judged after `epochs`"
    if epochs is None:
        yield "it needs `epochs`, [1, 2, 4] say: after which arms are judged by the truth"
    elif not isinstance(epochs, list) or not epochs or not all(map(_is_epoch, epochs)):
        yield f"`epochs` must be a list of whole numbers, 1 or more, not {epochs!r}"
    elif epochs != sorted(set(epochs)):
        yield f"`epochs` must ascend, each once, not {epochs!r}"


def _budget_problems(given: Mapping[str, Any]) -> Iterator[str]:
    budgets = given.get("budgets")
    if budgets is None:
        if given.get("truth") is None:
            yield f"it needs `budgets`, with `{PROMPTS}`, `{RESPONSE_TOKENS}` or both"
        return
    yield from _mapping_problems(budgets, "budgets", (PROMPTS, RESPONSE_TOKENS))
    if not isinstance(budgets, dict):
        return

    values = by_field(budgets)
    prompts, tokens = values.get(PROMPTS), values.get(RESPONSE_TOKENS)
    if prompts is None and tokens is None:
        yield f"budgets: it needs `{PROMPTS}`, `{RESPONSE_TOKENS}` or both"
    if prompts is not None and not (is_whole(prompts) and _AT_LEAST_ONE.hold(prompts)):
        yield f"budgets: `{PROMPTS}` must be a whole number, {_AT_LEAST_ONE}, not {prompts!r}"
    if tokens is None or (is_whole(tokens) and _AT_LEAST_ONE.hold(tokens)):
        return

    match = LIKE.fullmatch(tokens) if isinstance(tokens, str) else None
    if match is None:
        yield (
            f"budgets: `{RESPONSE_TOKENS}` must be a whole number, {_AT_LEAST_ONE}, or "
            f"`like ARM`, not {tokens!r}"
        )
        return
    arms = given.get("arms")
    names = [str(name) for name in arms] if isinstance(arms, dict) else []
    if match[1] not in names:
        yield (
            f"budgets: `{RESPONSE_TOKENS}` is like `{match[1]}`, which is no arm of the plan"
            f"{did_you_mean(match[1], names)}"
        )
    if prompts is None:
        yield (
            f"budgets: `{RESPONSE_TOKENS}: {tokens}` are those after so many prompts: it needs "
            f"`{PROMPTS}`"
        )


def _measure_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with what contrasts are of, and with what counts as a difference."""
    measures = list(MEASURES) if given.get("truth") is None else list(PAIR_MEASURES)
    measure = given.get("measure")
    if measure is not None and measure not in measures:
        guess = did_you_mean(measure, measures)
        yield f"`measure` must be one of {', '.join(measures)}, not {measure!r}{guess}"
    yield from _number_problems(given, "worst_below", Bounds())
    yield from _number_problems(given, "equivalence", Bounds(above=0))
    if measure == "worst_rate" and given.get("worst_below") is None:
        yield "`measure: worst_rate` needs `worst_below`: the reward under which a response counts"
    if given.get("truth") is not None and given.get("worst_below") is not None:
        yield "`worst_below` has no effect with `truth`, which judges pairs and not rewards"

    allows = given.get("allow_different_prompts")
    if allows is not None and not isinstance(allows, bool):
        yield f"`allow_different_prompts` must be true or false, not {allows!r}"


def _contrast_problems(given: Mapping[str, Any]) -> Iterator[str]:
    contrasts, arms = given.get("contrasts"), given.get("arms")
    if contrasts is None:
        return
    if not isinstance(contrasts, list):
        yield f"`contrasts` must be a list of pairs of arms, [[a, b], [c, b]], not {contrasts!r}"
        return

    names = [str(name) for name in arms] if isinstance(arms, dict) else []
    seen: set[frozenset[str]] = set()
    for contrast in contrasts:
        if not isinstance(contrast, list) or len(contrast) != 2:
            yield f"contrasts: a contrast is a pair of arms, [a, b], not {contrast!r}"
            continue
        problems = [problem for each in contrast for problem in _side_problems(each, names, given)]
        at_epochs = [each for each in contrast if AT_EPOCH.fullmatch(str(each))]
        if not problems and len(at_epochs) == 1:
            problems = [
                f"contrasts: {contrast!r} names an epoch for one of its two arms; name it for both"
            ]
        yield from problems
        if problems:
            continue
        pair = frozenset(contrast)
        if len(pair) == 1:
            yield f"contrasts: {contrast[0]} is compared with itself"
        elif pair in seen:
            yield f"contrasts: {contrast[0]} and {contrast[1]} are compared twice"
        seen.add(pair)


def _side_problems(name: object, arms: Sequence[str], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one of a contrast's two arms, ``bt`` or ``bt@6``."""
    match = AT_EPOCH.fullmatch(name) if isinstance(name, str) else None
    arm = name if match is None else match[1]
    if arm not in arms:
        known = f" (each arm is compared with `{BASE}` anyway)" if arm == BASE else ""
        guess = known or did_you_mean(arm, arms)
        yield f"contrasts: {arm!r} is no arm of the plan{guess}"
        return
    epochs = given.get("epochs")
    if match is not None and int(match[2]) not in (epochs if isinstance(epochs, list) else ()):
        yield f"contrasts: {name}: arms are not judged after epoch {match[2]} (`epochs`)"


def _mapping_problems(value: object, place: str, known: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the keys of a mapping that is no section."""
    if not isinstance(value, dict):
        yield f"{place} must hold `key: value` lines, not {value!r}"
        return
    values = by_field(value)
    if len(values) < len(value):
        yield f"{place}: a key stands there twice, with _ and with -"
    for key in values:
        if key not in known:
            guess = RULES.home_of(key) or did_you_mean(key, known)
            yield f"{place}: unknown key `{key}`{guess}"


def _text_problems(values: Mapping[str, Any], place: str, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        value = values.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            yield f"{place}: `{key}` must be a text, not {value!r}"


def _number_problems(
    values: Mapping[str, Any], key: str, bounds: Bounds, *, place: str = ""
) -> Iterator[str]:
    value = values.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and bounds.hold(value)):
        return
    where = f"{place}: " if place else ""
    limits = f", {bounds}" if str(bounds) else ""
    yield f"{where}`{key}` must be a number{limits}, not {value!r}"


def _twice(place: str, what: str, values: Sequence[Any]) -> Iterator[str]:
    """Yield the values of a list that stand there more than once."""
    for index, value in enumerate(values):
        if values.index(value) == index and values.count(value) > 1:
            yield f"`{place}`: {what} {value!r} stands there twice"


def _is_epoch(value: Any) -> bool:
    return is_whole(value) and _AT_LEAST_ONE.hold(value)


def _listed(names: Sequence[str]) -> str:
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}"
