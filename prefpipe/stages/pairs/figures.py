"""What scored pairs come to: accuracy by subset and section, and calibration."""

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
from prefpipe.maths.statistics.calibration import preference_probabilities
from prefpipe.maths.statistics.calibration_figures import Binning, calibration_figures
from prefpipe.maths.statistics.intervals import Bootstrap
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
    """Return all figures of a finished ``pair_scores`` as JSON values, ``docs/evaluation.md`` says which.

    Raises:
        InputError: no pair was scored.
        UsageError: ``--beta`` for rewards.
    """
    is_of_completions = (
        artifact.n_parts > 0 and ITEM_SCHEMA.names[0] in artifact.read(0)[0].column_names
    )
    table = artifact.read_all((*COLUMNS, *COLUMNS_OF_ITEMS) if is_of_completions else COLUMNS)
    kind = _kind(artifact)
    beta, beta_from = _beta(config, artifact, kind)
    scored = table.filter(pc.is_in(table["status"], pa.array(SCORED)))
    if not scored.num_rows:
        reasons = ", ".join(
            f"{count} {status}" for status, count in sorted(artifact.counts().items())
        )
        raise InputError(
            f"no pair of {artifact.path} was scored: {reasons or 'there is none'}",
            hint=f"run `prefpipe inspect {quote(str(artifact.path))}` for the reasons",
        )
    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    bench = _accuracies(table, scored, bootstrap)
    figures: dict[str, Any] = finite_values(
        {
            "kind": PAIR_SCORES.name,
            "command": config.stage,
            "score_kind": kind,
            "pairs": config.pairs,
            "beta": beta,
            "beta_from": beta_from,
            "n_pairs": table.num_rows,
            "n_scored": scored.num_rows,
            "counts": dict(sorted(artifact.counts().items())),
            "n_ties": bench["overall"]["n_ties"],
            "n_identical": pc.sum(pc.equal(scored["status"], "identical")).as_py() or 0,
            "n_duplicates": table.num_rows - table["duplicate_of"].null_count,
            "n_rejected_preferred": pc.sum(pc.less(scored["outcome"], 0.5)).as_py() or 0,
            "n_contradictions": int(artifact.tally().get("n_contradictions", 0)),
            "share_longer_chosen": _share_longer(scored),
            "confidence": config.confidence,
            "bootstrap_draws": config.bootstrap_draws,
            "bootstrap_seed": config.bootstrap_seed,
            "accuracy": bench.pop("overall"),
            "rewardbench": bench
            if table["subset"].null_count < table.num_rows and not is_of_completions
            else None,
            **({"rewardbench_two": _completions(table, bootstrap)} if is_of_completions else {}),
            "calibration": _calibration(config, artifact, scored, beta, bootstrap),
            "recipe": _recipe(config, artifact, is_of_completions=is_of_completions),
        }
    )
    return figures


def _kind(artifact: Artifact) -> str:
    return str(_origin(artifact)["score_kind"])


def _origin(artifact: Artifact) -> Mapping[str, Any]:
    """Return the identity of the run that scored the pairs."""
    identity: Mapping[str, Any] = artifact.record.identity
    while PAIR_SCORES.name in identity:
        identity = identity[PAIR_SCORES.name]
    return identity


def _beta(config: PairsConfig, artifact: Artifact, kind: str) -> tuple[float, str]:
    """Return what differences of scores are multiplied by, and where it is from: ``given``, ``training`` or ``default``.

    A policy that prefpipe trained says its beta in its record. It is that of its objective's scores: SimPO's belongs to mean
    log-probabilities, DPO's to log-ratios, and with the other kind of score it means nothing.
    """
    if config.beta is not None and kind == "reward":
        raise UsageError(
            "--beta is for policies, and these scores are rewards", hint="leave it out"
        )
    if config.beta is not None:
        return config.beta, "given"
    models = artifact.record.context.get("models") or [config.model]
    folder = Path(str(models[0]))
    if kind in ("log_ratio", "mean_logp") and (folder / FILE_NAME).is_file():
        identity = read_run_record(folder).identity
        objective = OBJECTIVES.get(identity.get("objective", ""))
        beta = identity.get("knobs", {}).get("beta")
        if objective is not None and objective.score == kind and beta is not None:
            return float(beta), "training"
    return BETAS[kind], "default"


def _accuracies(table: pa.Table, scored: pa.Table, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the figures of `prefpipe.maths.statistics.rewardbench`, each subset with its rows in the file, scored or not."""
    found = rewardbench_accuracy(
        scored["chosen_score"].to_numpy(),
        scored["rejected_score"].to_numpy(),
        scored["subset"].to_pylist(),
        scored["prompt_id"].to_pylist(),
        bootstrap=bootstrap,
    ).figures()
    n_rows = Counter(table["subset"].to_pylist())
    for subset in [
        *found["other_subsets"],
        *(each for section in found["sections"] for each in section["subsets"]),
    ]:
        subset["n_rows"] = n_rows[subset["name"] or None]
    there = {each["name"] for each in found["other_subsets"]}
    there |= {each["name"] for section in found["sections"] for each in section["subsets"]}
    found["subsets_not_scored"] = {
        name or "": count for name, count in n_rows.items() if (name or "") not in there and name
    }
    found["is_complete"] = found["is_complete"] and table.num_rows == scored.num_rows
    return found


def _completions(table: pa.Table, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return RewardBench 2's figures; a prompt counts where every one of its completions is scored, None where none does."""
    by_item: dict[int, list[Mapping[str, Any]]] = {}
    for row in table.to_pylist():
        by_item.setdefault(row["row_idx"], []).append(row)

    items = []
    left_out: Counter[str] = Counter()
    for rows in by_item.values():
        failed = next((row["status"] for row in rows if row["status"] not in SCORED), None)
        if failed is not None:
            left_out[failed] += 1
            continue
        items.append(_completions_of(rows))
    if not items:
        return None
    found = rewardbench_two(items, bootstrap=bootstrap).figures()
    found["n_items"], found["left_out"] = len(by_item), dict(sorted(left_out.items()))
    found["is_complete"] = found["is_complete"] and not left_out
    return found


def _completions_of(rows: Sequence[Mapping[str, Any]]) -> Completions:
    """Put the scores of a prompt's completions together again; each stands in one pair at least."""
    correct: dict[int, float] = {}
    wrong: dict[int, float] = {}
    for row in rows:
        correct.setdefault(row["chosen_idx"], row["chosen_score"])
        # with one correct completion the margins decide: its score may differ in the last digits from part to part
        score = correct[0] - row["margin"] if row["n_chosen"] == 1 else row["rejected_score"]
        wrong.setdefault(row["rejected_idx"], score)
    first = rows[0]
    return Completions(
        first["prompt_id"],
        first["pair_id"],
        first["subset"],
        tuple(correct[each] for each in sorted(correct)),
        tuple(wrong[each] for each in sorted(wrong)),
    )


def _calibration(
    config: PairsConfig, artifact: Artifact, scored: pa.Table, beta: float, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the figures of calibration against the file's outcomes, or with ``--outcome-gamma`` against graded ones.

    Raises:
        UsageError: ``--outcome-gamma`` of pairs without two columns of ratings.
    """
    gamma = config.outcome_gamma
    if gamma is not None and (
        _kind(artifact) == "given" or not artifact.record.context.get("score_columns")
    ):
        raise UsageError(
            f"--outcome-gamma {gamma:g} needs the raters' scores, and {config.pairs} has no two columns of ratings beside "
            "what is evaluated",
            hint="give a file with score_chosen and score_rejected (or chosen-rating and rejected-rating), and --model",
        )
    known = scored.filter(pc.is_valid(scored["outcome" if gamma is None else "rater_gap"]))
    if not known.num_rows:
        return {
            "n_pairs": 0,
            "reason": f"no scored pair has {'a preference' if gamma is None else 'two ratings'}",
        }
    gaps = known["rater_gap"].cast(pa.float64()).to_numpy()
    outcomes = (
        known["outcome"].to_numpy() if gamma is None else preference_probabilities(gamma * gaps)
    )
    facts = {
        "beta": beta,
        "n_without_outcome": scored.num_rows - known.num_rows,
        "outcome_gamma": gamma,
    }
    return facts | calibration_figures(
        beta * known["margin"].to_numpy(),
        outcomes,
        known["prompt_id"].to_pylist(),
        rater_gaps=gaps,
        binning=Binning(config.n_bins, config.n_gap_bins, config.fit_share),
        bootstrap=bootstrap,
    )


def _share_longer(scored: pa.Table) -> float | None:
    """Return how often the longer response, in tokens, is the chosen one, equal lengths half; None where nobody counted."""
    first, second = (
        scored[f"{side}_n_tokens"].cast(pa.float64()).to_numpy() for side in ("chosen", "rejected")
    )
    shares = 0.5 * (1.0 + np.sign(first - second))
    return float(np.mean(shares)) if np.isfinite(shares).all() else None


def _recipe(config: PairsConfig, artifact: Artifact, *, is_of_completions: bool) -> dict[str, Any]:
    """Return what a reader needs to make the figures again, and a program to see whether two results can be compared."""
    origin, context = _origin(artifact), artifact.record.context
    names, columns = context.get("models") or [], context.get("score_columns")
    return {
        "pairs_sha256": origin["pairs"],
        "score_kind": origin["score_kind"],
        "models": [
            {"name": name, **hashes} for name, hashes in zip(names, origin["models"], strict=True)
        ],
        **{name: origin.get(name) for name in ("max_length", "dtype")},
        "score_columns": columns if origin["score_kind"] == "given" else None,
        "rater_columns": None if origin["score_kind"] == "given" else columns,
        "tie_rule": TIE_RULES[is_of_completions],
        "versions": context.get("versions"),
        "command": config.stage,
    }
