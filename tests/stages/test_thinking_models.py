"""Models that think, from sampling to training: rated on the answer, trained on the ids of thought and answer."""

import pytest
from support.chat_templates import make_lm_with, make_tokenizer_with
from support.pipelines import rows_of, table_of, write_json_lines
from support.tiny_models import make_tiny_causal_lm

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.backends.fake import FakeScorer
from prefpipe.backends.protocol import ScoreRequest
from prefpipe.cli.main import run as prefpipe

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def call(*words):
    return prefpipe([str(word) for word in words])


def generate(folder, output, *more, model="model", prompts="prompts.jsonl"):
    engine = ("--backend", "transformers", "--n", 8, "--max-tokens", 24, "--max-error-rate", 1)
    words = ("generate", folder / prompts, "-o", output, "--model", folder / model)
    return call(*words, *engine, *more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model whose template opens the thought, its candidates, their scores, and groups."""
    folder = tmp_path_factory.mktemp("run")
    make_lm_with(folder / "model", "r1")
    texts = ("Name a lake.", "Name a river.", "Name a hill.")
    write_json_lines(folder / "prompts.jsonl", [{"prompt": text} for text in texts])
    assert generate(folder, folder / "candidates") == 0
    assert call("score", folder / "candidates", "-o", folder / "scores", "--scorer", "fake") == 0
    selected = ("select", folder / "candidates", "--scores", folder / "scores")
    assert call(*selected, "-o", folder / "groups", "--strategy", "best-worst") == 0
    return folder


def test_thought_and_answer_are_apart_and_the_ids_are_of_both(run):
    tokenizer = make_tokenizer_with("r1")
    end = tokenizer.convert_tokens_to_ids("</think>")
    kinds = set()
    for row in rows_of(run / "candidates"):
        ids = row["response_token_ids"]
        assert tokenizer.decode(row["prompt_token_ids"]).endswith("<think>\n")
        assert row["n_response_tokens"] == len(ids)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if end in ids:
            thought, _, answer = text.partition("</think>")
            assert row["response"] == answer.strip()
            thought = thought.lstrip().removeprefix("<think>").strip()
            assert row["response_reasoning"] == (thought or None)
            kinds.add("finished")
        else:
            text = text.lstrip().removeprefix("<think>").strip()
            assert (row["response"], row["response_reasoning"]) == ("", text)
            # more tokens would have made an answer
            expected = "truncated" if row["finish_reason"] == "length" else "empty"
            assert row["status"] == expected
            kinds.add("unfinished")
    assert kinds == {"finished", "unfinished"}, "the model does both"


def test_a_thought_that_the_limit_cuts_is_truncated(run, tmp_path):
    assert generate(run, tmp_path / "out", "--max-tokens", 1) == 0
    end = make_tokenizer_with("r1").convert_tokens_to_ids("</think>")
    cut = [row for row in rows_of(tmp_path / "out") if row["finish_reason"] == "length"]
    cut = [row for row in cut if end not in row["response_token_ids"]]
    assert cut
    for row in cut:
        assert (row["status"], row["response"]) == ("truncated", "")
        assert (
            row["reason"]
            == "reached the limit of 1 tokens while thinking; the response has no text"
        )
        assert len(row["response_reasoning"]) <= 1


def test_it_is_on_record_and_counted(run, tmp_path, capsys):
    (sampler,) = read_run_record(run / "candidates").identity["models"]
    assert sampler["thoughts"] == ["<think>", "</think>"]
    assert generate(run, tmp_path / "again") == 0
    said = capsys.readouterr().err
    rows = [row for row in rows_of(run / "candidates") if row["response_reasoning"] is not None]
    n_unfinished = sum(row["response"] == "" for row in rows)
    assert f"{len(rows)} responses have thoughts" in said
    assert f"{n_unfinished} ended while thinking" in said


def test_raters_see_the_answer(run):
    scores = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(run / "scores")}
    for row in rows_of(run / "candidates"):
        key = row["prompt_id"], row["sample_idx"]
        request = ScoreRequest(*key, row["messages"], row["response"], {})
        assert scores[key]["reward"] == FakeScorer().score([request])[0].reward


def test_no_group_holds_an_unfinished_thought(run):
    kept = [row for row in rows_of(run / "groups") if row["role"] is not None]
    assert kept
    assert all(row["response"].strip() for row in kept)


@pytest.mark.slow
def test_training_is_on_thought_and_answer(run, tmp_path):
    plan = ("--objective", "dpo", "--max-steps", 1, "--report-to", "none")
    words = ("train", run / "groups", "--model", run / "model", "-o", tmp_path / "policy", *plan)
    assert call(*words) == 0
    ids = {
        (row["prompt_id"], row["sample_idx"]): row["response_token_ids"]
        for row in rows_of(run / "candidates")
    }
    trained = [row for row in rows_of(tmp_path / "policy") if row["status"] in ("ok", "truncated")]
    assert trained
    for row in trained:
        assert row["n_tokens"] == len(ids[row["prompt_id"], row["sample_idx"]])

    # the next round finds the markers in the policy's own folder
    assert generate(run, tmp_path / "next", model=tmp_path / "policy") == 0
    (sampler,) = read_run_record(tmp_path / "next").identity["models"]
    assert sampler["thoughts"] == ["<think>", "</think>"]


@pytest.mark.parametrize("command", ["logprobs", "train"])
def test_a_model_of_other_tokens_is_not_given_the_answers_alone(run, tmp_path, capsys, command):
    make_tiny_causal_lm(tmp_path / "other")
    words = (command, run / "groups", "--model", tmp_path / "other", "-o", tmp_path / "out")
    plan = ("--objective", "simpo", "--report-to", "none") if command == "train" else ()
    assert call(*words, *plan) == 1
    assert "holds answers without the thoughts that came before them" in capsys.readouterr().err


def test_markers_can_be_switched_off_or_named(run, tmp_path):
    assert generate(run, tmp_path / "none", "--thinking-markers", "none") == 0
    assert "response_reasoning" not in table_of(tmp_path / "none").column_names
    whole = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(tmp_path / "none")}
    for row in rows_of(run / "candidates"):
        same = whole[row["prompt_id"], row["sample_idx"]]
        assert same["response_token_ids"] == row["response_token_ids"]
        assert same["response"].endswith(row["response"])
    assert "thoughts" not in read_run_record(tmp_path / "none").identity["models"][0]

    assert generate(run, tmp_path / "named", "--thinking-markers", "<t>..</t>") == 0
    assert read_run_record(tmp_path / "named").identity["models"][0]["thoughts"] == ["<t>", "</t>"]
    assert generate(run, tmp_path / "bad", "--thinking-markers", "<t>") == 2


def test_markers_that_are_control_tokens_are_seen(tmp_path):
    """They are in no text; the ids have them."""
    folder = make_lm_with(tmp_path / "model", "plain")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "assistant\n' }}", "assistant\n<think>' }}"
    )
    tokenizer.save_pretrained(folder)
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": "Name a lake."}])
    assert generate(tmp_path, tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    end = tokenizer.convert_tokens_to_ids("</think>")
    assert any(end in row["response_token_ids"] for row in rows)
    for row in rows:
        ids = row["response_token_ids"]
        place = ids.index(end) if end in ids else len(ids)
        thought = tokenizer.decode(ids[:place], skip_special_tokens=True).strip()
        answer = tokenizer.decode(ids[place + 1 :], skip_special_tokens=True)
        assert (row["response_reasoning"] or "") == thought
        assert row["response"] == answer.strip()


@pytest.mark.parametrize(("family", "is_dropped"), [("qwen3", True), ("plain", False)])
def test_a_template_that_drops_earlier_thoughts_is_named(tmp_path, capsys, family, is_dropped):
    make_lm_with(tmp_path / "model", family)
    turns = [
        {"role": "user", "content": "Name a lake."},
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nChad."},
        {"role": "user", "content": "Another."},
    ]
    rows = [{"prompt_id": "p0", "messages": turns[:1]}, {"prompt_id": "p1", "messages": turns}]
    write_json_lines(tmp_path / "prompts.jsonl", rows)
    assert generate(tmp_path, tmp_path / "out") == 0
    said = "drops the thoughts of earlier turns (first in prompt p1)" in capsys.readouterr().err
    assert said == is_dropped


def test_a_model_without_markers_is_as_before(tmp_path):
    make_tiny_causal_lm(tmp_path / "model")
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": "Hi"}])
    assert generate(tmp_path, tmp_path / "out") == 0
    assert "response_reasoning" not in table_of(tmp_path / "out").column_names
    identity = read_run_record(tmp_path / "out").identity
    assert not {"thoughts", "thinking_markers"} & (identity.keys() | identity["models"][0].keys())
