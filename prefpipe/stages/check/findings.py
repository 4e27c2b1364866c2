"""What the facts of ``prefpipe check`` mean: findings with a severity, in sentences.

``error``: ``train`` would stop, or what it trained on would not be what one thinks; ``warning``: it trains, and one should look
first; ``note``: worth knowing. The thresholds are prefpipe's own.
"""

from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any, NamedTuple

SEVERITIES = ("error", "warning", "note")
STRONG_CORRELATION = 0.3
"""Rank correlation from which rewards are said to follow lengths: about a tenth of the variance of ranks."""
ONE_SIDED = 0.7
"""Share of pairs with the longer response chosen, or rejected, from which lengths alone tell a pair."""
ENOUGH = 20
"""Pairs, or responses, below which no share or correlation is judged."""
MANY_LOST, MANY_CUT, MANY_TIED = 0.05, 0.1, 0.01
MANY_LIKE = 0.5
"""Share of targets near 1/2, or near 1, from which gamma does not fit the scale of the ratings."""

Facts = Mapping[str, Any]


class Finding(NamedTuple):
    """One thing that was found; ``name`` stays the same from release to release, ``hint`` is what to do about it, if anything."""

    severity: str
    name: str
    message: str
    hint: str | None = None


def judge(found: Facts) -> list[Finding]:
    """Return the findings of a check's facts, the gravest first."""
    rooms = (
        _of_model,
        _of_ids,
        _of_templates,
        _of_lengths,
        _of_targets,
        _of_rewards,
        _of_copies,
        _of_length_bias,
        _of_ends,
    )
    findings = [finding for room in rooms for finding in room(found)]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _of_model(found: Facts) -> Iterator[Finding]:
    tokenizer, limit = found["tokenizer"], found["training"]["max_length"]
    if tokenizer["hash"] is None:
        yield Finding(
            "error",
            "no_tokenizer",
            "the model has no tokenizer",
            "copy tokenizer.json from the model it was made from",
        )
    elif tokenizer["chat_template_hash"] is None:
        yield Finding(
            "error",
            "no_chat_template",
            "the model has no chat template",
            "use the instruct version, or put a chat_template.jinja into the folder",
        )
    if found["model_problem"] is not None:
        yield Finding("error", "no_causal_lm", found["model_problem"])
    if tokenizer["hash"] is not None and tokenizer["pad_token"] is None:
        yield Finding(
            "note",
            "no_pad_token",
            "the tokenizer has no pad token; prefpipe masks padding and needs none, other tools do",
        )
    elif tokenizer["pad_token"] is not None and tokenizer["pad_token"] == tokenizer["eos_token"]:
        yield Finding(
            "note",
            "pad_is_eos",
            f"pad and end of sequence are the same token, {tokenizer['pad_token']}; "
            "prefpipe masks by "
            "position, other tools may leave the end of every response out of their loss",
        )
    positions = found["max_positions"]
    if positions is not None and limit > positions:
        yield Finding(
            "warning",
            "beyond_positions",
            f"--max-length {limit:,} is beyond the {positions:,} positions of the model",
            f"pass --max-length {positions}",
        )
    n_missing = found["n_parts"] - found["n_parts_present"]
    if n_missing:
        yield Finding(
            "warning",
            "incomplete",
            f"{n_missing} of {found['n_parts']} parts of the groups are missing: the "
            "rest was looked at",
            f"run `prefpipe status {quote(str(found['groups']))}`",
        )


def _of_ids(found: Facts) -> Iterator[Finding]:
    problems = found["problems"]
    if not found["stored_ids_fit"]:
        why = "the stored token ids are of another tokenizer or chat template"
        why = why if found["samplers"] else "the responses are of no model whose tokenizer is known"
        yield Finding(
            "warning",
            "other_tokenizer",
            f"{why}: train tokenises the conversations, and takes what the "
            "template makes for what was sampled",
        )
    told = (
        (
            "double_bos",
            "error",
            "begin with two beginning-of-sequence tokens: the model never saw that",
            "remove bos_token from the chat template; ids that are stored so: generate again",
        ),
        (
            "no_ids",
            "error",
            "have no token ids, and none can be made",
            "generate again, or give the model a chat template",
        ),
        (
            "other_prompt",
            "error",
            "have other prompt tokens than the first of their prompt",
            "select again",
        ),
        (
            "beyond_vocabulary",
            "error",
            "hold a token id beyond the model's vocabulary",
            "train the model that sampled them",
        ),
        (
            "bos_in_response",
            "warning",
            "hold a beginning-of-sequence token",
            "a template or an import put it there; look at one",
        ),
        (
            "text_differs",
            "warning",
            "of those looked at have stored ids that are another text than the stored one",
            "ids are what train takes; look at one with `prefpipe inspect --prompt-id`",
        ),
    )
    for name, severity, words, hint in told:
        if problems.get(name):
            yield Finding(
                severity,
                name,
                f"{_count(problems[name], 'response')} {words}{_example(found, name)}",
                hint,
            )
    if found["n_broken"]:
        yield Finding(
            "error",
            "broken_groups",
            f"{_count(found['n_broken'], 'group')} cannot be read: {found['broken'][0]}",
            "select again",
        )


def _of_templates(found: Facts) -> Iterator[Finding]:
    problems, fits = found["problems"], found["stored_ids_fit"]
    if found["template_problem"] is not None:
        yield Finding("warning" if fits else "error", "template_broken", found["template_problem"])

    # train leaves such responses out; where nothing else is there, it stops
    severity = "warning" if found["n_tokenised"] else "error"
    if problems.get("template_error"):
        what = f"{_count(problems['template_error'], 'response')} cannot go through the template and are left out"
        yield Finding(
            severity,
            "template_error",
            f"{what}{_example(found, 'template_error')}",
            "choose a model whose template takes them",
        )
    n_rewritten = problems.get("not_prefix", 0)
    if n_rewritten and not fits:
        yield Finding(
            severity,
            "not_prefix",
            f"{_count(n_rewritten, 'response')} are left out: the template writes the prompt differently once it is answered"
            f"{_example(found, 'not_prefix')}",
            "train the model that generated the responses, whose ids are stored",
        )
    elif n_rewritten:
        yield Finding(
            "note",
            "not_prefix",
            "the template writes a finished turn differently (it strips or rewrites); "
            "train takes the stored "
            "ids and is not touched, tools that tokenise again are",
        )
    if problems.get("control_text"):
        yield Finding(
            "note",
            "control_text",
            f"{_of(problems['control_text'], found['n_tokenised'])} conversations hold the text of a control token, which train "
            f"reads as text{_example(found, 'control_text')}",
        )
    if problems.get("apart"):
        yield Finding(
            "note",
            "apart",
            f"{_of(problems['apart'], found['n_tokenised'])} responses are tokenised apart from their prompts, whose last tokens "
            f"they would change{_example(found, 'apart')}",
        )
    if problems.get("turn_words"):
        yield Finding(
            "warning",
            "turn_words",
            f"{_count(problems['turn_words'], 'response')} hold the plain words that the template writes in front of a user's "
            f"turn, and cannot be told from one{_example(found, 'turn_words')}",
            "look at one: a response that goes on with the user's next turn should not be trained on",
        )
    if problems.get("template_drift"):
        yield Finding(
            "warning",
            "template_drift",
            f"the template makes other prompts now than the stored ones, in "
            f"{problems['template_drift']} of {found['n_template_looks']} looked at{_example(found, 'template_drift')}",
            "a template that writes the date does that; train takes the stored ids",
        )


def _of_lengths(found: Facts) -> Iterator[Finding]:
    training, fates, n = found["training"], found["fates"], found["n_responses"]
    limit, n_over = training["max_length"], found["n_over_limit"]
    if not found["n_groups_left"]:
        yield Finding(
            "error",
            "nothing_left",
            f"no group can be trained on: {_words(fates) or 'there is none'}",
            "raise --max-length, or look at what select rejected: `prefpipe inspect`",
        )
    if n_over and training["on_too_long"] == "error":
        yield Finding(
            "error",
            "too_long",
            f"{_of(n_over, n)} responses are longer than --max-length {limit:,} with their "
            "prompt, and "
            "--on-too-long error stops at the first",
            "raise --max-length",
        )
        return
    if n_over:
        n_cut = fates.get("truncated", 0)
        what = f"{n_cut:,} are cut, {n_over - n_cut:,} left out" if n_cut else "they are left out"
        severity = "warning" if n_over >= MANY_LOST * n else "note"
        yield Finding(
            severity,
            "too_long",
            f"{_of(n_over, n)} responses are longer than --max-length {limit:,} with "
            f"their prompt: {what}",
            "raise --max-length if memory allows",
        )
    if fates.get("prompt_too_long"):
        yield Finding(
            "warning",
            "prompt_too_long",
            f"the prompt of {_count(fates['prompt_too_long'], 'response')} leaves no room for a token",
        )
    n_lost = found["n_groups"] - found["n_groups_left"]
    if n_lost and found["n_groups_left"]:
        severity = "warning" if n_lost >= MANY_LOST * found["n_groups"] else "note"
        yield Finding(
            severity,
            "groups_lost",
            f"{_of(n_lost, found['n_groups'])} groups are left out whole: no positive "
            "or no negative "
            f"stays ({_words(fates)})",
        )
    if fates.get("empty"):
        yield Finding(
            "warning",
            "empty",
            f"{_count(fates['empty'], 'response')} have no token and are left out",
        )


def _of_targets(found: Facts) -> Iterator[Finding]:
    """Yield what a soft-label objective is told: its targets take the place of ties and least margins."""
    targets = found["targets"]
    if targets is None or not targets["n"]:
        return
    low, median, high = (targets["quantiles"][level] for level in ("0.05", "0.5", "0.95"))
    near_half, near_one = targets["share_near_half"], targets["share_near_one"]
    is_lopsided = max(near_half, near_one) >= MANY_LIKE and targets["n"] >= ENOUGH
    hint = None
    if is_lopsided:
        hint = (
            "a larger --gamma reads the same margins as more"
            if near_half > near_one
            else "a smaller --gamma reads them as less"
        )
    yield Finding(
        "warning" if is_lopsided else "note",
        "targets",
        f"targets sigma({targets['gamma']:g} x margin) of {_count(targets['n'], 'pair')}: median {median:.2f}, 5 % to 95 % "
        f"{low:.2f} to {high:.2f}; {near_half:.0%} are near 1/2 and say little, {near_one:.0%} are near 1 as in DPO",
        hint,
    )
    if found["pairs"]["inverted"]:
        yield Finding(
            "note",
            "inverted",
            f"{_of(found['pairs']['inverted'], found['pairs']['n'])} pairs have the rejected response rated above the chosen "
            "one: their targets are below 1/2",
        )


def _of_hard_labels(found: Facts) -> Iterator[Finding]:
    """Yield pairs whose order the objective takes for certain."""
    pairs = found["pairs"]
    for name, words in (
        ("tied", "have equal rewards: the choice between them is arbitrary"),
        ("inverted", "have the rejected response rated above the chosen one"),
    ):
        if pairs[name]:
            severity = "warning" if pairs[name] >= MANY_TIED * pairs["n"] else "note"
            yield Finding(
                severity,
                name,
                f"{_of(pairs[name], pairs['n'])} pairs {words}",
                "select with --min-margin",
            )
    if found["n_groups_of_equal_rewards"]:
        yield Finding(
            "warning",
            "equal_rewards",
            "all rewards are equal in "
            f"{_of(found['n_groups_of_equal_rewards'], found['n_groups'])} groups",
            "select with --min-margin",
        )


def _of_rewards(found: Facts) -> Iterator[Finding]:
    if found["targets"] is None:
        yield from _of_hard_labels(found)
    outliers = found["outliers"]
    if outliers["n"]:
        yield Finding(
            "warning",
            "reward_outliers",
            f"{_of(outliers['n'], found['n_responses'])} rewards lie more than 10 "
            "robust standard "
            f"deviations from the median {outliers['median']:.4g}: from {outliers['min']:.4g} to "
            f"{outliers['max']:.4g}; "
            "objectives that read rewards follow them",
        )


def _of_copies(found: Facts) -> Iterator[Finding]:
    pairs, n = found["pairs"], found["n_responses"]
    if pairs["same_text"]:
        yield Finding(
            "warning",
            "identical_pairs",
            f"{_of(pairs['same_text'], pairs['n'])} pairs are the same text, "
            "chosen and rejected; train leaves "
            "out those with the same tokens",
            "select with --near-duplicates",
        )
    if pairs["same_when_cut"]:
        cuts = found["training"]["on_too_long"] == "truncate"
        words = "differ only beyond --max-length: cut, they are identical, and train leaves one of them out"
        yield Finding(
            "warning" if cuts else "note",
            "identical_when_cut",
            f"{_of(pairs['same_when_cut'], pairs['n'])} pairs {words}",
            "raise --max-length" if cuts else None,
        )
    if found["n_same_text"]:
        yield Finding(
            "note",
            "duplicates",
            f"{_of(found['n_same_text'], n)} responses repeat a text of their group, {found['n_same_ids']:,} its tokens",
        )


def _of_length_bias(found: Facts) -> Iterator[Finding]:
    pairs, rho = found["pairs"], found["reward_and_length"]
    if found["n_responses"] >= ENOUGH:
        for name, where in (
            ("within_prompts", "within prompts"),
            ("over_all", "over all responses"),
        ):
            value = rho[name]
            if value is not None and abs(value) >= STRONG_CORRELATION:
                which = "longer" if value > 0 else "shorter"
                message = f"rewards rise with {which} responses {where} (Spearman {value:+.2f}): training may teach length first"
                yield Finding(
                    "warning",
                    f"length_bias_{name}",
                    message,
                    "look at length-controlled scores, or train with a length-normalised objective, simpo",
                )
    n_apart = pairs["chosen_longer"] + pairs["chosen_shorter"]
    share = pairs["chosen_longer"] / n_apart if n_apart else 0.5
    if n_apart >= ENOUGH and not 1 - ONE_SIDED < share < ONE_SIDED:
        yield Finding(
            "warning",
            "length_tells_pairs",
            f"the chosen response is the longer one in {share:.0%} of "
            f"{n_apart:,} pairs of different "
            "length",
        )


def _of_ends(found: Facts) -> Iterator[Finding]:
    n, finish = found["n_responses"], found["finish_reasons"]
    n_cut = finish.get("length", 0)
    if n_cut:
        yield Finding(
            "warning" if n_cut >= MANY_CUT * n else "note",
            "cut_off",
            f"{_of(n_cut, n)} responses were cut at "
            "the token limit of "
            "generation: they end in the middle, without an end of sequence",
            "generate with more --max-tokens",
        )
    n_open = found["problems"].get("stop_without_eos", 0)
    if n_open:
        yield Finding(
            "warning",
            "stop_without_eos",
            f"{_of(n_open, n)} responses ended by themselves, and their ids do "
            "not end with an end of "
            f"sequence: the policy is not taught to stop{_example(found, 'stop_without_eos')}",
            "a stop string ends them so; generate with the model's own end of sequence",
        )


def _example(found: Facts, name: str) -> str:
    example = found["examples"].get(name)
    return "" if example is None else f" ({example})"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _of(n: int, total: int) -> str:
    return f"{n:,} of {total:,} ({n / total:.1%})" if total else f"{n:,}"


def _words(fates: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count:,} {name}"
        for name, count in sorted(fates.items())
        if name not in ("ok", "truncated")
    )
