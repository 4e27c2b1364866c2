"""The summary of a whole selection, from the sums of its parts (`prefpipe.stages.select.tally`)."""

from collections.abc import Mapping
from typing import Any

from prefpipe.maths.compute.training_compute import share_of_tokens_kept, tallied_tokens
from prefpipe.stages.select.tally import CHARS_PER_TOKEN, LEFT_OUT, OWNED, REJECTED


def describe_tally(tally: Mapping[str, float], strategy: str) -> list[str]:
    """Return the lines of the summary."""
    if not tally.get("n_prompts"):
        return []
    n_groups = tally["n_groups"]
    groups = _many(n_groups, "group")
    n_candidates = _many(tally["n_candidates"], "candidate")
    lines = [f"{n_candidates} in, {tally['n_kept']:,} kept in {groups}"]
    if "n_earlier" in tally:
        lines.append(
            f"of earlier rounds: {tally['n_earlier']:,} of the candidates in, "
            f"{tally['n_kept_earlier']:,} of those kept; "
            f"{tally['n_prompts_joined']:,} of {_many(tally['n_prompts'], 'prompt')} have any"
        )
    for reason, count in _ranked(tally, LEFT_OUT):
        lines.append(f"{_many(count, 'candidate')} left out: {reason}")
    for reason, count in _ranked(tally, REJECTED):
        lines.append(f"{_many(count, 'prompt')} rejected: {reason}")
    if not n_groups:
        return [*lines, "no prompt has a group: there is nothing to train on"]

    facts = facts_of_tally(tally)
    if facts["mean_pool_spread"] is not None:
        lines.append(
            "mean reward spread, highest minus lowest: "
            f"{facts['mean_pool_spread']:.4g} in the pools, "
            f"{facts['mean_kept_spread']:.4g} in the groups"
        )
    if strategy == "opt-select":
        lines.append(f"{facts['n_optimal']:,} of {groups} proven optimal")
        if facts["n_owned"]:
            lines.append(
                f"in {facts['n_owned']:,} of {groups} one response has {OWNED:.0%} or more of "
                "the weights exp((mean r - r)/T): the other responses decide only what it leaves "
                "open; pass --weight-temperature auto to let them count"
            )
    if facts["coverage_cost"] is not None:
        lines.append(
            "mean coverage cost, with k random candidates 1: "
            f"{facts['coverage_cost']:.3f}; the k lowest rewards "
            f"{facts['coverage_cost_bottom_k']:.3f}"
        )

    # The one figure that `savings` and `report` show too: a prompt counts once a group.
    share = share_of_tokens_kept(tally)
    if share is not None:
        lines.append(
            f"{facts['kept_tokens']:,} of {facts['usable_tokens']:,} tokens kept ({share:.0%} of "
            "training on every usable candidate, each prompt computed once per group); `prefpipe "
            "savings` shows what that saves"
        )
    if tally["usable_estimated"]:
        candidates = _many(tally["usable_estimated"], "usable candidate")
        lines.append(
            f"{candidates} without token counts: they are estimated at {CHARS_PER_TOKEN} "
            "characters per token"
        )
    return lines


def facts_of_tally(tally: Mapping[str, float]) -> dict[str, Any]:
    """Return what ``--json`` carries of the summary."""
    n_groups = tally.get("n_groups", 0)
    facts: dict[str, Any] = {
        "n_groups": n_groups,
        "n_rejected": dict(_ranked(tally, REJECTED)),
        "candidates_left_out": dict(_ranked(tally, LEFT_OUT)),
    }
    for name in ("n_prompts", "n_candidates", "n_usable", "n_kept", "n_optimal", "n_owned"):
        facts[name] = tally.get(name, 0)
    for name in ("n_earlier", "n_kept_earlier", "n_prompts_joined"):
        if name in tally:
            facts[name] = tally[name]

    n_covered = tally.get("n_covered", 0)
    facts["coverage_cost"] = None
    facts["coverage_cost_bottom_k"] = None
    if n_covered:
        facts["coverage_cost"] = tally["cost_share"] / n_covered
        facts["coverage_cost_bottom_k"] = tally["bottom_k_cost_share"] / n_covered

    for name in ("pool_spread", "kept_spread"):
        is_known = n_groups and name in tally
        facts[f"mean_{name}"] = tally[name] / n_groups if is_known else None

    facts["usable_tokens"], facts["kept_tokens"] = 0, 0
    if tally.get("n_usable"):
        pool, kept = tallied_tokens(tally, shared_prompt=True)
        facts["usable_tokens"], facts["kept_tokens"] = pool.tokens, kept.tokens
    return facts


def _many(count: float, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _ranked(tally: Mapping[str, float], prefix: str) -> list[tuple[str, float]]:
    """Return the counts under a prefix, the largest first, then by name."""
    counts = [
        (name.removeprefix(prefix), count)
        for name, count in tally.items()
        if name.startswith(prefix)
    ]
    return sorted(counts, key=lambda item: (-item[1], item[0]))
