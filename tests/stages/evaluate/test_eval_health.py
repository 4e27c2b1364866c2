"""Policy health in eval: the divergence against exact sums, the measures by hand, and nulls that stay null."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from support.interchange_files import lines
from support.pipelines import identities_of, open_artifact, rows_of
from support.tiny_models import make_tiny_causal_lm
from transformers import AutoModelForCausalLM

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.schemas import EVALUATION
from prefpipe.artifacts.store import Shard, open_output
from prefpipe.cli.main import run
from prefpipe.errors import InputError
from prefpipe.stages.evaluate.kl import log_ratios, sampled_otherwise

N_PROMPTS, N = 6, 40


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same a little trained, one with another template, one with another tokenizer; and prompts."""
    folder = tmp_path_factory.mktemp("models")
    start = make_tiny_causal_lm(folder / "start")
    shutil.copytree(start, folder / "trained")
    model = AutoModelForCausalLM.from_pretrained(start)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data += 0.03 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder / "trained")
    shutil.copytree(start, folder / "template")
    template = folder / "template" / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    shutil.copytree(start, folder / "tokenizer")
    told = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    vocabulary = told["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(told))
    lines(
        folder / "prompts.jsonl",
        *({"prompt_id": f"p{i}", "prompt": f"Say {i}"} for i in range(N_PROMPTS)),
    )
    return folder


def sampled(
    models: Path,
    out: Path,
    *more: str,
    policy: str = "trained",
    baseline: str = "start",
    n: int = N,
) -> list[str]:
    return [
        "eval",
        "--policy",
        f"{models}/{policy}",
        "--baseline",
        f"{models}/{baseline}",
        "--prompts",
        f"{models}/prompts.jsonl",
        "--scorer",
        "fake",
        "--n",
        str(n),
        "--max-tokens",
        "12",
        "--temperature",
        "1",
        "--bootstrap-draws",
        "200",
        "--part-size",
        "4",
        "-o",
        str(out),
        *more,
    ]


def health(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())["health"]
    return found


@pytest.fixture(scope="module")
def trained(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "eval"
    assert run(sampled(models, out)) == 0
    return out


def exact_divergence(policy: Path, reference: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    """Return for each response the sum over its positions of ``sum_v p_v log(p_v / q_v)``, every word of the vocabulary counted."""
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (policy, reference)
    )
    found = []
    for row in rows:
        ids, start = (
            torch.tensor([row["prompt_token_ids"] + row["response_token_ids"]]),
            len(row["prompt_token_ids"]),
        )
        with torch.no_grad():
            p, q = (
                torch.log_softmax(model(ids).logits[0, start - 1 : -1].double(), -1)
                for model in (ours, theirs)
            )
        found.append(float((p.exp() * (p - q)).sum()))
    return np.array(found)


@pytest.mark.slow
def test_the_divergence_agrees_with_the_exact_sum_over_the_vocabulary(
    models: Path, trained: Path
) -> None:
    """The mean of log p/q over samples is the mean of the exact divergences on the same prefixes, but for their noise."""
    rows = rows_of(trained / "policy" / "candidates")
    exact = exact_divergence(models / "trained", models / "start", rows)
    told = {
        (row["prompt_id"], row["sample_idx"]): row["logp"]
        for row in rows_of(trained / "policy" / "reference-logprobs")
    }
    sampled_ratios = np.array(
        [row["logp"] - told[row["prompt_id"], row["sample_idx"]] for row in rows]
    )
    assert len(exact) == N_PROMPTS * N
    noise = sampled_ratios - exact
    assert abs(noise.mean()) < 3 * noise.std(ddof=1) / np.sqrt(len(noise))
    assert noise.std() > 0.01  # they are two computations
    n_tokens = np.array([row["n_response_tokens"] for row in rows])
    found = health(trained)
    assert found["kl_per_response"]["policy"]["mean"] == pytest.approx(sampled_ratios.mean())
    assert found["kl_per_token"]["policy"]["mean"] == pytest.approx(
        sampled_ratios.sum() / n_tokens.sum()
    )
    for name, mean in (
        ("kl_per_response", exact.mean()),
        ("kl_per_token", exact.sum() / n_tokens.sum()),
    ):
        policy = found[name]["policy"]
        assert policy["mean"] > 0
        assert abs(policy["mean"] - mean) < 4 * policy["se"]
        assert policy["low"] < policy["mean"] < policy["high"]
        assert (found[name]["n_prompts"], found[name]["sampled_otherwise"]) == (N_PROMPTS, None)
        assert (
            found[name]["baseline"]
            == found[name]["difference"]
            == dict.fromkeys(("mean", "se", "low", "high"))
        )


@pytest.mark.slow
def test_a_model_diverges_by_nothing_from_itself(models: Path, tmp_path: Path) -> None:
    """To rounding, with every response counted; both seeds differ, so that the sides are not the same texts."""
    assert run(sampled(models, tmp_path / "e", policy="start", n=4)) == 0
    found = health(tmp_path / "e")
    assert abs(found["kl_per_token"]["policy"]["mean"]) < 1e-6
    rows = pl.read_parquet(tmp_path / "e" / "part-00000-of-00001.parquet")
    assert rows["policy_log_ratio"].abs().max() < 1e-5
    assert rows["policy_log_ratio"].null_count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("other", ["template", "tokenizer"])
def test_there_is_no_divergence_between_models_that_read_other_ids(
    models: Path, trained: Path, tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = beside(trained, tmp_path / "e", "--kl-reference", f"{models}/{other}")
    capsys.readouterr()
    assert run(command) == 0
    found = health(tmp_path / "e")["kl_per_token"]
    what = {"template": "chat template", "tokenizer": "tokenizer"}[other]
    assert found["reason"] == f"{models}/{other} does not have the {what} of the policy"
    assert (found["policy"]["mean"], found["n_prompts"]) == (None, 0)
    told = " ".join(capsys.readouterr().err.split())
    assert f"no KL to the reference: {models}/{other} does not have the" in told
    assert "nats per token" not in told
    assert not (tmp_path / "e" / "policy").exists()


def beside(trained: Path, out: Path, *more: str) -> list[str]:
    """The command on the candidates and scores of a finished evaluation."""
    sides = [
        word
        for side in ("policy", "baseline")
        for word in (
            f"--{side}",
            f"{trained}/{side}/candidates",
            f"--{side}-scores",
            f"{trained}/{side}/scores",
        )
    ]
    return ["eval", *sides, "-o", str(out), "--bootstrap-draws", "200", *more]


@pytest.mark.slow
def test_candidates_folders_need_the_reference_named(
    models: Path, trained: Path, tmp_path: Path
) -> None:
    assert run(beside(trained, tmp_path / "without")) == 0
    assert (
        "name its model with --kl-reference"
        in health(tmp_path / "without")["kl_per_token"]["reason"]
    )
    assert run(beside(trained, tmp_path / "with", "--kl-reference", f"{models}/start")) == 0
    assert health(tmp_path / "with")["kl_per_token"] == health(trained)["kl_per_token"]


@pytest.mark.slow
def test_what_is_finished_is_kept_and_measures_that_lack_are_added(
    models: Path, trained: Path, tmp_path: Path
) -> None:
    """--no-kl first, then with it: nothing is sampled or rated again. The other way is another configuration."""
    out = tmp_path / "e"
    assert run(sampled(models, out, "--no-kl", n=2)) == 0
    assert health(out)["kl_per_token"]["reason"] == "--no-kl"
    assert not (out / "policy" / "reference-logprobs").exists()
    kept = {
        part: identities_of(out / part)
        for part in ("policy/candidates", "policy/scores", "baseline/candidates")
    }
    assert run(sampled(models, out, n=2)) == 0
    assert health(out)["kl_per_token"]["policy"]["mean"] is not None
    measured = identities_of(out / "policy" / "reference-logprobs")
    assert len(measured) == 2
    made = identities_of(out)
    assert run(sampled(models, out, n=2)) == 0
    assert {part: identities_of(out / part) for part in kept} == kept
    assert (identities_of(out), identities_of(out / "policy" / "reference-logprobs")) == (
        made,
        measured,
    )
    assert run(sampled(models, out, "--no-kl", n=2)) == 2


def as_an_earlier_release_left_it(out: Path) -> None:
    """Write the folder's table anew as evaluation/1 of version 1, without the columns and inputs that this one adds."""
    record = read_run_record(out)
    table = open_artifact(out).read_all()
    identity = {**record.identity, "version": 1}
    identity.pop("reference_logprobs", None)
    old = record.__class__(
        "eval",
        "evaluation/1",
        1,
        identity,
        parents={k: v for k, v in record.parents.items() if k in identity},
    )
    added = [
        name
        for name in table.column_names
        if name.endswith(
            (
                "refused",
                "empty",
                "copied",
                "distinct_1",
                "distinct_2",
                "distinct_2_equal",
                "self_bleu",
                "embedding_diversity",
            )
        )
        or "log_ratio" in name
    ]
    output = open_output(out, old, shard=Shard(), overwrite=True)
    parents = {name: open_artifact(Path(path)).digest() for name, path in old.parents.items()}
    output.write(0, table.drop_columns(added), counts={"ok": table.num_rows}, parents=parents)
    summary = json.loads((out / "summary.json").read_text())
    summary.pop("health")
    (out / "summary.json").write_text(json.dumps(summary))


@pytest.mark.slow
def test_a_folder_of_an_earlier_release_is_read_and_gets_its_health_by_the_same_command(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e"
    assert run(sampled(models, out, n=2)) == 0
    expected = (out / "summary.json").read_bytes()
    as_an_earlier_release_left_it(out)
    kept = identities_of(out / "policy" / "candidates")
    assert run(["eval", "win-rate", str(out)]) == 0
    assert run(["inspect", str(out)]) == 0
    assert run(sampled(models, out, "--bootstrap-seed", "1", n=2)) == 2
    capsys.readouterr()
    assert run(sampled(models, out, n=2)) == 0
    assert "its per-prompt table lacks measures and is computed again" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (out / "summary.json").read_bytes() == expected
    assert identities_of(out / "policy" / "candidates") == kept
    assert read_run_record(out).schema == EVALUATION.tag == "evaluation/2"


@pytest.mark.slow
def test_a_note_names_a_temperature_other_than_1(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        word if word != "1" else "0.5"
        for word in sampled(models, tmp_path / "e", "--top-p", "0.9", n=2)
    ]
    assert run(command) == 0
    assert (
        health(tmp_path / "e")["kl_per_token"]["sampled_otherwise"] == "temperature 0.5, top-p 0.9"
    )
    assert (
        "KL is measured on responses sampled at temperature 0.5, top-p 0.9, and is therefore biased"
    ) in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"temperature": [1.0], "top_p": 1.0, "top_k": 0, "stop": ["."]}, None),
        ({"min_p": 0.05, "presence_penalty": -0.5}, "min-p 0.05, presence-penalty -0.5"),
        ({"repetition_penalty": 1.2, "frequency_penalty": 1.0, "min_tokens": 8, "top_k": 5},
         "top-k 5, repetition-penalty 1.2, frequency-penalty 1, min-tokens 8"),
        ({"temperature": [0.5], "ignore_eos": True}, "temperature 0.5, ignore-eos"),
    ],
)  # fmt: skip
def test_settings_that_make_the_divergence_biased_are_named(
    identity: dict[str, Any], words: str | None
) -> None:
    record = SimpleNamespace(identity=identity)
    side: Any = SimpleNamespace(candidates=SimpleNamespace(record=record))
    assert sampled_otherwise(side) == words


def test_a_sum_over_other_tokens_is_refused() -> None:
    rows = [
        {"prompt_id": "p", "sample_idx": i, "logp": logp, "n_response_tokens": 3}
        for i, logp in enumerate((-1.0, None, -3.0))
    ]
    assert log_ratios(rows, {("p", 0): (-2.0, 3), ("p", 1): (-2.0, 3)}) == (1.0, 3.0)
    assert np.isnan(log_ratios(rows, {})).all()
    with pytest.raises(InputError, match="sums 4 tokens, and the policy's sums 3"):
        log_ratios(rows, {("p", 0): (-2.0, 4)})


def imported(folder: Path, name: str, responses: dict[str, list[str]]) -> Path:
    """Import answers by prompt, rated by their place."""
    rows = [
        {
            "prompt_id": prompt_id,
            "prompt": f"question {prompt_id}",
            "response": text,
            "judge": float(i),
            "sample_idx": i,
        }
        for prompt_id, texts in responses.items()
        for i, text in enumerate(texts)
    ]
    source = lines(folder / f"{name}.jsonl", *rows)
    assert (
        run(
            [
                "import",
                source,
                "-o",
                f"{folder}/{name}",
                "--format",
                "rows",
                "--reward-column",
                "judge",
            ]
        )
        == 0
    )
    return folder / name


def compared(
    folder: Path, policy: dict[str, list[str]], baseline: dict[str, list[str]], *more: str
) -> pl.DataFrame:
    sides = [imported(folder, "policy", policy), imported(folder, "baseline", baseline)]
    words = [
        word
        for name, side in zip(("policy", "baseline"), sides, strict=True)
        for word in (f"--{name}", f"{side}/candidates", f"--{name}-scores", f"{side}/scores")
    ]
    assert run(["eval", *words, "-o", f"{folder}/eval", "--bootstrap-draws", "100", *more]) == 0
    return pl.read_parquet(folder / "eval" / "part-00000-of-00001.parquet")


@pytest.mark.slow
def test_measures_agree_with_those_made_by_hand(tmp_path: Path) -> None:
    """Two responses a prompt. Policy "a b a b" and "a b c": pairs ab ba ab ab bc, 3 of 5; baseline 4 pairs of 4."""
    rows = compared(
        tmp_path,
        {
            "p": ["a b a b", "a b c"],
            "q": ["I'm sorry, but I can't help.", "I'm sorry, but I can't help."],
        },
        {"p": ["a b c", "d e f"], "q": ["Sure.", "Of course."]},
    )
    p, q = (rows.row(by_predicate=pl.col("prompt_id") == name, named=True) for name in "pq")
    assert p["policy_distinct_1"] == pytest.approx(3 / 7)
    assert p["policy_distinct_2"] == pytest.approx(3 / 5)
    # 4 of 5 pairs, leaving out each in turn: ab (three times) leaves 3 kinds, ba or bc leaves 2: (3 * 3 + 2 * 2) / 5 / 4
    assert p["policy_distinct_2_equal"] == pytest.approx((3 * 3 + 2 * 2) / 5 / 4)
    assert p["baseline_distinct_2"] == p["baseline_distinct_2_equal"] == 1.0
    assert (p["policy_copied"], q["policy_copied"], q["baseline_copied"]) == (0.0, 0.5, 0.0)
    assert (q["policy_self_bleu"], p["baseline_self_bleu"]) == (pytest.approx(1.0), 0.0)
    assert (p["policy_refused"], q["policy_refused"], q["baseline_refused"]) == (0.0, 1.0, 0.0)
    found = health(tmp_path / "eval")
    assert found["refused"]["difference"]["mean"] == pytest.approx(0.5)
    assert (found["refused"]["n_prompts"], found["refused"]["rule"]) == (2, "refusal-openings/1")
    assert found["copied"]["policy"]["mean"] == pytest.approx(0.25)
    assert "imported" in found["kl_per_token"]["reason"]


@pytest.mark.slow
def test_white_space_is_empty_and_a_single_word_has_no_pairs(tmp_path: Path) -> None:
    """White space is empty and has no words; one character, one emoji, no pair of words."""
    rows = compared(
        tmp_path,
        {"blank": ["  "], "one": ["x"], "emoji": ["\U0001f642"], "fine": ["a b c d"]},
        {"blank": ["a"], "one": ["y"], "emoji": ["\U0001f642"], "fine": ["a b c"]},
    )
    found = {row["prompt_id"]: row for row in rows.iter_rows(named=True)}
    assert (found["blank"]["policy_empty"], found["one"]["policy_empty"]) == (1.0, 0.0)
    assert found["blank"]["policy_distinct_1"] is None
    assert (found["emoji"]["policy_distinct_1"], found["emoji"]["policy_distinct_2"]) == (1.0, None)
    assert found["fine"]["policy_distinct_2_equal"] == 1.0
    assert rows["policy_self_bleu"].null_count() == rows["policy_copied"].null_count() == 4
    assert (
        rows["policy_truncated"].null_count() == 4
    )  # the file does not say how the responses ended
    told = health(tmp_path / "eval")
    assert told["empty"]["n_prompts"] == 4
    assert told["empty"]["policy"]["mean"] == pytest.approx(1 / 4)
    assert (told["distinct_1"]["n_prompts"], told["distinct_2"]["n_prompts"]) == (3, 1)
    assert told["self_bleu"]["difference"]["mean"] is None
    assert told["self_bleu"]["reason"].endswith("sample with --n 2 or more")
    assert "pass --policy-embeddings" in told["embedding_diversity"]["reason"]


def test_what_was_never_written_is_null_everywhere(tmp_path: Path) -> None:
    """A response that failed is not a short, clean, unrefused one; prompts without a value on both sides leave the difference."""
    prompts = lines(
        tmp_path / "prompts.jsonl",
        *({"prompt_id": f"p{i}", "prompt": f"Say {i}"} for i in range(12)),
    )
    command = [
        "eval",
        "--policy",
        "fake:error_rate=0.5",
        "--baseline",
        "fake",
        "--backend",
        "fake",
        "--prompts",
        str(prompts),
        "--n",
        "1",
        "--scorer",
        "fake",
        "--max-error-rate",
        "1",
        "--max-tokens",
        "200",
        "-o",
        f"{tmp_path}/e",
    ]
    assert run(command) == 0
    failed = {
        row["prompt_id"]
        for row in rows_of(tmp_path / "e" / "policy" / "candidates")
        if row["response"] is None
    }
    assert 0 < len(failed) < 12
    for row in pl.read_parquet(tmp_path / "e" / "part-00000-of-00001.parquet").iter_rows(
        named=True
    ):
        for measure in (
            "refused",
            "empty",
            "repetition",
            "truncated",
            "length_chars",
            "distinct_1",
        ):
            assert (row[f"policy_{measure}"] is None) == (row["prompt_id"] in failed), measure
            assert row[f"baseline_{measure}"] is not None
    found = health(tmp_path / "e")
    assert found["refused"]["n_prompts"] == found["empty"]["baseline"]["n"] == 12 - len(failed)
    assert "do not come from a model on this disk" in found["kl_per_token"]["reason"]


@pytest.mark.slow
def test_of_the_side_with_more_responses_the_first_count(tmp_path: Path) -> None:
    """Four against two: copies and self-BLEU rise with the number, so that two and two are compared."""
    rows = compared(tmp_path, {"p": ["a b", "c d", "a b", "a b"]}, {"p": ["e f", "e f"]}, "--force")
    row = rows.row(0, named=True)
    assert (row["policy_copied"], row["policy_self_bleu"], row["policy_distinct_2"]) == (
        0.0,
        0.0,
        1.0,
    )
    assert (row["baseline_copied"], row["baseline_self_bleu"], row["baseline_distinct_2"]) == (
        0.5,
        1.0,
        0.5,
    )


@pytest.mark.slow
def test_texts_without_spaces_repeat_themselves_too(tmp_path: Path) -> None:
    rows = compared(
        tmp_path,
        {"p": ["\u6211\u7231\u4f60" * 20]},
        {"p": ["\u6211\u7231\u5317\u4eac\u5929\u5b89\u95e8"]},
    )
    row = rows.row(0, named=True)
    assert row["policy_repetition"] == pytest.approx(1 - 3 / 57)
    assert row["baseline_repetition"] == 0.0
    assert row["policy_distinct_1"] == pytest.approx(3 / 60)


@pytest.mark.slow
def test_embeddings_give_the_distance_of_a_prompts_responses(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mean of 1 - u.v over pairs; embeddings of other candidates, of another embedder or of one side alone are refused."""
    for side in ("policy", "baseline"):
        assert (
            run(
                [
                    "embed",
                    f"{trained}/{side}/candidates",
                    "-o",
                    f"{tmp_path}/{side}",
                    "--model",
                    "fake",
                ]
            )
            == 0
        )
    both = [
        "--policy-embeddings",
        f"{tmp_path}/policy",
        "--baseline-embeddings",
        f"{tmp_path}/baseline",
    ]
    assert run(beside(trained, tmp_path / "e", *both)) == 0
    vectors = pl.read_parquet(sorted((tmp_path / "policy").glob("part-*"))).filter(
        pl.col("status") == "ok"
    )
    rows = pl.read_parquet(tmp_path / "e" / "part-00000-of-00001.parquet")
    n_base = pl.read_parquet(sorted((tmp_path / "baseline").glob("part-*"))).filter(
        pl.col("status") == "ok"
    )
    for row in rows.iter_rows(named=True):
        own = (
            vectors.filter(pl.col("prompt_id") == row["prompt_id"])
            .sort("sample_idx")["embedding"]
            .to_numpy()
            .astype(float)
        )
        own = own[: n_base.filter(pl.col("prompt_id") == row["prompt_id"]).height]
        pairs = [1 - own[i] @ own[j] for i in range(len(own)) for j in range(i)]
        assert row["policy_embedding_diversity"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert health(tmp_path / "e")["embedding_diversity"]["n_prompts"] == N_PROMPTS
    capsys.readouterr()
    assert run(beside(trained, tmp_path / "x", *both[:2])) == 2
    assert run(beside(trained, tmp_path / "x", both[0], both[3], both[2], both[1])) == 1
    assert "was not made for the candidates in" in capsys.readouterr().err
    assert (
        run(
            [
                "embed",
                f"{trained}/policy/candidates",
                "-o",
                f"{tmp_path}/half",
                "--model",
                "fake",
                "--dtype",
                "float16",
            ]
        )
        == 0
    )
    assert (
        run(beside(trained, tmp_path / "x", "--policy-embeddings", f"{tmp_path}/half", *both[2:]))
        == 1
    )
    assert "were not made by the same embedder" in capsys.readouterr().err


def test_the_columns_are_those_of_the_schema(trained: Path) -> None:
    assert pq.read_schema(trained / "part-00000-of-00001.parquet").names == EVALUATION.column_names


def test_a_reference_that_is_not_there_stops_before_anything_is_sampled(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sampled(models, tmp_path / "e", "--kl-reference", f"{tmp_path}/nowhere")) != 0
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()
    assert run(sampled(models, tmp_path / "e", "--kl-reference", f"{models}/start", "--no-kl")) == 2
    assert "--kl-reference and --no-kl exclude each other" in capsys.readouterr().err
