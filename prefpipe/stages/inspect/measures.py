"""The measures shown for each kind of artifact, collected part by part.

Only numbers and short names are kept between parts, never texts. Prompts do not span parts, so
measures within a prompt are complete after its part.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.maths.statistics.calibration import preference_probabilities
from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.maths.statistics.mmpo_targets import targets_of

NOT_KNOWN = "not known"
"""What an import does not tell, or a server."""


class Measure(Protocol):
    """Reads the parts of one artifact in turn and returns their measures."""

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return counts and means as JSON values, by name."""
        ...

    def distributions(self) -> list[Distribution]:
        """Return the distributions worth a plot."""
        ...


class Numbers:
    """Named columns of numbers that grow part by part."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, values: Any) -> None:
        """Append (N,) numbers, or a column of Arrow or polars whose nulls become NaN."""
        if isinstance(values, pa.ChunkedArray):
            values = values.cast(pa.float64()).to_numpy()
        self._pieces.setdefault(name, []).append(np.asarray(values, np.float64))

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the whole column, empty when nothing was added."""
        return np.concatenate(self._pieces.get(name, [np.empty(0)]))

    def names(self) -> list[str]:
        """Return the names in the order in which they came."""
        return list(self._pieces)


class CandidateMeasure:
    """Lengths, log-probabilities, duplicates, models and temperatures."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.by_model: Counter[str] = Counter()
        self.by_temperature: Counter[str] = Counter()
        self.by_finish: Counter[str] = Counter()
        self.n_prompts, self.n_duplicates = 0, 0

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        prompts = first_rows(table, ["n_prompt_tokens"])
        self.n_prompts += len(prompts)
        self.n_duplicates += table.num_rows - table["duplicate_of"].null_count

        n_tokens = pc.cast(table["n_response_tokens"], pa.float64())
        self.numbers.add("prompt length", prompts["n_prompt_tokens"])
        self.numbers.add("response length", n_tokens)
        self.numbers.add("response text", pc.utf8_length(table["response"]))
        self.numbers.add("mean log-probability", pc.divide(table["logp"], n_tokens))

        for model, n in value_counts(table["model"]).items():
            self.by_model[model] += n
        for temperature, n in value_counts(table["temperature"]).items():
            name = NOT_KNOWN if temperature is None else f"{temperature:g}"
            self.by_temperature[name] += n
        for reason, n in value_counts(table["finish_reason"]).items():
            self.by_finish[NOT_KNOWN if reason is None else str(reason)] += n

    def facts(self) -> dict[str, Any]:
        """Return counts of prompts, duplicates, models, temperatures and finish reasons."""
        return {
            "n_prompts": self.n_prompts,
            "n_duplicates": self.n_duplicates,
            "models": dict(self.by_model),
            "temperatures": dict(self.by_temperature),
            "finish_reasons": dict(self.by_finish),
        }

    def distributions(self) -> list[Distribution]:
        """Return lengths and the log-probability a token."""
        units = {
            "prompt length": "tokens",
            "response length": "tokens",
            "response text": "characters",
            "mean log-probability": "nats per token",
        }
        return [Distribution.of(name, self.numbers[name], unit) for name, unit in units.items()]


class ScoreMeasure:
    """Each scorer's rewards, unrated responses, and how often a prompt's rewards are all equal."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.stds = Numbers()
        self.statuses: dict[str, Counter[str]] = {}
        self.n_flat: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        for scorer in pc.unique(table["scorer"]).to_pylist():
            rows = table.filter(pc.equal(table["scorer"], scorer))
            self.numbers.add(scorer, rows["reward"])
            self.statuses.setdefault(scorer, Counter()).update(value_counts(rows["status"]))

            # Within a prompt, among the rewards that are known.
            reward = pl.col("reward").cast(pl.Float64).fill_nan(None)
            prompts = (
                pl.DataFrame(rows.select(["prompt_id", "reward"]))
                .group_by("prompt_id", maintain_order=True)
                .agg(
                    n=reward.count(),
                    is_flat=reward.min() == reward.max(),
                    std=reward.std(ddof=0),
                )
                .filter(pl.col("n") > 1)
            )
            self.stds.add(scorer, prompts["std"])
            self.n_flat[scorer] += int(prompts["is_flat"].sum())

    def facts(self) -> dict[str, Any]:
        """Return for each scorer its statuses, and how its rewards spread within a prompt."""
        scorers = {}
        for scorer in self.numbers.names():
            stds = self.stds[scorer]
            scorers[scorer] = {
                "statuses": dict(self.statuses[scorer]),
                "n_prompts": len(stds),
                "n_prompts_all_equal": self.n_flat[scorer],
                "mean_std_within_prompt": float(np.mean(stds)) if len(stds) else None,
            }
        return {"scorers": scorers}

    def distributions(self) -> list[Distribution]:
        """Return the rewards of each scorer."""
        return [
            Distribution.of(f"reward of {scorer}", self.numbers[scorer])
            for scorer in self.numbers.names()
        ]


class EmbeddingMeasure:
    """Norms, cut texts, and how alike the responses of one prompt are."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.n_texts, self.n_truncated, self.dim = 0, 0, 0

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        self.n_truncated += int(pc.sum(table["truncated"]).as_py() or 0)
        table = table.filter(pc.equal(table["status"], "ok"))
        self.n_texts += table.num_rows
        self.numbers.add("text length", table["n_tokens"])

        column = table["embedding"].combine_chunks()
        self.dim = column.type.list_size
        vectors = column.flatten().to_numpy(zero_copy_only=False)
        vectors = vectors.reshape(-1, self.dim).astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        self.numbers.add("norm", norms)

        # A vector of zeros has no direction, and stays one.
        unit = vectors / np.where(norms > 0, norms, 1.0)[:, None]
        rows_by_prompt = (
            pl.DataFrame(table.select(["prompt_id"]))
            .with_row_index("row")
            .group_by("prompt_id", maintain_order=True)
            .agg("row")
        )
        cosines = [mean_pairwise_cosine(unit[rows.to_numpy()]) for rows in rows_by_prompt["row"]]
        self.numbers.add("cosine within prompts", cosines)

    def facts(self) -> dict[str, Any]:
        """Return the dimensions and how many texts the embedder cut."""
        return {
            "dim": self.dim,
            "n_texts": self.n_texts,
            "n_truncated": self.n_truncated,
            "truncated_share": self.n_truncated / self.n_texts if self.n_texts else 0.0,
        }

    def distributions(self) -> list[Distribution]:
        """Return norms, text lengths and mean pairwise cosines, one a prompt."""
        units = {"cosine within prompts": "mean over pairs", "text length": "tokens", "norm": ""}
        return [Distribution.of(name, self.numbers[name], unit) for name, unit in units.items()]


class GroupMeasure:
    """Roles, sizes, margins and coverage costs; with a gamma, the MMPO targets of pairs.

    ``n_bins``: of the targets.
    """

    def __init__(self, gamma: float | None = None, n_bins: int = 10) -> None:
        self.gamma, self.n_bins = gamma, n_bins
        self.numbers = Numbers()
        self.roles: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.n_groups, self.n_rejected, self.n_optimal = 0, 0, 0

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        kept = table.filter(pc.is_valid(table["role"]))
        self.n_rejected += table.num_rows - kept.num_rows
        self.roles.update(value_counts(kept["role"]))
        self.numbers.add("response length", kept["n_response_tokens"])
        for role in ("positive", "negative"):
            self.numbers.add(role, kept.filter(pc.equal(kept["role"], role))["reward"])

        if self.gamma is not None:
            self.numbers.add("pair margin", _pair_margins(kept))
        groups = _groups_of(kept)
        self.n_groups += len(groups)
        self.n_optimal += int(groups["is_optimal"].sum())
        for name in ("group size", "cost", "lower_bound"):
            self.numbers.add(name, groups[name])

        has_both = (pl.col("n_positives") > 0) & (pl.col("n_negatives") > 0)
        with_both = groups.filter(has_both)
        for name in ("margin", "mean margin"):
            self.numbers.add(name, with_both[name])

        sizes = groups.group_by("n_positives", "n_negatives", maintain_order=True).len()
        for n_positives, n_negatives, n in sizes.iter_rows():
            self.sizes[f"{n_positives}+{n_negatives}"] += n

    def facts(self) -> dict[str, Any]:
        """Return counts of groups, rejected prompts, roles and sizes, and the optimality gap.

        Sizes are positives + negatives. The gap is None without a bound: only opt-select has one.
        """
        facts: dict[str, Any] = {
            "n_groups": self.n_groups,
            "n_prompts_rejected": self.n_rejected,
            "roles": dict(self.roles),
            "sizes": dict(self.sizes.most_common()),
        }
        cost = self.numbers["cost"]
        if np.isfinite(cost).any():
            gaps = cost - self.numbers["lower_bound"]
            has_bound = not np.isnan(gaps).all()
            facts["n_groups_optimal"] = self.n_optimal
            facts["largest_gap_to_lower_bound"] = float(np.nanmax(gaps)) if has_bound else None
        if self.gamma is not None:
            margins = self.numbers["pair margin"]
            targets = targets_of(margins, self.gamma)
            # rounded, so that the difference of two levels is one target whichever two they are
            probabilities = preference_probabilities(self.gamma * margins[np.isfinite(margins)])
            facts["n_different_targets"] = len(np.unique(probabilities.round(9)))
            facts["target_near_half_share"] = targets["share_near_half"]
            facts["target_near_one_share"] = targets["share_near_one"]
        return facts

    def distributions(self) -> list[Distribution]:
        """Return rewards by role, margins, costs and lengths, those that there are."""
        titles = {
            "positive": ("reward of positives", ""),
            "negative": ("reward of negatives", ""),
            "margin": ("margin", "worst positive - best negative"),
            "mean margin": ("mean margin", "mean positive - mean negative"),
            "cost": ("coverage cost", ""),
            "response length": ("response length", "tokens"),
        }
        distributions = [
            Distribution.of(title, self.numbers[name], unit)
            for name, (title, unit) in titles.items()
        ]
        if self.gamma is not None:
            targets = preference_probabilities(self.gamma * self.numbers["pair margin"])
            unit = f"sigma({self.gamma:g} x margin) of each pair"
            # The half below 1/2 is empty unless a pair is inverted, and is then not drawn.
            lowest = np.nanmin(targets, initial=1.0)
            edges = np.linspace(0.0 if lowest < 0.5 else 0.5, 1.0, self.n_bins + 1)
            distributions.append(Distribution.of("MMPO target", targets, unit, edges=edges))
        return [distribution for distribution in distributions if distribution.n]


def _pair_margins(kept: pa.Table) -> np.ndarray:
    """Return the reward margin of every pair (N,).

    The pairs are those that select named, in a group without any each positive with each negative.
    """
    margins: list[float] = []
    columns = ["prompt_id", "role", "reward", "beats"]
    rows = pl.DataFrame(kept.select(columns))
    for group in rows.partition_by("prompt_id", maintain_order=True):
        named = group["beats"].drop_nulls().to_list()
        if named or group["beats"].null_count() < len(group):
            margins += [pair["margin"] for pairs in named for pair in pairs]
            continue
        is_positive = (group["role"] == "positive").to_numpy()
        rewards = group["reward"].to_numpy()
        differences = rewards[is_positive][:, None] - rewards[~is_positive][None, :]
        margins += differences.ravel().tolist()
    return np.array(margins, np.float64)


def _groups_of(kept: pa.Table) -> pl.DataFrame:
    """Return a row for each prompt: its numbers of positives and negatives, margins and cost."""
    is_positive = pl.col("role") == "positive"
    positives = pl.col("reward").filter(is_positive)
    negatives = pl.col("reward").filter(~is_positive)
    names = ["prompt_id", "role", "reward", "cost", "lower_bound", "is_optimal"]
    return (
        pl.DataFrame(kept.select(names))
        .group_by("prompt_id", maintain_order=True)
        .agg(
            pl.len().alias("group size"),
            is_positive.sum().alias("n_positives"),
            (~is_positive).sum().alias("n_negatives"),
            (positives.min() - negatives.max()).alias("margin"),
            (positives.mean() - negatives.mean()).alias("mean margin"),
            # the same in every row of a group
            pl.col("cost", "lower_bound", "is_optimal").first(),
        )
    )


class LogprobMeasure:
    """Sums, means a token and lengths of what was measured."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.n_responses, self.n_measured = 0, 0

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        measured = table.filter(pc.is_valid(table["logp"]))
        self.n_responses += table.num_rows
        self.n_measured += measured.num_rows
        n_tokens = pc.cast(measured["n_tokens"], pa.float64())
        self.numbers.add("summed", measured["logp"])
        self.numbers.add("mean", pc.divide(measured["logp"], n_tokens))
        self.numbers.add("response length", n_tokens)

    def facts(self) -> dict[str, Any]:
        """Return how many responses there are, and how many have a log-probability."""
        return {"n_responses": self.n_responses, "n_measured": self.n_measured}

    def distributions(self) -> list[Distribution]:
        """Return log-probabilities, a token and a response, and lengths."""
        return [
            Distribution.of("mean log-probability", self.numbers["mean"], "nats per token"),
            Distribution.of("log-probability", self.numbers["summed"], "nats per response"),
            Distribution.of("response length", self.numbers["response length"], "tokens"),
        ]


class EvaluationMeasure:
    """Preference and paired differences, prompt by prompt."""

    def __init__(self) -> None:
        self.numbers = Numbers()

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        self.numbers.add("preference", table["preference"])
        for name in ("reward", "n_tokens"):
            self.numbers.add(name, pc.subtract(table[f"policy_{name}"], table[f"baseline_{name}"]))

    def facts(self) -> dict[str, Any]:
        """Return nothing: the headline figures are in ``summary.json``."""
        return {}

    def distributions(self) -> list[Distribution]:
        """Return preferences and differences."""
        preference, reward = self.numbers["preference"], self.numbers["reward"]
        length = self.numbers["n_tokens"]
        return [
            Distribution.of("preference for the policy", preference, "share of pairs won a prompt"),
            Distribution.of("reward difference", reward, "policy - baseline"),
            Distribution.of("length difference", length, "tokens, policy - baseline"),
        ]


class VerdictMeasure:
    """Preferences and lengths, pair by pair."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.verdicts: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        self.numbers.add("preference", table["preference"])
        self.numbers.add("length", pc.subtract(table["a_length_chars"], table["b_length_chars"]))
        for order in ("a_first", "b_first"):
            for verdict, n in value_counts(table[f"{order}_verdict"]).items():
                if verdict is not None:
                    self.verdicts[f"{order}: {verdict}"] += n

    def facts(self) -> dict[str, Any]:
        """Return verdicts by order: a judge without position bias gives both orders the same."""
        return {"verdicts": dict(sorted(self.verdicts.items()))}

    def distributions(self) -> list[Distribution]:
        """Return preferences and differences of length."""
        preference, length = self.numbers["preference"], self.numbers["length"]
        return [
            Distribution.of("preference for A", preference, "mean over presentation orders"),
            Distribution.of("length difference", length, "characters, A - B"),
        ]


class PairMeasure:
    """Differences of scores and lengths, pair by pair."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.n_tied = 0

    def add(self, table: pa.Table) -> None:
        """Add one part."""
        lengths = pc.subtract(table["chosen_n_tokens"], table["rejected_n_tokens"])
        self.numbers.add("margin", table["margin"])
        self.numbers.add("length", lengths)
        self.n_tied += pc.sum(pc.equal(table["margin"], 0.0)).as_py() or 0

    def facts(self) -> dict[str, Any]:
        """Return how many pairs tie."""
        return {"n_tied": self.n_tied}

    def distributions(self) -> list[Distribution]:
        """Return differences of scores and lengths."""
        margin, length = self.numbers["margin"], self.numbers["length"]
        return [
            Distribution.of("margin", margin, "score of chosen - rejected"),
            Distribution.of("length difference", length, "tokens, chosen - rejected"),
        ]


MEASURES: Mapping[str, type[Measure]] = {
    "candidates": CandidateMeasure,
    "scores": ScoreMeasure,
    "embeddings": EmbeddingMeasure,
    "groups": GroupMeasure,
    "logprobs": LogprobMeasure,
    "evaluation": EvaluationMeasure,
    "verdicts": VerdictMeasure,
    "pair_scores": PairMeasure,
}
"""What is measured, by the schema's name."""


def mean_pairwise_cosine(unit_vectors: np.ndarray) -> float:
    """Return the mean cosine over pairs of distinct rows of (N, D) unit vectors, NaN below two.

    ``(|sum_i v_i|^2 - N) / (N (N - 1))``, which needs no N x N matrix.
    """
    n = len(unit_vectors)
    if n < 2:
        return float("nan")
    total = unit_vectors.sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))


def first_rows(table: pa.Table, columns: list[str]) -> pl.DataFrame:
    """Return these columns of the first row of each prompt, in order."""
    rows = pl.DataFrame(table.select(["prompt_id", *columns]))
    return rows.unique("prompt_id", keep="first", maintain_order=True)


def value_counts(column: pa.ChunkedArray) -> dict[Any, int]:
    """Return how often each value is in a column, in the order in which they come."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
