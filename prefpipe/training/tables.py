"""The Parquet files of a trained policy, beside the model itself."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.schemas import Column, Schema

METRICS_FILE = "metrics.parquet"

MEASURE_MEANINGS = {
    "loss": "mean over prompts of what is minimised: the objective, with `--sft-weight`'s term and "
    "each prompt's weight",
    "rewards/chosen": "mean score of the positives (of a reward model: of the winners of pairs, "
    "and so on), in the objective's units (of a policy: the implicit reward)",
    "rewards/rejected": "mean score of the negatives",
    "rewards/margins": "rewards/chosen - rewards/rejected",
    "rewards/accuracy": "share of pairs (positive, negative) in which the positive's score is "
    "higher, in [0, 1]",
    "rewards/best": "share of prompts in which every positive's score is above every negative's, "
    "in [0, 1]",
    "logps/chosen": "mean log-probability of the positives, nats per token",
    "logps/rejected": "mean log-probability of the negatives, nats per token",
    "entropy": "mean entropy of the policy's next-token distribution over the tokens of the "
    "responses, each response alike, nats",
    "kl": "mean over responses of (ref_logp - logp) / n_tokens, nats per token: an unbiased "
    "estimate of the policy's distance from the reference, KL(reference || policy) per token, only "
    "where the reference sampled the responses; null without a reference",
    "logps/chosen_fall": "how far the positives' log-probability lies below the reference's on the "
    "same responses, nats per token; without a reference below the mean of the first ten `train` "
    "rows, or the first `eval` row",
    "logps/rejected_fall": "the same for the negatives",
}

PAIR_MEANINGS = {
    "pairs/accuracy": "share of evaluated pairs whose winner has the higher score, equal scores "
    "half; reward models only",
    "pairs/ece": "expected calibration error of sigma(s_w - s_l), 10 bins of equal width, both "
    "orders; reward models only",
    "pairs/brier": "Brier score of sigma(s_w - s_l); reward models only",
    "pairs/log_loss": "log loss of sigma(s_w - s_l), nats; reward models only",
}

POLICY = Schema(
    "policy",
    1,
    (
        Column("prompt_id", pa.string(), False, "key of the prompt"),
        Column(
            "sample_idx",
            pa.int32(),
            True,
            "number of the response; null in the one row of a prompt that select rejected",
        ),
        Column("role", pa.string(), True, "`positive` or `negative`"),
        Column("reward", pa.float64(), True, "reward that select used"),
        Column(
            "n_tokens",
            pa.int32(),
            False,
            "response tokens trained or evaluated on, 0 when left out",
        ),
        Column(
            "ref_logp",
            pa.float64(),
            True,
            "summed log-probability under the reference policy; null without a reference",
        ),
        Column(
            "status",
            pa.string(),
            False,
            "`ok` or `truncated`: trained on; `held_out`: evaluated on; else why neither",
        ),
        Column("reason", pa.string(), True, "the particulars of a status other than `ok`"),
    ),
)

METRICS = Schema(
    "metrics",
    2,
    (
        Column("step", pa.int64(), False, "optimizer steps taken"),
        Column("epoch", pa.float64(), False, "passes over the groups"),
        Column(
            "split",
            pa.string(),
            False,
            "`train`: mean since the row before; `eval`: all evaluation groups",
        ),
        *(
            Column(name, pa.float64(), True, meaning)
            for name, meaning in (MEASURE_MEANINGS | PAIR_MEANINGS).items()
        ),
        Column("grad_norm", pa.float64(), True, "norm of the gradient before clipping"),
        Column("learning_rate", pa.float64(), True, "of the step just taken"),
        Column("n_tokens", pa.int64(), True, "response tokens trained on since the row before"),
        Column("n_prompts", pa.int64(), True, "prompts trained on since the row before"),
        Column(
            "tokens_per_s",
            pa.float64(),
            True,
            "prompt and response tokens computed per second, all processes together, without "
            "evaluation and saving",
        ),
        Column(
            "prompt_tokens_saved",
            pa.float64(),
            True,
            "share of prompt tokens that need no computation because each prompt goes through the "
            "model once, in [0, 1]",
        ),
    ),
)


def write_table(path: Path, schema: Schema, rows: list[dict[str, object]], key: str = "") -> None:
    """Replace a Parquet file as a whole; ``key`` identifies its inputs."""
    arrow = schema.arrow().with_metadata({"prefpipe.schema": schema.tag, "prefpipe.key": key})
    with atomic_write(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow), file)
