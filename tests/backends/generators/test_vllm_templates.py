"""vLLM itself with template arguments, begun answers and thoughts, through the command, on CPU.

Greedy rows are those of transformers, column by column; sampled ones are read a second time from
their ids. vLLM's server is asked for the same.
"""

import pytest
from support.chat_templates import make_lm_with, make_tokenizer_with
from support.pipelines import rows_of, write_json_lines

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run as prefpipe

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore::FutureWarning")]

WIDE_HEADS = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
"""The narrowest that vLLM's CPU attention takes."""
SHARED = (
    "prompt_id",
    "sample_idx",
    "messages",
    "prompt_token_ids",
    "response_token_ids",
    "response",
    "finish_reason",
    "status",
    "reason",
)
BEGINNING = "A lake is "
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


def call(*words):
    return prefpipe([str(word) for word in words])


def generate(folder, output, backend, *more):
    engine = ("--backend", backend, "--dtype", "float32", "--max-model-len", 256)
    if backend == "vllm":
        engine = (*engine, "--enforce-eager")
    words = ("generate", folder / "prompts.jsonl", "-o", output, "--model", folder / "model")
    return call(*words, *engine, "--max-tokens", 24, "--max-error-rate", 1, *more)


@pytest.fixture
def run_folder(vllm_settings, tmp_path):
    """Return how to make a folder with a model of a family and prompts."""

    def make(family, rows=None):
        make_lm_with(tmp_path / "model", family, **WIDE_HEADS)
        texts = ("Name a lake.", "Name a river.", "Name a hill.", "Name a sea.")
        write_json_lines(tmp_path / "prompts.jsonl", rows or [{"prompt": text} for text in texts])
        return tmp_path

    return make


def read_columns(folder, names):
    rows = sorted(rows_of(folder), key=lambda row: (row["prompt_id"], row["sample_idx"]))
    return [{name: row[name] for name in names if name in row} for row in rows]


def assert_greedy_rows_are_those_of_transformers(folder, *more):
    """And return them."""
    greedy = ("--temperature", 0, "--n", 1, *more)
    for backend in ("vllm", "transformers"):
        assert generate(folder, folder / backend, backend, *greedy) == 0
    names = (*SHARED, "response_reasoning")
    ours = read_columns(folder / "vllm", names)
    assert ours == read_columns(folder / "transformers", names)
    for row, theirs in zip(rows_of(folder / "vllm"), rows_of(folder / "transformers"), strict=True):
        assert row["logp"] == pytest.approx(theirs["logp"], abs=2e-2)
    return ours


@pytest.mark.parametrize("value", ["false", "true"])
def test_template_arguments_reach_the_prompt(run_folder, value):
    folder = run_folder("qwen3")
    argument = ("--template-arg", f"enable_thinking={value}")
    rows = assert_greedy_rows_are_those_of_transformers(folder, *argument)
    decode = make_tokenizer_with("qwen3").decode
    for row in rows:
        is_off = decode(row["prompt_token_ids"]).endswith(EMPTY_THOUGHT)
        assert is_off == (value == "false")
    (sampler,) = read_run_record(folder / "vllm").identity["models"]
    assert sampler["template_args"] == {"enable_thinking": value == "true"}


def begun_rows():
    begun = {"role": "assistant", "content": BEGINNING}
    return [
        {"prompt_id": name, "messages": [{"role": "user", "content": f"Name {name}."}, *turns]}
        for name, turns in {"lake": [begun], "river": [], "hill": [begun]}.items()
    ]


@pytest.mark.parametrize("family", ["plain", "qwen3"])
@pytest.mark.parametrize("more", [(), ("--min-tokens", 6, "--repetition-penalty", 1.3)])
def test_begun_answers_go_on_where_they_stand(run_folder, family, more):
    folder = run_folder(family, begun_rows())
    options = ("--continue-final-message", *more)
    rows = assert_greedy_rows_are_those_of_transformers(folder, *options)
    decode = make_tokenizer_with(family).decode
    for row in rows:
        is_begun = row["prompt_id"] != "river"
        assert decode(row["prompt_token_ids"]).endswith(BEGINNING) == is_begun
        assert not row["response"].startswith(BEGINNING)
        assert row["response_token_ids"]


def test_a_begun_answer_ends_at_a_stop_text(run_folder):
    folder = run_folder("plain", begun_rows())
    sampled = ("--continue-final-message", "--n", 6)
    assert generate(folder, folder / "whole", "vllm", *sampled) == 0
    whole = read_columns(folder / "whole", SHARED)
    stop = next(row["response"][2] for row in whole if len(row["response"].strip()) > 5)
    assert generate(folder, folder / "cut", "vllm", *sampled, "--stop", stop) == 0

    n_cut = 0
    for before, after in zip(whole, read_columns(folder / "cut", SHARED), strict=True):
        ids = after["response_token_ids"]
        assert ids == before["response_token_ids"][: len(ids)]
        assert after["response"] == before["response"].partition(stop)[0]
        n_cut += stop in before["response"]
        assert (after["finish_reason"] == "stop") or stop not in before["response"]
    assert n_cut


@pytest.mark.parametrize("family", ["r1", "qwen3"])
def test_greedy_thoughts_are_those_of_transformers(run_folder, family):
    folder = run_folder(family)
    rows = assert_greedy_rows_are_those_of_transformers(folder)
    assert all("response_reasoning" in row for row in rows)
    (sampler,) = read_run_record(folder / "vllm").identity["models"]
    assert sampler["thoughts"] == ["<think>", "</think>"]


def test_thought_and_answer_are_told_apart_by_the_ids(run_folder):
    folder = run_folder("r1")
    assert generate(folder, folder / "vllm", "vllm", "--n", 8) == 0
    tokenizer = make_tokenizer_with("r1")
    end = tokenizer.convert_tokens_to_ids("</think>")
    kinds = set()
    for row in rows_of(folder / "vllm"):
        ids = row["response_token_ids"]
        assert row["n_response_tokens"] == len(ids)
        assert row["logp"] < 0
        thought, _, answer = tokenizer.decode(ids, skip_special_tokens=True).partition("</think>")
        thought = thought.lstrip().removeprefix("<think>").strip()
        kinds.add(end in ids)
        if end in ids:
            assert (row["response"], row["response_reasoning"]) == (answer.strip(), thought or None)
        else:
            is_cut = row["finish_reason"] == "length"
            assert row["status"] == ("truncated" if is_cut else "empty")
            assert (row["response"], row["response_reasoning"]) == ("", thought)
    assert kinds == {True, False}, "the model does both"


def test_named_markers_and_none(run_folder):
    folder = run_folder("plain")
    tokenizer = make_tokenizer_with("plain")
    assert generate(folder, folder / "none", "vllm", "--n", 8, "--thinking-markers", "none") == 0
    whole = rows_of(folder / "none")
    assert all("response_reasoning" not in row for row in whole)
    texts = [tokenizer.decode(row["response_token_ids"]) for row in whole]
    start = next(text.strip()[0] for text in texts if text.strip()[:1].isalnum())

    named = ("--n", 8, "--thinking-markers", f"{start}..</think>")
    assert generate(folder, folder / "named", "vllm", *named) == 0
    n_thoughts = 0
    for before, after in zip(whole, rows_of(folder / "named"), strict=True):
        assert after["response_token_ids"] == before["response_token_ids"]
        if before["response"].lstrip().startswith(start):
            n_thoughts += 1
            thought, end, answer = before["response"].lstrip().partition("</think>")
            expected = (answer.strip(), thought[1:].strip() or None) if end else ("", None)
            assert after["response"] == expected[0]
            if end:
                assert after["response_reasoning"] == expected[1]
        else:
            assert after["response"] == before["response"]
            assert after["response_reasoning"] is None
    assert n_thoughts


def test_a_server_writes_the_same_prompts(run_folder, serve_with_vllm):
    """With template arguments and begun answers: at temperature 0 the answers of the engine."""
    folder = run_folder("qwen3", begun_rows())
    greedy = ("--temperature", 0, "--n", 1, "--continue-final-message")
    url = serve_with_vllm(folder / "model", "tiny")
    words = ("generate", folder / "prompts.jsonl", "--backend", "openai", "--model", "tiny")
    served = (*words, "--base-url", url, "--max-tokens", 24, "--max-error-rate", 1, *greedy)
    prompt_lengths = []
    for value in ("false", "true"):
        argument = ("--template-arg", f"enable_thinking={value}")
        assert generate(folder, folder / f"here-{value}", "vllm", *greedy, *argument) == 0
        assert call(*served, "-o", folder / f"served-{value}", *argument) == 0
        names = ("prompt_id", "n_prompt_tokens", "response", "finish_reason", "status")
        here = read_columns(folder / f"here-{value}", names)
        assert read_columns(folder / f"served-{value}", names) == here
        prompt_lengths.append([row["n_prompt_tokens"] for row in here])
    assert prompt_lengths[0] != prompt_lengths[1], "the argument changes the prompt"
