"""Keep a small informative group of each prompt's candidates.

Reads: ``candidates``, ``scores`` and, where the strategy needs them, ``embeddings``. Writes: ``groups``, one row for every
kept candidate and one row, without a role, for every rejected prompt. Promises: prompts follow the order of the
candidates, positives come first, the best before the others, then negatives by sample index; rows are joined by key; every
candidate that is left out is counted under its reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES, GROUPS
from prefpipe.artifacts.store import Artifact, Output, open_input, open_output, refuse_nesting
from prefpipe.configs.select import NEED_EMBEDDINGS, SelectConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.rewards import RewardExpression, parse_reward
from prefpipe.maths.screening import pool_verdict, screen_candidates, screen_margins
from prefpipe.maths.selection import Selection, select_responses
from prefpipe.stages.candidate_rows import Row, count_by_status, key_of, parent_digests, parent_identity, user_columns
from prefpipe.stages.runtime import Runtime, Summary, loop_over_parts

TEXT_COLUMNS = [
    "messages", "response", "model", "prompt_token_ids", "response_token_ids", "n_prompt_tokens", "n_response_tokens",
    "finish_reason", "logp",
]  # fmt: skip


def run(config: SelectConfig, runtime: Runtime) -> Summary:
    """Select the parts of this shard that are missing."""
    inputs = _open_inputs(config)
    candidates, scores = inputs["candidates"], inputs["scores"]
    expression = _reward_expression(config, scores)
    record = RunRecord(
        stage=config.stage, schema=GROUPS.tag, n_parts=candidates.n_parts, context=dict(runtime.context),
        identity={"stage": config.stage, "version": config.VERSION, **config.identity(), "reward": expression.text,
                  **{name: parent_identity(artifact) for name, artifact in inputs.items()}},
        parents={name: str(artifact.path) for name, artifact in inputs.items()},
    )  # fmt: skip
    indices = runtime.shard.parts(candidates.n_parts)
    for artifact in inputs.values():
        indices = artifact.present(indices, allow_partial=config.allow_partial)
    parents = parent_digests(indices, **inputs)
    _refuse_other_parents(inputs, parents)
    if indices:  # an expression that these rewards do not allow (logit of 0) must not cost an older result
        first = inputs["candidates"].read(indices[0], ["prompt_id", "sample_idx"])[0].to_pylist()
        rewards_by_key(scores.read(indices[0])[0], expression, [key_of(row) for row in first])
    output = open_output(config.output, record, shard=runtime.shard, overwrite=config.overwrite)
    summary = Summary(config.stage, config.output)
    work = _Work(config, expression, inputs, output)
    loop_over_parts(
        output, parents.__getitem__, lambda index: work.make(index, parents[index]), runtime, summary, indices=indices
    )
    if summary.n_parts_made:
        summary.notes += work.describe()
        summary.facts |= {
            "n_groups": work.n_groups,
            "n_rejected": dict(work.rejected),
            "candidates_left_out": dict(work.left_out),
        }
    return summary


def _open_inputs(config: SelectConfig) -> dict[str, Artifact]:
    paths = {"candidates": config.candidates, "scores": config.scores}
    if config.strategy in NEED_EMBEDDINGS and config.embeddings is not None:
        paths["embeddings"] = config.embeddings
    refuse_nesting(config.output, {("CANDIDATES" if name == "candidates" else f"--{name}"): path for name, path in paths.items()})
    inputs = {
        name: open_input(path, schema=name, name="CANDIDATES" if name == "candidates" else f"--{name}")
        for name, path in paths.items()
    }
    for name, artifact in inputs.items():
        if name != "candidates" and artifact.record.identity.get("candidates") != inputs["candidates"].record.identity:
            raise InputError(
                f"--{name} {artifact.path} was made for other candidates than {config.candidates}",
                hint=f"pass the {name} of these candidates, or make them: "
                f"prefpipe {artifact.record.stage} {config.candidates} ...",
            )
    return inputs


def _refuse_other_parents(inputs: Mapping[str, Artifact], parents: Mapping[int, Mapping[str, str]]) -> None:
    """Refuse scores or embeddings of candidates that were made again since."""
    for index, digests in parents.items():
        for name in inputs:
            if name == "candidates":
                continue
            made_from = inputs[name].footer(index).parents.get("candidates")
            if made_from != digests["candidates"]:
                raise InputError(
                    f"{inputs[name].part_path(index)} was made from another version of {inputs['candidates'].part_path(index)}",
                    hint=f"run the `prefpipe {inputs[name].record.stage}` command again: it makes this part anew",
                )


def _reward_expression(config: SelectConfig, scores: Artifact) -> RewardExpression:
    names = [scorer["name"] for scorer in scores.record.identity["scorers"]]
    if config.reward is None:
        if len(names) > 1:
            raise UsageError(f"--reward is needed: {scores.path} holds several scorers: {', '.join(names)}",
                             hint=f'for example --reward "{" + ".join(names)}"')  # fmt: skip
        return parse_reward(names[0])
    expression = parse_reward(config.reward)
    unknown = [name for name in expression.names if name not in names]
    if unknown:
        raise UsageError(f"--reward {config.reward!r} names `{unknown[0]}`, and {scores.path} holds: {', '.join(names)}")
    return expression


def rewards_by_key(
    scores: pa.Table, expression: RewardExpression, keys: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], float]:
    """Evaluate the reward expression prompt by prompt; NaN where a scorer gave nothing.

    Args:
        scores: rows of a ``scores`` part.
        expression: the parsed ``--reward``.
        keys: candidates whose reward is wanted; ``z()`` is over the candidates of each prompt.

    Errors:
        InputError: two scores of one scorer for the same candidate.
    """
    values: dict[str, dict[tuple[str, int], float]] = {name: {} for name in expression.names}
    columns = (scores[name].to_pylist() for name in ("prompt_id", "sample_idx", "scorer", "reward"))
    for prompt_id, sample_idx, scorer, reward in zip(*columns, strict=True):
        if scorer not in values:
            continue
        if (prompt_id, sample_idx) in values[scorer]:
            raise InputError(f"scorer {scorer} has two scores for prompt {prompt_id}, sample {sample_idx}")
        values[scorer][prompt_id, sample_idx] = np.nan if reward is None else reward
    by_prompt: dict[str, list[tuple[str, int]]] = {}
    for key in keys:
        by_prompt.setdefault(key[0], []).append(key)
    result: dict[tuple[str, int], float] = {}
    for members in by_prompt.values():
        arrays = {name: np.array([values[name].get(key, np.nan) for key in members], np.float64) for name in expression.names}
        result |= dict(zip(members, expression.evaluate(arrays).tolist(), strict=True))
    return result


class _Work:
    """One run's state: inputs, output, and counts for the summary."""

    def __init__(
        self, config: SelectConfig, expression: RewardExpression, inputs: Mapping[str, Artifact], output: Output
    ) -> None:
        self.config, self.expression, self.inputs, self.output = config, expression, inputs, output
        self.n_groups, self.n_pool, self.n_kept = 0, 0, 0
        self.n_tokens_pool, self.n_tokens_kept = 0, 0
        self.rejected: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.n_optimal = 0

    def make(self, index: int, parents: Mapping[str, str]) -> None:
        """Select and write one part."""
        table, _ = self.inputs["candidates"].read(index)
        rows = table.select(CANDIDATES.column_names).to_pylist()
        rewards = rewards_by_key(self.inputs["scores"].read(index)[0], self.expression, [key_of(row) for row in rows])
        vectors = self._vectors(index)
        pools: dict[str, list[int]] = {}
        for position, row in enumerate(rows):
            pools.setdefault(row["prompt_id"], []).append(position)
        out: list[Row] = []
        origin: list[int] = []
        for positions in pools.values():
            pool = [rows[position] for position in positions]
            for row, member in self._select(pool, rewards, vectors):
                out.append(row)
                origin.append(positions[member])
        written = pa.Table.from_pylist(out, schema=GROUPS.arrow())
        theirs = user_columns(table).take(pa.array(origin, pa.int64()))
        for field, column in zip(theirs.schema, theirs.columns, strict=True):
            written = written.append_column(field, column)
        self.output.write(index, written, counts=count_by_status(out), parents=parents)

    def _vectors(self, index: int) -> dict[tuple[str, int], np.ndarray] | None:
        if "embeddings" not in self.inputs:
            return None
        table, _ = self.inputs["embeddings"].read(index, ["prompt_id", "sample_idx", "embedding", "status"])
        column = table["embedding"].combine_chunks()
        matrix = column.values.to_numpy(zero_copy_only=True).reshape(len(column), -1)  # (rows, D), no copy
        keys = zip(table["prompt_id"].to_pylist(), table["sample_idx"].to_pylist(), table["status"].to_pylist(), strict=True)
        return {(prompt_id, idx): matrix[i] for i, (prompt_id, idx, status) in enumerate(keys) if status == "ok"}

    def _select(
        self, pool: Sequence[Row], rewards: Mapping[tuple[str, int], float], vectors: Mapping[tuple[str, int], np.ndarray] | None
    ) -> list[tuple[Row, int]]:
        """Return the rows of one prompt, each with its candidate's place in the pool."""
        config = self.config
        pool_rewards = np.array([rewards[key_of(row)] for row in pool], np.float64)
        texts = [str(row["sample_idx"]) if config.keep_duplicates and (row["response"] or "").strip() else row["response"] or ""
                 for row in pool]  # fmt: skip
        has_vector = None if vectors is None else [key_of(row) in vectors for row in pool]
        reasons = screen_candidates(
            texts, pool_rewards, has_vector, [row["status"] for row in pool], drop_truncated=not config.keep_truncated
        )
        reasons = screen_margins(reasons, pool_rewards, min_margin=config.min_margin, positives=config.positives)
        verdict = pool_verdict(reasons, pool_rewards)
        self.n_pool += len(pool)
        self.n_tokens_pool += sum(row["n_response_tokens"] or 0 for row in pool)
        self.left_out.update(reason for reason in reasons if reason is not None)
        if verdict is not None:
            self.rejected[verdict] += 1
            return [(_rejection(pool[0], verdict, reasons, pool_rewards), 0)]
        usable = [place for place, reason in enumerate(reasons) if reason is None]
        matrix = np.stack([vectors[key_of(pool[i])] for i in usable]).astype(np.float64) if vectors is not None else None
        selection = self._choose(pool[0]["prompt_id"], pool_rewards[usable], matrix)
        self.left_out["not_selected"] += len(usable) - len(selection.positives) - len(selection.negatives)
        self.n_groups += 1
        self.n_optimal += bool(selection.is_optimal)
        return self._group(pool, usable, pool_rewards, selection)

    def _choose(self, prompt_id: str, rewards: np.ndarray, vectors: np.ndarray | None) -> Selection:
        config = self.config
        temperature: Any = config.weight_temperature
        if temperature not in ("paper", "auto"):
            temperature = float(temperature)
        options: Any = {"weight_temperature": temperature, "cover": config.cover} if config.strategy == "opt-select" else {}
        return select_responses(
            rewards, vectors, k=config.k, strategy=config.strategy, positives=config.positives,
            seed=_prompt_seed(config.seed, prompt_id), **options,
        )  # fmt: skip

    def _group(
        self, pool: Sequence[Row], usable: Sequence[int], rewards: np.ndarray, selection: Selection
    ) -> list[tuple[Row, int]]:
        usable_rewards = rewards[list(usable)]
        rank = np.empty(len(usable), np.int64)
        rank[np.argsort(-usable_rewards, kind="stable")] = np.arange(len(usable))
        represented = Counter(int(i) for i in selection.represents if i >= 0)
        has_cost = not np.isnan(selection.cost)
        chosen = [(int(i), "positive") for i in selection.positives] + [(int(i), "negative") for i in selection.negatives]
        group = []
        for i, role in chosen:
            source = pool[usable[i]]
            row = {name: source[name] for name in TEXT_COLUMNS} | {
                "prompt_id": source["prompt_id"], "sample_idx": source["sample_idx"], "role": role, "rank": int(rank[i]),
                "reward": float(usable_rewards[i]), "cluster": int(selection.clusters[i]) if selection.clusters[i] >= 0 else None,
                "n_represented": represented[i] if has_cost and role == "negative" else None,
                "cost": float(selection.cost) if has_cost else None,
                "lower_bound": float(selection.lower_bound) if has_cost else None,
                "is_optimal": bool(selection.is_optimal) if has_cost else None,
                "status": "ok", "reason": None,
            }  # fmt: skip
            self.n_tokens_kept += source["n_response_tokens"] or 0
            self.n_kept += 1
            group.append((row, usable[i]))
        return group

    def describe(self) -> list[str]:
        """Return the lines of the summary."""
        lines = [f"{self.n_pool:,} candidates in, {self.n_kept:,} kept in {self.n_groups:,} groups"]
        lines += [f"{count:,} candidates left out: {reason}" for reason, count in self.left_out.most_common()]
        lines += [f"{count:,} prompts rejected: {reason}" for reason, count in self.rejected.most_common()]
        if self.config.strategy == "opt-select" and self.n_groups:
            lines.append(f"{self.n_optimal:,} of {self.n_groups:,} groups proven optimal")
        if self.n_pool and not self.n_groups:
            lines.append("no prompt has a group: there is nothing to train on")
        if self.n_tokens_pool:
            lines.append(f"{self.n_tokens_kept:,} of {self.n_tokens_pool:,} response tokens kept "
                         f"({self.n_tokens_kept / self.n_tokens_pool:.0%})")  # fmt: skip
        return lines


def _prompt_seed(run_seed: int, prompt_id: str) -> int:
    return seed_for(run_seed, prompt_id, 0) & 0x7FFF_FFFF  # scikit-learn takes 32 bits


def _rejection(row: Row, verdict: str, reasons: Sequence[str | None], rewards: np.ndarray) -> Row:
    """Return the one row of a prompt that has no group, with what was wrong with its candidates."""
    flaws = Counter(reason for reason in reasons if reason is not None)
    usable = sum(reason is None for reason in reasons)
    finite = rewards[np.isfinite(rewards)]
    spread = f"rewards {finite.min():g} to {finite.max():g}" if len(finite) else "no rewards"
    told = "".join(f", {count} {reason}" for reason, count in flaws.most_common())
    return {
        "prompt_id": row["prompt_id"], "messages": row["messages"], "status": verdict,
        "reason": f"{len(reasons)} candidates, {usable} usable{told}; {spread}",
    }  # fmt: skip
