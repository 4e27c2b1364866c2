"""``prefpipe check``: each way in which groups are wrong for a model is found, told and given an exit code."""

import json
import shutil

import numpy as np
import pytest
from support.finished_run import original
from support.tiny_models import (
    CHAT_TEMPLATE,
    make_tiny_adapter,
    make_tiny_causal_lm,
    make_tiny_tokenizer,
    tiny_config,
)
from support.written_groups import PROMPT, TOKENIZER, row_of, write_groups

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, PrefpipeError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import inspect_model
from prefpipe.stages.train import run as train

DOUBLE_BOS = "<|bos|><|bos|>" + CHAT_TEMPLATE
REWRITES = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n{{ m['content'].split('</think>')[-1] }}<|im_end|>"
    "{% else %}<|im_start|>user\n{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
REFUSES = "{{ raise_exception('system turns only') }}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def identity(model):
    return inspect_model(model, "org/tiny").identity()


def with_template(model, path, template):
    """The model with another chat template."""
    shutil.copytree(model, path)
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    return path


def told(capsys, *words, code=None, warning=None):
    """Run check and return what it found; ``warning`` stands on stderr, where otherwise nothing does."""
    capsys.readouterr()
    got = prefpipe(["check", *map(str, words), "--json"])
    captured = capsys.readouterr()
    assert captured.err == "" if warning is None else warning in captured.err
    found = json.loads(captured.out)
    assert got == (
        any(finding["severity"] == "error" for finding in found["findings"])
        if code is None
        else code
    )
    return found, {
        finding["name"]: (finding["severity"], finding["message"]) for finding in found["findings"]
    }


def rows_for(texts=("a first answer", "another", "the third one"), n=3, **changes):
    return [
        row_of(f"p{p}", i, f"{p} {text}", **changes)
        for p in range(n)
        for i, text in enumerate(texts)
    ]


def test_check_of_good_groups_has_no_error_and_no_warning(capsys, tmp_path, model, identity):
    groups = write_groups(
        tmp_path / "groups", [rows_for(), rows_for(n=1, reward=1.0)[:0]], [identity]
    )
    found, findings = told(capsys, groups, "--model", model, "--max-length", 512, code=0)
    assert {severity for severity, _ in findings.values()} <= {"note"}
    assert (found["n_groups"], found["n_groups_left"], found["n_responses"]) == (3, 3, 9)
    assert found["pairs"]["n"] == 6
    assert found["stored_ids_fit"]
    assert found["fates"] == {"ok": 9}


def test_check_needs_no_weights(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "model.safetensors").unlink()
    found, _ = told(capsys, groups, "--model", bare, code=0)
    assert found["stored_ids_fit"]
    assert (
        found["step"]["n_parameters"]
        == 2 * 260 * 32 + 2 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 64 + 2 * 32) + 32
    )


def test_check_writes_nothing(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    told(capsys, groups, "--model", model)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_check_and_train_refuse_two_bos_made_by_the_template(capsys, tmp_path, model, identity):
    """vllm #9519, RLHF-Reward-Modeling #16: text with BOS, tokenised with BOS."""
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    doubled = with_template(model, tmp_path / "doubled", DOUBLE_BOS)
    _, findings = told(capsys, groups, "--model", doubled, code=1)
    assert findings["double_bos"][0] == "error"
    assert findings["double_bos"][1].startswith(
        "9 responses begin with two beginning-of-sequence tokens"
    )
    assert findings["other_tokenizer"][0] == "warning"
    config = TrainConfig(
        groups=groups, output=tmp_path / "policy", model=str(doubled), report_to=("none",)
    )
    with pytest.raises(InputError, match=r"begins with two <\|bos\|> tokens"):
        train.run(config, inspect_model(doubled, "doubled"), Runtime())


def test_two_bos_in_stored_ids_are_an_error(capsys, tmp_path, model, identity):
    bos = TOKENIZER.bos_token_id
    groups = write_groups(
        tmp_path / "groups", [rows_for(prompt_token_ids=[bos, bos, *PROMPT])], [identity]
    )
    _, findings = told(capsys, groups, "--model", model, code=1)
    assert findings["double_bos"][0] == "error"
    assert findings["template_drift"][0] == "warning"


def test_check_accepts_one_bos(capsys, tmp_path, model):
    single = with_template(model, tmp_path / "single", "<|bos|>" + CHAT_TEMPLATE)
    groups = write_groups(tmp_path / "groups", [rows_for()], [])
    _, findings = told(capsys, groups, "--model", single, code=0)
    assert "double_bos" not in findings
    assert (
        "the tokenizer of the model that wrote the responses is not known"
        in findings["other_tokenizer"][1]
    )


def test_a_template_that_rewrites_finished_turns_is_an_error_where_conversations_are_tokenised_again(
    capsys, tmp_path, model, identity
):
    """trl #2054, #5213, #6361: the prompt is no prefix, and the loss is on other tokens than one thinks."""
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    rewriting = with_template(model, tmp_path / "rewriting", REWRITES)
    found, findings = told(capsys, groups, "--model", rewriting, code=1)
    assert findings["not_prefix"][0] == "error"
    assert "(response 0 of prompt p0)" in findings["not_prefix"][1]
    assert found["problems"]["not_prefix"] == 9
    config = TrainConfig(
        groups=groups, output=tmp_path / "policy", model=str(rewriting), report_to=("none",)
    )
    with pytest.raises(
        InputError,
        match="can be trained on: 9 template_error; prompt p0: its text is not the beginning of prompt plus response",
    ):
        train.run(config, inspect_model(rewriting, "rewriting"), Runtime())


def test_check_notes_rewriting_template_where_its_own_ids_are_stored(capsys, tmp_path, model):
    rewriting = with_template(model, tmp_path / "rewriting", REWRITES)
    own = inspect_model(rewriting, "rewriting").identity()
    groups = write_groups(tmp_path / "groups", [rows_for()], [own])
    _, findings = told(capsys, groups, "--model", rewriting, code=0)
    assert findings["not_prefix"][0] == "note"


def test_a_template_that_refuses_the_turns_is_an_error(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    _, findings = told(
        capsys, groups, "--model", with_template(model, tmp_path / "refuses", REFUSES), code=1
    )
    assert "system turns only" in findings["template_error"][1]


def test_a_model_without_chat_template_or_tokenizer_is_an_error(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    for name, code, files in (
        ("template", "no_chat_template", ["chat_template.jinja"]),
        ("tokenizer", "no_tokenizer", ["tokenizer.json", "tokenizer_config.json"]),
    ):
        shutil.copytree(model, tmp_path / name)
        for file in files:
            (tmp_path / name / file).unlink()
        _, findings = told(capsys, groups, "--model", tmp_path / name, code=1)
        assert findings[code][0] == "error"


def test_check_notes_missing_pad_token_and_pad_that_is_eos(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    for name, pad, code in (("none", None, "no_pad_token"), ("end", "<|im_end|>", "pad_is_eos")):
        shutil.copytree(model, tmp_path / name)
        tokenizer = make_tiny_tokenizer()
        tokenizer.pad_token = pad
        tokenizer.save_pretrained(tmp_path / name)
        _, findings = told(capsys, groups, "--model", tmp_path / name, code=0)
        assert findings[code][0] == "note"


def test_check_finds_ids_beyond_the_vocabulary_and_bos_within_a_response(
    capsys, tmp_path, model, identity
):
    first, second, *others = rows_for()
    rows = [
        first | {"response_token_ids": [5, 999, 3]},
        second | {"response_token_ids": [TOKENIZER.bos_token_id, 9, 3]},
        *others,
    ]
    _, findings = told(
        capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model, code=1
    )
    assert findings["beyond_vocabulary"][0] == "error"
    assert findings["bos_in_response"][0] == "warning"
    assert findings["text_differs"][1].startswith(
        "2 responses of those checked have stored ids that decode to another text"
    )


@pytest.mark.slow
def test_what_the_length_limit_does_is_counted_against_it(capsys, tmp_path, model, identity):
    rows = rows_for(("short", "a much longer answer than the others are", "tiny"))
    groups = write_groups(tmp_path / "groups", [rows], [identity])
    limit = len(PROMPT) + 12
    found, findings = told(capsys, groups, "--model", model, "--max-length", limit, code=0)
    assert found["n_over_limit"] == 3
    assert found["fates"] == {"ok": 6, "too_long": 3}
    assert findings["too_long"] == (
        "warning",
        (
            f"3 of 9 (33.3%) responses are longer than --max-length {limit} with their prompt: "
            "they are left out"
        ),
    )
    assert (
        found["lengths"]["max"]
        == len(PROMPT) + len("0 a much longer answer than the others are") + 1
    )
    _, findings = told(
        capsys, groups, "--model", model, "--max-length", limit, "--on-too-long", "error", code=1
    )
    assert findings["too_long"][0] == "error"
    _, findings = told(
        capsys, groups, "--model", model, "--max-length", limit, "--on-too-long", "truncate", code=0
    )
    assert "3 are cut, 0 left out" in findings["too_long"][1]


def test_a_limit_that_leaves_no_response_a_token_is_an_error(capsys, tmp_path, model, identity):
    """trl #6548, #3382: truncation that empties a response gives NaN or no gradient."""
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    for how in ("drop", "truncate"):
        found, findings = told(
            capsys,
            groups,
            "--model",
            model,
            "--max-length",
            len(PROMPT),
            "--on-too-long",
            how,
            code=1,
        )
        assert findings["nothing_left"][1] == "no group can be trained on: 9 prompt_too_long"
        assert found["step"] is None


def test_check_finds_pairs_that_truncation_makes_identical(capsys, tmp_path, model, identity):
    """OpenRLHF #1311: the loss stays at ln 2."""
    shared = "the very same beginning"
    groups = write_groups(
        tmp_path / "groups", [rows_for((f"{shared} good", f"{shared} bad", "else"))], [identity]
    )
    limit = len(PROMPT) + len(shared)
    found, findings = told(
        capsys, groups, "--model", model, "--max-length", limit, "--on-too-long", "truncate", code=0
    )
    assert findings["identical_when_cut"] == (
        "warning",
        (
            "3 of 6 (50.0%) pairs differ only beyond --max-length: cut, they are identical, "
            "and train leaves one of them out"
        ),
    )
    assert found["fates"]["identical"] == 3
    assert (
        "identical_when_cut" not in told(capsys, groups, "--model", model, "--max-length", 512)[1]
    )


def test_check_finds_identical_pairs_and_duplicates(capsys, tmp_path, model, identity):
    """owl #592: 144 of 220 pairs were the same text."""
    rows = [
        row_of("p", i, text) for i, text in enumerate(["same", "same", "other", "other"])
    ] + rows_for()
    found, findings = told(
        capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model, code=0
    )
    assert findings["identical_pairs"][1].startswith(
        "1 of 9 (11.1%) pairs are the same text, chosen and rejected"
    )
    assert findings["duplicates"] == (
        "note",
        "2 of 13 (15.4%) responses repeat a text of their group, 2 its tokens",
    )
    assert found["n_same_ids"] == 2


def test_check_finds_ties_and_inverted_pairs(capsys, tmp_path, model, identity):
    rows = rows_for()
    rows[1]["reward"] = rows[0]["reward"]
    rows[4]["reward"] = rows[3]["reward"] + 1
    for row in rows[6:]:
        row["reward"] = 2.0
    found, findings = told(
        capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model, code=0
    )
    assert (found["pairs"]["tied"], found["pairs"]["inverted"]) == (3, 1)
    assert findings["tied"][0] == findings["inverted"][0] == "warning"
    assert "all rewards are equal in 1 of 3 (33.3%) groups" in findings["equal_rewards"][1]


def test_pairs_are_those_that_selection_named(capsys, tmp_path, model, identity):
    first, second, third = (row_of("p", i, text) for i, text in enumerate(("one", "two", "three")))
    beats = [{"sample_idx": 2, "margin": 2.0}]
    rows = [first | {"beats": beats}, second | {"beats": []}, third | {"beats": []}]
    found, _ = told(capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model)
    assert found["pairs"]["n"] == 1


def test_check_finds_rewards_that_follow_length(capsys, tmp_path, model, identity):
    rows = [row_of(f"p{p}", i, "x" * (60 - 15 * i + p)) for p in range(10) for i in range(3)]
    found, findings = told(
        capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model, code=0
    )
    assert found["reward_and_length"]["within_prompts"] == pytest.approx(1)
    assert (
        "rewards rise with longer responses within prompts (Spearman +1.00)"
        in findings["length_bias_within_prompts"][1]
    )
    assert (
        findings["length_tells_pairs"][1]
        == "the chosen response is the longer one in 100% of 20 pairs of different length"
    )
    rows = [
        row
        | {"reward": -row["reward"], "role": "positive" if row["sample_idx"] == 2 else "negative"}
        for row in rows
    ]
    _, findings = told(
        capsys, write_groups(tmp_path / "shorter", [rows], [identity]), "--model", model, code=0
    )
    assert "rewards rise with shorter responses" in findings["length_bias_within_prompts"][1]


def test_check_finds_outlying_rewards(capsys, tmp_path, model, identity):
    rows = [row_of(f"p{p}", i, f"{p} {i}", reward=p / 10 - i) for p in range(6) for i in range(3)]
    rows[4]["reward"] = -900.0
    found, findings = told(
        capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model, code=0
    )
    assert found["outliers"]["n"] == 1
    assert "from -900 to 0.5" in findings["reward_outliers"][1]


def test_check_finds_cut_responses_and_missing_ends(capsys, tmp_path, model, identity):
    first, second, *others = rows_for()
    rows = [
        first | {"finish_reason": "length", "response_token_ids": first["response_token_ids"][:-1]},
        second | {"response_token_ids": second["response_token_ids"][:-1]},
        *others,
    ]
    found, findings = told(
        capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model, code=0
    )
    assert found["finish_reasons"] == {"length": 1, "stop": 8}
    assert findings["cut_off"] == (
        "warning",
        (
            "1 of 9 (11.1%) responses were cut at the token limit of generation: they end in the "
            "middle, without an end-of-sequence token"
        ),
    )
    assert (
        "1 of 9 (11.1%) responses ended before the token limit without an end"
        in findings["stop_without_eos"][1]
    )


def test_check_knows_the_stop_text_at_which_responses_ended(capsys, tmp_path, model, identity):
    """Their ids end with it, and with what its last token holds beyond; their texts end before it."""
    first, second, *others = rows_for()
    stop_ids = TOKENIZER("\n##", add_special_tokens=False)["input_ids"]
    stopped = first | {"response_token_ids": [*first["response_token_ids"][:-1], *stop_ids]}
    open_end = second | {"response_token_ids": second["response_token_ids"][:-1]}
    sampling = {"stop": ["never", "\n#"], "min_tokens": 1}

    def findings_of(name, **more):
        groups = write_groups(tmp_path / name, [[stopped, open_end, *others]], [identity], **more)
        return told(capsys, groups, "--model", model, code=0)[1]

    findings = findings_of("stops", sampling=sampling)
    assert "text_differs" not in findings
    assert findings["stop_text"][0] == "warning"
    assert "1 of 9 (11.1%) responses end with a --stop text" in findings["stop_text"][1]
    assert "1 of 9 (11.1%)" in findings["stop_without_eos"][1]

    findings = findings_of("none")
    assert "stop_text" not in findings
    assert "text_differs" in findings
    assert "2 of 9 (22.2%)" in findings["stop_without_eos"][1]
    assert "text_differs" in findings_of("early", sampling=sampling | {"min_tokens": 99})


def test_broken_groups_are_errors_and_not_tracebacks(capsys, tmp_path, model, identity):
    rows = rows_for()
    rows[0]["reward"] = float("nan")
    rows[4]["prompt_token_ids"] = [7]
    _, findings = told(
        capsys, write_groups(tmp_path / "groups", [rows], [identity]), "--model", model, code=1
    )
    assert "response 0 of prompt p0 has reward nan" in findings["broken_groups"][1]
    assert "response 1 of prompt p1" in findings["other_prompt"][1]


def test_keys_that_come_again_in_another_part_are_found_as_in_one(
    capsys, tmp_path, model, identity
):
    groups = write_groups(tmp_path / "groups", [rows_for(n=2), rows_for(n=1)], [identity])
    _, findings = told(capsys, groups, "--model", model, "--max-length", 512, code=1)
    assert any(
        "response 0 of prompt p0 occurs twice" in message
        for severity, message in findings.values()
        if severity == "error"
    )


def test_missing_parts_and_a_limit_beyond_the_model_are_warnings(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for(), None], [identity])
    _, findings = told(
        capsys,
        groups,
        "--model",
        model,
        code=0,
        warning="is partial: missing: part 1; see prefpipe status",
    )
    assert findings["incomplete"][1].startswith("1 of 2 parts of the groups are missing")
    assert (
        findings["beyond_positions"][1]
        == "--max-length 2,048 exceeds the 512 positions of the model"
    )


def test_memory_and_time_of_a_step_follow_their_formulas(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    words = (groups, "--model", model, "--objective", "dpo", "--global-batch-size", 2)
    step = told(capsys, *words, "--tflops", 1, "--mfu", 0.5)[0]["step"]
    n = step["n_parameters"]
    assert step["memory_bytes"]["weights"] == step["memory_bytes"]["gradients"] == 4 * n
    assert step["memory_bytes"]["optimizer"] == 8 * n
    tokens = len(PROMPT) + sum(
        len(f"0 {text}") + 1 for text in ("a first answer", "another", "the third one")
    )
    assert step["n_tokens_at_once"] == step["largest_group_tokens"] == tokens
    assert step["memory_bytes"]["activations"] == 2 * 4 * tokens * (8 * 32 + 4 * 64)
    assert step["n_steps_a_pass"] == 2
    assert step["n_tokens_a_step"] == 2 * tokens
    assert step["flop_a_pass"] == pytest.approx(1.5 * step["flop_a_step"])
    assert step["flop_reference"] == pytest.approx(step["flop_a_pass"] / 3)
    assert step["machine"]["step_s"] == pytest.approx(step["flop_a_step"] / 0.5e12)
    small = told(capsys, *words, "--lora-r", 4, "--bf16", "--gradient-checkpointing")[0]["step"]
    assert small["memory_bytes"]["total"] < step["memory_bytes"]["total"] / 2
    assert small["machine"] is None
    assert small["memory_bytes"]["optimizer"] == 8 * 4 * 2 * (32 * 6 + 16 * 2 + 3 * (32 + 64))


def test_an_adapter_is_looked_at_through_its_base(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    adapter = make_tiny_adapter(tmp_path / "adapter", model)
    found, _ = told(capsys, groups, "--model", adapter, code=0)
    assert found["stored_ids_fit"]


def test_the_page_says_what_the_json_says(capsys, tmp_path, model, identity):
    rows = rows_for(("same", "same", "other and longer"))
    groups = write_groups(tmp_path / "groups", [rows], [identity])
    capsys.readouterr()
    assert prefpipe(["check", str(groups), "--model", str(model), "--gpu", "h100"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in (
        "3 groups, 9 responses, 6 pairs, stored token ids",
        "warning  3 of 6 (50.0%) pairs are the same text",
        "hint: select with --near-duplicates",
        "prompt plus response, tokens",
        "0 beyond the limit of 2,048",
        "memory, about",
        "NVIDIA H100 SXM",
    ):
        assert words in captured.out


@pytest.mark.slow
def test_check_warns_of_groups_without_a_known_tokenizer(capsys, model):
    found, findings = told(capsys, original() / "run" / "groups", "--model", model)
    assert findings["other_tokenizer"][0] == "warning"
    assert found["n_groups"] == 6


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--max-length", "1"], 2, "--max-length must be 2 or more, not 1"),
        (["--objective", "grpo"], 2, "--objective must be one of ampo"),
        (
            ["--on-too-long", "cut"],
            2,
            "--on-too-long must be one of drop, truncate, error, not 'cut'",
        ),
        (["--gpu", "h10"], 2, "--gpu must be one of h100"),
        (["--gpu", "h100", "--tflops", "3"], 2, "--gpu and --tflops exclude each other"),
        (
            ["--mfu", "2", "--lora-r", "-1"],
            2,
            "--lora-r must be 0 or more, not -1; --mfu must be above 0 and at most 1, not 2",
        ),
    ],
)
def test_flags_that_cannot_be_used_are_refused(capsys, model, flags, code, message):
    groups = original() / "run" / "groups"
    capsys.readouterr()  # the first test of a process makes the groups, and their commands print
    assert prefpipe(["check", str(groups), "--model", str(model), *flags]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_no_model_and_no_groups_are_refused(capsys, model):
    assert prefpipe(["check", str(original() / "run" / "scores"), "--model", str(model)]) == 1
    assert "GROUPS:" in capsys.readouterr().err
    assert prefpipe(["check", str(original() / "run" / "groups"), "--model", "nowhere"]) == 1
    assert "pass a folder, bundled:NAME" in capsys.readouterr().err
    assert issubclass(InputError, PrefpipeError)


def test_a_model_that_is_no_causal_one_is_an_error(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    shutil.copytree(model, tmp_path / "odd")
    config = tiny_config().to_dict() | {"model_type": "no-such-model"}
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    _, findings = told(capsys, groups, "--model", tmp_path / "odd", code=1)
    assert findings["no_causal_lm"][0] == "error"


def test_check_of_mmpo_notes_targets_in_place_of_margins(capsys, tmp_path, model, identity):
    """Rewards 0, -1, -2: margins 1 and 2 of two pairs a group, sigma(1.1) = 0.750 and sigma(2.2) = 0.900."""
    groups = write_groups(tmp_path / "groups", [rows_for(n=15)], [identity])
    found, findings = told(capsys, groups, "--model", model, "--objective", "mmpo", code=0)
    targets = found["targets"]
    assert (targets["gamma"], targets["n"]) == (1.1, 30)
    assert targets["quantiles"]["0.05"] == pytest.approx(1 / (1 + np.exp(-1.1)))
    assert targets["quantiles"]["0.95"] == pytest.approx(1 / (1 + np.exp(-2.2)))
    assert (targets["share_near_half"], targets["share_near_one"]) == (0.0, 0.0)
    assert findings["targets"][0] == "note"
    assert told(capsys, groups, "--model", model)[0]["targets"] is None


@pytest.mark.parametrize(
    ("gamma", "near_half", "near_one", "hint"),
    [("0.01", 1.0, 0.0, "raise --gamma"), ("9", 0.0, 1.0, "lower --gamma")],
)
def test_check_warns_of_gamma_that_does_not_fit_the_ratings(
    capsys, tmp_path, model, identity, gamma, near_half, near_one, hint
):
    groups = write_groups(tmp_path / "groups", [rows_for(n=15)], [identity])
    found, findings = told(
        capsys, groups, "--model", model, "--objective", "mmpo", "--gamma", gamma, code=0
    )
    assert (found["targets"]["share_near_half"], found["targets"]["share_near_one"]) == (
        near_half,
        near_one,
    )
    assert findings["targets"][0] == "warning"
    assert hint in next(each["hint"] for each in found["findings"] if each["name"] == "targets")


def test_ties_are_targets_of_one_half_to_mmpo(capsys, tmp_path, model, identity):
    """Equal ratings are p = 1/2, which mmpo reads rightly: no hint at least margins."""
    rows = rows_for(n=15)
    for row in rows:
        row["reward"] = 2.0
    found, findings = told(
        capsys,
        write_groups(tmp_path / "groups", [rows], [identity]),
        "--model",
        model,
        "--objective",
        "mmpo",
        code=0,
    )
    assert not {"tied", "equal_rewards"} & findings.keys()
    assert found["targets"]["quantiles"]["0.5"] == 0.5
    assert not any("--min-margin" in (each["hint"] or "") for each in found["findings"])


def test_weights_are_looked_at_as_train_makes_them(capsys, tmp_path, model, identity):
    """Rewards 0, -1, -2: margins 1 and 2 in each of three prompts, and so equal weights."""
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    found, findings = told(capsys, groups, "--model", model, "--weight-by", "margin", code=0)
    assert found["weights"] == {
        "expression": "margin",
        "n_bad": 0,
        "example": None,
        "all_zero": False,
        "least": 1.0,
        "greatest": 1.0,
        "n_prompts": 3,
        "effective_prompts": 3.0,
    }
    severity, message = findings["weights"]
    assert severity == "note"
    assert message == (
        "the loss would be weighted by margin: prompts count 1 to 1 times their mean, "
        "as much as 3.0 equal ones of 3"
    )


def test_few_prompts_that_carry_the_loss_are_a_warning(capsys, tmp_path, model, identity):
    """Margins 100 in one prompt of three, 1 in the others: as much as 1.04 equal ones."""
    rows = rows_for(texts=("good", "bad"))
    rows[1]["reward"] = -100.0
    groups = write_groups(tmp_path / "groups", [rows], [identity])
    _, findings = told(capsys, groups, "--model", model, "--weight-by", "margin", code=0)
    assert findings["weights"][0] == "warning"
    assert "as much as 1.0 equal ones of 3" in findings["weights"][1]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("1 - margin", "bad_weights", "3 prompts have no weight: --weight-by '1 - margin' is -1"),
        ("0 * margin", "weights_all_zero", "--weight-by '0 * margin' is 0 for all prompts"),
    ],
)
def test_weights_at_which_train_would_stop_are_errors(
    capsys, tmp_path, model, identity, text, name, message
):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    _, findings = told(capsys, groups, "--model", model, "--weight-by", text, code=1)
    assert findings[name][0] == "error"
    assert findings[name][1].startswith(message)


def test_a_name_that_is_no_column_and_a_gamma_that_cannot_be_are_refused(
    capsys, tmp_path, model, identity
):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    words = ["check", str(groups), "--model", str(model)]
    cases = (
        (["--weight-by", "confidense"], "names confidense, which is not a numeric column"),
        (["--objective", "sft", "--weight-by", "margin"], "there are no pairs"),
        (["--objective", "mmpo", "--gamma", "-1"], "gamma is -1.0, below 0"),
        (["--objective", "mmpo", "--gamma", "much"], "a finite number or auto, not 'much'"),
        (["--objective", "mmpo", "--gamma", "auto"], "needs one of --point-wins and"),
        (["--objective", "mmpo", "--point-wins", "0.8"], "--point-wins goes together with"),
        (["--objective", "dpo", "--gamma", "1"], "--gamma needs --objective mmpo"),
    )
    for more, message in cases:
        assert prefpipe([*words, *more]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_gamma_that_is_chosen_is_the_one_of_the_targets(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    words = (groups, "--model", model, "--objective", "mmpo", "--gamma")
    found, findings = told(capsys, *words, "auto", "--point-wins", 0.75, code=0)
    assert found["training"]["gamma"] == found["targets"]["gamma"] == pytest.approx(np.log(3))
    assert findings["gamma"] == ("note", "--gamma auto is 1.099: one point better wins 75.0%")
    plain, _ = told(capsys, *words, np.log(3), code=0)
    assert plain["targets"]["quantiles"] == pytest.approx(found["targets"]["quantiles"])


def test_groups_of_positives_alone_are_for_sft(capsys, tmp_path, model, identity):
    rows = [row | {"role": "positive", "reward": 1.0} for row in rows_for()]
    groups = write_groups(tmp_path / "groups", [rows], [identity])
    found, findings = told(capsys, groups, "--model", model, code=1)
    assert findings["nothing_left"][0] == "error"
    (hint,) = (each["hint"] for each in found["findings"] if each["name"] == "nothing_left")
    assert "--objective sft" in hint
    found, findings = told(capsys, groups, "--model", model, "--objective", "sft", code=0)
    assert (found["n_groups_left"], found["pairs"]["n"]) == (3, 0)
    assert {name for name, each in findings.items() if each[0] != "note"} == {"beyond_positions"}


def test_negatives_are_in_no_figure_of_sft(capsys, tmp_path, model, identity):
    groups = write_groups(tmp_path / "groups", [rows_for()], [identity])
    found, _ = told(capsys, groups, "--model", model, "--objective", "sft", code=0)
    assert (found["n_responses"], found["pairs"]["n"]) == (3, 0)
    assert found["fates"] == {"ok": 3, "unused_negative": 6}
