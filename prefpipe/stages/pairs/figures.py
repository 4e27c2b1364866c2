"""The figures of scored pairs: accuracy by subset and section, and calibration."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.finite_json import finite_values
from prefpipe.artifacts.interchange.rewardbench_two_rows import ITEM_SCHEMA
from prefpipe.artifacts.run_record import FILE_NAME, read_run_record
from prefpipe.artifacts.schemas import PAIR_SCORES
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.pairs import BETAS, PairsConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.objectives.registry import OBJECTIVES
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.calibration import (
    Binning,
    calibration_figures,
    preference_probabilities,
)
from prefpipe.maths.statistics.rewardbench import rewardbench_accuracy
from prefpipe.maths.statistics.rewardbench_two import Completions, rewardbench_two
from prefpipe.stages.pairs.rating import SCORED

COLUMNS = (
    "prompt_id",
    "subset",
    "score_kind",
    "chosen_score",
    "rejected_score",
    "margin",
    "outcome",
    "rater_gap",
    "duplicate_of",
    "chosen_n_tokens",
    "rejected_n_tokens",
    "status",
    "reason",
)
COLUMNS_OF_ITEMS = ("pair_id", *ITEM_SCHEMA.names)
"""What is read beside them of a file of RewardBench 2."""
TIE_RULES = {
    False: "a tie is a loss (RewardBench v1)",
    True: "a tie for the highest score is shared (RewardBench 2)",
}


def figures_of(config: PairsConfig, artifact: Artifact) -> dict[str, Any]:
    """Return all figures of a finished ``pair_scores`` as JSON values.

    ``docs/guides/pair-benchmarks.md`` says which.

    Raises:
        InputError: no pair was scored.
        UsageError: ``--beta`` for rewards.
    """
    # Parts of a RewardBench 2 file, and no others, have columns for its completions.
    is_of_completions = False
    if artifact.n_parts > 0:
        is_of_completions = ITEM_SCHEMA.names[0] in artifact.read(0)[0].column_names
    columns = (*COLUMNS, *COLUMNS_OF_ITEMS) if is_of_completions else COLUMNS
    table = artifact.read_all(columns)
    counts = dict(sorted(artifact.counts().items()))
    kind = _kind(artifact)
    beta, beta_from = _beta(config, artifact, kind)
    scored = table.filter(pc.is_in(table["status"], pa.array(SCORED)))
    if not scored.num_rows:
        reasons = ", ".join(f"{count} {status}" for status, count in counts.items())
        raise InputError(
            f"no pair of {artifact.path} was scored: {reasons or 'there is none'}",
            hint=f"run `prefpipe inspect {quote(str(artifact.path))}` for the reasons",
        )

    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    bench = _accuracies(table, scored, bootstrap)
    accuracy = bench.pop("overall")
    has_subsets = table["subset"].null_count < table.num_rows
    figures: dict[str, Any] = {
        "kind": PAIR_SCORES.name,
        "command": config.stage,
        "score_kind": kind,
        "pairs": config.pairs,
        "beta": beta,
        "beta_from": beta_from,
        "n_pairs": table.num_rows,
        "n_scored": scored.num_rows,
        "counts": counts,
        "n_ties": accuracy["n_ties"],
        "n_identical": _n_true(pc.equal(scored["status"], "identical")),
        "n_duplicates": table.num_rows - table["duplicate_of"].null_count,
        "n_rejected_preferred": _n_true(pc.less(scored["outcome"], 0.5)),
        "n_contradictions": int(artifact.tally().get("n_contradictions", 0)),
        "share_longer_chosen": _share_longer(scored),
        "confidence": config.confidence,
        "bootstrap_draws": config.bootstrap_draws,
        "bootstrap_seed": config.bootstrap_seed,
        "accuracy": accuracy,
        "rewardbench": bench if has_subsets and not is_of_completions else None,
    }

    if is_of_completions:
        figures["rewardbench_two"] = _completions(table, bootstrap)
    figures["calibration"] = _calibration(config, artifact, scored, beta, bootstrap)
    figures["recipe"] = _recipe(config, artifact, is_of_completions=is_of_completions)
    return dict(finite_values(figures))


def _n_true(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0


def _kind(artifact: Artifact) -> str:
    return str(_origin(artifact)["score_kind"])


def _origin(artifact: Artifact) -> Mapping[str, Any]:
    """Return the identity of the run that scored the pairs."""
    identity: Mapping[str, Any] = artifact.record.identity
    while PAIR_SCORES.name in identity:
        identity = identity[PAIR_SCORES.name]
    return identity


def _beta(config: PairsConfig, artifact: Artifact, kind: str) -> tuple[float, str]:
    """Return the factor of score differences, and its source.

    The source is ``given``, ``training`` or ``default``.

    A policy that prefpipe trained says its beta in its record. It is that of its objective's
    scores: SimPO's belongs to mean log-probabilities, DPO's to log-ratios, and with the other kind
    of score it means nothing.
    """
    if config.beta is not None and kind == "reward":
        raise UsageError(
            "--beta applies only to policies, and these scores are rewards", hint="leave out --beta"
        )
    if config.beta is not None:
        return config.beta, "given"

    models = artifact.record.context.get("models") or [config.model]
    policy = Path(str(models[0]))
    if kind in ("log_ratio", "mean_logp") and (policy / FILE_NAME).is_file():
        identity = read_run_record(policy).identity
        objective = OBJECTIVES.get(identity.get("objective", ""))
        beta = identity.get("knobs", {}).get("beta")
        if objective is not None and objective.score == kind and beta is not None:
            return float(beta), "training"
    return BETAS[kind], "default"


def _accuracies(table: pa.Table, scored: pa.Table, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the figures of `prefpipe.maths.statistics.rewardbench`.

    Each subset has its number of rows in the file, scored or not.
    """
    figures = rewardbench_accuracy(
        scored["chosen_score"].to_numpy(),
        scored["rejected_score"].to_numpy(),
        scored["subset"].to_pylist(),
        scored["prompt_id"].to_pylist(),
        bootstrap=bootstrap,
    ).figures()
    subsets = list(figures["other_subsets"])
    for section in figures["sections"]:
        subsets += section["subsets"]

    n_rows = Counter(table["subset"].to_pylist())
    for subset in subsets:
        subset["n_rows"] = n_rows[subset["name"] or None]
    names_scored = {subset["name"] for subset in subsets}
    figures["subsets_not_scored"] = {
        name: count for name, count in n_rows.items() if name and name not in names_scored
    }
    figures["is_complete"] = figures["is_complete"] and table.num_rows == scored.num_rows
    return figures


def _completions(table: pa.Table, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return RewardBench 2's figures, None if no prompt counts.

    A prompt counts if all of its completions are scored.
    """
    rows_of_item: dict[int, list[Mapping[str, Any]]] = {}
    for row in table.to_pylist():
        rows_of_item.setdefault(row["row_idx"], []).append(row)

    items = []
    left_out: Counter[str] = Counter()
    for rows in rows_of_item.values():
        failures = [row["status"] for row in rows if row["status"] not in SCORED]
        if failures:
            left_out[failures[0]] += 1
        else:
            items.append(_completions_of(rows))
    if not items:
        return None

    figures = rewardbench_two(items, bootstrap=bootstrap).figures()
    figures["n_items"] = len(rows_of_item)
    figures["left_out"] = dict(sorted(left_out.items()))
    figures["is_complete"] = figures["is_complete"] and not left_out
    return figures


def _completions_of(rows: Sequence[Mapping[str, Any]]) -> Completions:
    """Reassemble the scores of a prompt's completions; each is in at least one pair."""
    correct: dict[int, float] = {}
    wrong: dict[int, float] = {}
    for row in rows:
        correct.setdefault(row["chosen_idx"], row["chosen_score"])
        score = row["rejected_score"]
        # With one correct completion the margins decide: its score may differ in the last digits
        # from part to part.
        if row["n_chosen"] == 1:
            score = correct[0] - row["margin"]
        wrong.setdefault(row["rejected_idx"], score)
    return Completions(
        rows[0]["prompt_id"],
        rows[0]["pair_id"],
        rows[0]["subset"],
        tuple(correct[index] for index in sorted(correct)),
        tuple(wrong[index] for index in sorted(wrong)),
    )


def _calibration(
    config: PairsConfig, artifact: Artifact, scored: pa.Table, beta: float, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the figures of calibration.

    They compare with the file's outcomes, or with ``--outcome-gamma`` with graded ones.

    Raises:
        UsageError: ``--outcome-gamma`` of pairs without two columns of ratings.
    """
    gamma = config.outcome_gamma
    has_ratings = _kind(artifact) != "given" and artifact.record.context.get("score_columns")
    if gamma is not None and not has_ratings:
        raise UsageError(
            f"--outcome-gamma {gamma:g} needs the raters' scores, and {config.pairs} has no pair "
            "of rating columns besides the scores to evaluate",
            hint="pass a file with score_chosen and score_rejected (or chosen-rating and "
            "rejected-rating), and --model",
        )

    column, needed = "outcome", "a preference"
    if gamma is not None:
        column, needed = "rater_gap", "two ratings"
    known = scored.filter(pc.is_valid(scored[column]))
    if not known.num_rows:
        return {"n_pairs": 0, "reason": f"no scored pair has {needed}"}

    gaps = known["rater_gap"].cast(pa.float64()).to_numpy()
    outcomes = known["outcome"].to_numpy()
    if gamma is not None:
        outcomes = preference_probabilities(gamma * gaps)

    figures = calibration_figures(
        beta * known["margin"].to_numpy(),
        outcomes,
        known["prompt_id"].to_pylist(),
        rater_gaps=gaps,
        binning=Binning(config.n_bins, config.n_gap_bins, config.fit_share),
        bootstrap=bootstrap,
    )
    return {
        "beta": beta,
        "n_without_outcome": scored.num_rows - known.num_rows,
        "outcome_gamma": gamma,
        **figures,
    }


def _share_longer(scored: pa.Table) -> float | None:
    """Return how often the longer response, in tokens, is the chosen one.

    Equal lengths count half; None without token counts.
    """
    n_chosen = scored["chosen_n_tokens"].cast(pa.float64()).to_numpy()
    n_rejected = scored["rejected_n_tokens"].cast(pa.float64()).to_numpy()
    shares = 0.5 * (1.0 + np.sign(n_chosen - n_rejected))
    return float(np.mean(shares)) if np.isfinite(shares).all() else None


def _recipe(config: PairsConfig, artifact: Artifact, *, is_of_completions: bool) -> dict[str, Any]:
    """Return what a reader needs to reproduce the figures.

    A program can tell by it whether two results are comparable.
    """
    origin, context = _origin(artifact), artifact.record.context
    names = context.get("models") or []
    columns = context.get("score_columns")
    is_given = origin["score_kind"] == "given"

    return {
        "pairs_sha256": origin["pairs"],
        "score_kind": origin["score_kind"],
        "models": [
            {"name": name, **hashes} for name, hashes in zip(names, origin["models"], strict=True)
        ],
        "max_length": origin.get("max_length"),
        "dtype": origin.get("dtype"),
        "score_columns": columns if is_given else None,
        "rater_columns": None if is_given else columns,
        "tie_rule": TIE_RULES[is_of_completions],
        "versions": context.get("versions"),
        "command": config.stage,
    }
