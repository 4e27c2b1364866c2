"""The Arrow schema of each artifact, versioned, with what every column means.

A schema is written even for a part without rows. User columns stand after prefpipe's own, with the type
that the whole prompts file gave them.
"""

from typing import NamedTuple

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
TOKEN_IDS = pa.list_(pa.int32())


class Column(NamedTuple):
    """A column: its type, whether it may be null, and one sentence on what it holds, with its unit."""

    name: str
    type: pa.DataType
    nullable: bool
    meaning: str


class Schema(NamedTuple):
    """The columns of one artifact; ``version`` grows when a column changes."""

    name: str
    version: int
    columns: tuple[Column, ...]

    @property
    def tag(self) -> str:
        """What the Parquet footer carries, ``candidates/1``."""
        return f"{self.name}/{self.version}"

    @property
    def column_names(self) -> list[str]:
        """The names of prefpipe's own columns."""
        return [column.name for column in self.columns]

    def arrow(self, extra: pa.Schema | None = None) -> pa.Schema:
        """Return the Arrow schema, with the user's columns behind prefpipe's own."""
        fields = [
            pa.field(column.name, column.type, nullable=column.nullable) for column in self.columns
        ]
        return pa.schema(fields + (list(extra) if extra is not None else []))


_KEY = (
    Column(
        "prompt_id",
        pa.string(),
        False,
        "key of the prompt: the user's id or the content hash of its messages",
    ),
    Column("sample_idx", pa.int32(), False, "number of the response within its prompt, from 0"),
)
_STATUS = (
    Column("status", pa.string(), False, "`ok`, or why this row cannot be used as it is"),
    Column("reason", pa.string(), True, "the particulars of a status other than `ok`"),
)
_TEXT = (
    Column(
        "messages", MESSAGES, False, "the conversation that was answered, system prompt included"
    ),
    Column("response", pa.string(), True, "the response's text, without special tokens"),
    Column("model", pa.string(), False, "the model that wrote the response, as it was named"),
    Column(
        "prompt_token_ids",
        TOKEN_IDS,
        True,
        "ids of the templated prompt, as the engine received them",
    ),
    Column(
        "response_token_ids",
        TOKEN_IDS,
        True,
        "ids as sampled; the end-of-sequence token is included when sampled",
    ),
    Column("n_prompt_tokens", pa.int32(), True, "tokens in the prompt"),
    Column(
        "n_response_tokens", pa.int32(), True, "tokens in the response, end of sequence included"
    ),
    Column("finish_reason", pa.string(), True, "`stop`, `length` or `error`"),
    Column(
        "logp",
        pa.float64(),
        True,
        "summed natural log-probability of the response ids under the model that sampled "
        "them, at temperature 1 without truncation",
    ),
)

CANDIDATES = Schema(
    "candidates",
    2,
    (
        *_KEY,
        *_TEXT,
        Column(
            "temperature",
            pa.float64(),
            True,
            "sampling temperature; null where it is not known (import)",
        ),
        Column(
            "seed",
            pa.int64(),
            True,
            "seed of this sample, a hash of run seed, prompt_id and sample_idx; null (import)",
        ),
        Column(
            "duplicate_of",
            pa.int32(),
            True,
            "lowest sample_idx of the same prompt with the identical text",
        ),
        *_STATUS,
    ),
)
SCORES = Schema(
    "scores",
    1,
    (
        *_KEY,
        Column("scorer", pa.string(), False, "name of the scorer"),
        Column(
            "reward",
            pa.float64(),
            True,
            "higher is better, on the scorer's own scale; null unless status is `ok`",
        ),
        Column("detail", pa.string(), True, "JSON text: what the reward is made of"),
        *_STATUS,
    ),
)
BEATS = pa.list_(pa.struct([pa.field("sample_idx", pa.int32()), pa.field("margin", pa.float64())]))
"""The pairs of a chosen response: the response that it is to beat, and by how much their rewards differ."""

GROUPS = Schema(
    "groups",
    2,
    (
        Column("prompt_id", pa.string(), False, "key of the prompt"),
        Column(
            "sample_idx",
            pa.int32(),
            True,
            "number of the response; null in the one row of a rejected prompt",
        ),
        Column("role", pa.string(), True, "`positive` or `negative`; null in a rejected prompt"),
        Column("rank", pa.int32(), True, "rank of the reward within the usable pool, 0 is best"),
        Column("reward", pa.float64(), True, "value of the reward expression"),
        Column("cluster", pa.int32(), True, "k-means cluster of a negative (coreset), or null"),
        Column(
            "represents",
            pa.list_(pa.int32()),
            True,
            "samples that a negative stands for, itself included: its cluster (coreset), or those it is nearest to; "
            "null without embeddings",
        ),
        Column(
            "marginal_gain",
            pa.float64(),
            True,
            "by how much `cost` would rise without this negative; null without embeddings, or where it is the only one",
        ),
        Column(
            "cost",
            pa.float64(),
            True,
            "coverage cost of the group's negatives (Opt-Select's objective), or null",
        ),
        Column(
            "lower_bound",
            pa.float64(),
            True,
            "proven lower bound of the least such cost (opt-select), or null",
        ),
        Column(
            "is_optimal",
            pa.bool_(),
            True,
            "whether the cost is proven minimal (opt-select), or null",
        ),
        Column(
            "beats",
            BEATS,
            True,
            "pairs that `--pairs` asked for: the kept samples that this one is to beat, with reward margins; null: every "
            "positive beats every negative",
        ),
        *(
            column._replace(nullable=True) if column.name != "messages" else column
            for column in _TEXT
        ),
        *_STATUS,
    ),
)
LOGPROBS = Schema(
    "logprobs",
    1,
    (
        *_KEY,
        Column(
            "logp",
            pa.float64(),
            True,
            "summed natural log-probability of the response's tokens; null where not measured",
        ),
        Column(
            "n_tokens", pa.int32(), False, "response tokens that were summed, 0 where not measured"
        ),
        Column(
            "token_logps",
            pa.list_(pa.float32()),
            True,
            "natural log-probability of each response token, with `--per-token`; else null",
        ),
        Column("status", pa.string(), False, "`ok` or `truncated`: measured; else why not"),
        Column("reason", pa.string(), True, "the particulars of a status other than `ok`"),
    ),
)
EVALUATION = Schema(
    "evaluation",
    2,
    (
        Column("prompt_id", pa.string(), False, "key of the held-out prompt"),
        Column("n_policy", pa.int32(), False, "rated responses of the policy"),
        Column("n_baseline", pa.int32(), False, "rated responses of the baseline"),
        Column(
            "preference",
            pa.float64(),
            True,
            "share of policy-baseline pairs won by the policy, ties half, in [0, 1]",
        ),
        *(
            Column(f"{side}_{what}", pa.float64(), True, f"{meaning}, {side}")
            for side in ("policy", "baseline")
            for what, meaning in (
                ("reward", "mean reward"),
                ("n_tokens", "mean tokens a response"),
                ("length_chars", "mean characters a response"),
                ("repetition", "mean share of repeated word 4-grams, in [0, 1]"),
                ("truncated", "share of responses cut at the token limit, in [0, 1]"),
                ("refused", "share of responses that open like a refusal, in [0, 1]"),
                ("empty", "share of responses of white space alone, in [0, 1]"),
                (
                    "copied",
                    "share of the prompt's responses that equal an earlier one, in [0, 1]; null for one",
                ),
                ("distinct_1", "distinct words over words of all responses, in (0, 1]"),
                ("distinct_2", "distinct word pairs over word pairs of all responses, in (0, 1]"),
                (
                    "distinct_2_equal",
                    "the same over as many pairs as the side with fewer has, in (0, 1]",
                ),
                ("self_bleu", "self-BLEU of the prompt's responses, in [0, 1]; null for one"),
                (
                    "embedding_diversity",
                    "mean cosine distance of two of the prompt's responses; null for one or without embeddings",
                ),
            )
        ),
        Column(
            "policy_log_ratio",
            pa.float64(),
            True,
            "mean over the policy's responses of its summed log-probability minus the reference's, nats a response",
        ),
        Column("policy_log_ratio_tokens", pa.float64(), True, "mean tokens of those responses"),
        *_STATUS,
    ),
)
VERDICTS = Schema(
    "verdicts",
    1,
    (
        Column("prompt_id", pa.string(), False, "key of the prompt"),
        Column(
            "a_sample_idx",
            pa.int32(),
            True,
            "number of A's response within its prompt; null where A has none to pair",
        ),
        Column(
            "b_sample_idx",
            pa.int32(),
            True,
            "number of B's response within its prompt; null where B has none to pair",
        ),
        Column(
            "preference",
            pa.float64(),
            True,
            "for A over B, in [0, 1]: mean over the orders asked; null unless status is `ok`",
        ),
        Column(
            "disagree",
            pa.bool_(),
            True,
            "whether the two orders name different winners; null where not both were judged",
        ),
        Column("a_length_chars", pa.int64(), True, "characters of A's response"),
        Column("b_length_chars", pa.int64(), True, "characters of B's response"),
        *(
            Column(f"{order}_{what}", kind, True, f"{meaning}, {shown} shown first")
            for order, shown in (("a_first", "A"), ("b_first", "B"))
            for what, kind, meaning in (
                ("preference", pa.float64(), "preference for A over B, in [0, 1]"),
                (
                    "verdict",
                    pa.string(),
                    "the winner, `a`, `b` or `tie`; `identical` where the texts are equal and nobody was asked",
                ),
                (
                    "mass",
                    pa.float64(),
                    "probability of the verdict's tokens before renormalising; null for a verdict by text",
                ),
                ("raw", pa.string(), "what the judge said (a reward model: both rewards as JSON)"),
                (
                    "status",
                    pa.string(),
                    "`ok`, or why there is no verdict; null where this order was not asked for",
                ),
                ("reason", pa.string(), "the particulars of a status other than `ok`"),
                (
                    "request",
                    pa.string(),
                    "sha256 of the request: its file in `answers/` and its `custom_id` in a batch",
                ),
                ("prompt_tokens", pa.int64(), "prompt tokens, as the judge counted them"),
                ("completion_tokens", pa.int64(), "answer tokens, as the judge counted them"),
            )
        ),
        *_STATUS,
    ),
)
PAIR_SCORES = Schema(
    "pair_scores",
    1,
    (
        Column(
            "prompt_id",
            pa.string(),
            False,
            "key of the prompt: the file's id or the content hash of its messages",
        ),
        Column("pair_idx", pa.int64(), False, "number of the pair's row in the file, from 0"),
        Column("pair_id", pa.string(), True, "the file's own `id` of the row, if it has one"),
        Column("subset", pa.string(), True, "the file's `subset`, if it has one"),
        Column(
            "score_kind",
            pa.string(),
            False,
            "`log_ratio`, `mean_logp`, `reward`, or `given` by the file",
        ),
        *(
            Column(f"{side}_{what}", kind, True, f"{meaning}, {side} response")
            for what, kind, meaning in (
                (
                    "score",
                    pa.float64(),
                    "higher is better, in the units of `score_kind`; null where the pair was not scored",
                ),
                (
                    "n_tokens",
                    pa.int32(),
                    "tokens of the response, of a reward model of the whole conversation",
                ),
                (
                    "logp",
                    pa.float64(),
                    "summed natural log-probability of those tokens under the policy",
                ),
                ("ref_logp", pa.float64(), "the same under the reference"),
            )
            for side in ("chosen", "rejected")
        ),
        Column("margin", pa.float64(), True, "chosen_score - rejected_score"),
        Column(
            "outcome",
            pa.float64(),
            True,
            "1, or the file's graded `preference` for the chosen response, in [0, 1]",
        ),
        Column(
            "rater_gap",
            pa.float64(),
            True,
            "by how much the file's scores favour the chosen response, or 2 p - 1 of its `preference` p; null without either",
        ),
        Column(
            "duplicate_of",
            pa.int64(),
            True,
            "first row with the same prompt, responses and subset; such pairs count",
        ),
        Column("status", pa.string(), False, "`ok` or `identical`: scored; else why not"),
        Column("reason", pa.string(), True, "the particulars of a status other than `ok`"),
    ),
)


ALIKE_EVERYWHERE = (CANDIDATES, SCORES, GROUPS, LOGPROBS, EVALUATION, VERDICTS, PAIR_SCORES)
"""Every schema but that of embeddings, whose columns depend on the embedder."""
EMBEDDINGS_VERSION = 1
VERSIONS = {schema.name: schema.version for schema in ALIKE_EVERYWHERE} | {
    "embeddings": EMBEDDINGS_VERSION
}
"""The version of each schema that this release writes."""
READABLE = {name: (version,) for name, version in VERSIONS.items()} | {
    "candidates": (1, CANDIDATES.version),
    "evaluation": (1, EVALUATION.version),
}
"""The versions that it reads: candidates/1 is candidates/2 without nulls in ``temperature`` and ``seed``; evaluation/1 is
evaluation/2 without the columns from ``refused`` on and ``policy_log_ratio``."""


def embeddings_schema(dim: int, *, half: bool) -> Schema:
    """Return the schema of embeddings of ``dim`` dimensions, float32 or float16."""
    kind = pa.float16() if half else pa.float32()
    return Schema(
        "embeddings",
        EMBEDDINGS_VERSION,
        (
            *_KEY,
            Column(
                "embedding",
                pa.list_(kind, dim),
                False,
                "L2-normalised vector; zeros unless status is `ok`",
            ),
            Column("n_tokens", pa.int32(), False, "tokens of the embedded text before truncation"),
            Column("truncated", pa.bool_(), False, "whether the embedder cut the text"),
            *_STATUS,
        ),
    )


def column_types(tag: str) -> dict[str, pa.DataType]:
    """Return the type of each of prefpipe's own columns in a schema, ``candidates/2``; {} for one that is not known.

    Earlier versions of a schema have fewer columns than the present one, and none of another type.
    """
    name = tag.partition("/")[0]
    if name == "embeddings":
        schema = embeddings_schema(1, half=False)
    else:
        schemas = {schema.name: schema for schema in ALIKE_EVERYWHERE}
        if name not in schemas:
            return {}
        schema = schemas[name]
    return {column.name: column.type for column in schema.columns}


def same_type(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Return whether a column has the type of its schema; vectors may have any width and precision."""
    if pa.types.is_fixed_size_list(expected):
        is_vector = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)
        return bool(is_vector and pa.types.is_floating(kind.value_type))
    # Compared by structure: Parquet renames a list's item, and whether it may be null.
    if pa.types.is_list(expected):
        return bool(pa.types.is_list(kind)) and same_type(kind.value_type, expected.value_type)
    if pa.types.is_struct(expected):
        names = [field.name for field in expected.fields]
        return bool(
            pa.types.is_struct(kind)
            and [field.name for field in kind.fields] == names
            and all(same_type(kind.field(name).type, expected.field(name).type) for name in names)
        )
    return bool(kind.equals(expected))
