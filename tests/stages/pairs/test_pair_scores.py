"""``eval rewardbench`` and ``eval calibration`` with real tiny models: what is scored, what is not, and that nothing is silent."""

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from support.pair_files import evaluate, pairs_file, some_pairs
from support.pipelines import identities_of, rows_of
from support.tiny_models import (
    END_ID,
    make_tiny_adapter,
    make_tiny_causal_lm,
    make_tiny_reward_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run as prefpipe

REWARD = ("--reward-model",)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A policy, another as its reference, an adapter of the policy, and a reward model."""
    root = tmp_path_factory.mktemp("models")
    found = {
        "policy": make_tiny_causal_lm(root / "policy"),
        "reference": make_tiny_causal_lm(root / "reference", seed=1),
    }
    found["adapter"] = make_tiny_adapter(root / "adapter", root / "policy")
    found["reward"] = make_tiny_reward_model(root / "reward")
    return {name: str(path) for name, path in found.items()}


def logp_alone(model_path: str, prompt: str, response: str) -> tuple[float, int]:
    """Sum and number of a response's log-probabilities, by transformers alone, unpadded, the end of the turn included."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model_path),
        AutoTokenizer.from_pretrained(model_path),
    )
    turns = [{"role": "user", "content": prompt}]
    start = tokenizer(
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    )["input_ids"]
    ids = torch.tensor([[*start, *tokenizer(response)["input_ids"], END_ID]])
    with torch.no_grad():
        logps = model(ids).logits.float().log_softmax(-1)[0, :-1]
    own = logps[torch.arange(len(start) - 1, ids.shape[1] - 1), ids[0, len(start) :]]
    return float(own.sum()), len(own)


@pytest.mark.slow
def test_a_policy_without_a_reference_has_mean_log_probabilities(models, tmp_path):
    rows = some_pairs(6)
    evaluate(
        "rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", "--model", models["policy"]
    )
    for row, found in zip(rows, rows_of(tmp_path / "out"), strict=True):
        for side in ("chosen", "rejected"):
            total, count = logp_alone(models["policy"], row["prompt"], row[side])
            assert found[f"{side}_n_tokens"] == count == len(row[side].encode()) + 1
            assert found[f"{side}_logp"] == pytest.approx(total, abs=1e-3)
            assert found[f"{side}_score"] == pytest.approx(total / count, abs=1e-5)
            assert found[f"{side}_ref_logp"] is None
        assert found["margin"] == found["chosen_score"] - found["rejected_score"]
        assert (found["score_kind"], found["status"], found["outcome"]) == ("mean_logp", "ok", 1.0)


@pytest.mark.slow
def test_a_policy_with_a_reference_has_summed_log_ratios(models, tmp_path):
    """No beta and no length; beta enters the calibration alone."""
    rows = some_pairs(6)
    found = evaluate(
        "rewardbench",
        pairs_file(tmp_path, rows),
        tmp_path / "out",
        "--model",
        models["policy"],
        "--reference",
        models["reference"],
    )
    for row, scored in zip(rows, rows_of(tmp_path / "out"), strict=True):
        for side in ("chosen", "rejected"):
            own, ref = (
                logp_alone(models[name], row["prompt"], row[side])[0]
                for name in ("policy", "reference")
            )
            assert scored[f"{side}_score"] == pytest.approx(own - ref, abs=2e-3)
    margins = [row["margin"] for row in rows_of(tmp_path / "out")]
    wins = sum(margin > 0 for margin in margins)
    assert found["accuracy"]["mean"] == pytest.approx(wins / 6)
    losses = [math.log1p(math.exp(-0.1 * margin)) for margin in margins]
    assert found["beta"] == 0.1
    assert found["calibration"]["log_loss"] == pytest.approx(sum(losses) / 6)


@pytest.mark.slow
def test_an_adapter_is_compared_with_its_base(models, tmp_path):
    pairs = pairs_file(tmp_path, some_pairs(4))
    evaluate(
        "rewardbench", pairs, tmp_path / "base", "--model", models["adapter"], "--reference", "base"
    )
    evaluate(
        "rewardbench",
        pairs,
        tmp_path / "named",
        "--model",
        models["adapter"],
        "--reference",
        models["policy"],
    )
    assert [row["margin"] for row in rows_of(tmp_path / "base")] == [
        row["margin"] for row in rows_of(tmp_path / "named")
    ]
    assert all(row["margin"] != 0 for row in rows_of(tmp_path / "base"))


@pytest.mark.slow
def test_a_model_against_itself_ties_everywhere_and_loses_everything(models, tmp_path, capsys):
    found = evaluate(
        "rewardbench",
        pairs_file(tmp_path, some_pairs(6)),
        tmp_path / "out",
        "--model",
        models["policy"],
        "--reference",
        models["policy"],
    )
    assert [row["margin"] for row in rows_of(tmp_path / "out")] == [0.0] * 6
    assert (found["accuracy"]["mean"], found["accuracy"]["ties_half"], found["n_ties"]) == (
        0.0,
        0.5,
        6,
    )
    assert found["rewardbench"]["final"]["mean"] == 0.0
    assert "the reference is the model itself" in found["notes"][0]
    assert "6 of 6 pairs tie and count as lost" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reward_model_says_what_score_says(models, tmp_path):
    rows = some_pairs(6)
    found = evaluate(
        "rewardbench",
        pairs_file(tmp_path, rows),
        tmp_path / "out",
        "--model",
        models["reward"],
        *REWARD,
    )
    assert (
        prefpipe(["import", pairs_file(tmp_path, rows), "-o", str(tmp_path), "--format", "trl"])
        == 0
    )
    score = [
        "score",
        str(tmp_path / "candidates"),
        "-o",
        str(tmp_path / "rated"),
        "--scorer",
        f"reward-model:{models['reward']}",
    ]
    assert prefpipe(score) == 0
    rewards = {
        (row["prompt_id"], row["sample_idx"]): row["reward"] for row in rows_of(tmp_path / "rated")
    }
    texts = {
        (row["prompt_id"], row["response"]): rewards[row["prompt_id"], row["sample_idx"]]
        for row in rows_of(tmp_path / "candidates")
    }
    for row, scored in zip(rows, rows_of(tmp_path / "out"), strict=True):
        assert scored["chosen_score"] == pytest.approx(
            texts[scored["prompt_id"], row["chosen"]], abs=1e-5
        )
        assert scored["rejected_score"] == pytest.approx(
            texts[scored["prompt_id"], row["rejected"]], abs=1e-5
        )
        assert scored["chosen_n_tokens"] > len(row["chosen"])
    assert found["score_kind"] == "reward"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["policy", "reference", "reward"])
def test_no_score_depends_on_its_batch(models, tmp_path, kind):
    """Padding, packing, the size of batches and of parts."""
    pairs = pairs_file(tmp_path, some_pairs(11))
    words = {
        "policy": ["--model", models["policy"]],
        "reward": ["--model", models["reward"], *REWARD],
        "reference": ["--model", models["policy"], "--reference", models["reference"]],
    }[kind]
    evaluate("rewardbench", pairs, tmp_path / "wide", *words, "--batch-size", "64")
    evaluate(
        "rewardbench",
        pairs,
        tmp_path / "narrow",
        *words,
        "--batch-size",
        "1",
        "--max-batch-tokens",
        "1",
        "--part-size",
        "3",
    )
    wide, narrow = (rows_of(tmp_path / name) for name in ("wide", "narrow"))
    for side in ("chosen", "rejected"):
        assert [row[f"{side}_score"] for row in narrow] == pytest.approx(
            [row[f"{side}_score"] for row in wide], abs=1e-4
        )
    assert len(identities_of(tmp_path / "narrow")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--reward-model"]], ids=["policy", "reward model"])
def test_long_pairs_are_kept_and_neither_cut_nor_scored(models, tmp_path, words, capsys):
    """One long response costs the pair; the limit is the model's own, 512, where none is given."""
    rows = some_pairs(4)
    rows[1]["rejected"] = "no " * 300
    model = ["--model", models["reward" if words else "policy"], *words]
    found = evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", *model)
    scored = rows_of(tmp_path / "out")
    assert [row["status"] for row in scored] == ["ok", "too_long", "ok", "ok"]
    assert scored[1]["reason"].startswith("rejected: ")
    assert "the limit is 512" in scored[1]["reason"]
    assert (scored[1]["chosen_score"], scored[1]["margin"]) == (None, None)
    assert (found["n_scored"], found["counts"]) == (3, {"ok": 3, "too_long": 1})
    assert found["accuracy"]["n_pairs"] == 3
    assert "1 pairs are longer than the model or --max-length allows" in capsys.readouterr().err
    assert not found["rewardbench"]["is_complete"]
    subsets = {
        each["name"]: each
        for section in found["rewardbench"]["sections"]
        for each in section["subsets"]
    }
    assert (
        subsets["llmbar-natural"]["n_rows"],
        subsets["llmbar-natural"]["accuracy"]["n_pairs"],
    ) == (2, 1)


@pytest.mark.slow
def test_a_limit_above_the_models_own_is_not_believed(models, tmp_path):
    rows = some_pairs(3)
    rows[0]["prompt"] = "why " * 200
    for words in (["--model", models["policy"]], ["--model", models["reward"], *REWARD]):
        output = tmp_path / words[1].rpartition("/")[2]
        found = evaluate(
            "rewardbench", pairs_file(tmp_path, rows), output, *words, "--max-length", "100000"
        )
        assert found["counts"] == {"ok": 2, "too_long": 1}
        shorter = [*words, "--max-length", "60", "--overwrite"]
        assert prefpipe(
            [
                "eval",
                "rewardbench",
                "--pairs",
                pairs_file(tmp_path, rows),
                "-o",
                str(output),
                *shorter,
            ]
        ) in (0, 1)


def test_when_every_pair_is_too_long_that_is_an_error(models, tmp_path, capsys):
    pairs = pairs_file(tmp_path, some_pairs(3))
    words = [
        "eval",
        "rewardbench",
        "--pairs",
        pairs,
        "-o",
        str(tmp_path / "out"),
        "--model",
        models["policy"],
    ]
    assert prefpipe([*words, "--max-length", "5"]) == 1
    assert "no pair of" in (said := capsys.readouterr().err)
    assert "3 too_long" in said
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["policy", "reference", "reward"])
def test_identical_responses_tie_exactly_and_are_told(models, tmp_path, kind, capsys):
    """In a batch with others, where the same tokens may come out with other last digits."""
    same = some_pairs(1)[0] | {"chosen": "Same words.", "rejected": "Same words."}
    rows = [*some_pairs(7), same, same]
    words = {
        "policy": ["--model", models["policy"]],
        "reward": ["--model", models["reward"], *REWARD],
        "reference": ["--model", models["policy"], "--reference", models["reference"]],
    }[kind]
    found = evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", *words)
    scored = rows_of(tmp_path / "out")
    assert [row["status"] for row in scored] == ["ok"] * 7 + ["identical"] * 2
    assert [row["margin"] for row in scored[7:]] == [0.0, 0.0]
    assert scored[8]["duplicate_of"] == 7
    assert (found["n_identical"], found["n_duplicates"], found["n_ties"]) == (2, 1, 2)
    said = capsys.readouterr().err
    assert "2 pairs have two identical responses" in said
    assert "1 pairs are copies of earlier rows" in said


@pytest.mark.slow
def test_texts_that_are_the_same_tokens_are_identical_too(models, tmp_path):
    """A template that strips what it is given: other texts, the same tokens."""
    stripping = tmp_path / "stripping"
    make_tiny_causal_lm(stripping)
    template = (stripping / "chat_template.jinja").read_text()
    (stripping / "chat_template.jinja").write_text(
        template.replace("message['content'] +", "(message['content'] | trim) +")
    )
    rows = [some_pairs(1)[0] | {"chosen": "Yes.", "rejected": "Yes. "}, *some_pairs(3)]
    evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", "--model", str(stripping))
    first = rows_of(tmp_path / "out")[0]
    assert (first["status"], first["margin"]) == ("identical", 0.0)
    assert "the same tokens to this model" in first["reason"]


@pytest.mark.slow
def test_rows_without_texts_are_kept_counted_and_fail_the_command_when_many(
    models, tmp_path, capsys
):
    rows = some_pairs(6)
    rows[2]["chosen"] = None
    rows[3]["prompt"] = None
    words = [
        "eval",
        "rewardbench",
        "--pairs",
        pairs_file(tmp_path, rows),
        "-o",
        str(tmp_path / "out"),
        "--model",
        models["policy"],
    ]
    assert prefpipe(words) == 3
    assert "2 of 6 rows failed" in capsys.readouterr().err
    assert prefpipe([*words, "--max-error-rate", "0.5"]) == 0
    scored = rows_of(tmp_path / "out")
    assert [row["status"] for row in scored] == [
        "ok",
        "ok",
        "missing_text",
        "unreadable",
        "ok",
        "ok",
    ]
    assert scored[2]["reason"] == "`chosen` is null"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["n_scored"] == 4


@pytest.mark.slow
def test_nan_scores_are_a_status_and_never_a_loss(tmp_path):
    broken = make_tiny_causal_lm(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.embed_tokens.weight[4 + ord("~")] = float(
            "nan"
        )  # some byte's row; which one does not matter
        for symbol in AutoTokenizer.from_pretrained(broken)("~")["input_ids"]:
            model.model.embed_tokens.weight[symbol] = float("nan")
    model.save_pretrained(broken)
    rows = some_pairs(4)
    rows[1]["rejected"] = "so ~ so"
    found = evaluate(
        "rewardbench",
        pairs_file(tmp_path, rows),
        tmp_path / "out",
        "--model",
        str(broken),
        "--max-error-rate",
        "1",
    )
    scored = rows_of(tmp_path / "out")
    assert scored[1]["status"] == "not_finite"
    assert scored[1]["reason"] == "rejected: the model gives it a log-probability of nan"
    assert (
        found["accuracy"]["n_pairs"]
        == found["n_scored"]
        == sum(row["status"] == "ok" for row in scored)
    )


def test_a_model_without_a_template_is_refused_with_a_hint(tmp_path, capsys):
    """Nothing falls back to a template that is nobody's."""
    for name, make, words in (
        ("policy", make_tiny_causal_lm, []),
        ("reward", make_tiny_reward_model, [*REWARD]),
    ):
        folder = make(tmp_path / name)
        (folder / "chat_template.jinja").unlink()
        command = [
            "eval",
            "rewardbench",
            "--pairs",
            pairs_file(tmp_path, some_pairs(2)),
            "-o",
            str(tmp_path / "out"),
        ]
        assert prefpipe([*command, "--model", str(folder), *words]) == 1
        said = capsys.readouterr().err
        assert "no chat template in the model folder" in said
        assert "instruct version" in said
        assert not (tmp_path / "out").exists()


def test_a_head_that_was_never_trained_is_refused(models, tmp_path, capsys):
    command = [
        "eval",
        "rewardbench",
        "--pairs",
        pairs_file(tmp_path, some_pairs(2)),
        "-o",
        str(tmp_path / "out"),
    ]
    assert prefpipe([*command, "--model", models["policy"], *REWARD]) == 1
    said = capsys.readouterr().err
    assert "label" in said or "random" in said
    assert prefpipe([*command, "--model", models["reward"]]) == 2
    assert "--reward-model" in capsys.readouterr().err


def test_a_reference_of_another_tokenizer_is_refused(models, tmp_path, capsys):
    other = make_tiny_causal_lm(tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(
        json.dumps(settings | {"add_prefix_space": True, "bos_token": "<|pad|>"})
    )
    command = [
        "eval",
        "rewardbench",
        "--pairs",
        pairs_file(tmp_path, some_pairs(2)),
        "-o",
        str(tmp_path / "out"),
    ]
    assert prefpipe([*command, "--model", models["policy"], "--reference", str(other)]) == 2
    assert "does not have the tokenizer" in capsys.readouterr().err
    assert prefpipe([*command, "--model", models["policy"], "--reference", "base"]) == 2
    assert "is not an adapter" in capsys.readouterr().err


@pytest.mark.slow
def test_the_recipe_holds_hashes_and_another_template_is_another_run(models, tmp_path, capsys):
    pairs, own = pairs_file(tmp_path, some_pairs(4)), make_tiny_causal_lm(tmp_path / "own")
    recipe = evaluate("rewardbench", pairs, tmp_path / "out", "--model", str(own))["recipe"]
    assert recipe["pairs_sha256"] == read_run_record(tmp_path / "out").identity["pairs"]
    assert set(recipe["models"][0]) >= {
        "name",
        "content_hash",
        "tokenizer_hash",
        "chat_template_hash",
    }
    assert recipe["models"][0]["chat_template_hash"] is not None
    assert (recipe["dtype"], recipe["max_length"]) == ("float32", None)
    assert recipe["versions"]["torch"]
    template = own / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant: \n"))
    assert (
        prefpipe(
            [
                "eval",
                "rewardbench",
                "--pairs",
                pairs,
                "-o",
                str(tmp_path / "out"),
                "--model",
                str(own),
            ]
        )
        == 2
    )
    assert "chat_template_hash" in capsys.readouterr().err
    changed = pairs_file(tmp_path, some_pairs(5))
    assert (
        prefpipe(
            [
                "eval",
                "rewardbench",
                "--pairs",
                changed,
                "-o",
                str(tmp_path / "out"),
                "--model",
                models["policy"],
            ]
        )
        == 2
    )
    assert "pairs: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_response_that_melts_into_the_prompts_last_token_is_scored(tmp_path):
    """A newline behind the newline of the generation prompt is one token to SmolLM2; the policy writes it by itself."""
    rows = [{"prompt": "Why?", "chosen": "\nBecause.", "rejected": "Because."}]
    evaluate(
        "rewardbench",
        pairs_file(tmp_path, rows),
        tmp_path / "out",
        "--model",
        "bundled:smollm2-135m",
    )
    (found,) = rows_of(tmp_path / "out")
    assert found["status"] == "ok"
    assert found["chosen_n_tokens"] == found["rejected_n_tokens"] + 1


@pytest.mark.slow
def test_real_rows_of_both_files_get_their_sections(models, data_dir, tmp_path):
    """Sixteen pairs of each, unchanged columns and names: sections, and what lies outside of them."""
    for name, section in (("llmbar", "Chat Hard"), ("xstest", "Safety")):
        source = tmp_path / f"{name}.parquet"
        pl.read_parquet(data_dir / f"{name}_pairs.parquet").sample(16, seed=3).write_parquet(source)
        words = ["--model", models["policy"], "--max-error-rate", "1"]
        found = evaluate("rewardbench", str(source), tmp_path / name, *words)
        assert [each["name"] for each in found["rewardbench"]["sections"]] in ([section], [])
        assert found["n_pairs"] == 16


@pytest.mark.slow
def test_status_knows_these_folders(models, tmp_path, capsys):
    """Whole, then stale when the model's weights or the pairs change."""
    own = make_tiny_causal_lm(tmp_path / "own")
    pairs = pairs_file(tmp_path, some_pairs(4))
    evaluate("calibration", pairs, tmp_path / "out", "--model", str(own))
    assert prefpipe(["status", str(tmp_path / "out")]) == 0
    make_tiny_causal_lm(Path(own), seed=5)
    assert prefpipe(["status", str(tmp_path / "out")]) == 4
    assert "has changed since" in capsys.readouterr().out
    make_tiny_causal_lm(Path(own))
    assert prefpipe(["status", str(tmp_path / "out")]) == 0
    pairs_file(tmp_path, some_pairs(5))
    assert prefpipe(["status", str(tmp_path / "out")]) == 4
    (tmp_path / "out" / "summary.json").unlink()
    pairs_file(tmp_path, some_pairs(4))
    assert prefpipe(["status", str(tmp_path / "out")]) == 4
