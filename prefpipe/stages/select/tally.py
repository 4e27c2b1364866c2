"""What a selection came to: sums that each part records, and the summary they make of a whole run.

A part's sums lie in its footer, so the summary covers every part of the run, those that were kept from an earlier one included.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.maths.compute.training_compute import share_of_tokens_kept, tallied_tokens
from prefpipe.maths.selection.screening import is_none
from prefpipe.maths.selection.select_pools import Selection
from prefpipe.stages.shared.pool_index import Screened, flat

LEFT_OUT, REJECTED = "left_out.", "rejected."
OWNED = 0.99
"""A share of Opt-Select's weights from which one response owns the sum."""
CHARS_PER_TOKEN = 4
"""Of English text, about; for lengths that nobody counted."""


def tally_of(screened: Screened, selection: Selection, written: pa.Table) -> dict[str, float]:
    """Return the sums of one part: prompts, candidates and tokens before and after, and what the choices cost.

    Token sums come twice: over the usable candidates of the prompts that got a group, which is what training on everything
    would see, and over the kept ones. A prompt's tokens count once a response, ``group_prompt_tokens`` once a group. Where
    token counts are not known (imported responses) they are estimated, `CHARS_PER_TOKEN`, and counted as estimated.
    """
    has_group_P = is_none(screened.verdicts)
    pools = screened.pools
    kept_rows = flat(written, "role").is_valid().to_numpy(zero_copy_only=False)
    usable_N = (screened.kept & has_group_P[:, None])[pools.prompts, pools.places]
    tally: dict[str, float] = {
        "n_prompts": len(has_group_P),
        "n_groups": int(has_group_P.sum()),
        "n_candidates": len(pools.prompts),
        "n_usable": int(usable_N.sum()),
        "n_kept": int(kept_rows.sum()),
        **_token_sums(screened.table, usable_N, "usable"),
        **_token_sums(written, kept_rows, "kept"),
        **_spreads(screened, selection, has_group_P),
        **_costs(selection, has_group_P),
    }
    firsts = kept_rows & np.append(
        True, np.diff(flat(written, "prompt_id").dictionary_encode().indices.to_numpy()) != 0
    )
    tally["group_prompt_tokens"] = int(_lengths(written)[0][firsts].sum())
    for prefix, names in ((LEFT_OUT, screened.reasons), (REJECTED, screened.verdicts)):
        found, counts = np.unique(names[~is_none(names)].astype(str), return_counts=True)
        tally |= {prefix + str(name): int(count) for name, count in zip(found, counts, strict=True)}
    not_selected = tally["n_usable"] - tally["n_kept"]
    return tally | ({LEFT_OUT + "not_selected": not_selected} if not_selected else {})


def _token_sums(table: pa.Table, chosen_N: np.ndarray, name: str) -> dict[str, float]:
    prompt_N, response_N, is_estimated_N = _lengths(table)
    prompt, response = prompt_N[chosen_N], response_N[chosen_N]
    return {
        f"{name}_prompt_tokens": int(prompt.sum()),
        f"{name}_response_tokens": int(response.sum()),
        f"{name}_squared_tokens": int(((prompt + response) ** 2).sum()),
        f"{name}_estimated": int((chosen_N & is_estimated_N).sum()),
    }


def _lengths(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens of each row's prompt and response, and which rows are estimates from characters."""
    known = [flat(table, name) for name in ("n_prompt_tokens", "n_response_tokens")]
    is_estimated = ~(
        known[0].is_valid().to_numpy(zero_copy_only=False)
        & known[1].is_valid().to_numpy(zero_copy_only=False)
    )
    prompt, response = (
        np.asarray(column.fill_null(0).to_numpy(), dtype=np.int64) for column in known
    )
    if is_estimated.any():
        messages = flat(table, "messages")
        turns = pc.utf8_length(messages.flatten().field("content")).fill_null(0).to_numpy()
        ends = np.append(0, np.cumsum(turns))
        offsets = messages.offsets.to_numpy() - messages.offsets[0].as_py()
        chars = (
            ends[offsets[1:]] - ends[offsets[:-1]],
            pc.utf8_length(flat(table, "response")).fill_null(0).to_numpy(),
        )
        prompt, response = (
            np.where(is_estimated, -(-count // CHARS_PER_TOKEN), column)
            for column, count in zip((prompt, response), chars, strict=True)
        )
    return prompt, response, is_estimated


def _spreads(screened: Screened, selection: Selection, has_group_P: np.ndarray) -> dict[str, float]:
    """Return the sums, over groups, of highest minus lowest reward: of the usable pool and of what is kept of it."""
    if not has_group_P.any():
        return {}
    rewards, usable = screened.rewards[has_group_P], screened.kept[has_group_P]
    chosen_PK = np.concatenate([selection.positives, selection.negatives], axis=1)[has_group_P]
    kept = np.take_along_axis(rewards, np.maximum(chosen_PK, 0), axis=1)
    is_kept = chosen_PK >= 0
    with np.errstate(over="ignore"):
        return {
            "pool_spread": float(_spread(rewards, usable).sum()),
            "kept_spread": float(_spread(kept, is_kept).sum()),
        }


def _spread(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.asarray(
        np.where(chosen, values, -np.inf).max(axis=1) - np.where(chosen, values, np.inf).min(axis=1)
    )


def _costs(selection: Selection, has_group_P: np.ndarray) -> dict[str, float]:
    """Return sums of costs in units of what k random candidates cost: those of different prompts are on scales of their own."""
    is_measured = has_group_P & ~np.isnan(selection.cost)
    if not is_measured.any():
        return {}
    comparable = is_measured & (selection.cost_random > 0.0)
    unit = selection.cost_random[comparable]
    owned = is_measured & (selection.largest_share >= OWNED)
    return {
        **({"n_owned": int(owned.sum())} if owned.any() else {}),
        "n_optimal": int(selection.is_optimal[is_measured].sum()),
        "n_covered": int(comparable.sum()),
        "cost_share": float((selection.cost[comparable] / unit).sum()),
        "bottom_k_cost_share": float((selection.cost_bottom_k[comparable] / unit).sum()),
    }


def describe_tally(tally: Mapping[str, float], strategy: str) -> list[str]:
    """Return the lines of the summary."""
    if not tally.get("n_prompts"):
        return []
    groups = tally["n_groups"]
    lines = [
        f"{_many(tally['n_candidates'], 'candidate')} in, {tally['n_kept']:,} kept in {_many(groups, 'group')}"
    ]
    lines += [
        f"{_many(count, 'candidate')} left out: {name}" for name, count in _ranked(tally, LEFT_OUT)
    ]
    lines += [
        f"{_many(count, 'prompt')} rejected: {name}" for name, count in _ranked(tally, REJECTED)
    ]
    if not groups:
        return [*lines, "no prompt has a group: there is nothing to train on"]
    if "pool_spread" in tally:
        lines.append(
            f"mean reward spread, highest minus lowest: {tally['pool_spread'] / groups:.4g} in the pools, "
            f"{tally['kept_spread'] / groups:.4g} in the groups"
        )
    facts = facts_of_tally(tally)
    if strategy == "opt-select":
        lines.append(f"{tally.get('n_optimal', 0):,} of {_many(groups, 'group')} proven optimal")
        if facts["n_owned"]:
            lines.append(
                f"in {facts['n_owned']:,} of {_many(groups, 'group')} one response has {OWNED:.0%} or more of the weights "
                "exp((mean r - r)/T): the others decide only what it leaves open; --weight-temperature auto lets them count"
            )
    if facts["coverage_cost"] is not None:
        lines.append(
            f"mean coverage cost, with k random candidates 1: {facts['coverage_cost']:.3f}; "
            f"the k lowest rewards {facts['coverage_cost_bottom_k']:.3f}"
        )
    return lines + _token_lines(tally)


def _token_lines(tally: Mapping[str, float]) -> list[str]:
    share = share_of_tokens_kept(tally)
    lines = []
    if share is not None:
        pool, kept = tallied_tokens(tally, shared_prompt=True)
        lines.append(
            f"{kept.tokens:,} of {pool.tokens:,} tokens kept ({share:.0%} of training on every usable candidate, each prompt "
            "computed once a group); `prefpipe savings` says what that is worth"
        )
    if tally["usable_estimated"]:
        lines.append(
            f"{_many(tally['usable_estimated'], 'usable candidate')} without token counts: they are estimated at "
            f"{CHARS_PER_TOKEN} characters a token"
        )
    return lines


def _many(count: float, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _ranked(tally: Mapping[str, float], prefix: str) -> list[tuple[str, float]]:
    found = [
        (name.removeprefix(prefix), count)
        for name, count in tally.items()
        if name.startswith(prefix)
    ]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def facts_of_tally(tally: Mapping[str, float]) -> dict[str, Any]:
    """Return what ``--json`` carries of the summary."""
    groups = tally.get("n_groups", 0)
    facts: dict[str, Any] = {
        "n_groups": groups,
        "n_rejected": dict(_ranked(tally, REJECTED)),
        "candidates_left_out": dict(_ranked(tally, LEFT_OUT)),
    }
    for name in ("n_prompts", "n_candidates", "n_usable", "n_kept", "n_optimal"):
        facts[name] = tally.get(name, 0)
    facts["n_owned"] = tally.get("n_owned", 0)
    covered = tally.get("n_covered", 0)
    facts["coverage_cost"] = tally["cost_share"] / covered if covered else None
    facts["coverage_cost_bottom_k"] = tally["bottom_k_cost_share"] / covered if covered else None
    for name in ("pool_spread", "kept_spread"):
        facts[f"mean_{name}"] = tally[name] / groups if groups and name in tally else None
    is_measured = bool(tally.get("n_usable"))
    pool, kept = tallied_tokens(tally, shared_prompt=True) if is_measured else (None, None)
    facts["usable_tokens"] = 0 if pool is None else pool.tokens
    facts["kept_tokens"] = 0 if kept is None else kept.tokens
    return facts
