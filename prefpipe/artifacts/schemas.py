"""The Arrow schema of each artifact, versioned, with what every column means.

A schema is written even for a part without rows. User columns stand after prefpipe's own, with the
type that the whole prompts file gave them.
"""

from typing import NamedTuple

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
TOKEN_IDS = pa.list_(pa.int32())
BEATS = pa.list_(pa.struct([pa.field("sample_idx", pa.int32()), pa.field("margin", pa.float64())]))
"""The pairs of a chosen response: the one that it is to beat, and by how much rewards differ."""
TEXT, FLAG = pa.string(), pa.bool_()
INT32, INT64, FLOAT = pa.int32(), pa.int64(), pa.float64()


class Column(NamedTuple):
    """A column: its type, whether it may be null, and one sentence on what it holds.

    The sentence names the unit.
    """

    name: str
    type: pa.DataType
    nullable: bool
    meaning: str


def required(name: str, kind: pa.DataType, meaning: str) -> Column:
    """Return a column without nulls."""
    return Column(name, kind, nullable=False, meaning=meaning)


def optional(name: str, kind: pa.DataType, meaning: str) -> Column:
    """Return a column that may be null."""
    return Column(name, kind, nullable=True, meaning=meaning)


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
        return pa.schema([*fields, *(extra or ())])


_KEY = (
    required(
        "prompt_id", TEXT, "key of the prompt: the user's id or the content hash of its messages"
    ),
    required("sample_idx", INT32, "number of the response within its prompt, from 0"),
)
_REASON = optional("reason", TEXT, "details of a status other than `ok`")
_STATUS = (required("status", TEXT, "`ok`, or why this row cannot be used as it is"), _REASON)
_MESSAGES = required(
    "messages", MESSAGES, "the conversation that was answered, system prompt included"
)
_RESPONSE = optional("response", TEXT, "the response's text, without special tokens")
_MODEL = required("model", TEXT, "the model that wrote the response, as it was named")
_TOKENS = (
    optional(
        "prompt_token_ids", TOKEN_IDS, "ids of the templated prompt, as the engine received them"
    ),
    optional(
        "response_token_ids",
        TOKEN_IDS,
        "ids as sampled; the end-of-sequence token, or a stop text's, is included when sampled",
    ),
    optional("n_prompt_tokens", INT32, "tokens in the prompt"),
    optional("n_response_tokens", INT32, "tokens in the response, end of sequence included"),
    optional("finish_reason", TEXT, "`stop`, `length` or `error`"),
    optional(
        "logp",
        FLOAT,
        "summed natural log-probability of the response ids under the model that sampled "
        "them, at temperature 1 without truncation or penalties",
    ),
)

CANDIDATES = Schema(
    "candidates",
    2,
    (
        *_KEY,
        _MESSAGES,
        _RESPONSE,
        _MODEL,
        *_TOKENS,
        optional("temperature", FLOAT, "sampling temperature; null if it is not known (import)"),
        optional(
            "seed",
            INT64,
            "seed of this sample, a hash of run seed, prompt_id and sample_idx; null (import)",
        ),
        optional(
            "duplicate_of", INT32, "lowest sample_idx of the same prompt with the identical text"
        ),
        *_STATUS,
    ),
)
SCORES = Schema(
    "scores",
    1,
    (
        *_KEY,
        required("scorer", TEXT, "name of the scorer"),
        optional(
            "reward",
            FLOAT,
            "higher is better, on the scorer's own scale; null unless status is `ok`",
        ),
        optional("detail", TEXT, "JSON text: the components of the reward"),
        *_STATUS,
    ),
)
GROUPS = Schema(
    "groups",
    2,
    (
        required("prompt_id", TEXT, "key of the prompt"),
        optional(
            "sample_idx",
            INT32,
            "number of the response; null in the one row of a rejected prompt",
        ),
        optional("role", TEXT, "`positive` or `negative`; null in a rejected prompt"),
        optional("rank", INT32, "rank of the reward within the usable pool, 0 is best"),
        optional("reward", FLOAT, "value of the reward expression"),
        optional("cluster", INT32, "k-means cluster of a negative (coreset), or null"),
        optional(
            "represents",
            pa.list_(pa.int32()),
            "samples that a negative represents, itself included: its cluster (coreset), or "
            "those it is nearest to; null without embeddings",
        ),
        optional(
            "marginal_gain",
            FLOAT,
            "by how much `cost` would rise without this negative; null without embeddings, or if "
            "it is the only one",
        ),
        optional(
            "cost",
            FLOAT,
            "coverage cost of the group's negatives (Opt-Select's objective), or null",
        ),
        optional(
            "lower_bound",
            FLOAT,
            "proven lower bound of the least such cost (opt-select), or null",
        ),
        optional("is_optimal", FLAG, "whether the cost is proven minimal (opt-select), or null"),
        optional(
            "beats",
            BEATS,
            "pairs requested with `--pairs`: the kept samples that this one must beat, with "
            "reward margins; null: every positive beats every negative",
        ),
        _MESSAGES,
        _RESPONSE,
        _MODEL._replace(nullable=True),
        *_TOKENS,
        *_STATUS,
    ),
)
EARLIER_COLUMNS = (
    optional(
        "earlier",
        INT32,
        "`select --earlier`: the pool of the candidate, 0 for CANDIDATES, 1 for the first "
        "--earlier; null in a rejected prompt",
    ),
    optional("earlier_sample_idx", INT32, "`select --earlier`: its sample_idx in those candidates"),
)
"""Columns that groups have beside the others where they were selected from several rounds."""
LOGPROBS = Schema(
    "logprobs",
    1,
    (
        *_KEY,
        optional(
            "logp",
            FLOAT,
            "summed natural log-probability of the response's tokens; null if not measured",
        ),
        required("n_tokens", INT32, "response tokens that were summed, 0 if not measured"),
        optional(
            "token_logps",
            pa.list_(pa.float32()),
            "natural log-probability of each response token, with `--per-token`; else null",
        ),
        required("status", TEXT, "`ok` or `truncated`: measured; else why not"),
        _REASON,
    ),
)


def _measures_of(side: str) -> tuple[Column, ...]:
    """Return the columns of measures of the policy's and of the baseline's responses."""
    meanings = {
        "reward": "mean reward",
        "n_tokens": "mean tokens per response",
        "length_chars": "mean characters per response",
        "repetition": "mean share of repeated word 4-grams, in [0, 1]",
        "truncated": "share of responses cut at the token limit, in [0, 1]",
        "refused": "share of responses that open like a refusal, in [0, 1]",
        "empty": "share of responses of white space alone, in [0, 1]",
        "copied": "share of the prompt's responses that equal an earlier one, in [0, 1]; null for "
        "one",
        "distinct_1": "distinct words over words of all responses, in (0, 1]",
        "distinct_2": "distinct word pairs over word pairs of all responses, in (0, 1]",
        "distinct_2_equal": "the same over as many pairs as the side with fewer has, in (0, 1]",
        "self_bleu": "self-BLEU of the prompt's responses, in [0, 1]; null for one",
        "embedding_diversity": "mean cosine distance of two of the prompt's responses; null for "
        "one or without embeddings",
    }
    return tuple(
        optional(f"{side}_{name}", FLOAT, f"{meaning}, {side}")
        for name, meaning in meanings.items()
    )


EVALUATION = Schema(
    "evaluation",
    2,
    (
        required("prompt_id", TEXT, "key of the held-out prompt"),
        required("n_policy", INT32, "rated responses of the policy"),
        required("n_baseline", INT32, "rated responses of the baseline"),
        optional(
            "preference",
            FLOAT,
            "share of policy-baseline pairs won by the policy, ties half, in [0, 1]",
        ),
        *_measures_of("policy"),
        *_measures_of("baseline"),
        optional(
            "policy_log_ratio",
            FLOAT,
            "mean over the policy's responses of its summed log-probability minus the reference's, "
            "nats per response",
        ),
        optional("policy_log_ratio_tokens", FLOAT, "mean tokens of those responses"),
        *_STATUS,
    ),
)


def _verdict_of(order: str, shown_first: str) -> tuple[Column, ...]:
    """Return the columns of a judge's verdict in one presentation order."""
    columns = (
        optional("preference", FLOAT, "preference for A over B, in [0, 1]"),
        optional(
            "verdict",
            TEXT,
            "the winner, `a`, `b` or `tie`; `identical` if the texts are equal and no judge was "
            "asked",
        ),
        optional(
            "mass",
            FLOAT,
            "probability of the verdict's tokens before renormalising; null for a verdict by text",
        ),
        optional("raw", TEXT, "the judge's answer (a reward model: both rewards as JSON)"),
        optional(
            "status",
            TEXT,
            "`ok`, or why there is no verdict; null if this order was not requested",
        ),
        _REASON,
        optional(
            "request",
            TEXT,
            "sha256 of the request: its file in `answers/` and its `custom_id` in a batch",
        ),
        optional("prompt_tokens", INT64, "prompt tokens, as the judge counted them"),
        optional("completion_tokens", INT64, "answer tokens, as the judge counted them"),
    )
    return tuple(
        optional(
            f"{order}_{column.name}", column.type, f"{column.meaning}, {shown_first} shown first"
        )
        for column in columns
    )


VERDICTS = Schema(
    "verdicts",
    1,
    (
        required("prompt_id", TEXT, "key of the prompt"),
        optional(
            "a_sample_idx",
            INT32,
            "number of A's response within its prompt; null if A has none to pair",
        ),
        optional(
            "b_sample_idx",
            INT32,
            "number of B's response within its prompt; null if B has none to pair",
        ),
        optional(
            "preference",
            FLOAT,
            "for A over B, in [0, 1]: mean over the orders asked; null unless status is `ok`",
        ),
        optional(
            "disagree",
            FLAG,
            "whether the two orders name different winners; null unless both were judged",
        ),
        optional("a_length_chars", INT64, "characters of A's response"),
        optional("b_length_chars", INT64, "characters of B's response"),
        *_verdict_of("a_first", "A"),
        *_verdict_of("b_first", "B"),
        *_STATUS,
    ),
)


def _chosen_and_rejected(name: str, kind: pa.DataType, meaning: str) -> tuple[Column, Column]:
    return (
        optional(f"chosen_{name}", kind, f"{meaning}, chosen response"),
        optional(f"rejected_{name}", kind, f"{meaning}, rejected response"),
    )


PAIR_SCORES = Schema(
    "pair_scores",
    1,
    (
        required(
            "prompt_id",
            TEXT,
            "key of the prompt: the file's id or the content hash of its messages",
        ),
        required("pair_idx", INT64, "number of the pair's row in the file, from 0"),
        optional("pair_id", TEXT, "the file's own `id` of the row, if it has one"),
        optional("subset", TEXT, "the file's `subset`, if it has one"),
        required("score_kind", TEXT, "`log_ratio`, `mean_logp`, `reward`, or `given` by the file"),
        *_chosen_and_rejected(
            "score",
            FLOAT,
            "higher is better, in the units of `score_kind`; null if the pair was not scored",
        ),
        *_chosen_and_rejected(
            "n_tokens",
            INT32,
            "tokens of the response, of a reward model of the whole conversation",
        ),
        *_chosen_and_rejected(
            "logp", FLOAT, "summed natural log-probability of those tokens under the policy"
        ),
        *_chosen_and_rejected("ref_logp", FLOAT, "the same under the reference"),
        optional("margin", FLOAT, "chosen_score - rejected_score"),
        optional(
            "outcome",
            FLOAT,
            "1, or the file's graded `preference` for the chosen response, in [0, 1]",
        ),
        optional(
            "rater_gap",
            FLOAT,
            "by how much the file's scores favour the chosen response, or 2 p - 1 of its "
            "`preference` p; null without either",
        ),
        optional(
            "duplicate_of",
            INT64,
            "first row with the same prompt, responses and subset; such pairs count",
        ),
        required("status", TEXT, "`ok` or `identical`: scored; else why not"),
        _REASON,
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
"""The versions that it reads.

candidates/1 is candidates/2 without nulls in ``temperature`` and ``seed``. evaluation/1 is
evaluation/2 without the columns from ``refused`` on and ``policy_log_ratio``.
"""


def embeddings_schema(dim: int, *, half: bool) -> Schema:
    """Return the schema of embeddings of ``dim`` dimensions, float32 or float16."""
    number = pa.float16() if half else pa.float32()
    return Schema(
        "embeddings",
        EMBEDDINGS_VERSION,
        (
            *_KEY,
            required(
                "embedding",
                pa.list_(number, dim),
                "L2-normalised vector; zeros unless status is `ok`",
            ),
            required("n_tokens", INT32, "tokens of the embedded text before truncation"),
            required("truncated", FLAG, "whether the embedder cut the text"),
            *_STATUS,
        ),
    )


def column_types(tag: str) -> dict[str, pa.DataType]:
    """Return the type of each of prefpipe's own columns in a schema, ``candidates/2``.

    {} for an unknown one. Earlier versions of a schema have fewer columns than the present
    one, and none of another type.
    """
    name = tag.partition("/")[0]
    schemas = {schema.name: schema for schema in ALIKE_EVERYWHERE}
    # any width and precision stands for all, see `same_type`
    schemas["embeddings"] = embeddings_schema(1, half=False)
    if name not in schemas:
        return {}
    return {column.name: column.type for column in schemas[name].columns}


def same_type(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Return whether a column has the type of its schema.

    Vectors may have any width and precision. Nested types are compared by structure: Parquet
    renames a list's item, and whether it may be null.
    """
    if pa.types.is_fixed_size_list(expected):
        is_vector = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)
        return bool(is_vector and pa.types.is_floating(kind.value_type))

    if pa.types.is_list(expected):
        return bool(pa.types.is_list(kind)) and same_type(kind.value_type, expected.value_type)

    if pa.types.is_struct(expected):
        names = [field.name for field in expected.fields]
        if not pa.types.is_struct(kind) or [field.name for field in kind.fields] != names:
            return False
        return all(same_type(kind.field(name).type, expected.field(name).type) for name in names)

    return bool(kind.equals(expected))
