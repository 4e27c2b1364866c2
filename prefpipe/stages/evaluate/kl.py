"""KL divergence from the policy to a reference, or why there is none.

It uses log-probabilities that are on disk.
"""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.storage.location import is_within
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.sampling import SERVED
from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import ratio_of_means
from prefpipe.stages.shared.candidate_rows import Key, Row, key_of
from prefpipe.stages.shared.recipe import IMPORT, RatedCandidates

ESTIMATOR = "k1: mean of log p(policy) - log p(reference) over the policy's own samples"
SHAPING = (
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
)
"""Sampling settings with which a token is not drawn from the policy's own distribution."""


class KlReference(NamedTuple):
    """The reference model of the divergence, and its log-probabilities of the policy's responses.

    ``reason``: why there are none.
    """

    name: str | None = None
    logprobs: Artifact | None = None
    reason: str | None = None


def why_no_kl(config: EvalConfig, policy: RatedCandidates, baseline: RatedCandidates) -> str | None:
    """Return why the divergence of this policy cannot be measured, None if it can."""
    if not config.kl:
        return "--no-kl"
    if policy.candidates.record.stage == IMPORT:
        return "the policy's responses were imported, without log-probabilities"
    if "json_schema" in policy.candidates.record.identity:
        return (
            "the policy's responses were constrained by --json-schema, so their "
            "log-probabilities are not known"
        )
    samplers = policy.candidates.record.identity.get("models", [])
    if not all(sampler.get("tokenizer_hash") for sampler in samplers):
        return (
            "the policy's responses do not come from a model on this disk, so their token ids "
            "are not known"
        )

    if config.kl_reference is None:
        # Of a baseline that was sampled here, into the output, the model is known: `--baseline`.
        if not is_within(baseline.candidates.path, config.output):
            return "the baseline is a candidates folder; name its model with --kl-reference"
        if config.backend in SERVED:
            return "the baseline is not a model on this disk"
    return None


def log_ratios(
    rows: Sequence[Row], reference: Mapping[Key, tuple[float, int]]
) -> tuple[float, float]:
    """Return a prompt's mean log ratio in nats a response, and the mean tokens of a response.

    Both are over the responses that both models measured; NaN if there is none.

    Args:
        rows: the prompt's candidates, with ``logp`` and ``n_response_tokens``.
        reference: the reference's log-probability and its number of tokens, by key.

    Raises:
        InputError: the two are sums over different numbers of tokens.
    """
    ratios: list[float] = []
    tokens: list[int] = []
    for row in rows:
        logp, n_tokens = reference.get(key_of(row), (None, 0))
        if logp is None or row["logp"] is None:
            continue
        if n_tokens != row["n_response_tokens"]:
            raise InputError(
                f"the reference's log-probability of response {row['sample_idx']} of prompt "
                f"{row['prompt_id']} sums {n_tokens} tokens, and the policy's sums "
                f"{row['n_response_tokens']}",
                hint="remove the folder policy/reference-logprobs and run the same command again",
            )

        ratios.append(row["logp"] - logp)
        tokens.append(n_tokens)

    if not ratios:
        return nan, nan
    return float(np.mean(ratios)), float(np.mean(tokens))


def kl_figures(
    table: pa.Table, reference: KlReference, policy: RatedCandidates, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return KL(policy || reference) a token and a response, in nats.

    The form is that of every measure of `health_figures`.

    Both are ratios of means over prompts::

        a token:     mean of a prompt's log ratio / mean of its tokens
        a response:  mean of a prompt's log ratio / 1
    """
    ratios_P = np.array(table["policy_log_ratio"].to_pylist(), dtype=np.float64)
    tokens_P = np.array(table["policy_log_ratio_tokens"].to_pylist(), dtype=np.float64)
    # A prompt without a ratio counts on neither side of the fraction.
    ones_P = np.where(np.isnan(ratios_P), np.nan, 1.0)
    reason = reference.reason
    if reason is None and np.isnan(ratios_P).all():
        reason = "no response has the log-probabilities of both models"

    no_value = dict.fromkeys(("mean", "se", "low", "high"))
    figures = {}
    for unit, below_P in (("token", tokens_P), ("response", ones_P)):
        ratio = ratio_of_means(ratios_P, below_P, bootstrap)
        values: dict[str, Any] = {
            "policy": ratio._asdict(),
            "baseline": no_value,
            "difference": no_value,
            "n_prompts": ratio.n,
            "unit": f"nats a {unit}",
            "reference": reference.name,
            "estimator": ESTIMATOR,
            "sampled_otherwise": sampled_otherwise(policy),
        }
        if reason is not None:
            values["reason"] = reason
        figures[f"kl_per_{unit}"] = values
    return figures


def sampled_otherwise(policy: RatedCandidates) -> str | None:
    """Return how the responses were sampled, None if that is from the policy itself.

    From the policy itself means temperature 1 and the whole distribution.
    """
    return sampling_otherwise(policy.candidates.record.identity)


def sampling_otherwise(identity: Mapping[str, Any]) -> str | None:
    """Return `sampled_otherwise` for given sampling settings."""
    temperatures = identity.get("temperature") or [1.0]
    settings = []
    if set(temperatures) != {1.0}:
        settings.append("temperature " + ", ".join(f"{value:g}" for value in temperatures))
    if identity.get("top_p", 1.0) < 1:
        settings.append(f"top-p {identity['top_p']:g}")
    if identity.get("top_k", 0) > 0:
        settings.append(f"top-k {identity['top_k']}")

    # In an identity only where they were given. A stop text is not among them: what is before
    # it is the policy's own.
    given = [name for name in SHAPING if name in identity]
    settings += [f"{name.replace('_', '-')} {identity[name]:g}" for name in given]
    if identity.get("ignore_eos"):
        settings.append("ignore-eos")
    return ", ".join(settings) or None


def notes_on_kl(figures: Mapping[str, Any], *, n_prompts: int) -> list[str]:
    """Return notes on the divergence, in sentences.

    Args:
        figures: ``kl_per_token`` of `kl_figures`.
        n_prompts: of the table.
    """
    reason = figures.get("reason")
    if reason == "--no-kl":
        return []
    if reason is not None:
        return [f"no KL to the reference: {reason}"]

    notes = []
    if figures["sampled_otherwise"] is not None:
        notes.append(
            f"KL is measured on responses sampled at {figures['sampled_otherwise']}, and is "
            "therefore biased; for an unbiased KL, sample with --temperature 1 and without "
            "--top-p, --top-k, --min-p, penalties, --min-tokens and --ignore-eos"
        )
    if figures["n_prompts"] < n_prompts:
        notes.append(
            f"KL is over {figures['n_prompts']} of {n_prompts} prompts: on the others, no "
            "response was measured by both models"
        )
    return notes
