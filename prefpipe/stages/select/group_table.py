"""Chosen candidates as the rows of ``groups``, column by column."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.schemas import BEATS, GROUPS
from prefpipe.configs.select import SelectConfig
from prefpipe.maths.selection.pairs import build_pairs
from prefpipe.maths.selection.screening import is_none
from prefpipe.maths.selection.select_pools import Selection
from prefpipe.stages.shared.candidate_rows import further_columns
from prefpipe.stages.shared.pool_index import Screened

TEXT_COLUMNS = (
    "messages",
    "response",
    "model",
    "prompt_token_ids",
    "response_token_ids",
    "n_prompt_tokens",
    "n_response_tokens",
    "finish_reason",
    "logp",
)


class _Rows:
    """The rows to write, in order: L of them.

    ``prompts`` and ``places`` (L,) say which candidate; ``is_rejection`` (L,): the one row of a prompt without a group;
    ``is_negative`` (L,); ``slots`` (L,) the place among the prompt's chosen negatives.
    """

    def __init__(self, screened: Screened, selection: Selection) -> None:
        is_rejected_P1 = ~is_none(screened.verdicts)[:, None]
        # A row a prompt: the rejection first, then positives, then negatives; flattened it is the order of the table.
        width = selection.positives.shape[1]
        places_PL = np.concatenate(
            [np.where(is_rejected_P1, 0, -1), selection.positives, selection.negatives], axis=1
        )
        self.prompts, columns = np.nonzero(places_PL >= 0)
        self.places = places_PL[self.prompts, columns]
        self.is_rejection = columns == 0
        self.is_negative = columns > width
        self.slots = columns - width - 1
        self.origin = screened.pools.starts[self.prompts] + self.places

    def of_prompts(self, values_P: np.ndarray) -> np.ndarray:
        return np.asarray(values_P[self.prompts])


def group_table(
    table: pa.Table, screened: Screened, selection: Selection, config: SelectConfig
) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows of ``groups`` for one part and how many have each status.

    Args:
        table: the candidates, in the order of ``screened.pools``.
        screened: what was found out about them.
        selection: what was chosen.
        config: for ``--pairs``.
    """
    rows = _Rows(screened, selection)
    schema = GROUPS.arrow()
    own = _selection_columns(rows, screened, selection)
    own["prompt_id"] = screened.pools.prompt_ids.take(pa.array(rows.prompts))
    own["beats"] = _beats(rows, screened, config)
    own["status"], own["reason"] = _statuses(rows, screened)
    origin = pa.array(rows.origin, pa.int64())
    text = table.select(["messages"]).take(origin)
    kept = table.select(TEXT_COLUMNS[1:]).take(
        pa.array(rows.origin, pa.int64(), mask=rows.is_rejection)
    )
    columns = []
    for field in schema:
        source = text if field.name == "messages" else kept
        column = own[field.name] if field.name in own else source[field.name]
        columns.append(column.cast(field.type) if column.type != field.type else column)
    written = pa.Table.from_arrays(columns, schema=schema)
    theirs = further_columns(table).take(origin)
    for field, column in zip(theirs.schema, theirs.columns, strict=True):
        written = written.append_column(field, column)
    verdicts = Counter(screened.verdicts[rows.prompts[rows.is_rejection]].tolist())
    n_kept = int((~rows.is_rejection).sum())
    return written, dict(verdicts) | ({"ok": n_kept} if n_kept else {})


def _selection_columns(
    rows: _Rows, screened: Screened, selection: Selection
) -> dict[str, pa.Array]:
    ranks_PR = np.empty(screened.kept.shape, dtype=np.int32)
    best_first_PR = np.argsort(
        np.where(screened.kept, -np.nan_to_num(screened.rewards), np.inf), axis=1, kind="stable"
    )
    np.put_along_axis(
        ranks_PR, best_first_PR, np.arange(screened.pools.shape[1], dtype=np.int32)[None], axis=1
    )
    no_group = rows.is_rejection
    at = (rows.prompts, rows.places)
    clusters = selection.clusters[at]
    gains = np.where(
        rows.is_negative, selection.gains[rows.prompts, np.maximum(rows.slots, 0)], np.nan
    )
    cost, bound = rows.of_prompts(selection.cost), rows.of_prompts(selection.lower_bound)
    roles = pa.array(np.where(rows.is_negative, 1, 0), mask=no_group)
    return {
        "sample_idx": pa.array(screened.pools.samples[rows.origin].astype(np.int32), mask=no_group),
        "role": pa.array(["positive", "negative"]).take(roles),
        "rank": pa.array(ranks_PR[at], mask=no_group),
        "reward": pa.array(screened.rewards[at], mask=no_group),
        "cluster": pa.array(clusters.astype(np.int32), mask=no_group | (clusters < 0)),
        "represents": _represents(rows, screened, selection),
        "marginal_gain": pa.array(gains, mask=np.isnan(gains)),
        "cost": pa.array(cost, mask=no_group | np.isnan(cost)),
        "lower_bound": pa.array(bound, mask=no_group | np.isnan(bound)),
        "is_optimal": pa.array(
            rows.of_prompts(selection.is_optimal), mask=no_group | np.isnan(bound)
        ),
    }


def _represents(rows: _Rows, screened: Screened, selection: Selection) -> pa.Array:
    """Return for each negative the samples that it is nearest to, by sample index; null in other rows and without distances."""
    members = np.nonzero(selection.represents >= 0)
    by_owner = np.lexsort((members[1], selection.represents[members], members[0]))
    prompts, places = members[0][by_owner], members[1][by_owner]
    samples = screened.pools.samples[screened.pools.starts[prompts] + places].astype(np.int32)
    # The negatives of a prompt stand by place, as the owners do here, and each owns itself at least.
    width = screened.kept.shape[1]
    owners = prompts * width + selection.represents[prompts, places]
    has_members = rows.is_negative if len(samples) else np.zeros(len(rows.prompts), dtype=bool)
    sizes = np.zeros(len(rows.prompts), dtype=np.int64)
    _, sizes[has_members] = np.unique(owners, return_counts=True) if len(samples) else (None, 0)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(samples), mask=pa.array(~has_members)
    )


def _beats(rows: _Rows, screened: Screened, config: SelectConfig) -> pa.Array:
    """Return each row's pairs: null throughout unless pairs were asked for."""
    found: list[Any] = [None] * len(rows.prompts)
    if config.pairs is not None or config.max_pairs is not None:
        rule = config.pairs or "positive-negative"
        rewards = screened.rewards[rows.prompts, rows.places]
        kept = np.flatnonzero(~rows.is_rejection)
        starts = np.flatnonzero(np.diff(rows.prompts[kept], prepend=-1))
        for group in np.split(kept, starts[1:]) if len(kept) else []:
            prompt_id = screened.pools.prompt_ids[int(rows.prompts[group[0]])].as_py()
            pairs = build_pairs(
                rewards[group],
                ~rows.is_negative[group],
                rule,
                max_pairs=config.max_pairs,
                min_margin=config.min_margin,
                seed=seed_for(config.seed, prompt_id, 1),
            )
            for row in group:
                found[row] = []
            for pair in pairs:
                rejected = int(screened.pools.samples[rows.origin[group[pair.rejected]]])
                found[group[pair.chosen]].append({"sample_idx": rejected, "margin": pair.margin})
    return pa.array(found, BEATS)


def _statuses(rows: _Rows, screened: Screened) -> tuple[pa.Array, pa.Array]:
    statuses = np.full(len(rows.prompts), "ok", dtype=object)
    reasons = np.full(len(rows.prompts), None, dtype=object)
    for row in np.flatnonzero(rows.is_rejection):
        prompt = rows.prompts[row]
        statuses[row] = screened.verdicts[prompt]
        reasons[row] = _what_was_wrong(screened, int(prompt))
    return pa.array(statuses, pa.string()), pc.cast(pa.array(reasons, pa.string()), pa.string())


def _what_was_wrong(screened: Screened, prompt: int) -> str:
    """Describe the candidates of a prompt that has no group."""
    start, size = int(screened.pools.starts[prompt]), int(screened.pools.sizes[prompt])
    reasons = screened.reasons[start : start + size].tolist()
    flaws = Counter(reason for reason in reasons if reason is not None)
    rewards = screened.rewards[prompt, :size]
    finite = rewards[np.isfinite(rewards)]
    spread = f"rewards {finite.min():g} to {finite.max():g}" if len(finite) else "no rewards"
    told = "".join(f", {count} {reason}" for reason, count in flaws.most_common())
    return f"{size} candidates, {reasons.count(None)} usable{told}; {spread}"
