"""One prompt with all its candidates, put together from the artifacts that know something of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.rewards import parse_reward

SHOWN_IDS = 5
CANDIDATE_COLUMNS = [
    "prompt_id",
    "sample_idx",
    "messages",
    "response",
    "model",
    "n_prompt_tokens",
    "n_response_tokens",
    "finish_reason",
    "logp",
    "temperature",
    "duplicate_of",
    "status",
    "reason",
]
GROUP_COLUMNS = [
    "prompt_id",
    "sample_idx",
    "role",
    "rank",
    "reward",
    "cluster",
    "represents",
    "marginal_gain",
    "beats",
    "messages",
    "response",
    "model",
    "n_prompt_tokens",
    "n_response_tokens",
    "finish_reason",
    "logp",
    "status",
    "reason",
]
Row = dict[str, Any]


@dataclass(frozen=True)
class PromptSources:
    """The artifacts of one run that speak of the same candidates; each may be absent, not both first ones."""

    candidates: Artifact | None = None
    groups: Artifact | None = None
    scores: Artifact | None = None

    @property
    def index(self) -> Artifact:
        """The artifact whose prompts can be asked for."""
        found = self.candidates or self.groups
        assert found is not None
        return found


def find_prompt(artifact: Artifact, wanted: str) -> tuple[str, int]:
    """Return the id that ``wanted`` is, or is the beginning of, and the part it is in.

    Raises:
        UsageError: no such id, or several; the message names a few.
    """
    parts: dict[str, int] = {}
    for index in artifact.present(range(artifact.n_parts), allow_partial=True):
        for prompt_id in artifact.read(index, ["prompt_id"])[0]["prompt_id"].to_pylist():
            parts.setdefault(prompt_id, index)
    if wanted in parts:
        return wanted, parts[wanted]
    found = [prompt_id for prompt_id in parts if prompt_id.startswith(wanted)]
    if len(found) == 1:
        return found[0], parts[found[0]]
    what = "no prompt" if not found else f"{len(found)} prompts"
    examples = ", ".join(prompt_id[:80] for prompt_id in (found or list(parts))[:SHOWN_IDS])
    raise UsageError(
        f"--prompt-id {wanted}: {artifact.path} has {what} with an id that begins so",
        hint=f"{'give more of the id' if found else 'its ids are, for example'}: {examples}",
    )


def one_prompt(sources: PromptSources, wanted: str, reward: str | None = None) -> dict[str, Any]:
    """Return the prompt, its place in the selection, and every candidate, ranked, as JSON values.

    Candidates stand by reward, the highest first, then by sample index; those without a reward last. The reward
    is the expression ``reward``, else what the groups were selected with, else the first scorer.

    Raises:
        UsageError: no such prompt, or ``reward`` names a scorer that is not there.
    """
    return prompt_of_part(sources, *find_prompt(sources.index, wanted), reward)


def prompt_of_part(
    sources: PromptSources, prompt_id: str, part: int, reward: str | None = None
) -> dict[str, Any]:
    """Return what `one_prompt` does for a prompt whose id and part are known."""
    candidates = _rows_of(sources.candidates, part, prompt_id, CANDIDATE_COLUMNS)
    groups = _rows_of(sources.groups, part, prompt_id, GROUP_COLUMNS)
    scores = _rows_of(
        sources.scores,
        part,
        prompt_id,
        ["prompt_id", "sample_idx", "scorer", "reward", "status", "reason"],
    )
    kept = {row["sample_idx"]: row for row in groups if row["role"] is not None}
    rows = candidates or list(kept.values())
    expression = _expression(sources, scores, reward)
    rewards = (
        _rewards(expression, rows, scores)
        if scores
        else {idx: row["reward"] for idx, row in kept.items()}
    )
    entries = [
        _entry(row, kept.get(row["sample_idx"]), scores, rewards.get(row["sample_idx"]))
        for row in rows
    ]
    _add_pairs(entries, kept)
    entries.sort(
        key=lambda entry: (entry["reward"] is None, -(entry["reward"] or 0.0), entry["sample_idx"])
    )
    for rank, entry in enumerate(entries, start=1):
        entry["rank"] = rank if entry["reward"] is not None else None
    rejection = next((row for row in groups if row["role"] is None), None)
    return {
        "prompt_id": prompt_id,
        "part": part,
        "messages": (candidates or groups)[0]["messages"],
        "ranked_by": expression if scores else ("reward in the groups" if kept else None),
        "group": _group_words(sources.groups, groups, rejection),
        "n_candidates": len(entries),
        "candidates": entries,
    }


def _rows_of(
    artifact: Artifact | None, part: int, prompt_id: str, columns: Sequence[str]
) -> list[Row]:
    if artifact is None or artifact.missing([part]):
        return []
    table, _ = artifact.read(part, columns)
    return rows_of(table.filter(pc.equal(table["prompt_id"], prompt_id)))


def _expression(sources: PromptSources, scores: Sequence[Row], reward: str | None) -> str | None:
    if reward is not None:
        if not scores:
            raise UsageError(
                "--reward needs scores", hint="pass the folder that score wrote with --scores"
            )
        return reward
    selected = sources.groups.record.identity.get("reward") if sources.groups is not None else None
    held = list(dict.fromkeys(row["scorer"] for row in scores))
    if isinstance(selected, str) and set(parse_reward(selected).names) <= set(held):
        return selected
    return held[0] if held else None


def _rewards(
    expression: str | None, rows: Sequence[Row], scores: Sequence[Row]
) -> dict[int, float | None]:
    if expression is None:
        return {}
    known: dict[str, dict[int, float]] = {}
    for row in scores:
        of_scorer = known.setdefault(row["scorer"], {})
        if row["sample_idx"] in of_scorer:
            raise InputError(
                f"scorer {row['scorer']} has two scores for sample {row['sample_idx']} of this prompt"
            )
        of_scorer[row["sample_idx"]] = math.nan if row["reward"] is None else row["reward"]
    samples = [row["sample_idx"] for row in rows]
    columns = {
        scorer: np.array([values.get(idx, np.nan) for idx in samples])
        for scorer, values in known.items()
    }
    values = parse_reward(expression).evaluate(columns).tolist()
    return {
        idx: value if math.isfinite(value) else None
        for idx, value in zip(samples, values, strict=True)
    }


def _entry(
    row: Row, kept: Row | None, scores: Sequence[Row], reward: float | None
) -> dict[str, Any]:
    own = [score for score in scores if score["sample_idx"] == row["sample_idx"]]
    return {
        "rank": None,
        "sample_idx": row["sample_idx"],
        "reward": reward,
        "role": kept["role"] if kept is not None else None,
        "cluster": kept["cluster"] if kept is not None else None,
        "represents": kept["represents"] if kept is not None else None,
        "marginal_gain": kept["marginal_gain"] if kept is not None else None,
        "beats": None,
        "beaten_by": None,
        "scores": {score["scorer"]: score["reward"] for score in own},
        "score_problems": {
            score["scorer"]: f"{score['status']}: {score['reason']}"
            for score in own
            if score["status"] != "ok"
        },
        "status": row["status"],
        "reason": row["reason"],
        "n_response_tokens": row["n_response_tokens"],
        "finish_reason": row["finish_reason"],
        "logp": row["logp"],
        "model": row["model"],
        "temperature": row.get("temperature"),
        "duplicate_of": row.get("duplicate_of"),
        "response": row["response"],
    }


def _add_pairs(entries: Sequence[dict[str, Any]], kept: Mapping[int, Row]) -> None:
    """Tell each kept candidate which it is to beat and which are to beat it, where select wrote pairs down."""
    if all(row["beats"] is None for row in kept.values()):
        return
    pairs = [(idx, pair) for idx, row in kept.items() for pair in row["beats"] or ()]
    for entry in entries:
        own = entry["sample_idx"]
        if own in kept:
            entry["beats"] = [dict(pair) for idx, pair in pairs if idx == own]
            entry["beaten_by"] = [
                pair | {"sample_idx": idx} for idx, pair in pairs if pair["sample_idx"] == own
            ]


def _group_words(
    artifact: Artifact | None, groups: Sequence[Row], rejection: Row | None
) -> Mapping[str, Any] | None:
    """Return what select made of the prompt: its strategy and roles, or why it was rejected."""
    if artifact is None or not groups:
        return None
    strategy = artifact.record.identity.get("strategy")
    if rejection is not None:
        return {"strategy": strategy, "status": rejection["status"], "reason": rejection["reason"]}
    roles = [row["role"] for row in groups]
    return {
        "strategy": strategy,
        "status": "ok",
        "n_positives": roles.count("positive"),
        "n_negatives": roles.count("negative"),
    }
