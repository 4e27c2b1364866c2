"""The sums of one part's selection, which its footer carries.

Because they are in the footers, the summary covers every part of the run, including parts kept from
an earlier run.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.maths.selection.screening import is_none
from prefpipe.maths.selection.select_pools import Selection
from prefpipe.stages.select.screening import ScreenedPart
from prefpipe.stages.shared.earlier_rounds import EARLIER
from prefpipe.stages.shared.pool_index import flat

LEFT_OUT, REJECTED = "left_out.", "rejected."
"""Prefixes of sums by reason: of candidates, and of prompts."""
OWNED = 0.99
"""A share of Opt-Select's weights from which one response owns the sum."""
CHARS_PER_TOKEN = 4
"""About right for English text; used if token counts are not known."""


def tally_of(screened: ScreenedPart, selection: Selection, groups: pa.Table) -> dict[str, float]:
    """Return the sums of one part: prompts, candidates and tokens before and after, and costs.

    Token sums come twice: over the usable candidates of the prompts that got a group, which
    training on everything would see, and over the kept ones. A prompt's tokens count once per
    response, ``group_prompt_tokens`` once per group. Unknown token counts (imported responses) are
    estimated with `CHARS_PER_TOKEN`, and counted as estimated.

    Args:
        screened: the candidates, and what screening said of them.
        selection: what was chosen.
        groups: the rows that were made of it.
    """
    pools = screened.pools
    has_group_P = is_none(screened.rejections)
    usable_N = pools.unpad(screened.usable & has_group_P[:, None])
    is_kept = flat(groups, "role").is_valid().to_numpy(zero_copy_only=False)
    tally: dict[str, float] = {
        "n_prompts": len(has_group_P),
        "n_groups": int(has_group_P.sum()),
        "n_candidates": len(pools.prompts),
        "n_usable": int(usable_N.sum()),
        "n_kept": int(is_kept.sum()),
        **_token_sums(screened.table, usable_N, "usable"),
        **_token_sums(groups, is_kept, "kept"),
        **_spreads(screened, selection, has_group_P),
        **_costs(selection, has_group_P),
        "group_prompt_tokens": _prompt_tokens_once(groups, is_kept),
    }

    if EARLIER in screened.table.column_names:
        tally |= _of_earlier_rounds(screened, groups)
    tally |= _counts(screened.reasons, LEFT_OUT)
    tally |= _counts(screened.rejections, REJECTED)
    not_selected = tally["n_usable"] - tally["n_kept"]
    if not_selected:
        tally[LEFT_OUT + "not_selected"] = not_selected
    return tally


def _of_earlier_rounds(screened: ScreenedPart, groups: pa.Table) -> dict[str, float]:
    """Return the candidates and kept ones from earlier rounds, and the number of their prompts."""
    is_earlier = pc.greater(flat(screened.table, EARLIER), 0)
    prompts = flat(screened.table, "prompt_id").filter(is_earlier)
    kept = pc.greater(flat(groups, EARLIER), 0).fill_null(False)
    return {
        "n_prompts_joined": len(prompts.unique()),
        "n_earlier": int(pc.sum(is_earlier).as_py() or 0),
        "n_kept_earlier": int(pc.sum(kept).as_py() or 0),
    }


def _counts(reasons: np.ndarray, prefix: str) -> dict[str, float]:
    """Return how often each reason is in an array of objects, None if there is none."""
    names, counts = np.unique(reasons[~is_none(reasons)].astype(str), return_counts=True)
    return {prefix + str(name): int(n) for name, n in zip(names, counts, strict=True)}


def _token_sums(table: pa.Table, chosen_N: np.ndarray, name: str) -> dict[str, float]:
    prompt_N, response_N, is_estimated_N = token_counts(table)
    prompt, response = prompt_N[chosen_N], response_N[chosen_N]
    return {
        f"{name}_prompt_tokens": int(prompt.sum()),
        f"{name}_response_tokens": int(response.sum()),
        f"{name}_squared_tokens": int(((prompt + response) ** 2).sum()),
        f"{name}_estimated": int((chosen_N & is_estimated_N).sum()),
    }


def _prompt_tokens_once(groups: pa.Table, is_kept: np.ndarray) -> int:
    """Return the prompts' tokens, once a group: those of its first row."""
    numbers = flat(groups, "prompt_id").dictionary_encode().indices.to_numpy()
    begins_prompt = np.append(True, np.diff(numbers) != 0)
    prompt_tokens, _, _ = token_counts(groups)
    return int(prompt_tokens[is_kept & begins_prompt].sum())


def token_counts(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (N,) tokens of each row's prompt, of its response, and whether they are estimates.

    An estimate is of both, from characters.
    """
    n_prompt, n_response = flat(table, "n_prompt_tokens"), flat(table, "n_response_tokens")
    is_known = pc.and_(n_prompt.is_valid(), n_response.is_valid())
    is_estimated = ~is_known.to_numpy(zero_copy_only=False)
    prompt = np.asarray(n_prompt.fill_null(0).to_numpy(), dtype=np.int64)
    response = np.asarray(n_response.fill_null(0).to_numpy(), dtype=np.int64)
    if not is_estimated.any():
        return prompt, response, is_estimated

    # A prompt has the characters of all its turns: differences of a running sum over all turns.
    messages = flat(table, "messages")
    turns = pc.utf8_length(messages.flatten().field("content")).fill_null(0).to_numpy()
    running = np.append(0, np.cumsum(turns))
    # The offsets of a slice count from the start of the whole column.
    offsets = messages.offsets.to_numpy() - messages.offsets[0].as_py()
    prompt_chars = running[offsets[1:]] - running[offsets[:-1]]
    response_chars = pc.utf8_length(flat(table, "response")).fill_null(0).to_numpy()

    prompt = np.where(is_estimated, _tokens_of(prompt_chars), prompt)
    response = np.where(is_estimated, _tokens_of(response_chars), response)
    return prompt, response, is_estimated


def _tokens_of(chars: np.ndarray) -> np.ndarray:
    """Return about how many tokens so many characters are, rounded up."""
    return np.asarray(-(-chars // CHARS_PER_TOKEN))


def _spreads(
    screened: ScreenedPart, selection: Selection, has_group_P: np.ndarray
) -> dict[str, float]:
    """Return the sums, over groups, of highest minus lowest reward.

    ``pool_spread`` is that of the usable candidates, ``kept_spread`` that of the kept ones.
    """
    if not has_group_P.any():
        return {}
    rewards = screened.rewards[has_group_P]
    chosen = np.concatenate([selection.positives, selection.negatives], axis=1)[has_group_P]
    # -1 is no candidate: the reward it indexes is not used.
    kept_rewards = np.take_along_axis(rewards, np.maximum(chosen, 0), axis=1)
    with np.errstate(over="ignore"):
        pool_spread = float(_spread(rewards, screened.usable[has_group_P]).sum())
        kept_spread = float(_spread(kept_rewards, chosen >= 0).sum())
    return {"pool_spread": pool_spread, "kept_spread": kept_spread}


def _spread(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    highest = np.where(chosen, values, -np.inf).max(axis=1)
    lowest = np.where(chosen, values, np.inf).min(axis=1)
    return np.asarray(highest - lowest)


def _costs(selection: Selection, has_group_P: np.ndarray) -> dict[str, float]:
    """Return sums of costs in units of what k random candidates cost.

    The costs themselves are on their own scale for every prompt.
    """
    is_measured = has_group_P & ~np.isnan(selection.cost)
    if not is_measured.any():
        return {}
    sums: dict[str, float] = {}
    n_owned = int((is_measured & (selection.largest_share >= OWNED)).sum())
    if n_owned:
        sums["n_owned"] = n_owned

    # Where random candidates cost nothing there is no unit to measure by.
    comparable = is_measured & (selection.cost_random > 0.0)
    unit = selection.cost_random[comparable]
    sums["n_optimal"] = int(selection.is_optimal[is_measured].sum())
    sums["n_covered"] = int(comparable.sum())
    sums["cost_share"] = float((selection.cost[comparable] / unit).sum())
    sums["bottom_k_cost_share"] = float((selection.cost_bottom_k[comparable] / unit).sum())
    return sums
