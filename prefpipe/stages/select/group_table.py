"""Chosen candidates as the rows of ``groups``, column by column."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.schemas import BEATS, EARLIER_COLUMNS, GROUPS
from prefpipe.configs.select import SelectConfig
from prefpipe.maths.selection.pairs import build_pairs
from prefpipe.maths.selection.screening import is_none
from prefpipe.maths.selection.select_pools import Selection
from prefpipe.stages.select.screening import ScreenedPart
from prefpipe.stages.shared.candidate_rows import further_columns

CANDIDATE_COLUMNS = (
    "response",
    "model",
    "prompt_token_ids",
    "response_token_ids",
    "n_prompt_tokens",
    "n_response_tokens",
    "finish_reason",
    "logp",
)
"""Columns that a row takes over from its candidate; null in the row of a rejected prompt."""


class _GroupRows:
    """The rows to write, in order: L of them.

    - ``prompts`` and ``places`` (L,): which candidate;
    - ``origin`` (L,): its row in the table of candidates;
    - ``is_rejection`` (L,): the one row of a prompt without a group;
    - ``is_negative`` (L,);
    - ``slots`` (L,): the place among the prompt's chosen negatives.
    """

    def __init__(self, screened: ScreenedPart, selection: Selection) -> None:
        # A row a prompt: the rejection first, then positives, then negatives. Flattened it is the
        # order of the table. A rejection stands for the prompt's first candidate.
        is_rejected_P1 = ~is_none(screened.rejections)[:, None]
        rejections_P1 = np.where(is_rejected_P1, 0, -1)
        places_PL = np.concatenate(
            [rejections_P1, selection.positives, selection.negatives], axis=1
        )
        n_positives = selection.positives.shape[1]

        self.prompts, columns = np.nonzero(places_PL >= 0)
        self.places = places_PL[self.prompts, columns]
        self.origin = screened.pools.starts[self.prompts] + self.places
        self.is_rejection = columns == 0
        self.is_negative = columns > n_positives
        self.slots = columns - n_positives - 1

    def of_prompts(self, values_P: np.ndarray) -> np.ndarray:
        """Return (L,) the value of each row's prompt."""
        return np.asarray(values_P[self.prompts])


def group_table(
    screened: ScreenedPart, selection: Selection, config: SelectConfig
) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows of ``groups`` for one part and how many have each status.

    Args:
        screened: the candidates, and what screening said of them.
        selection: what was chosen.
        config: for ``--pairs``.
    """
    rows = _GroupRows(screened, selection)

    # What selection says of a row, then what the row takes over from its candidate.
    made = _selection_columns(rows, screened, selection)
    made["prompt_id"] = screened.pools.prompt_ids.take(pa.array(rows.prompts))
    made["beats"] = _beats(rows, screened, config)
    made["status"], made["reason"] = _statuses(rows, screened)
    origin = pa.array(rows.origin, pa.int64())
    # A rejected prompt's row has its conversation, and nothing of a candidate.
    origin_if_kept = pa.array(rows.origin, pa.int64(), mask=rows.is_rejection)
    taken = screened.table.select(CANDIDATE_COLUMNS).take(origin_if_kept)
    taken = taken.append_column("messages", screened.table["messages"].take(origin))

    schema = GROUPS.arrow()
    columns = []
    for field in schema:
        column = made[field.name] if field.name in made else taken[field.name]
        columns.append(column if column.type == field.type else column.cast(field.type))
    groups = pa.Table.from_arrays(columns, schema=schema)

    # The user's own columns are behind; where rounds were joined, whose a row is before them.
    further = further_columns(screened.table)
    whose = [column.name for column in EARLIER_COLUMNS if column.name in further.column_names]
    for name in whose:
        column = further[name].take(origin_if_kept)
        groups = groups.append_column(pa.field(name, column.type), column)
    users = further.drop_columns(whose).take(origin)
    for field, column in zip(users.schema, users.columns, strict=True):
        groups = groups.append_column(field, column)

    rejected_prompts = rows.prompts[rows.is_rejection]
    counts = dict(Counter(screened.rejections[rejected_prompts].tolist()))
    n_kept = int((~rows.is_rejection).sum())
    if n_kept:
        counts["ok"] = n_kept
    return groups, counts


def _selection_columns(
    rows: _GroupRows, screened: ScreenedPart, selection: Selection
) -> dict[str, pa.Array]:
    """Return the columns that selection fills in; null where a prompt was rejected."""
    at = (rows.prompts, rows.places)
    no_group = rows.is_rejection
    samples = screened.pools.samples[rows.origin].astype(np.int32)
    roles = pa.array(rows.is_negative.astype(np.int64), mask=no_group)
    clusters = selection.clusters[at].astype(np.int32)

    # Only negatives have a slot; what other rows read is masked below.
    gains = selection.gains[rows.prompts, np.maximum(rows.slots, 0)]
    gains = np.where(rows.is_negative, gains, np.nan)
    cost = rows.of_prompts(selection.cost)
    bound = rows.of_prompts(selection.lower_bound)
    is_optimal = rows.of_prompts(selection.is_optimal)
    return {
        "sample_idx": pa.array(samples, mask=no_group),
        "role": pa.array(["positive", "negative"]).take(roles),
        "rank": pa.array(_ranks(screened)[at], mask=no_group),
        "reward": pa.array(screened.rewards[at], mask=no_group),
        "cluster": pa.array(clusters, mask=no_group | (clusters < 0)),
        "represents": _represents(rows, screened, selection),
        "marginal_gain": pa.array(gains, mask=np.isnan(gains)),
        "cost": pa.array(cost, mask=no_group | np.isnan(cost)),
        "lower_bound": pa.array(bound, mask=no_group | np.isnan(bound)),
        "is_optimal": pa.array(is_optimal, mask=no_group | np.isnan(bound)),
    }


def _ranks(screened: ScreenedPart) -> np.ndarray:
    """Return (P, R) the rank of each usable candidate by reward, best 0; unusable ones last."""
    to_sort_by_PR = np.where(screened.usable, -np.nan_to_num(screened.rewards), np.inf)
    # Stable: of equal rewards the lower sample comes first.
    best_first_PR = np.argsort(to_sort_by_PR, axis=1, kind="stable")
    ranks_PR = np.empty(screened.usable.shape, dtype=np.int32)
    all_ranks = np.arange(screened.pools.shape[1], dtype=np.int32)
    np.put_along_axis(ranks_PR, best_first_PR, all_ranks[None], axis=1)
    return ranks_PR


def _represents(rows: _GroupRows, screened: ScreenedPart, selection: Selection) -> pa.Array:
    """Return for each negative the samples that it is nearest to, by sample index.

    Null in other rows, and without distances.
    """
    prompts, places = np.nonzero(selection.represents >= 0)
    owners = selection.represents[prompts, places]
    by_owner = np.lexsort((places, owners, prompts))
    prompts, places, owners = prompts[by_owner], places[by_owner], owners[by_owner]
    samples = screened.pools.samples[screened.pools.starts[prompts] + places].astype(np.int32)

    # The negatives of a prompt stand by place, as the owners do here; each owns itself at least.
    sizes = np.zeros(len(rows.prompts), dtype=np.int64)
    has_members = np.zeros(len(rows.prompts), dtype=bool)
    if len(samples):
        has_members = rows.is_negative
        n_candidates = screened.usable.shape[1]
        _, sizes[has_members] = np.unique(prompts * n_candidates + owners, return_counts=True)

    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(samples), mask=pa.array(~has_members)
    )


def _beats(rows: _GroupRows, screened: ScreenedPart, config: SelectConfig) -> pa.Array:
    """Return each row's pairs; null throughout unless pairs were requested."""
    beats: list[Any] = [None] * len(rows.prompts)
    if config.pairs is None and config.max_pairs is None:
        return pa.array(beats, BEATS)

    rewards = screened.rewards[rows.prompts, rows.places]
    kept = np.flatnonzero(~rows.is_rejection)
    starts = np.flatnonzero(np.diff(rows.prompts[kept], prepend=-1))
    for group in np.split(kept, starts[1:]):
        # The rows of one prompt; np.split makes one empty group of no rows at all.
        if not len(group):
            continue
        prompt_id = screened.pools.prompt_ids[int(rows.prompts[group[0]])].as_py()
        pairs = build_pairs(
            rewards[group],
            ~rows.is_negative[group],
            config.pairs or "positive-negative",
            max_pairs=config.max_pairs,
            min_margin=config.min_margin,
            seed=seed_for(config.seed, prompt_id, 1),  # 0 is the strategy's
        )
        # Null would say that every positive beats every negative; [] beats nothing.
        for row in group:
            beats[row] = []
        for pair in pairs:
            rejected = int(screened.pools.samples[rows.origin[group[pair.rejected]]])
            beats[group[pair.chosen]].append({"sample_idx": rejected, "margin": pair.margin})
    return pa.array(beats, BEATS)


def _statuses(rows: _GroupRows, screened: ScreenedPart) -> tuple[pa.Array, pa.Array]:
    """Return each row's status, and the reason of a prompt without a group."""
    statuses = np.full(len(rows.prompts), "ok", dtype=object)
    reasons = np.full(len(rows.prompts), None, dtype=object)
    for row in np.flatnonzero(rows.is_rejection):
        prompt = int(rows.prompts[row])
        statuses[row] = screened.rejections[prompt]
        reasons[row] = _why_no_group(screened, prompt)
    return pa.array(statuses, pa.string()), pa.array(reasons, pa.string())


def _why_no_group(screened: ScreenedPart, prompt: int) -> str:
    """Describe the candidates of a prompt that has no group."""
    start = int(screened.pools.starts[prompt])
    size = int(screened.pools.sizes[prompt])
    reasons = Counter(screened.reasons[start : start + size].tolist())
    n_usable = reasons.pop(None, 0)
    flaws = "".join(f", {count} {reason}" for reason, count in reasons.most_common())

    rewards = screened.rewards[prompt, :size]
    finite = rewards[np.isfinite(rewards)]
    spread = f"rewards {finite.min():g} to {finite.max():g}" if len(finite) else "no rewards"
    words = f"{size} candidates, {n_usable} usable{flaws}; {spread}"
    # What a filter of prompts compared.
    particulars = screened.particulars[prompt]
    return words if particulars is None else f"{particulars}; {words}"
