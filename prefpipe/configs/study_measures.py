"""What a study measures of its arms: the names that a plan's `measure` may have, and their columns.

A measure is a figure over the rows of ``results.parquet`` of one arm, by seed and prompt.
"""

from typing import Literal, NamedTuple

Kind = Literal["mean", "ratio", "lowest_decile", "length_controlled"]
"""How a measure's figure is made of its columns.

- ``mean``: of prompts.
- ``ratio``: sum of the column over sum of ``below``, over all prompts and seeds.
- ``lowest_decile``: mean of the 10 % of prompts with the lowest values, of each seed.
- ``length_controlled``: the win rate at equal lengths, of each seed.
"""


class StudyMeasure(NamedTuple):
    """A measure of an arm.

    Attributes:
        label: its name in a sentence.
        form: how its numbers are written.
        kind: how the figure is made.
        column: of the trained policy.
        of_base: the same of the base, None where the base has none: a win rate is against it.
        below: the denominator's column, of a ratio.
        below_of_base: the same of the base.
        better: which way is better; "" where that depends.
        is_share: its values lie in [0, 1].
    """

    label: str
    form: str
    kind: Kind
    column: str
    of_base: str | None = None
    below: str | None = None
    below_of_base: str | None = None
    better: Literal["higher", "lower", ""] = ""
    is_share: bool = False


def _mean(
    label: str,
    form: str,
    column: str,
    better: Literal["higher", ""] = "",
    *,
    is_share: bool = False,
) -> StudyMeasure:
    return StudyMeasure(
        label, form, "mean", column, f"base_{column}", better=better, is_share=is_share
    )


def _of_pairs(
    label: str, form: str, column: str, better: Literal["higher", "lower"]
) -> StudyMeasure:
    return StudyMeasure(label, form, "mean", column, better=better)


MEASURES = {
    "reward": _mean("mean reward", "{:.3f}", "reward", "higher"),
    "lowest_decile": StudyMeasure(
        "reward, lowest decile of prompts",
        "{:.3f}",
        "lowest_decile",
        "reward",
        "base_reward",
        better="higher",
    ),
    "lowest_reward": _mean("lowest sample of a prompt", "{:.3f}", "lowest_reward", "higher"),
    "worst_rate": StudyMeasure(
        "worst failures",
        "{:.1%}",
        "ratio",
        "n_worst",
        "base_n_worst",
        "n_rated",
        "base_n_rated",
        "lower",
        is_share=True,
    ),
    "win_rate": StudyMeasure(
        "win rate, ties half", "{:.1%}", "mean", "preference", better="higher", is_share=True
    ),
    "lc_win_rate": StudyMeasure(
        "win rate at equal lengths",
        "{:.1%}",
        "length_controlled",
        "preference",
        better="higher",
        is_share=True,
    ),
    "n_tokens": _mean("tokens per response", "{:.1f}", "n_tokens"),
    "kl_per_token": StudyMeasure(
        "KL, nats per token", "{:.3f}", "ratio", "log_ratio", None, "log_ratio_tokens"
    ),
    "repetition": _mean("repetition", "{:.3f}", "repetition", is_share=True),
    "self_bleu": _mean("self-BLEU", "{:.3f}", "self_bleu", is_share=True),
    "distinct_2": _mean("distinct-2", "{:.3f}", "distinct_2", is_share=True),
    "embedding_diversity": _mean("embedding distance", "{:.3f}", "embedding_diversity"),
}
"""Of policies, judged by what they sample, in the order of the tables.

A measure that no run has is left out.
"""

PAIR_MEASURES = {
    "log_loss": _of_pairs("log loss", "{:.4f}", "log_loss", "lower"),
    "excess_log_loss": _of_pairs(
        "log loss above the truth's", "{:.4f}", "excess_log_loss", "lower"
    ),
    "scaled_log_loss": _of_pairs("log loss, scaled", "{:.4f}", "scaled_log_loss", "lower"),
    "brier": _of_pairs("Brier score", "{:.4f}", "brier", "lower"),
    "ece": _of_pairs("calibration error (ECE)", "{:.4f}", "ece", "lower"),
    "accuracy": _of_pairs("accuracy", "{:.1%}", "accuracy", "higher"),
    "agreement": _of_pairs("agreement with the truth", "{:.1%}", "agreement", "higher"),
}
"""Of what is judged by held-out pairs whose true probabilities are known, a mean over prompts."""
