"""What scored pairs come to: accuracy by subset and section, calibration, and what a reader should know of them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.finite_json import finite_values
from prefpipe.artifacts.schemas import PAIR_SCORES
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.pairs import BETAS, PairsConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.calibration import TEMPERATURES
from prefpipe.maths.calibration_figures import Binning, calibration_figures
from prefpipe.maths.intervals import Bootstrap
from prefpipe.maths.rewardbench import rewardbench_accuracy
from prefpipe.stages.pair_rating import SCORED

COLUMNS = ("prompt_id", "subset", "score_kind", "chosen_score", "rejected_score", "margin", "outcome", "rater_gap",
           "duplicate_of", "chosen_n_tokens", "rejected_n_tokens", "status", "reason")  # fmt: skip


def figures_of(config: PairsConfig, artifact: Artifact) -> dict[str, Any]:
    """Return all figures of a finished ``pair_scores`` as JSON values, ``docs/evaluation.md`` says which.

    Errors:
        InputError: no pair was scored.
        UsageError: ``--beta`` for rewards.
    """
    table = artifact.read_all(COLUMNS)
    kind = _kind(artifact)
    beta = _beta(config, kind)
    scored = table.filter(pc.is_in(table["status"], pa.array(SCORED)))
    if not scored.num_rows:
        reasons = ", ".join(f"{count} {status}" for status, count in sorted(artifact.counts().items()))
        raise InputError(f"no pair of {artifact.path} was scored: {reasons or 'there is none'}",
                         hint=f"run `prefpipe inspect {artifact.path}` for the reasons")  # fmt: skip
    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    bench = _accuracies(table, scored, bootstrap)
    figures: dict[str, Any] = finite_values({
        "kind": PAIR_SCORES.name, "command": config.stage, "score_kind": kind, "pairs": config.pairs, "beta": beta,
        "n_pairs": table.num_rows, "n_scored": scored.num_rows, "counts": dict(sorted(artifact.counts().items())),
        "n_ties": bench["overall"]["n_ties"], "n_identical": pc.sum(pc.equal(scored["status"], "identical")).as_py() or 0,
        "n_duplicates": table.num_rows - table["duplicate_of"].null_count,
        "n_contradictions": int(artifact.tally().get("n_contradictions", 0)),
        "share_longer_chosen": _share_longer(scored), "confidence": config.confidence,
        "bootstrap_draws": config.bootstrap_draws, "bootstrap_seed": config.bootstrap_seed,
        "accuracy": bench.pop("overall"), "rewardbench": bench if table["subset"].null_count < table.num_rows else None,
        "calibration": _calibration(config, scored, beta, bootstrap), "recipe": _recipe(config, artifact),
    })  # fmt: skip
    return figures


def _kind(artifact: Artifact) -> str:
    return str(_origin(artifact)["score_kind"])


def _origin(artifact: Artifact) -> Mapping[str, Any]:
    """Return the identity of the run that scored the pairs."""
    identity: Mapping[str, Any] = artifact.record.identity
    while PAIR_SCORES.name in identity:
        identity = identity[PAIR_SCORES.name]
    return identity


def _beta(config: PairsConfig, kind: str) -> float:
    if config.beta is not None and kind == "reward":
        raise UsageError("--beta is for policies, and these scores are rewards", hint="leave it out")
    return BETAS[kind] if config.beta is None else config.beta


def _accuracies(table: pa.Table, scored: pa.Table, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the figures of `prefpipe.maths.rewardbench`, each subset with its rows in the file, scored or not."""
    found = rewardbench_accuracy(
        scored["chosen_score"].to_numpy(), scored["rejected_score"].to_numpy(), scored["subset"].to_pylist(),
        scored["prompt_id"].to_pylist(), bootstrap=bootstrap,
    ).figures()  # fmt: skip
    n_rows = Counter(table["subset"].to_pylist())
    for subset in [*found["other_subsets"], *(each for section in found["sections"] for each in section["subsets"])]:
        subset["n_rows"] = n_rows[subset["name"] or None]
    there = {each["name"] for each in found["other_subsets"]}
    there |= {each["name"] for section in found["sections"] for each in section["subsets"]}
    found["subsets_not_scored"] = {name or "": count for name, count in n_rows.items() if (name or "") not in there and name}
    found["is_complete"] = found["is_complete"] and table.num_rows == scored.num_rows
    return found


def _calibration(config: PairsConfig, scored: pa.Table, beta: float, bootstrap: Bootstrap) -> dict[str, Any]:
    known = scored.filter(pc.is_valid(scored["outcome"]))
    if not known.num_rows:
        return {"n_pairs": 0, "reason": "no scored pair has a preference"}
    gaps = known["rater_gap"].cast(pa.float64()).to_numpy()
    return {"beta": beta, "n_without_outcome": scored.num_rows - known.num_rows} | calibration_figures(
        beta * known["margin"].to_numpy(), known["outcome"].to_numpy(), known["prompt_id"].to_pylist(), rater_gaps=gaps,
        binning=Binning(config.n_bins, config.n_gap_bins, config.fit_share), bootstrap=bootstrap,
    )  # fmt: skip


def _share_longer(scored: pa.Table) -> float | None:
    """Return how often the longer response, in tokens, is the chosen one, equal lengths half; None where nobody counted."""
    first, second = (scored[f"{side}_n_tokens"].cast(pa.float64()).to_numpy() for side in ("chosen", "rejected"))
    shares = 0.5 * (1.0 + np.sign(first - second))
    return float(np.mean(shares)) if np.isfinite(shares).all() else None


def _recipe(config: PairsConfig, artifact: Artifact) -> dict[str, Any]:
    """Return what a reader needs to make the figures again, and a program to see whether two results can be compared."""
    origin, context = _origin(artifact), artifact.record.context
    names, columns = context.get("models") or [], context.get("score_columns")
    return {
        "pairs_sha256": origin["pairs"], "score_kind": origin["score_kind"],
        "models": [{"name": name, **hashes} for name, hashes in zip(names, origin["models"], strict=True)],
        **{name: origin.get(name) for name in ("max_length", "dtype")},
        "score_columns": columns if origin["score_kind"] == "given" else None,
        "rater_columns": None if origin["score_kind"] == "given" else columns,
        "tie_rule": "a tie is a loss (RewardBench v1)", "versions": context.get("versions"), "command": config.stage,
    }  # fmt: skip


def notes_of(figures: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know, in sentences."""
    notes = _notes_on_rows(figures)
    if figures["n_ties"]:
        half = figures["accuracy"]["ties_half"]
        notes.append(
            f"{figures['n_ties']:,} of {figures['n_scored']:,} pairs tie and count as lost, as in RewardBench v1; "
            f"counted half, the accuracy is {half:.1%}"
        )
    fitted = figures["calibration"].get("temperature", {}).get("temperature")
    if fitted in TEMPERATURES:
        what = "separate all of them" if fitted == TEMPERATURES[0] else "say nothing, or the contrary, of them"
        notes.append(f"the temperature is {fitted:g}, its limit: on the pairs that it was fitted on the scores {what}")
    return notes + _notes_on_subsets(figures["rewardbench"]) if figures["rewardbench"] is not None else notes


def _notes_on_rows(figures: Mapping[str, Any]) -> list[str]:
    n_left_out, n_too_long = figures["n_pairs"] - figures["n_scored"], figures["counts"].get("too_long", 0)
    checks = (
        (n_left_out, f"{n_left_out:,} of {figures['n_pairs']:,} pairs were not scored and count nowhere; `reason` says why"),
        (n_too_long, f"{n_too_long:,} pairs are longer than the model or --max-length allows: kept, not scored, and never cut"),
        (figures["n_identical"], f"{figures['n_identical']:,} pairs have two identical responses and tie by construction"),
        (figures["n_duplicates"],
         f"{figures['n_duplicates']:,} pairs are copies of earlier rows; they count, and are drawn together by the bootstrap"),
        (figures["n_contradictions"],
         f"{figures['n_contradictions']:,} pairs say the contrary of an earlier row: the same responses the other way round"),
    )  # fmt: skip
    return [sentence for holds, sentence in checks if holds]


def _notes_on_subsets(bench: Mapping[str, Any]) -> list[str]:
    found = [subset for section in bench["sections"] for subset in section["subsets"]]
    other_size = [
        f"{subset['name']} {subset['accuracy']['n_pairs']:,} of {subset['n_expected']:,}"
        for subset in found
        if subset["n_expected"] not in (None, subset["accuracy"]["n_pairs"])
    ]
    notes = [f"scored pairs, and RewardBench's number: {', '.join(other_size)}"] if other_size else []
    notes += [
        f"{section['name']} lacks {', '.join(section['missing'])}: the other subsets' weights are renormalised"
        for section in bench["sections"]
        if section["missing"]
    ]
    if bench["subsets_not_scored"]:
        notes.append(f"no pair of these subsets was scored: {', '.join(bench['subsets_not_scored'])}")
    if bench["other_subsets"] and bench["sections"]:
        names = ", ".join(subset["name"] or "(none)" for subset in bench["other_subsets"])
        notes.append(f"no subsets of RewardBench, in no section: {names}")
    if not bench["sections"]:
        notes.append("no subset is one of RewardBench's, so there are no sections and no final figure")
    elif bench["missing_sections"]:
        notes.append(f"no pairs of {', '.join(bench['missing_sections'])}: the final figure is of the other sections, which no "
                     "published one can be compared with")  # fmt: skip
    return notes
