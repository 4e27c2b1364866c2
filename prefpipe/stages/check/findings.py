"""What the facts of ``prefpipe check`` mean: findings with a severity, in sentences.

- ``error``: ``train`` would stop, or would train on something unintended;
- ``warning``: ``train`` runs, but look at it first;
- ``note``: worth knowing.

The thresholds are chosen by prefpipe.
"""

from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any, NamedTuple

from prefpipe.stages.train.loss_weights import describe_weights

SEVERITIES = ("error", "warning", "note")
STRONG_CORRELATION = 0.3
"""Rank correlation from which rewards follow lengths: about a tenth of the variance of ranks."""
ONE_SIDED = 0.7
"""Share of pairs with the longer response chosen, or rejected, from which lengths tell a pair."""
ENOUGH = 20
"""Pairs, or responses, below which no share or correlation is judged."""
MANY_LOST, MANY_CUT, MANY_TIED = 0.05, 0.1, 0.01
"""Shares from which a note is a warning.

Of responses beyond the length limit and of groups lost to it, of responses that generation cut off,
and of pairs that are tied or inverted.
"""
MANY_LIKE = 0.5
"""Share of targets near 1/2, or near 1, from which gamma does not fit the scale of the ratings."""

CheckFacts = Mapping[str, Any]
"""What `prefpipe.stages.check.run.check` gathered."""


class Finding(NamedTuple):
    """One finding.

    ``name`` stays the same from release to release; ``hint`` is what to do about it, if anything.
    """

    severity: str
    name: str
    message: str
    hint: str | None = None


class _IdProblem(NamedTuple):
    """A problem of token ids that is counted in responses."""

    name: str
    severity: str
    predicate: str
    hint: str


ID_PROBLEMS = (
    _IdProblem(
        "double_bos",
        "error",
        "begin with two beginning-of-sequence tokens, which the model never saw in training",
        "remove bos_token from the chat template; if the stored ids have it, generate again",
    ),
    _IdProblem(
        "no_ids",
        "error",
        "have no token ids, and prefpipe cannot make them",
        "generate again, or add a chat template to the model",
    ),
    _IdProblem(
        "other_prompt",
        "error",
        "have prompt tokens that differ from those of the first response of their prompt",
        "select again",
    ),
    _IdProblem(
        "beyond_vocabulary",
        "error",
        "hold a token id beyond the model's vocabulary",
        "train the model that sampled them",
    ),
    _IdProblem(
        "bos_in_response",
        "warning",
        "hold a beginning-of-sequence token",
        "a template or an import added it; look at one with `prefpipe inspect --prompt-id`",
    ),
    _IdProblem(
        "text_differs",
        "warning",
        "of those checked have stored ids that decode to another text than the stored one",
        "train uses the ids; look at one with `prefpipe inspect --prompt-id`",
    ),
)


def findings_of(facts: CheckFacts) -> list[Finding]:
    """Return the findings of a check, the most severe first."""
    findings = [
        *_of_model(facts),
        *_of_ids(facts),
        *_of_templates(facts),
        *_of_lengths(facts),
        *_of_targets(facts),
        *_of_weights(facts),
        *_of_rewards(facts),
        *_of_copies(facts),
        *_of_length_bias(facts),
        *_of_ends(facts),
    ]
    # Of one severity they stay in this order.
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _of_model(facts: CheckFacts) -> Iterator[Finding]:
    tokenizer = facts["tokenizer"]
    has_tokenizer = tokenizer["hash"] is not None
    if not has_tokenizer:
        yield _error(
            "no_tokenizer",
            "the model has no tokenizer",
            "copy tokenizer.json from the model that it was trained from",
        )
    elif tokenizer["chat_template_hash"] is None:
        yield _error(
            "no_chat_template",
            "the model has no chat template",
            "use the instruct version, or put a chat_template.jinja into the folder",
        )
    if facts["model_problem"] is not None:
        yield _error("no_causal_lm", facts["model_problem"])

    pad_token, eos_token = tokenizer["pad_token"], tokenizer["eos_token"]
    if has_tokenizer and pad_token is None:
        yield _note(
            "no_pad_token",
            "the tokenizer has no pad token; prefpipe masks padding and needs none, but other "
            "tools do",
        )
    elif pad_token is not None and pad_token == eos_token:
        yield _note(
            "pad_is_eos",
            f"pad and end of sequence are the same token, {pad_token}; prefpipe masks by position, "
            "other tools may leave the end of every response out of their loss",
        )

    limit, positions = facts["training"]["max_length"], facts["max_positions"]
    if positions is not None and limit > positions:
        yield _warning(
            "beyond_positions",
            f"--max-length {limit:,} exceeds the {positions:,} positions of the model",
            f"pass --max-length {positions}",
        )
    n_missing = facts["n_parts"] - facts["n_parts_present"]
    if n_missing:
        yield _warning(
            "incomplete",
            f"{n_missing} of {facts['n_parts']} parts of the groups are missing; only the rest "
            "was checked",
            f"run `prefpipe status {quote(str(facts['groups']))}`",
        )


def _of_ids(facts: CheckFacts) -> Iterator[Finding]:
    if not facts["stored_ids_fit"]:
        why = "the tokenizer of the model that wrote the responses is not known"
        if facts["samplers"]:
            why = "the stored token ids come from another tokenizer or chat template"
        yield _warning(
            "other_tokenizer",
            f"{why}: train tokenises the conversations again and treats the resulting tokens as "
            "the sampled ones",
        )

    for problem in ID_PROBLEMS:
        n = facts["problems"].get(problem.name)
        if n:
            message = f"{_many(n, 'response')} {problem.predicate}{_example(facts, problem.name)}"
            yield Finding(problem.severity, problem.name, message, problem.hint)
    if facts["n_broken"]:
        yield _error(
            "broken_groups",
            f"{_many(facts['n_broken'], 'group')} cannot be read: {facts['broken'][0]}",
            "select again",
        )


def _of_templates(facts: CheckFacts) -> Iterator[Finding]:
    problems, fits = facts["problems"], facts["stored_ids_fit"]
    n_tokenised = facts["n_tokenised"]
    if facts["template_problem"] is not None:
        severity = "warning" if fits else "error"
        yield Finding(severity, "template_broken", facts["template_problem"])

    # train leaves such responses out; where nothing else is there, it stops.
    severity = "warning" if n_tokenised else "error"
    n = problems.get("template_error")
    if n:
        yield Finding(
            severity,
            "template_error",
            f"{_many(n, 'response')} cannot be formatted by the chat template and are left "
            f"out{_example(facts, 'template_error')}",
            "choose a model whose template accepts them",
        )
    n = problems.get("not_prefix")
    if n and not fits:
        yield Finding(
            severity,
            "not_prefix",
            f"{_many(n, 'response')} are left out: the template formats the prompt differently "
            f"once per response follows{_example(facts, 'not_prefix')}",
            "train the model that generated the responses, whose ids are stored",
        )
    elif n:
        yield _note(
            "not_prefix",
            "the template changes a finished turn (it strips or rewrites text); train uses the "
            "stored ids and is not affected, but tools that tokenise again are",
        )

    n = problems.get("control_text")
    if n:
        yield _note(
            "control_text",
            f"{_share(n, n_tokenised)} conversations hold the text of a control token, which train "
            f"reads as text{_example(facts, 'control_text')}",
        )
    n = problems.get("apart")
    if n:
        yield _note(
            "apart",
            f"{_share(n, n_tokenised)} responses are tokenised separately from their prompts, "
            "because together they would change the last tokens of the "
            f"prompt{_example(facts, 'apart')}",
        )
    n = problems.get("turn_words")
    if n:
        yield _warning(
            "turn_words",
            f"{_many(n, 'response')} contain the plain words that the template writes before a "
            f"user turn, and look like one{_example(facts, 'turn_words')}",
            "look at one with `prefpipe inspect --prompt-id`: do not train on a response that "
            "continues with the user's next turn",
        )
    n = problems.get("template_drift")
    if n:
        yield _warning(
            "template_drift",
            f"the template formats prompts differently from the stored ones, in {n} of "
            f"{facts['n_template_looks']} looked at{_example(facts, 'template_drift')}",
            "a template that writes the date does this; train uses the stored ids",
        )


def _of_lengths(facts: CheckFacts) -> Iterator[Finding]:
    n, n_over, statuses = facts["n_responses"], facts["n_over_limit"], facts["fates"]
    limit = facts["training"]["max_length"]
    left_out = ", ".join(
        f"{count:,} {name}"
        for name, count in sorted(statuses.items())
        if name not in ("ok", "truncated")
    )
    if not facts["n_groups_left"]:
        hint = "raise --max-length, or see what select rejected with `prefpipe inspect`"
        if facts["n_groups"] and not facts["n_negatives"]:
            hint = "train groups without negatives (best-of-n, for example) with --objective sft"
        yield _error(
            "nothing_left", f"no group can be trained on: {left_out or 'there is none'}", hint
        )

    too_long = (
        f"{_share(n_over, n)} responses are longer than --max-length {limit:,} with their prompt"
    )
    # Training stops there, so what it would leave out otherwise need not be said.
    if n_over and facts["training"]["on_too_long"] == "error":
        yield _error(
            "too_long",
            f"{too_long}, and --on-too-long error stops at the first",
            "raise --max-length",
        )
        return
    if n_over:
        n_cut = statuses.get("truncated", 0)
        outcome = "they are left out"
        if n_cut:
            outcome = f"{n_cut:,} are cut, {n_over - n_cut:,} left out"
        yield Finding(
            "warning" if n_over >= MANY_LOST * n else "note",
            "too_long",
            f"{too_long}: {outcome}",
            "raise --max-length if memory allows",
        )
    if statuses.get("prompt_too_long"):
        responses = _many(statuses["prompt_too_long"], "response")
        yield _warning("prompt_too_long", f"the prompt of {responses} leaves no room for a token")

    n_groups = facts["n_groups"]
    n_lost = n_groups - facts["n_groups_left"]
    if n_lost and facts["n_groups_left"]:
        yield Finding(
            "warning" if n_lost >= MANY_LOST * n_groups else "note",
            "groups_lost",
            f"{_share(n_lost, n_groups)} groups are left out entirely: no positive or no "
            f"negative remains ({left_out})",
        )
    if statuses.get("empty"):
        responses = _many(statuses["empty"], "response")
        yield _warning("empty", f"{responses} have no token and are left out")


def _of_weights(facts: CheckFacts) -> Iterator[Finding]:
    """Yield findings on the weights of ``--weight-by``."""
    weights = facts["weights"]
    if weights is None:
        return
    if weights["n_bad"]:
        yield _error(
            "bad_weights",
            f"{_many(weights['n_bad'], 'prompt')} have no weight: {weights['example']}",
            "a weight must be finite and at least 0; max(..., 0) clips negative values",
        )
    if weights["all_zero"]:
        yield _error(
            "weights_all_zero",
            f"--weight-by {weights['expression']!r} is 0 for all prompts",
            "nothing would be learnt",
        )
    if "n_prompts" in weights:
        is_uneven = weights["effective_prompts"] < MANY_LIKE * weights["n_prompts"]
        yield Finding(
            "warning" if is_uneven else "note",
            "weights",
            describe_weights(weights, "the loss would be weighted"),
            "few prompts carry the loss: min(..., x) caps a weight" if is_uneven else None,
        )


def _of_targets(facts: CheckFacts) -> Iterator[Finding]:
    """Yield findings on the targets of a soft-label objective.

    They replace the findings on ties and small margins.
    """
    targets, pairs = facts["targets"], facts["pairs"]
    if facts["training"]["gamma_choice"] is not None:
        yield _note("gamma", facts["training"]["gamma_choice"])
    if targets is None or not targets["n"]:
        return
    near_half, near_one = targets["share_near_half"], targets["share_near_one"]
    severity, hint = "note", None
    if max(near_half, near_one) >= MANY_LIKE and targets["n"] >= ENOUGH:
        severity, hint = "warning", "lower --gamma, which moves these targets away from 1"
        if near_half > near_one:
            hint = "raise --gamma, which moves these targets away from 1/2"

    low, median, high = (targets["quantiles"][level] for level in ("0.05", "0.5", "0.95"))
    yield Finding(
        severity,
        "targets",
        f"targets sigma({targets['gamma']:g} x margin) of {_many(targets['n'], 'pair')}: median "
        f"{median:.2f}, 5 % to 95 % {low:.2f} to {high:.2f}; {near_half:.0%} are near 1/2 and say "
        f"little, {near_one:.0%} are near 1 as in DPO",
        hint,
    )
    if pairs["inverted"]:
        yield _note(
            "inverted",
            f"{_share(pairs['inverted'], pairs['n'])} pairs have the rejected response rated above "
            "the chosen one: their targets are below 1/2",
        )


def _of_rewards(facts: CheckFacts) -> Iterator[Finding]:
    if facts["targets"] is None:
        yield from _of_hard_labels(facts)
    outliers = facts["outliers"]
    if outliers["n"]:
        yield _warning(
            "reward_outliers",
            f"{_share(outliers['n'], facts['n_responses'])} rewards lie more than 10 robust "
            f"standard deviations from the median {outliers['median']:.4g}: from "
            f"{outliers['min']:.4g} to {outliers['max']:.4g}; objectives that read rewards follow "
            "them",
        )


def _of_hard_labels(facts: CheckFacts) -> Iterator[Finding]:
    """Yield findings on pairs for objectives that treat their order as certain."""
    pairs = facts["pairs"]
    predicates = {
        "tied": "have equal rewards: the choice between them is arbitrary",
        "inverted": "have the rejected response rated above the chosen one",
    }
    for name, predicate in predicates.items():
        n = pairs[name]
        if n:
            severity = "warning" if n >= MANY_TIED * pairs["n"] else "note"
            message = f"{_share(n, pairs['n'])} pairs {predicate}"
            yield Finding(severity, name, message, "select with --min-margin")

    n_equal = facts["n_groups_of_equal_rewards"]
    if n_equal:
        yield _warning(
            "equal_rewards",
            f"all rewards are equal in {_share(n_equal, facts['n_groups'])} groups",
            "select with --min-margin",
        )


def _of_copies(facts: CheckFacts) -> Iterator[Finding]:
    pairs = facts["pairs"]
    if pairs["same_text"]:
        yield _warning(
            "identical_pairs",
            f"{_share(pairs['same_text'], pairs['n'])} pairs are the same text, chosen and "
            "rejected; train leaves out those with the same tokens",
            "select with --near-duplicates",
        )
    if pairs["same_when_cut"]:
        cuts = facts["training"]["on_too_long"] == "truncate"
        yield Finding(
            "warning" if cuts else "note",
            "identical_when_cut",
            f"{_share(pairs['same_when_cut'], pairs['n'])} pairs differ only beyond --max-length: "
            "cut, they are identical, and train leaves one of them out",
            "raise --max-length" if cuts else None,
        )
    if facts["n_same_text"]:
        yield _note(
            "duplicates",
            f"{_share(facts['n_same_text'], facts['n_responses'])} responses repeat a text of "
            f"their group, {facts['n_same_ids']:,} its tokens",
        )


def _of_length_bias(facts: CheckFacts) -> Iterator[Finding]:
    pairs, correlations = facts["pairs"], facts["reward_and_length"]
    wheres = {"within_prompts": "within prompts", "over_all": "over all responses"}
    for name, where in wheres.items():
        rho = correlations[name]
        if facts["n_responses"] < ENOUGH or rho is None or abs(rho) < STRONG_CORRELATION:
            continue
        which = "longer" if rho > 0 else "shorter"
        yield _warning(
            f"length_bias_{name}",
            f"rewards rise with {which} responses {where} (Spearman {rho:+.2f}): "
            "training may teach length first",
            "see rewards against lengths with `prefpipe inspect`, or train with a "
            "length-normalised objective such as simpo",
        )

    # Pairs of equal length speak for neither; without others there is no bias to see.
    n_unequal = pairs["chosen_longer"] + pairs["chosen_shorter"]
    share = pairs["chosen_longer"] / n_unequal if n_unequal else 0.5
    if n_unequal >= ENOUGH and not 1 - ONE_SIDED < share < ONE_SIDED:
        yield _warning(
            "length_tells_pairs",
            f"the chosen response is the longer one in {share:.0%} of {n_unequal:,} pairs of "
            "different length",
        )


def _of_ends(facts: CheckFacts) -> Iterator[Finding]:
    n = facts["n_responses"]
    n_cut = facts["finish_reasons"].get("length", 0)
    if n_cut:
        yield Finding(
            "warning" if n_cut >= MANY_CUT * n else "note",
            "cut_off",
            f"{_share(n_cut, n)} responses were cut at the token limit of generation: they end "
            "in the middle, without an end-of-sequence token",
            "generate with a larger --max-tokens",
        )
    n_at_stops = facts["problems"].get("stop_text", 0)
    if n_at_stops:
        yield _warning(
            "stop_text",
            f"{_share(n_at_stops, n)} responses end with a --stop text instead of an "
            "end-of-sequence token: the policy learns to write that "
            f"text{_example(facts, 'stop_text')}",
            "sample from the policy with the same --stop, or generate without",
        )
    n_open = facts["problems"].get("stop_without_eos", 0)
    if n_open:
        yield _warning(
            "stop_without_eos",
            f"{_share(n_open, n)} responses ended before the token limit without an "
            "end-of-sequence token: the policy does not learn to "
            f"stop{_example(facts, 'stop_without_eos')}",
            "a stop string ended them; generate with the model's own end-of-sequence token",
        )


def _error(name: str, message: str, hint: str | None = None) -> Finding:
    return Finding("error", name, message, hint)


def _warning(name: str, message: str, hint: str | None = None) -> Finding:
    return Finding("warning", name, message, hint)


def _note(name: str, message: str) -> Finding:
    return Finding("note", name, message)


def _example(facts: CheckFacts, name: str) -> str:
    example = facts["examples"].get(name)
    return "" if example is None else f" ({example})"


def _many(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _share(n: int, total: int) -> str:
    return f"{n:,} of {total:,} ({n / total:.1%})" if total else f"{n:,}"
