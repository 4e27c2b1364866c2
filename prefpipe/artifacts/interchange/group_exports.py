"""Groups in the formats of other tools: one function per format, a group in, its rows out.

``ROWS`` has the functions by format, ``SCHEMAS`` the schemas of those that can be Parquet.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.conversations import Turns
from prefpipe.artifacts.schemas import MESSAGES
from prefpipe.artifacts.tool_calls import messages_and_tools

Row = dict[str, Any]
SCORED_PAIR = (
    pa.field("prompt_id", pa.string()),
    pa.field("chosen_sample_idx", pa.int32()),
    pa.field("rejected_sample_idx", pa.int32()),
    pa.field("score_chosen", pa.float64()),
    pa.field("score_rejected", pa.float64()),
    pa.field("margin", pa.float64()),
    pa.field("chosen_model", pa.string()),
    pa.field("rejected_model", pa.string()),
)
RATED_RESPONSE = (
    pa.field("prompt_id", pa.string()),
    pa.field("sample_idx", pa.int32()),
    pa.field("score", pa.float64()),
    pa.field("model", pa.string()),
)
RESPONSE_KEYS = (
    "sample_idx",
    "role",
    "rank",
    "reward",
    "response",
    "model",
    "n_response_tokens",
    "finish_reason",
    "cluster",
    "represents",
    "marginal_gain",
)


class ExportedPair(NamedTuple):
    """Two kept responses of one prompt, and the reward margin of the chosen one."""

    chosen: Row
    rejected: Row
    margin: float


class ExportedGroup(NamedTuple):
    """The kept group of one prompt.

    Its responses as rows of ``groups``, in their order there, and the pairs.
    """

    prompt_id: str
    messages: Turns
    responses: list[Row]
    pairs: list[ExportedPair]
    strategy: str | None


def groups_of(rows: Sequence[Row], strategy: str | None) -> tuple[list[ExportedGroup], list[Row]]:
    """Return the groups of one part, and the rows of the prompts that were rejected."""
    kept: dict[str, list[Row]] = {}
    rejected = []
    for row in rows:
        if row["role"] is None:
            rejected.append(row)
        else:
            kept.setdefault(row["prompt_id"], []).append(row)

    groups = []
    for prompt_id, members in kept.items():
        messages, pairs = members[0]["messages"], pairs_of(members)
        groups.append(ExportedGroup(prompt_id, messages, members, pairs, strategy))
    return groups, rejected


def pairs_of(responses: Sequence[Row]) -> list[ExportedPair]:
    """Return the pairs that select chose (``beats``).

    Every positive with every negative if it chose none.
    """
    pairs: list[ExportedPair] = []
    if any(row["beats"] is not None for row in responses):
        by_index = {row["sample_idx"]: row for row in responses}
        for row in responses:
            pairs += [
                ExportedPair(row, by_index[beaten["sample_idx"]], beaten["margin"])
                for beaten in row["beats"] or []
            ]
        return pairs

    negatives = [row for row in responses if row["role"] == "negative"]
    for chosen in responses:
        if chosen["role"] == "positive":
            pairs += [
                ExportedPair(chosen, rejected, chosen["reward"] - rejected["reward"])
                for rejected in negatives
            ]
    return pairs


def answer(row: Row) -> dict[str, str]:
    """Return a response as the assistant's turn."""
    return {"role": "assistant", "content": row["response"] or ""}


def trl_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield TRL's preference rows with an explicit prompt, in turns."""
    for pair in group.pairs:
        turns = {
            "prompt": group.messages,
            "chosen": [answer(pair.chosen)],
            "rejected": [answer(pair.rejected)],
        }
        yield turns | _scored(pair, group.prompt_id)


def implicit_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield preference rows without a prompt, as open-instruct and OpenRLHF take them.

    Each side is the whole conversation.
    """
    for pair in group.pairs:
        turns = {
            "chosen": [*group.messages, answer(pair.chosen)],
            "rejected": [*group.messages, answer(pair.rejected)],
        }
        yield turns | _scored(pair, group.prompt_id)


def _scored(pair: ExportedPair, prompt_id: str) -> Row:
    chosen, rejected = pair.chosen, pair.rejected
    return {
        "prompt_id": prompt_id,
        "chosen_sample_idx": chosen["sample_idx"],
        "rejected_sample_idx": rejected["sample_idx"],
        "score_chosen": chosen["reward"],
        "score_rejected": rejected["reward"],
        "margin": pair.margin,
        "chosen_model": chosen["model"],
        "rejected_model": rejected["model"],
    }


def unpaired_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield TRL's unpaired rows, one a response: positives are labelled true."""
    for row in group.responses:
        yield {
            "prompt": group.messages,
            "completion": [answer(row)],
            "label": row["role"] == "positive",
            **_rated(row, group.prompt_id),
        }


def completion_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield TRL's rows for supervised training, one a positive: the loss is on the completion."""
    for row in group.responses:
        if row["role"] == "positive":
            turns = {"prompt": group.messages, "completion": [answer(row)]}
            yield turns | _rated(row, group.prompt_id)


def conversation_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield whole conversations for supervised training, one a positive.

    Most trainers accept them; the trainer decides which turns the loss covers.
    """
    for row in group.responses:
        if row["role"] == "positive":
            turns = {"messages": [*group.messages, answer(row)]}
            yield turns | _rated(row, group.prompt_id)


def _rated(row: Row, prompt_id: str) -> Row:
    return {
        "prompt_id": prompt_id,
        "sample_idx": row["sample_idx"],
        "score": row["reward"],
        "model": row["model"],
    }


def nemo_pair_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield NeMo-RL's ranked rows with two completions each, which is what its loaders take."""
    for pair in group.pairs:
        yield _ranked(group, [(0, pair.chosen), (1, pair.rejected)], pair.margin)


def nemo_group_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield one of NeMo-RL's ranked rows with every kept response.

    Equal rewards have equal ranks.
    """
    ordered = sorted(group.responses, key=lambda row: -row["reward"])
    rewards = [row["reward"] for row in ordered]
    # the first place of a reward is the rank of all that share it
    ranked = [(rewards.index(row["reward"]), row) for row in ordered]
    yield _ranked(group, ranked, rewards[0] - rewards[-1])


def _ranked(group: ExportedGroup, ranked: Sequence[tuple[int, Row]], margin: float) -> Row:
    completions = []
    for rank, row in ranked:
        completions.append(
            {
                "rank": rank,
                "completion": [answer(row)],
                "sample_idx": row["sample_idx"],
                "score": row["reward"],
                "model": row["model"],
            }
        )

    # no `task_name`: NeMo-RL's loaders add that column themselves, and fail where the file has it
    return {
        "context": group.messages,
        "completions": completions,
        "prompt_id": group.prompt_id,
        "scores": [row["reward"] for _, row in ranked],
        "margin": margin,
    }


def message_rows(group: ExportedGroup) -> Iterator[Row]:
    """Yield the rows of LLaMA-Factory and axolotl: the conversation, and each side as one turn."""
    for pair in group.pairs:
        turns = {
            "messages": group.messages,
            "chosen": answer(pair.chosen),
            "rejected": answer(pair.rejected),
        }
        yield turns | _scored(pair, group.prompt_id)


def group_lines(group: ExportedGroup) -> Iterator[Row]:
    """Yield the whole group in one row, its pairs by sample index.

    With the tools, if the prompt has any.
    """
    messages, tools = messages_and_tools(group.messages)
    row: Row = {"prompt_id": group.prompt_id, "messages": messages}
    if tools:
        row["tools"] = tools
    row["strategy"] = group.strategy
    row["responses"] = [{key: kept[key] for key in RESPONSE_KEYS} for kept in group.responses]
    row["pairs"] = []
    for pair in group.pairs:
        chosen, rejected = pair.chosen["sample_idx"], pair.rejected["sample_idx"]
        row["pairs"].append({"chosen": chosen, "rejected": rejected, "margin": pair.margin})
    yield row


COMPLETION = pa.struct(
    [
        pa.field("rank", pa.int32()),
        pa.field("completion", MESSAGES),
        pa.field("sample_idx", pa.int32()),
        pa.field("score", pa.float64()),
        pa.field("model", pa.string()),
    ]
)
WITHOUT_PAIRS = ("jsonl", "trl-unpaired", "trl-sft", "sft")
"""Formats that a group without pairs can be written in."""
SCHEMAS: Mapping[str, pa.Schema] = {
    "trl": pa.schema(
        [
            pa.field("prompt", MESSAGES),
            pa.field("chosen", MESSAGES),
            pa.field("rejected", MESSAGES),
            *SCORED_PAIR,
        ]
    ),
    "trl-implicit": pa.schema(
        [pa.field("chosen", MESSAGES), pa.field("rejected", MESSAGES), *SCORED_PAIR]
    ),
    "trl-unpaired": pa.schema(
        [
            pa.field("prompt", MESSAGES),
            pa.field("completion", MESSAGES),
            pa.field("label", pa.bool_()),
            *RATED_RESPONSE,
        ]
    ),
    "trl-sft": pa.schema(
        [pa.field("prompt", MESSAGES), pa.field("completion", MESSAGES), *RATED_RESPONSE]
    ),
    "sft": pa.schema([pa.field("messages", MESSAGES), *RATED_RESPONSE]),
    "nemo-rl": pa.schema(
        [
            pa.field("context", MESSAGES),
            pa.field("completions", pa.list_(COMPLETION)),
            pa.field("prompt_id", pa.string()),
            pa.field("scores", pa.list_(pa.float64())),
            pa.field("margin", pa.float64()),
        ]
    ),
}
"""The schemas of the formats that can be Parquet."""
ROWS: Mapping[str, Callable[[ExportedGroup], Iterator[Row]]] = {
    "trl": trl_rows,
    "trl-implicit": implicit_rows,
    "trl-unpaired": unpaired_rows,
    "trl-sft": completion_rows,
    "sft": conversation_rows,
    "nemo-rl": nemo_pair_rows,
    "llama-factory": message_rows,
    "axolotl": message_rows,
    "jsonl": group_lines,
}


def alternates(messages: Turns) -> bool:
    """Return whether user and assistant speak in turn, the user first and last.

    A system turn may be before them.
    """
    roles = [turn["role"] for turn in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user" if place % 2 == 0 else "assistant" for place in range(len(spoken))]
    return len(spoken) % 2 == 1 and spoken == expected
