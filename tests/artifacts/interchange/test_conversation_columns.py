"""What stands beside a prompt belongs to it, at every entrance: prompts files, every import, pairs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.interchange_files import SKY, assistant, held, lines, read, user

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.artifacts.interchange.pair_rows import read_pairs
from prefpipe.artifacts.prompts import load_prompts
from prefpipe.cli.main import run
from prefpipe.errors import InputError

PIRATE = {"role": "system", "content": "You are a pirate."}
TEXT = SKY[0]["content"]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
    }
]
CALL = [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
PAIR = {"chosen": "Blue.", "rejected": "Red."}
ROWS: dict[str, dict[str, Any]] = {
    "prompts": {"prompt": TEXT},
    "rows": {"prompt": TEXT, "response": "Blue."},
    "trl": {"prompt": TEXT, **PAIR},
    "simpo": {"prompt": TEXT, "all_generated_responses": ["Blue."], "all_rm_scores": [1]},
    "online-rlhf": {"prompt": TEXT, "responses": ["Blue."], "rewards": [1]},
    "ultrafeedback": {
        "instruction": TEXT,
        "completions": [{"model": "m", "response": "Blue.", "overall_score": 3}],
    },
    "pairs": {"prompt": TEXT, **PAIR},
}
each_entrance = pytest.mark.parametrize("entrance", ROWS)


def messages_of(
    entrance: str,
    source: str,
    rules: ReadingRules = ReadingRules(),  # noqa: B008 - frozen
) -> tuple[list[dict[str, str]], list[str]]:
    """Return the messages of the first prompt of a file, read at one entrance, and the notes."""
    if entrance == "prompts":
        prompts = load_prompts(source, rules=rules)
        return prompts.rows[0].messages, list(prompts.notes)
    if entrance == "pairs":
        pairs = read_pairs(source, needs_texts=True, rules=rules)
        if pairs.rows[0].problem is not None:
            raise InputError(pairs.rows[0].problem, hint=pairs.notes[0])
        return pairs.rows[0].messages, list(pairs.notes)
    pool = read(source, entrance, rules=rules)
    return pool.prompts.rows[0].messages, pool.notes


@each_entrance
@pytest.mark.parametrize(
    "name",
    ["system", "system_prompt", "system_message", "System", "systemPrompt", "system-instruction"],
)
def test_a_column_of_system_prompts_is_the_system_turn(
    tmp_path: Path, entrance: str, name: str
) -> None:
    source = lines(tmp_path / "a.jsonl", ROWS[entrance] | {name: PIRATE["content"]})
    messages, notes = messages_of(entrance, source)
    assert messages == [PIRATE, *SKY]
    assert (
        f"`{name}` is the system turn of 1 of 1 rows (pass --leave-out {name} to use none)" in notes
    )
    assert messages_of(entrance, source, ReadingRules(leave_out=(name,)))[0] == SKY


@each_entrance
def test_a_column_of_tools_is_carried_or_left_out_knowingly(tmp_path: Path, entrance: str) -> None:
    source = lines(tmp_path / "a.jsonl", ROWS[entrance] | {"tools": TOOLS})
    messages, notes = messages_of(entrance, source)
    assert messages == [SKY[0] | {"tools": json.dumps(TOOLS, separators=(",", ":"))}]
    assert (
        "`tools` defines the tools of 1 of 1 rows, which the chat template receives (pass --leave-out tools to use none)"
        in notes
    )
    messages, notes = messages_of(entrance, source, ReadingRules(leave_out=("tools",)))
    assert messages == SKY
    assert (
        "`tools` defines tools in 1 rows and is left out of the conversations (--leave-out)"
        in notes
    )


@each_entrance
@pytest.mark.parametrize(
    "text",
    [
        f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n", f"Human: {TEXT}\nAssistant:", f"USER: {TEXT} ASSISTANT:",
        f"### Instruction:\n{TEXT}\n\n### Response:\n", json.dumps(SKY), repr(SKY),
    ],
)  # fmt: skip
def test_a_conversation_in_a_text_is_the_same_prompt_everywhere(
    tmp_path: Path, entrance: str, text: str
) -> None:
    name = "instruction" if entrance == "ultrafeedback" else "prompt"
    source = lines(tmp_path / "a.jsonl", ROWS[entrance] | {name: text})
    assert messages_of(entrance, source)[0] == SKY
    assert messages_of(entrance, source, ReadingRules(prompts_are_text=True))[0] == user(text)


@each_entrance
def test_one_that_cannot_be_read_back_is_refused_with_the_way_through(
    tmp_path: Path, entrance: str
) -> None:
    name, text = (
        "instruction" if entrance == "ultrafeedback" else "prompt",
        "[INST] Name a lake. [/INST]",
    )
    source = lines(tmp_path / "a.jsonl", ROWS[entrance] | {name: text})
    with pytest.raises(InputError, match=r"went through a chat template \(\[INST\]\)") as caught:
        messages_of(entrance, source)
    assert caught.value.hint is not None
    assert "--prompts-are-text" in caught.value.hint
    assert messages_of(entrance, source, ReadingRules(prompts_are_text=True))[0] == user(text)


@pytest.mark.parametrize("system", [None, "", " ", [], {}])
def test_no_system_prompt_is_no_turn(tmp_path: Path, system: Any) -> None:
    prompts = load_prompts(lines(tmp_path / "a.jsonl", {"prompt": TEXT, "system": system}))
    assert prompts.rows[0].messages == SKY
    assert prompts.columns.column_names == ["system"]


def test_rows_without_one_stand_beside_rows_with_one(tmp_path: Path) -> None:
    rows = [{"prompt": TEXT, "system": text} for text in (None, PIRATE["content"])]
    prompts = load_prompts(lines(tmp_path / "a.jsonl", *rows))
    assert [prompt.messages for prompt in prompts.rows] == [SKY, [PIRATE, *SKY]]
    assert len({prompt.prompt_id for prompt in prompts.rows}) == 2
    assert prompts.columns.column_names == []  # it is in the conversation now
    kept = load_prompts(str(tmp_path / "a.jsonl"), keep_columns=["system"])
    assert kept.columns.to_pydict() == {"system": [None, PIRATE["content"]]}


def test_the_turns_own_system_prompt_may_say_the_same_and_nothing_else(tmp_path: Path) -> None:
    row = {"messages": [PIRATE, *SKY], "system": PIRATE["content"]}
    assert load_prompts(lines(tmp_path / "a.jsonl", row)).rows[0].messages == [PIRATE, *SKY]
    with pytest.raises(
        InputError, match="has one system prompt in a column and a different one in its turns"
    ):
        load_prompts(lines(tmp_path / "b.jsonl", row | {"system": "You are a monk."}))
    with pytest.raises(InputError, match="`system` and `system_prompt` hold two system prompts"):
        load_prompts(
            lines(
                tmp_path / "c.jsonl",
                {"prompt": "q", "system": "Be brief.", "system_prompt": "Be long."},
            )
        )


def test_the_name_of_a_summariser_is_no_system_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": TEXT, "response": text, "system": name}
        for text, name in (("Blue.", "M11"), ("Red.", "pg_gen/v2"))
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "rows")
    assert pool.prompts.rows[0].messages == SKY
    assert "`system` holds names such as 'M11', and is not used as the system prompt" in pool.notes
    named = read(str(tmp_path / "a.jsonl"), "rows", model="system")
    assert [model for _, model, _ in held(named).values()] == ["M11", "pg_gen/v2"]
    assert named.notes == []


def test_the_system_column_goes_before_a_whole_conversation(tmp_path: Path) -> None:
    row = {
        "prompt": TEXT,
        "chosen": SKY + assistant("Blue."),
        "rejected": SKY + assistant("Red."),
        "system": PIRATE["content"],
    }
    assert read(lines(tmp_path / "a.jsonl", row), "trl").prompts.rows[0].messages == [PIRATE, *SKY]


@pytest.mark.parametrize(
    "value", [None, [], "[]", "none of mine", ["hammer"], {"enable_thinking": None}]
)
def test_a_column_of_that_name_that_defines_no_tools_is_the_users(
    tmp_path: Path, value: Any
) -> None:
    name = "chat_template_kwargs" if isinstance(value, dict) else "tools"
    assert (
        load_prompts(lines(tmp_path / "a.jsonl", {"prompt": TEXT, name: value})).rows[0].messages
        == SKY
    )


@pytest.mark.parametrize(
    ("name", "value"), [("functions", TOOLS), ("chat_template_kwargs", {"enable_thinking": False})]
)
def test_other_columns_that_templates_read_are_refused_or_left_out(
    tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(InputError, match=f"`{name}` .*, and prefpipe reads only text"):
        load_prompts(lines(tmp_path / "a.jsonl", {"prompt": TEXT, name: value}))


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"tool_calls": CALL}, "tool_calls"),
        ({"reasoning_content": "Let me see."}, "reasoning_content"),
        ({"thinking": "Hm."}, "thinking"),
    ],
)
@pytest.mark.parametrize("entrance", ["trl", "pairs"])
def test_responses_that_differ_in_what_a_text_does_not_hold(
    tmp_path: Path, entrance: str, more: dict[str, Any], key: str
) -> None:
    row = {"prompt": SKY, "chosen": [assistant("Blue.")[0] | more], "rejected": assistant("Blue.")}
    source = lines(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError) as caught:
        messages_of(entrance, source)
    assert (
        f"`chosen`: turn 0 holds {'tool calls' if key == 'tool_calls' else 'thoughts'} (`{key}`)"
        in caught.value.message
    )
    assert caught.value.hint is not None
    assert f"--leave-out {key}" in caught.value.hint
    notes = messages_of(entrance, source, ReadingRules(leave_out=(key,)))[1]
    assert f"keys of turns that are left out of the conversations: `{key}` (1 row)" in notes


@pytest.mark.parametrize("content", ["", None])
def test_a_response_that_is_a_call_and_no_text_is_never_an_empty_text(
    tmp_path: Path, content: str | None
) -> None:
    call = [{"role": "assistant", "content": content, "tool_calls": CALL}]
    source = lines(
        tmp_path / "a.jsonl", {"prompt": SKY, "chosen": call, "rejected": assistant("Red.")}
    )
    with pytest.raises(
        InputError, match="`chosen`: the response has no text once the rest is left out"
    ):
        read(source, "trl", rules=ReadingRules(leave_out=("tool_calls",)))


def test_an_answer_of_a_batch_that_calls_a_tool_is_an_error_whatever_it_says(
    tmp_path: Path,
) -> None:
    requests = lines(
        tmp_path / "r.jsonl",
        *({"custom_id": name, "body": {"messages": user(name)}} for name in "abc"),
    )
    messages = [
        {"content": "Let me look.", "tool_calls": CALL},
        {"content": None, "function_call": {"name": "f"}},
        {
            "content": [{"type": "text", "text": "Bl"}, {"type": "text", "text": "ue."}],
            "reasoning_content": "Hm.",
        },
    ]
    answers = [
        {
            "custom_id": name,
            "response": {
                "status_code": 200,
                "body": {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]},
            },
        }
        for name, message in zip("abc", messages, strict=True)
    ]
    pool = read(lines(tmp_path / "a.jsonl", *answers), "openai-batch", requests=requests)
    found = [response for members in pool.responses for response in members]
    assert [response.text for response in found] == [None, None, "Blue."]
    assert all(
        "the answer calls tools, which a text cannot hold" in str(response.failure)
        for response in found[:2]
    )
    assert pool.notes == [
        "thoughts beside the answers are left out of the responses: `reasoning_content` (1 answers)"
    ]


def test_unknown_keys_are_counted_by_row(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [SKY[0] | {"name": "Ann", "toxic": False}]},
        {"messages": [*user("a"), *assistant("b"), user("c")[0] | {"name": "Bob"}]},
        {"messages": user("d")},
    ]
    prompts = load_prompts(lines(tmp_path / "a.jsonl", *rows))
    assert prompts.notes == (
        "keys of turns that are left out of the conversations: `name` (2 rows), `toxic` (1 row)",
    )


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_responses_that_were_all_written_as_lists_are_turns(tmp_path: Path, write: Any) -> None:
    rows = [
        {
            "prompt": write(SKY),
            "chosen": write(assistant("Blue.")),
            "rejected": write(assistant("Red.")),
        }
    ] * 2
    assert [
        text for text, _, _ in held(read(lines(tmp_path / "a.jsonl", *rows), "trl")).values()
    ] == ["Blue.", "Red."]
    whole = [
        {
            name: write(SKY + assistant(text))
            for name, text in (("chosen", "Blue."), ("rejected", "Red."))
        }
    ]
    pairs = read_pairs(lines(tmp_path / "b.jsonl", *whole), needs_texts=True).rows
    assert (pairs[0].messages, pairs[0].chosen, pairs[0].rejected) == (SKY, "Blue.", "Red.")


def test_whole_conversations_in_the_layout_of_hh_rlhf(tmp_path: Path) -> None:
    begin = f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {TEXT}\n\nAssistant:"
    source = lines(tmp_path / "a.jsonl", {"chosen": f"{begin} Blue.", "rejected": f"{begin} Red."})
    pool = read(source, "trl")
    assert pool.prompts.rows[0].messages == user("Hi") + assistant("Hello") + SKY
    assert [text for text, _, _ in held(pool).values()] == ["Blue.", "Red."]


def test_tens_that_the_rest_of_the_row_contradicts_are_placed(tmp_path: Path) -> None:
    """UltraFeedback's known error: an overall score of 10 where 1 was meant."""
    poor = [
        {"model": "a", "response": "x", "overall_score": 10.0, "fine-grained_score": 1.25},
        {
            "model": "b",
            "response": "y",
            "overall_score": 10,
            "critique": "It misses the point.\nOverall Score: 1",
        },
        {
            "model": "c",
            "response": "z",
            "overall_score": 10,
            "fine-grained_score": 4,
            "critique": "Overall rating: 1/10.",
        },
    ]
    fine = [
        {
            "model": "d",
            "response": "u",
            "overall_score": 10,
            "fine-grained_score": 5.0,
            "critique": "Overall Score: 10",
        },
        {
            "model": "e",
            "response": "v",
            "overall_score": 1,
            "fine-grained_score": 1.0,
            "critique": "Overall Score: 1",
        },
        {"model": "f", "response": "w", "fine-grained_score": 1.0},
    ]
    rows = [
        {"instruction": "q1", "completions": [fine[0], poor[0]]},
        {"instruction": "q2", "completions": [poor[1], *fine[1:], poor[2]]},
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "ultrafeedback")
    (note,) = pool.notes
    assert (
        "a known error of this dataset: 3 (line 1 completions[1], line 2 completions[0], line 2 completions[3])"
        in note
    )
    assert (
        read(
            lines(tmp_path / "b.jsonl", {"instruction": "q", "completions": fine}), "ultrafeedback"
        ).notes
        == []
    )


def test_two_system_turns_of_one_prompt_are_refused_with_the_flags_for_such_a_column(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt_id": "p", "prompt": TEXT, "response": text, "system": name}
        for text, name in (("Blue.", "GPT 4 (turbo)"), ("Red.", "Llama 3"))
    ]
    source = lines(tmp_path / "a.jsonl", *rows)
    with pytest.raises(
        InputError, match="line 2: prompt p has a different system turn here than at line 1"
    ) as caught:
        read(source, "rows")
    assert caught.value.hint is not None
    assert (
        "--leave-out system, or say what it is, such as --model-column system" in caught.value.hint
    )
    assert len(held(read(source, "rows", rules=ReadingRules(leave_out=("system",))))) == 2
    assert [model for _, model, _ in held(read(source, "rows", model="system")).values()] == [
        "GPT 4 (turbo)",
        "Llama 3",
    ]


def test_an_arena_answer_that_calls_a_tool_is_refused(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": {"answer": "Let me look."}, "tool_calls": CALL}
    source = lines(tmp_path / "m.jsonl", {"uid": "u", "messages": [*SKY, answer], "model": "m"})
    with pytest.raises(
        InputError, match=r"line 1: `messages`: the answer holds tool calls \(`tool_calls`\)"
    ):
        read(source, "arena-hard")
    pool = read(source, "arena-hard", rules=ReadingRules(leave_out=("tool_calls",)))
    assert [text for text, _, _ in held(pool).values()] == ["Let me look."]
    assert pool.notes == [
        "keys of turns that are left out of the conversations: `tool_calls` (1 row)"
    ]


@pytest.mark.parametrize(
    "write",
    [lambda turns: turns, lambda turns: turns[0], json.dumps, repr],
    ids=["turns", "turn", "json", "python"],
)
@pytest.mark.parametrize("entrance", ["rows", "simpo", "ultrafeedback"])
def test_responses_may_be_the_assistants_turn(tmp_path: Path, entrance: str, write: Any) -> None:
    said = [write(assistant(text)) for text in ("Blue.", "Red.")]
    rows: dict[str, list[dict[str, Any]]] = {
        "rows": [{"prompt": TEXT, "response": text} for text in said],
        "simpo": [{"prompt": TEXT, "all_generated_responses": said, "all_rm_scores": [1, 2]}],
        "ultrafeedback": [
            {
                "instruction": TEXT,
                "completions": [
                    {"model": "m", "response": text, "overall_score": 3} for text in said
                ],
            }
        ],
    }
    pool = read(lines(tmp_path / "a.jsonl", *rows[entrance]), entrance)
    assert [text for text, _, _ in held(pool).values()] == ["Blue.", "Red."]


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (
            [*SKY, *assistant("Blue.")],
            "`response` is a conversation of 2 turns, but only the assistant's answer is allowed",
        ),
        (
            SKY,
            "`response`: its last turn is from the user, but a response must be an assistant turn",
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": CALL}],
            "`response`: turn 0 holds tool calls (`tool_calls`)",
        ),
    ],
)
def test_turns_that_are_no_response_are_refused(
    tmp_path: Path, response: Any, problem: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(lines(tmp_path / "a.jsonl", {"prompt": TEXT, "response": response}), "rows")
    assert problem in caught.value.message


def test_one_response_that_is_json_among_texts_stays_a_text(tmp_path: Path) -> None:
    said = [json.dumps(assistant("x")), "Blue."]
    pool = read(
        lines(tmp_path / "a.jsonl", *({"prompt": TEXT, "response": text} for text in said)), "rows"
    )
    assert [text for text, _, _ in held(pool).values()] == said


def test_texts_that_are_read_as_turns_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in ("Hi", "Human: Hello\nAssistant:", repr(SKY))]
    note = "the prompts of 2 rows are conversations written as text and are read as turns (pass --prompts-are-text to read them unchanged)"
    assert load_prompts(lines(tmp_path / "a.jsonl", *rows)).notes == (note,)
    assert (
        load_prompts(str(tmp_path / "a.jsonl"), rules=ReadingRules(prompts_are_text=True)).notes
        == ()
    )
    pair = {
        "prompt": TEXT,
        "chosen": json.dumps(assistant("Blue.")),
        "rejected": json.dumps(assistant("Red.")),
    }
    note = "the responses of all rows are conversations written as text and are read as turns (pass --prompts-are-text to read them unchanged)"
    assert note in read(lines(tmp_path / "b.jsonl", pair), "trl").notes
    assert note in read_pairs(str(tmp_path / "b.jsonl"), needs_texts=True).notes


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_responses_as_numpy_prints_turns_are_refused(tmp_path: Path, suffix: str) -> None:
    """What pandas writes into CSV of a Parquet file with turns: no comma between the objects."""
    printed = {
        side: f"[{user(TEXT)[0]!r}\n {assistant(text)[0]!r}]"
        for side, text in (("chosen", "Blue."), ("rejected", "Red."))
    }
    path = tmp_path / f"a.{suffix}"
    pd.DataFrame([{"prompt": TEXT, **printed}]).to_csv(
        path, index=False, sep="\t" if suffix == "tsv" else ","
    )
    with pytest.raises(InputError) as caught:
        read(str(path), "trl")
    assert (
        "line 2: `chosen`: it is a list of turns written as text that cannot be read back"
        in str(caught.value)
    )

    pool = read(str(path), "trl", rules=ReadingRules(prompts_are_text=True))
    assert [response.text for response in pool.responses[0]] == list(printed.values())


def test_turns_in_fields_of_tsv_are_turns_as_in_csv(tmp_path: Path) -> None:
    rows = [{"prompt": TEXT, "chosen": json.dumps(assistant("Blue.")), "rejected": "Red."}]
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"a.{suffix}"
        pd.DataFrame(rows).to_csv(path, index=False, sep=delimiter)
        assert [response.text for response in read(str(path), "trl").responses[0]] == [
            "Blue.",
            "Red.",
        ]


def test_lists_of_turns_among_texts_stay_texts_and_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": TEXT, "response": repr(assistant("Blue."))},
        {"prompt": TEXT, "response": "I do not know."},
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "rows")
    note = "responses that are lists of turns written as text, and stay text because others are not: 1 of 2"
    assert note in pool.notes


@each_entrance
def test_a_templated_text_in_a_turn_is_counted(tmp_path: Path, entrance: str) -> None:
    name = "instruction" if entrance == "ultrafeedback" else "prompt"
    text = "<|im_start|>user\nName a lake.<|im_end|>\n<|im_start|>assistant\n"
    messages, notes = messages_of(
        entrance, lines(tmp_path / "a.jsonl", ROWS[entrance] | {name: user(text)})
    )
    assert messages == user(text)
    assert (
        "user turns that look like templated conversations and are read unchanged: 1 row" in notes
    )


@each_entrance
def test_columns_that_elsewhere_belong_to_a_conversation_are_named(
    tmp_path: Path, entrance: str
) -> None:
    more = {
        "images": ["a.png"],
        "chosen_thinking": "Hm.",
        "reasoning_content": None,
        "history": [["Hi", "Hello"]],
    }
    notes = messages_of(entrance, lines(tmp_path / "a.jsonl", ROWS[entrance] | more))[1]
    assert (
        "columns that are not part of the conversations: `images` (1 row), `chosen_thinking` (1 row), `history` (1 row)"
        in notes
    )


def test_alpacas_input_beside_its_instruction_is_named(tmp_path: Path) -> None:
    rows = [{"instruction": "Sum.", "input": text, "output": "3"} for text in ("1 2", "")]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "rows", prompt="instruction", response="output")
    assert "columns that are not part of the conversations: `input` (1 row)" in pool.notes


def test_scores_of_which_less_is_better_are_noticed(tmp_path: Path) -> None:
    def row(number: int, chosen: float | None, rejected: float) -> dict[str, Any]:
        return {
            "prompt": f"q{number}",
            **PAIR,
            "toxicity_score_chosen": chosen,
            "toxicity_score_rejected": rejected,
        }

    rows = [
        row(0, 0.1, 0.9),
        row(1, 0.2, 0.7),
        row(2, 0.5, 0.5),
        row(3, 0.9, 0.1),
        row(4, None, 0.5),
    ]
    [note] = [
        note
        for note in read(lines(tmp_path / "a.jsonl", *rows), "trl").notes
        if "is lower than" in note
    ]
    assert note.startswith(
        "`toxicity_score_chosen` is lower than `toxicity_score_rejected` in 2 of 4 rows"
    )


def test_thoughts_of_a_response_get_their_own_hint_and_not_that_of_lists(
    tmp_path: Path, capsys
) -> None:
    turn = assistant("Blue.")[0] | {"reasoning_content": "Hm."}
    source = lines(tmp_path / "a.jsonl", {"prompt": TEXT, "response": [turn]})
    assert run(["import", source, "-o", f"{tmp_path}/out", "--format", "rows"]) == 1
    printed = capsys.readouterr().err
    assert "--leave-out reasoning_content" in printed
    assert "--format wide" not in printed


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_the_index_of_pandas_is_no_score(tmp_path: Path, name: str) -> None:
    rows = [
        {name: number, "prompt": TEXT, "response": text, "s": number}
        for number, text in enumerate(("Blue.", "Red."))
    ]
    notes = read(lines(tmp_path / "a.jsonl", *rows), "rows").notes
    assert (
        "no scores are read, but some columns could be scores; to read them, pass --reward-column s"
        in notes
    )
