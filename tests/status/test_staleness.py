"""Whatever a run was made with is an edge: what changes upstream is told in everything below, and in nothing beside."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from support.finished_run import command
from support.pipelines import open_artifact, write_json_lines, write_prompts
from support.tiny_models import (
    make_tiny_adapter,
    make_tiny_causal_lm,
    make_tiny_encoder,
    make_tiny_reward_model,
)
from support.two_rounds import SAMPLING, copy_to
from support.written_groups import row_of, write_groups

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import SCORES
from prefpipe.artifacts.store import Shard, open_output
from prefpipe.cli.main import run as prefpipe
from prefpipe.models.files import inspect_model
from prefpipe.status.artifact_status import Standing
from prefpipe.status.checker import StatusChecker, standing_of
from prefpipe.status.folders import find_artifacts

ALL = {
    "candidates",
    "scores",
    "embeddings",
    "groups",
    "policy",
    "rm",
    "logprobs",
    "dpo",
    "round2/candidates",
    "round2/scores",
    "eval",
    "eval/policy/candidates",
    "eval/policy/scores",
    "eval/policy/reference-logprobs",
    "eval/baseline/candidates",
    "eval/baseline/scores",
}
OF_EVALUATED_POLICY = {
    "eval",
    "eval/policy/candidates",
    "eval/policy/scores",
    "eval/policy/reference-logprobs",
}
OF_POLICY = {"round2/candidates", "round2/scores", *OF_EVALUATED_POLICY}
OF_GROUPS = {"policy", "rm", "logprobs", "dpo", *OF_POLICY}


@pytest.fixture
def rounds(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


def stale_in(folder: Path) -> set[str]:
    """Return what is stale; everything else must be done."""
    checker = StatusChecker()
    states = {
        str(path.relative_to(folder)): checker.check(path, quick=True).state
        for path in find_artifacts(folder)
    }
    assert states.keys() == ALL
    assert set(states.values()) <= {"done", "stale"}
    return {name for name, state in states.items() if state == "stale"}


def reasons(path: Path) -> list[str]:
    return StatusChecker().check(path, quick=True).reasons


@pytest.mark.slow
def test_nothing_is_stale_where_nothing_changed(rounds: Path) -> None:
    assert stale_in(rounds) == set()


@pytest.mark.slow
def test_other_groups_reach_policy_reward_model_reference_second_round_and_evaluation(
    rounds: Path,
) -> None:
    words = open_artifact(rounds / "groups").record.context["command"][1:]
    command([*words[:-1], "1", "--overwrite"])
    assert stale_in(rounds) == OF_GROUPS
    assert f"its model, {rounds / 'policy'}, is stale itself" in reasons(
        rounds / "round2" / "candidates"
    )
    assert f"its reward model, {rounds / 'rm'}, is stale itself" in reasons(
        rounds / "round2" / "scores"
    )
    assert f"its reference, {rounds / 'logprobs'}, is stale itself" in reasons(rounds / "dpo")


def test_a_policy_of_other_weights_reaches_what_it_sampled(rounds: Path) -> None:
    shutil.copy(
        make_tiny_causal_lm(rounds / "models" / "other", 1) / "model.safetensors", rounds / "policy"
    )
    assert stale_in(rounds) == OF_POLICY
    told = f"its model, {rounds / 'policy'}, has changed since: it has other weights, tokenizer or template"
    assert told in reasons(rounds / "round2" / "candidates")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["summary.json", "config.json"])
def test_a_policy_that_is_not_finished_reaches_what_it_sampled(rounds: Path, lost: str) -> None:
    """As a kill in the training leaves it: without the summary, or without a model at all."""
    (rounds / "policy" / "summary.json").unlink()
    (rounds / "policy" / lost).unlink(missing_ok=True)
    checker = StatusChecker()
    assert checker.check(rounds / "policy").state == "partial"
    states = {name: checker.check(rounds / name, quick=True) for name in OF_POLICY}
    assert {status.state for status in states.values()} == {"stale"}
    told = f"its model, {rounds / 'policy'}, is not finished"
    assert list(states["round2/candidates"].reasons) == [told]
    assert checker.check(rounds / "groups").state == "done"


def test_a_reward_model_of_other_weights_reaches_its_scores(rounds: Path) -> None:
    shutil.copy(
        make_tiny_reward_model(rounds / "models" / "other", 1) / "model.safetensors", rounds / "rm"
    )
    assert stale_in(rounds) == {"round2/scores"}


def test_another_embedder_reaches_the_selection_and_what_is_below(rounds: Path) -> None:
    shutil.copy(
        make_tiny_encoder(rounds / "models" / "other", 1) / "model.safetensors",
        rounds / "models" / "encoder",
    )
    assert stale_in(rounds) == {"embeddings", "groups", *OF_GROUPS}


def test_another_start_reaches_all_but_the_embedder_s_own_edge(rounds: Path) -> None:
    shutil.copy(
        make_tiny_causal_lm(rounds / "models" / "other", 1) / "model.safetensors",
        rounds / "models" / "start",
    )
    assert stale_in(rounds) == ALL


@pytest.mark.slow
def test_a_reference_of_another_model_reaches_the_training_it_was_given_to(rounds: Path) -> None:
    other = make_tiny_causal_lm(rounds / "models" / "other", 1)
    words = open_artifact(rounds / "logprobs").record.context["command"][1:]
    command([*words, "--model", str(other), "--overwrite"])
    assert stale_in(rounds) == {"dpo"}
    assert reasons(rounds / "dpo") == [
        f"its reference, {rounds / 'logprobs'}, has another model or number format now"
    ]


def test_changed_ratings_make_scores_stale(rounds: Path) -> None:
    """Three of four ratings stay; the file's bytes are what counts."""
    ratings = [{"prompt_id": f"p{i}", "sample_idx": 0, "rating": i} for i in range(4)]
    path = write_json_lines(rounds / "ratings.jsonl", ratings)
    words = [
        "score",
        str(rounds / "round2" / "candidates"),
        "-o",
        str(rounds / "rated"),
        "--scorer",
        f"ratings:{path}",
    ]
    command([*words, "--max-error-rate", "1"])
    assert standing_of(rounds / "rated").is_done
    write_json_lines(path, [*ratings[:3], {**ratings[3], "rating": 9}])
    assert standing_of(rounds / "rated") == Standing(
        rounds / "rated", "stale", (f"its ratings, {path}, has changed since",)
    )


@pytest.mark.parametrize(
    ("gone", "child", "told"),
    [
        ("candidates", "scores", "its candidates, {}, no longer exist"),
        ("policy", "round2/candidates", "its model, {}, no longer exists"),
        ("rm", "round2/scores", "its reward model, {}, no longer exists"),
        ("models/encoder", "embeddings", "its model, {}, no longer exists"),
        ("logprobs", "dpo", "its reference, {}, no longer exists"),
        ("models/start", "policy", "its model, {}, no longer exists"),
        ("prompts.jsonl", "candidates", "its prompts, {}, no longer exist"),
    ],
)
def test_what_was_deleted_is_said(rounds: Path, gone: str, child: str, told: str) -> None:
    path = rounds / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert told.format(path) in StatusChecker().check(rounds / child).notes


def test_what_was_never_copied_to_this_machine_is_not_called_deleted(rounds: Path) -> None:
    record = rounds / "scores" / "run.json"
    values = json.loads(record.read_text())
    values["context"]["host"] = "another-machine"
    record.write_text(json.dumps(values))
    shutil.rmtree(rounds / "candidates")
    told = f"its candidates, {rounds / 'candidates'}, are not on this disk and were not checked"
    assert StatusChecker().check(rounds / "scores").notes == [told]


def test_a_model_of_the_hub_is_no_deleted_folder(rounds: Path) -> None:
    record = rounds / "embeddings" / "run.json"
    values = json.loads(record.read_text())
    values["context"]["made_with"][0]["reference"] = "sentence-transformers/all-MiniLM-L6-v2"
    record.write_text(json.dumps(values))
    assert StatusChecker().check(rounds / "embeddings").notes == []


@pytest.mark.slow
def test_models_of_a_run_that_was_moved_are_found_above_its_artifacts(
    rounds: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = tmp_path_factory.mktemp("moved") / "run"
    shutil.move(rounds, moved)
    assert stale_in(moved) == set()
    shutil.copy(
        make_tiny_causal_lm(moved / "models" / "other", 1) / "model.safetensors", moved / "policy"
    )
    assert stale_in(moved) == OF_POLICY


def test_what_cannot_be_read_has_a_standing_too(tmp_path: Path) -> None:
    assert standing_of(tmp_path / "absent").state == "corrupt"
    (tmp_path / "run.json").write_text("{}")
    assert standing_of(tmp_path).state == "corrupt"


@pytest.mark.slow
def test_status_says_it_all_and_exits_with_4(
    rounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(
        make_tiny_reward_model(rounds / "models" / "other", 1) / "model.safetensors", rounds / "rm"
    )
    capsys.readouterr()
    assert prefpipe(["status", str(rounds)]) == 4
    out = capsys.readouterr().out
    assert f"its reward model, {rounds / 'rm'}, has changed since" in out


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """An adapter merged into its base, what the merged model sampled, and scores of that."""
    base = make_tiny_causal_lm(tmp_path / "run" / "base")
    adapter = make_tiny_adapter(tmp_path / "run" / "adapter", base)
    prompts = write_prompts(tmp_path / "run" / "prompts.jsonl", 2)
    candidates = tmp_path / "run" / "candidates"
    command(["merge", str(adapter), "-o", str(tmp_path / "run" / "merged")])
    command(
        [
            "generate",
            str(prompts),
            "-o",
            str(candidates),
            "--model",
            str(tmp_path / "run" / "merged"),
            "--n",
            "1",
            *SAMPLING,
        ]
    )
    command(["score", str(candidates), "-o", str(tmp_path / "run" / "scores"), "--scorer", "fake"])
    assert standing_of(candidates).is_done
    return tmp_path / "run"


def of_other_weights(folder: Path, base: Path) -> Path:
    """Write other weights into an adapter or a base."""
    other = folder.parent / "other"
    made = (
        make_tiny_adapter(other, base, 1)
        if folder.name == "adapter"
        else make_tiny_causal_lm(other, 1)
    )
    for file in made.glob("*.safetensors"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("role", ["adapter", "base"])
def test_what_a_merged_model_was_merged_of_reaches_all_that_it_sampled(
    merged: Path, role: str
) -> None:
    changed = of_other_weights(merged / role, merged / "base")
    told = f"its model, {merged / 'merged'}, needs to be merged again first: its {role}, {changed}, has changed since"
    assert standing_of(merged / "candidates") == Standing(merged / "candidates", "stale", (told,))
    assert standing_of(merged / "scores").state == "stale"

    command(["merge", str(merged / "adapter"), "-o", str(merged / "merged"), "--overwrite"])
    assert reasons(merged / "candidates") == [
        f"its model, {merged / 'merged'}, has changed since: it has other weights, tokenizer or template"
    ]


@pytest.mark.slow
def test_a_merged_model_that_was_moved_is_judged_by_what_moved_with_it(
    merged: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(merged, copy)
    of_other_weights(merged / "adapter", merged / "base")
    assert standing_of(copy / "candidates").is_done
    of_other_weights(copy / "base", copy / "base")
    assert standing_of(copy / "candidates").state == "stale"


@pytest.mark.slow
def test_an_adapter_that_was_deleted_after_its_merge_is_said_and_no_more(merged: Path) -> None:
    shutil.rmtree(merged / "adapter")
    report = StatusChecker().check(merged / "candidates")
    assert report.state == "done"
    assert report.notes == [
        f"its model, {merged / 'merged'}, was merged: its adapter, {merged / 'adapter'}, no longer exists"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["", "[]", '{"made_of": [{}]}', '{"made_of": 3, "output": "x", "host": "y"}']
)
def test_a_merged_model_is_whole_without_its_record(merged: Path, text: str) -> None:
    (merged / "merged" / "merged_from.json").write_text(text)
    of_other_weights(merged / "adapter", merged / "base")
    assert standing_of(merged / "candidates").is_done


@pytest.mark.slow
def test_a_stale_policy_reaches_what_its_merged_model_and_its_checkpoint_sampled(
    rounds: Path,
) -> None:
    def at(name: str) -> str:
        return str(rounds / name)

    training = [
        "--max-steps",
        "2",
        "--save-steps",
        "1",
        "--global-batch-size",
        "2",
        "--report-to",
        "none",
    ]
    start = at("models/start")
    command(
        [
            "train",
            at("groups"),
            "-o",
            at("lora"),
            "--model",
            start,
            "--lora-r",
            "4",
            "--learning-rate",
            "0.1",
            *training,
        ]
    )
    command(["merge", at("lora"), "-o", at("merged")])
    checkpoint = next((rounds / "lora").glob("checkpoint-*"))
    command(
        [
            "generate",
            at("prompts.jsonl"),
            "-o",
            at("of-merged"),
            "--model",
            at("merged"),
            "--n",
            "1",
            *SAMPLING,
        ]
    )
    command(
        [
            "generate",
            at("prompts.jsonl"),
            "-o",
            at("of-checkpoint"),
            "--model",
            str(checkpoint),
            "--n",
            "1",
            *SAMPLING,
        ]
    )
    assert standing_of(rounds / "of-merged").is_done
    assert standing_of(rounds / "of-checkpoint").is_done

    words = open_artifact(rounds / "groups").record.context["command"][1:]
    command([*words[:-1], "1", "--overwrite"])
    told = f"its model, {at('merged')}, needs to be merged again first: its adapter, {at('lora')}, is stale itself"
    assert reasons(rounds / "of-merged") == [told]
    assert reasons(rounds / "of-checkpoint") == [f"its model, {checkpoint}, is stale itself"]


def write_rater_scores(folder: Path, bobs: list[float]) -> Path:
    """Two raters of two responses a prompt; alice always prefers the first by a point."""
    rows = []
    for p, bob in enumerate(bobs):
        for scorer, gap in (("alice", 1.0), ("bob", bob)):
            for i, reward in enumerate((5.0 + gap, 5.0)):
                row = {"prompt_id": f"p{p}", "sample_idx": i, "scorer": scorer, "reward": reward}
                rows.append(row | {"status": "ok"})
    shutil.rmtree(folder, ignore_errors=True)
    record = RunRecord("import", SCORES.tag, 1, {"stage": "import"})
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    table = pa.Table.from_pylist(rows, schema=SCORES.arrow())
    output.write(0, table, counts={"ok": len(rows)}, parents={})
    return folder


@pytest.mark.slow
def test_other_rater_scores_are_another_training_until_gamma_is_chosen_by_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores that give the same gamma keep the model, and are noted; others make it again."""
    model = make_tiny_causal_lm(tmp_path / "model")
    rows = [row_of(f"p{p}", i, f"{p} {i}") for p in range(2) for i in range(2)]
    identity = inspect_model(model, "tiny").identity()
    groups = write_groups(tmp_path / "groups", [rows], [identity])
    agrees, differs = 1.0, -1.0
    scores = write_rater_scores(tmp_path / "raters", [agrees, agrees, agrees, differs])
    policy = tmp_path / "policy"
    words = ["train", groups, "-o", policy, "--model", model, "--objective", "mmpo"]
    words += ["--gamma", "auto", "--rater-scores", scores, "--max-steps", 1]
    words = [str(word) for word in [*words, "--report-to", "none"]]
    assert prefpipe(words) == 0
    assert standing_of(policy).state == "done"
    weights = (policy / "model.safetensors").read_bytes()

    # The same gamma: another order of the same agreements.
    write_rater_scores(scores, [differs, agrees, agrees, agrees])
    assert standing_of(policy).state == "stale"
    (reason,) = reasons(policy)
    assert reason.startswith(f"its rater scores, {scores}, have changed since: train chooses gamma")
    for _ in range(2):
        assert prefpipe([*words, "--overwrite=stale"]) == 0
        assert standing_of(policy).state == "done"
    assert "the policy is trained and kept" in capsys.readouterr().err
    assert (policy / "model.safetensors").read_bytes() == weights
    history = json.loads((policy / "run.json").read_text())["history"]
    assert [step["operation"] for step in history] == ["--gamma auto again"]

    # Scores of the first time are known too.
    write_rater_scores(scores, [agrees, agrees, agrees, differs])
    assert standing_of(policy).state == "done"

    # Another gamma is another run.
    write_rater_scores(scores, [agrees, agrees, agrees, agrees, agrees, differs])
    assert standing_of(policy).state == "stale"
    assert prefpipe(words) == 2
    assert prefpipe([*words, "--overwrite=stale"]) == 0
    assert standing_of(policy).state == "done"
    assert json.loads((policy / "run.json").read_text())["history"] == []

    shutil.rmtree(scores)
    assert standing_of(policy).state == "done"
    assert any("its rater scores" in note for note in StatusChecker().check(policy).notes)
