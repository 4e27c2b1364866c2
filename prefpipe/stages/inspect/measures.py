"""What is worth knowing of each kind of artifact, gathered part by part.

Only numbers and short names are kept between parts, never texts. Prompts do not span parts, so whatever is within
a prompt is finished with its part.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.maths.statistics.distribution import Distribution

Facts = dict[str, Any]
NOT_KNOWN = "not known"
"""What an import does not tell, or a server."""


class Measure(Protocol):
    """Reads the parts of one artifact in turn and says what it has seen."""

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        ...

    def facts(self) -> Facts:
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
        """Append (N,) numbers, or an Arrow column whose nulls become NaN."""
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
        """Take in one part."""
        self.numbers.add("prompt length", _first_of_prompt(table, "n_prompt_tokens"))
        self.numbers.add("response length", table["n_response_tokens"])
        self.numbers.add("response text", pc.utf8_length(table["response"]))
        self.numbers.add(
            "mean log-probability",
            pc.divide(table["logp"], pc.cast(table["n_response_tokens"], pa.float64())),
        )
        self.by_model.update(table["model"].to_pylist())
        temperatures, reasons = (
            table[name].to_pylist() for name in ("temperature", "finish_reason")
        )
        self.by_temperature.update(
            NOT_KNOWN if value is None else f"{value:g}" for value in temperatures
        )
        self.by_finish.update(NOT_KNOWN if value is None else str(value) for value in reasons)
        self.n_prompts += len(pc.unique(table["prompt_id"]))
        self.n_duplicates += table.num_rows - table["duplicate_of"].null_count

    def facts(self) -> Facts:
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
            "mean log-probability": "nats a token",
        }
        return [Distribution.of(name, self.numbers[name], unit) for name, unit in units.items()]


class ScoreMeasure:
    """Each scorer's rewards, what was not rated, and how often a prompt's rewards are all the same."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.statuses: dict[str, Counter[str]] = {}
        self.n_prompts: Counter[str] = Counter()
        self.n_flat: Counter[str] = Counter()
        self.spreads: dict[str, list[float]] = {}

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        for scorer in pc.unique(table["scorer"]).to_pylist():
            own = table.filter(pc.equal(table["scorer"], scorer))
            self.numbers.add(scorer, own["reward"])
            self.statuses.setdefault(scorer, Counter()).update(own["status"].to_pylist())
            for _, rewards in by_prompt(own, "reward"):
                known = rewards[~np.isnan(rewards)]
                if len(known) > 1:
                    self.n_prompts[scorer] += 1
                    self.n_flat[scorer] += bool(known.min() == known.max())
                    self.spreads.setdefault(scorer, []).append(float(known.std()))

    def facts(self) -> Facts:
        """Return for each scorer its statuses, the mean spread within a prompt and the prompts without spread."""
        return {
            "scorers": {
                scorer: {
                    "statuses": dict(self.statuses[scorer]),
                    "n_prompts": self.n_prompts[scorer],
                    "n_prompts_all_equal": self.n_flat[scorer],
                    "mean_std_within_prompt": float(np.mean(self.spreads[scorer]))
                    if self.spreads.get(scorer)
                    else None,
                }
                for scorer in self.numbers.names()
            }
        }

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
        """Take in one part."""
        column = table["embedding"].combine_chunks()
        self.dim = column.type.list_size
        vectors = (
            column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim).astype(np.float64)
        )
        is_ok = pc.equal(table["status"], "ok").to_numpy(zero_copy_only=False).astype(bool)
        norms = np.linalg.norm(vectors, axis=1)
        self.numbers.add("norm", norms[is_ok])
        self.numbers.add("text length", table.filter(pa.array(is_ok))["n_tokens"])
        self.n_texts += int(is_ok.sum())
        self.n_truncated += int(pc.sum(table["truncated"]).as_py() or 0)
        unit = vectors / np.where(norms > 0, norms, 1.0)[:, None]
        prompt_ids = np.array(table["prompt_id"].to_pylist(), object)[is_ok]
        self.numbers.add(
            "cosine within prompts",
            [
                mean_pairwise_cosine(unit[is_ok][prompt_ids == one])
                for one in dict.fromkeys(prompt_ids)
            ],
        )

    def facts(self) -> Facts:
        """Return the dimensions and how many texts the embedder cut."""
        share = self.n_truncated / self.n_texts if self.n_texts else 0.0
        return {
            "dim": self.dim,
            "n_texts": self.n_texts,
            "n_truncated": self.n_truncated,
            "truncated_share": share,
        }

    def distributions(self) -> list[Distribution]:
        """Return norms, text lengths and mean pairwise cosines, one a prompt."""
        units = {"cosine within prompts": "mean over pairs", "text length": "tokens", "norm": ""}
        return [Distribution.of(name, self.numbers[name], unit) for name, unit in units.items()]


class GroupMeasure:
    """Roles, sizes, margins and coverage costs."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.roles: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.n_groups, self.n_rejected, self.n_optimal = 0, 0, 0

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        kept = table.filter(pc.is_valid(table["role"]))
        self.n_rejected += table.num_rows - kept.num_rows
        roles = np.array(kept["role"].to_pylist(), object)
        self.roles.update(roles.tolist())
        self.numbers.add("response length", kept["n_response_tokens"])
        optimal = kept["is_optimal"].to_pylist()
        for place, rewards in by_prompt(kept, "reward"):
            is_positive = roles[place] == "positive"
            n_positive, n_negative = int(is_positive.sum()), int((~is_positive).sum())
            self.n_groups += 1
            self.n_optimal += optimal[place[0]] is True
            self.sizes[f"{n_positive}+{n_negative}"] += 1
            self.numbers.add("group size", [len(place)])
            if n_positive and n_negative:
                self.numbers.add(
                    "margin", [rewards[is_positive].min() - rewards[~is_positive].max()]
                )
                self.numbers.add(
                    "mean margin", [rewards[is_positive].mean() - rewards[~is_positive].mean()]
                )
        for name in ("cost", "lower_bound"):
            self.numbers.add(name, _first_of_prompt(kept, name))
        for role in ("positive", "negative"):
            self.numbers.add(role, kept.filter(pa.array(roles == role, pa.bool_()))["reward"])

    def facts(self) -> Facts:
        """Return counts of groups, rejected prompts, roles, sizes (positives + negatives), and the optimality gap."""
        has_cost = bool(np.isfinite(self.numbers["cost"]).any())
        facts: Facts = {
            "n_groups": self.n_groups,
            "n_prompts_rejected": self.n_rejected,
            "roles": dict(self.roles),
            "sizes": dict(self.sizes.most_common()),
        }
        if has_cost:
            gap = np.nanmax(self.numbers["cost"] - self.numbers["lower_bound"])
            facts |= {"n_groups_optimal": self.n_optimal, "largest_gap_to_lower_bound": float(gap)}
        return facts

    def distributions(self) -> list[Distribution]:
        """Return rewards by role, margins, costs and lengths."""
        names = {
            "positive": ("reward of positives", ""),
            "negative": ("reward of negatives", ""),
            "margin": ("margin", "worst positive - best negative"),
            "mean margin": ("mean margin", "mean positive - mean negative"),
            "cost": ("coverage cost", ""),
            "response length": ("response length", "tokens"),
        }
        found = [
            Distribution.of(title, self.numbers[name], unit)
            for name, (title, unit) in names.items()
        ]
        return [item for item in found if item.n]


class LogprobMeasure:
    """Sums, means a token and lengths of what was measured."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.n_responses, self.n_measured = 0, 0

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        measured = table.filter(pc.is_valid(table["logp"]))
        self.n_responses += table.num_rows
        self.n_measured += measured.num_rows
        self.numbers.add("summed", measured["logp"])
        self.numbers.add(
            "mean", pc.divide(measured["logp"], pc.cast(measured["n_tokens"], pa.float64()))
        )
        self.numbers.add("response length", measured["n_tokens"])

    def facts(self) -> Facts:
        """Return how many responses there are, and how many have a log-probability."""
        return {"n_responses": self.n_responses, "n_measured": self.n_measured}

    def distributions(self) -> list[Distribution]:
        """Return log-probabilities, a token and a response, and lengths."""
        return [
            Distribution.of("mean log-probability", self.numbers["mean"], "nats a token"),
            Distribution.of("log-probability", self.numbers["summed"], "nats a response"),
            Distribution.of("response length", self.numbers["response length"], "tokens"),
        ]


class EvaluationMeasure:
    """Preference and paired differences, prompt by prompt."""

    def __init__(self) -> None:
        self.numbers = Numbers()

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        self.numbers.add("preference", table["preference"])
        for name in ("reward", "n_tokens"):
            self.numbers.add(name, pc.subtract(table[f"policy_{name}"], table[f"baseline_{name}"]))

    def facts(self) -> Facts:
        """Return nothing: the headline figures are in ``summary.json``."""
        return {}

    def distributions(self) -> list[Distribution]:
        """Return preferences and differences."""
        return [
            Distribution.of(
                "preference for the policy",
                self.numbers["preference"],
                "share of pairs won a prompt",
            ),
            Distribution.of("reward difference", self.numbers["reward"], "policy - baseline"),
            Distribution.of(
                "length difference", self.numbers["n_tokens"], "tokens, policy - baseline"
            ),
        ]


class VerdictMeasure:
    """Preferences and lengths, pair by pair."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.verdicts: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        self.numbers.add("preference", table["preference"])
        self.numbers.add("length", pc.subtract(table["a_length_chars"], table["b_length_chars"]))
        for order in ("a_first", "b_first"):
            self.verdicts.update(
                f"{order}: {verdict}"
                for verdict in table[f"{order}_verdict"].to_pylist()
                if verdict is not None
            )

    def facts(self) -> Facts:
        """Return verdicts by presentation order: a judge without position bias gives both the same."""
        return {"verdicts": dict(sorted(self.verdicts.items()))}

    def distributions(self) -> list[Distribution]:
        """Return preferences and differences of length."""
        return [
            Distribution.of(
                "preference for A", self.numbers["preference"], "mean over presentation orders"
            ),
            Distribution.of("length difference", self.numbers["length"], "characters, A - B"),
        ]


class PairMeasure:
    """Differences of scores and lengths, pair by pair."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.n_tied = 0

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        self.numbers.add("margin", table["margin"])
        self.numbers.add(
            "length", pc.subtract(table["chosen_n_tokens"], table["rejected_n_tokens"])
        )
        self.n_tied += pc.sum(pc.equal(table["margin"], 0.0)).as_py() or 0

    def facts(self) -> Facts:
        """Return how many pairs tie."""
        return {"n_tied": self.n_tied}

    def distributions(self) -> list[Distribution]:
        """Return differences of scores and lengths."""
        return [
            Distribution.of("margin", self.numbers["margin"], "score of chosen - rejected"),
            Distribution.of(
                "length difference", self.numbers["length"], "tokens, chosen - rejected"
            ),
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
    """Return the mean cosine over pairs of distinct rows of (N, D) unit vectors, NaN below two rows.

    ``(|sum_i v_i|^2 - N) / (N (N - 1))``, which needs no N x N matrix.
    """
    n = len(unit_vectors)
    if n < 2:
        return float("nan")
    total = unit_vectors.sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))


def by_prompt(table: pa.Table, column: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each prompt, in order, the places of its rows and a column's numbers there."""
    values = table[column].cast(pa.float64()).to_numpy()
    places: dict[str, list[int]] = {}
    for place, prompt_id in enumerate(table["prompt_id"].to_pylist()):
        places.setdefault(prompt_id, []).append(place)
    for members in places.values():
        index = np.array(members)
        yield index, values[index]


def _first_of_prompt(table: pa.Table, column: str) -> np.ndarray:
    return np.array([values[0] for _, values in by_prompt(table, column)])
