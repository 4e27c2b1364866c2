"""One prompt with all its candidates, assembled from the artifacts that hold data about it."""

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
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.earlier_rounds import EARLIER, EARLIER_SAMPLE

SHOWN_IDS = 5
ROW_COLUMNS = [
    "prompt_id",
    "sample_idx",
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
"""Columns that candidates and groups both have."""
CANDIDATE_COLUMNS = [*ROW_COLUMNS, "temperature", "duplicate_of"]
GROUP_COLUMNS = [
    *ROW_COLUMNS,
    "role",
    "rank",
    "reward",
    "cluster",
    "represents",
    "marginal_gain",
    "beats",
]
SCORE_COLUMNS = ["prompt_id", "sample_idx", "scorer", "reward", "status", "reason"]


@dataclass(frozen=True)
class PromptSources:
    """The artifacts of one run about the same candidates.

    Each may be absent, but not both of the first two.
    """

    candidates: Artifact | None = None
    groups: Artifact | None = None
    scores: Artifact | None = None

    @property
    def index(self) -> Artifact:
        """The artifact whose prompts can be asked for."""
        artifact = self.candidates or self.groups
        assert artifact is not None
        return artifact


def find_prompt(artifact: Artifact, wanted: str) -> tuple[str, int]:
    """Return the id that equals or begins with ``wanted``, and its part.

    Raises:
        UsageError: no such id, or several; the message names a few.
    """
    parts: dict[str, int] = {}
    present = artifact.present(range(artifact.n_parts), allow_partial=True)
    for index in artifact.in_turn(present):
        table, _ = artifact.read(index, ["prompt_id"])
        for prompt_id in pc.unique(table["prompt_id"]).to_pylist():
            parts.setdefault(prompt_id, index)

    # A whole id may be the beginning of another one.
    if wanted in parts:
        return wanted, parts[wanted]
    alike = [prompt_id for prompt_id in parts if prompt_id.startswith(wanted)]
    if len(alike) == 1:
        return alike[0], parts[alike[0]]

    count, advice = f"{len(alike)} prompts", "pass more characters of the id"
    if not alike:
        count, advice = "no prompt", "ids in it are, for example"
    examples = [prompt_id[:80] for prompt_id in (alike or list(parts))[:SHOWN_IDS]]
    raise UsageError(
        f"--prompt-id {wanted}: {artifact.path} has {count} with an id that starts with this",
        hint=f"{advice}: {', '.join(examples)}",
    )


def one_prompt(sources: PromptSources, wanted: str, reward: str | None = None) -> dict[str, Any]:
    """Return the prompt, its place in the selection, and every candidate, ranked, as JSON values.

    Candidates are sorted by reward, the highest first, then by sample index; those without a reward
    come last. The reward is the expression ``reward``, else what the groups were selected with,
    else the first scorer.

    Raises:
        UsageError: no such prompt, or ``reward`` names a scorer that is not there.
    """
    prompt_id, part = find_prompt(sources.index, wanted)
    return prompt_of_part(sources, prompt_id, part, reward)


def prompt_of_part(
    sources: PromptSources, prompt_id: str, part: int, reward: str | None = None
) -> dict[str, Any]:
    """Return `one_prompt` for a prompt whose id and part are known."""
    candidates = _rows_of_prompt(sources.candidates, part, prompt_id, CANDIDATE_COLUMNS)
    groups = _rows_of_prompt(sources.groups, part, prompt_id, GROUP_COLUMNS)
    scores = _rows_of_prompt(sources.scores, part, prompt_id, SCORE_COLUMNS)
    kept = {row["sample_idx"]: row for row in groups if row["role"] is not None}
    rows = candidates or list(kept.values())

    # Rewards are evaluated again from the scores, so that those of other candidates are known too;
    # without scores there are those of the groups.
    ranked_by = _reward_expression(sources, scores, reward)
    if ranked_by is not None:
        rewards = _rewards(ranked_by, rows, scores)
    else:
        rewards = {sample_idx: row["reward"] for sample_idx, row in kept.items()}
        ranked_by = "reward in the groups" if kept else None

    scores_by_sample: dict[int, list[Row]] = {}
    for row in scores:
        scores_by_sample.setdefault(row["sample_idx"], []).append(row)

    entries = []
    for row in rows:
        sample_idx = row["sample_idx"]
        of_sample = scores_by_sample.get(sample_idx, [])
        entries.append(_entry(row, kept.get(sample_idx), of_sample, rewards.get(sample_idx)))
    _add_pairs(entries, kept)
    _rank(entries)
    return {
        "prompt_id": prompt_id,
        "part": part,
        "messages": (candidates or groups)[0]["messages"],
        "ranked_by": ranked_by,
        "group": _group_facts(sources.groups, groups),
        "n_candidates": len(entries),
        "candidates": entries,
    }


def _rows_of_prompt(
    artifact: Artifact | None, part: int, prompt_id: str, columns: Sequence[str]
) -> list[Row]:
    """Return a prompt's rows; none if there is no artifact, or not this part of it."""
    if artifact is None or artifact.missing([part]):
        return []
    table, _ = artifact.read(part, columns)
    return rows_of(table.filter(pc.equal(table["prompt_id"], prompt_id)))


def _reward_expression(
    sources: PromptSources, scores: Sequence[Row], reward: str | None
) -> str | None:
    """Return the expression to rank by; None if nothing is scored."""
    if not scores:
        if reward is None:
            return None
        raise UsageError(
            "--reward needs the scores of the candidates",
            hint="pass the folder that `prefpipe score` wrote with --scores",
        )
    if reward is not None:
        return reward

    scorers = [row["scorer"] for row in scores]
    if sources.groups is not None:
        selected_by = sources.groups.record.identity.get("reward")
        if isinstance(selected_by, str) and set(parse_reward(selected_by).names) <= set(scorers):
            return selected_by
    return str(scorers[0])


def _rewards(
    expression: str, rows: Sequence[Row], scores: Sequence[Row]
) -> dict[int, float | None]:
    """Return each candidate's reward by sample, None if it is not a finite number."""
    by_scorer: dict[str, dict[int, float]] = {}
    for row in scores:
        scorer, sample_idx = row["scorer"], row["sample_idx"]
        by_sample = by_scorer.setdefault(scorer, {})
        if sample_idx in by_sample:
            raise InputError(
                f"scorer {scorer} has two scores for sample {sample_idx} of this prompt"
            )
        by_sample[sample_idx] = math.nan if row["reward"] is None else row["reward"]

    samples = [row["sample_idx"] for row in rows]
    columns = {}
    for scorer, by_sample in by_scorer.items():
        columns[scorer] = np.array([by_sample.get(sample_idx, np.nan) for sample_idx in samples])

    rewards: dict[int, float | None] = {}
    evaluated = parse_reward(expression).evaluate(columns).tolist()
    for sample_idx, reward in zip(samples, evaluated, strict=True):
        rewards[sample_idx] = reward if math.isfinite(reward) else None
    return rewards


def _entry(
    row: Row, kept: Row | None, scores: Sequence[Row], reward: float | None
) -> dict[str, Any]:
    """Return the shown values of a candidate.

    Args:
        row: of ``candidates``, or of ``groups`` where the candidates are not there.
        kept: its row of ``groups``, None if it was not kept.
        scores: its rows of ``scores``.
        reward: that it is ranked by.
    """
    chosen = kept if kept is not None else {}
    whose = {name: row[name] for name in (EARLIER, EARLIER_SAMPLE) if name in row}
    problems = {
        score["scorer"]: f"{score['status']}: {score['reason']}"
        for score in scores
        if score["status"] != "ok"
    }
    return {
        "rank": None,
        "sample_idx": row["sample_idx"],
        "reward": reward,
        "role": chosen.get("role"),
        "cluster": chosen.get("cluster"),
        "represents": chosen.get("represents"),
        "marginal_gain": chosen.get("marginal_gain"),
        "beats": None,
        "beaten_by": None,
        "scores": {score["scorer"]: score["reward"] for score in scores},
        "score_problems": problems,
        "status": row["status"],
        "reason": row["reason"],
        "n_response_tokens": row["n_response_tokens"],
        "finish_reason": row["finish_reason"],
        "logp": row["logp"],
        "model": row["model"],
        "temperature": row.get("temperature"),
        "duplicate_of": row.get("duplicate_of"),
        **whose,
        "response": row["response"],
    }


def _add_pairs(entries: Sequence[dict[str, Any]], kept: Mapping[int, Row]) -> None:
    """Record which candidates each kept one must beat, and which must beat it.

    Only if select wrote pairs.
    """
    if all(row["beats"] is None for row in kept.values()):
        return
    kept_entries = {entry["sample_idx"]: entry for entry in entries if entry["sample_idx"] in kept}
    for entry in kept_entries.values():
        entry["beats"], entry["beaten_by"] = [], []

    for chosen, row in kept.items():
        for pair in row["beats"] or []:
            rejected = pair["sample_idx"]
            if chosen in kept_entries:
                kept_entries[chosen]["beats"].append(dict(pair))
            if rejected in kept_entries:
                kept_entries[rejected]["beaten_by"].append({**pair, "sample_idx": chosen})


def _rank(entries: list[dict[str, Any]]) -> None:
    """Sort the candidates by reward, and number those that have one."""

    def order(entry: Mapping[str, Any]) -> tuple[bool, float, int]:
        has_none = entry["reward"] is None
        return has_none, 0.0 if has_none else -entry["reward"], entry["sample_idx"]

    entries.sort(key=order)
    for rank, entry in enumerate(entries, start=1):
        if entry["reward"] is not None:
            entry["rank"] = rank


def _group_facts(artifact: Artifact | None, groups: Sequence[Row]) -> Mapping[str, Any] | None:
    """Return the selection of the prompt: its strategy and roles, or why it was rejected."""
    if artifact is None or not groups:
        return None
    strategy = artifact.record.identity.get("strategy")
    for row in groups:
        if row["role"] is None:
            return {"strategy": strategy, "status": row["status"], "reason": row["reason"]}

    roles = [row["role"] for row in groups]
    return {
        "strategy": strategy,
        "status": "ok",
        "n_positives": roles.count("positive"),
        "n_negatives": roles.count("negative"),
    }
