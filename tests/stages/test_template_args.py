"""``--template-arg`` through the stages: prompts are the same at sampling, measuring and training."""

import pytest
from support.chat_server import running_chat_server
from support.chat_templates import make_lm_with
from support.pipelines import rows_of, write_json_lines
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import row_of, write_groups

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run as prefpipe

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
OFF = ("--template-arg", "enable_thinking=false")
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


def call(*words):
    return prefpipe([str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Candidates of a model whose template is given an argument, and groups of them."""
    folder = tmp_path_factory.mktemp("run")
    make_lm_with(folder / "model", "qwen3")
    texts = ("Name a lake.", "Name a river.", "Name a hill.")
    write_json_lines(folder / "prompts.jsonl", [{"prompt": text} for text in texts])
    sampled = (*generate(folder, folder / "candidates"), *OFF)
    assert call(*sampled) == 0
    assert call("score", folder / "candidates", "-o", folder / "scores", "--scorer", "fake") == 0
    selected = ("select", folder / "candidates", "--scores", folder / "scores")
    assert call(*selected, "-o", folder / "groups", "--strategy", "best-worst") == 0
    return folder


def generate(folder, output, model="model"):
    sampling = ("--backend", "transformers", "--n", 4, "--max-tokens", 12, "--max-error-rate", 1)
    prompts, model = folder / "prompts.jsonl", folder / model
    # whole responses: answers apart from their thoughts cannot be tokenised again
    words = ("generate", prompts, "--model", model, "--thinking-markers", "none", *sampling)
    return (*words, "-o", output)


def train(folder, output, *more):
    plan = ("--objective", "dpo", "--max-steps", 1, "--report-to", "none")
    groups, model = folder / "groups", folder / "model"
    return call("train", groups, "-o", output, "--model", model, *plan, *more)


def model_of(folder):
    return read_run_record(folder).identity["model"]


def decoded(folder, ids):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "model").decode(ids)


def test_prompts_are_written_with_the_argument_and_it_is_on_record(run):
    for row in rows_of(run / "candidates"):
        assert decoded(run, row["prompt_token_ids"]).endswith(EMPTY_THOUGHT)
    (sampler,) = read_run_record(run / "candidates").identity["models"]
    assert sampler["template_args"] == {"enable_thinking": False}
    assert "template_arg" not in read_run_record(run / "candidates").identity


def test_without_an_argument_no_record_speaks_of_it(run, tmp_path):
    assert call(*generate(run, tmp_path / "candidates")) == 0
    identity = read_run_record(tmp_path / "candidates").identity
    assert "template_args" not in identity["models"][0]
    assert not any("template_arg" in key for key in identity)
    assert not any(
        decoded(run, row["prompt_token_ids"]).endswith(EMPTY_THOUGHT)
        for row in rows_of(tmp_path / "candidates")
    )


def test_another_argument_is_another_run(run, capsys):
    again = generate(run, run / "candidates")
    assert call(*again, "--template-arg", "enable_thinking=true") == 2
    assert "enable_thinking" in capsys.readouterr().err
    assert call(*again, *OFF) == 0


def test_logprobs_take_the_candidates_arguments(run, tmp_path, capsys):
    words = ("logprobs", run / "groups", "--model", run / "model", "-o")
    assert call(*words, tmp_path / "taken") == 0
    # stored ids fit, so nothing is tokenised again
    assert "tokenised again" not in capsys.readouterr().err
    assert call(*words, tmp_path / "given", *OFF) == 0
    assert model_of(tmp_path / "taken")["template_args"] == {"enable_thinking": False}
    assert read_run_record(tmp_path / "taken").fingerprint == (
        read_run_record(tmp_path / "given").fingerprint
    )
    assert call(*words, tmp_path / "other", "--template-arg", "enable_thinking=true") == 2
    assert "were sampled with enable_thinking=false" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_ids_that_are_made_again_are_those_that_were_sampled(run, tmp_path, monkeypatch):
    """As if another tokenizer had sampled: the prompt is written with the recorded argument."""
    from prefpipe.models.files import inspect_model
    from prefpipe.stages.shared.training_groups import encoder_of

    model = inspect_model(run / "model", "m").given({"enable_thinking": False})
    encoder = encoder_of(model)
    for row in rows_of(run / "candidates"):
        ids = encoder.template.ids(row["messages"], add_generation_prompt=True)
        assert ids == row["prompt_token_ids"]


@pytest.mark.slow
def test_training_takes_them_and_the_policy_remembers(run, tmp_path, capsys):
    assert train(run, tmp_path / "policy") == 0
    assert "tokenised again" not in capsys.readouterr().err
    assert model_of(tmp_path / "policy")["template_args"] == {"enable_thinking": False}
    assert train(run, tmp_path / "no", "--template-arg", "enable_thinking=true") == 2
    assert "were sampled with enable_thinking=false" in capsys.readouterr().err

    # the next round says when it samples otherwise
    policy = generate(run, tmp_path / "next", tmp_path / "policy")
    assert call(*policy) == 0
    said = capsys.readouterr().err
    assert "was trained on prompts with --template-arg enable_thinking=false" in said
    assert call(*policy, *OFF, "--overwrite") == 0
    assert "was trained on prompts with" not in capsys.readouterr().err

    # what the run was told is no change of its model
    assert call("status", tmp_path / "policy", "--json") == 0
    assert "has other weights" not in capsys.readouterr().out


@pytest.mark.slow
def test_an_evaluation_hands_it_to_both_sides_and_to_the_reference(run, tmp_path):
    words = ("eval", "--policy", run / "model", "--baseline", run / "model", "-o", tmp_path / "e")
    sampling = ("--prompts", run / "prompts.jsonl", "--backend", "transformers", "--n", 1)
    rest = ("--scorer", "fake", "--max-tokens", 4, "--kl-reference", run / "model")
    assert call(*words, *sampling, *rest, "--max-error-rate", 1, *OFF) == 0
    for side in ("policy", "baseline"):
        (sampler,) = read_run_record(tmp_path / "e" / side / "candidates").identity["models"]
        assert sampler["template_args"] == {"enable_thinking": False}
    measured = tmp_path / "e" / "policy" / "reference-logprobs"
    assert model_of(measured)["template_args"] == {"enable_thinking": False}


def test_a_name_that_the_template_never_reads_is_refused(run, tmp_path, capsys):
    words = generate(run, tmp_path / "out")
    assert call(*words, "--template-arg", "enable_thinkin=false") == 2
    said = capsys.readouterr().err
    assert "never reads `enable_thinkin` (did you mean `enable_thinking`?)" in said
    assert call(*words, "--template-arg", "enable_thinking=no") == 2
    assert "write true or false" in capsys.readouterr().err
    assert call(*words, "--backend", "fake", "--template-arg", "a=1") == 2
    assert "the fake engine has no chat template" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_template_reads_what_it_can(run, tmp_path, capsys):
    """Candidates of a thinking model, measured under one whose template reads no such argument."""
    make_tiny_causal_lm(tmp_path / "other")
    words = ("logprobs", run / "groups", "--model", tmp_path / "other", "-o", tmp_path / "lp")
    assert call(*words) == 0
    assert "ignores enable_thinking=false" in capsys.readouterr().err
    assert "template_args" not in model_of(tmp_path / "lp")


def test_log_probabilities_of_other_prompts_are_refused(run, tmp_path, capsys):
    """Of imported groups, whose ids are made here: a reference and a policy must agree."""
    rows = [row_of("p", i, text) for i, text in enumerate(("One.", "Two."))]
    groups = write_groups(tmp_path / "groups", [rows], [])
    words = ("logprobs", groups, "--model", run / "model", "-o", tmp_path / "lp")
    assert call(*words) == 0
    plan = ("--objective", "dpo", "--max-steps", 1, "--report-to", "none")
    words = ("train", groups, "--model", run / "model", "-o", tmp_path / "policy", *plan)
    assert call(*words, "--reference", tmp_path / "lp", *OFF) == 2
    said = capsys.readouterr().err
    assert "had none, and in this run it has enable_thinking=false" in said


def test_a_server_is_sent_the_argument(tmp_path, capsys):
    prompts = write_json_lines(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    words = ("generate", prompts, "--backend", "openai", "--model", "m", "--n", 1, "--base-url")
    with running_chat_server() as server:
        assert call(*words, server.url, "-o", tmp_path / "out", *OFF) == 0
        assert {str(body["chat_template_kwargs"]) for body in server.bodies} == {
            "{'enable_thinking': False}"
        }
        assert call(*words, server.url, "-o", tmp_path / "plain") == 0
        assert "chat_template_kwargs" not in server.bodies[-1]
    (sampler,) = read_run_record(tmp_path / "out").identity["models"]
    assert sampler["template_args"] == {"enable_thinking": False}

    # without it the prompts would be others: no row is better than such a row
    capsys.readouterr()
    with running_chat_server(refused_fields=("chat_template_kwargs",)) as server:
        assert call(*words, server.url, "-o", tmp_path / "refused", *OFF) == 1
        assert len(server.bodies) == 1
    said = capsys.readouterr().err
    assert "refuses `chat_template_kwargs`" in said
    assert "leave --template-arg out, or use a server" in said
