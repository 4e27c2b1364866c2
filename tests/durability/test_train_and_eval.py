"""train and eval, stopped, killed and fed bad inputs through the command line: the same weights, the same figures."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support.pipelines import (
    assert_same_artifact,
    digests_of,
    identities_of,
    rows_of,
    write_prompts,
)
from support.small_disk import grow, small_disk
from support.stage_server import Outcome, StageServer
from support.tiny_models import make_tiny_causal_lm

from prefpipe.training.checkpoints import checkpoint_problem, find_last_checkpoint

pytestmark = pytest.mark.slow

N_PROMPTS = 6
SAVE_STEPS = 4
N_EPOCHS = 12
N_STEPS = N_EPOCHS * N_PROMPTS // 2
KILLS = 3
WHOLE = ("--objective", "ampo", "--gamma", 2)
ADAPTER = ("--objective", "dpo", "--lora-r", 4, "--lora-dropout", 0.1)
WEIGHTS = {WHOLE: "model.safetensors", ADAPTER: "adapter_model.safetensors"}
each_kind = pytest.mark.parametrize(
    "kind", [WHOLE, ADAPTER], ids=["whole model", "adapter with dropout and a reference"]
)


class Inputs(NamedTuple):
    """A policy, another model, prompts, and the policy's own groups."""

    model: Path
    other: Path
    prompts: Path
    groups: Path


class Undisturbed(NamedTuple):
    """A finished run's folder and how long it took."""

    folder: Path
    elapsed_s: float


@pytest.fixture(scope="module")
def heavy(fast_root: Path) -> Iterator[StageServer]:
    """Forks commands from a process that has torch and transformers imported, so that a run takes a second."""
    scratch = fast_root / "heavy-streams"
    scratch.mkdir()
    modules = (
        "prefpipe.stages.train.run",
        "prefpipe.stages.logprobs",
        "prefpipe.stages.evaluate.run",
        "prefpipe.backends.generators.hf_generator",
        "prefpipe.models.location",
    )
    server = StageServer(scratch, modules)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def inputs(heavy: StageServer, fast_root: Path) -> Inputs:
    folder = fast_root / "train-inputs"
    folder.mkdir()
    found = Inputs(
        make_tiny_causal_lm(folder / "model"),
        make_tiny_causal_lm(folder / "other", seed=1),
        write_prompts(folder / "prompts.jsonl", N_PROMPTS),
        folder / "groups",
    )
    finish(
        heavy,
        "generate",
        found.prompts,
        "--backend",
        "transformers",
        "--model",
        found.model,
        "--n",
        4,
        "--max-tokens",
        8,
        "--part-size",
        2,
        "-o",
        folder / "candidates",
    )
    finish(heavy, "score", folder / "candidates", "--scorer", "fake", "-o", folder / "scores")
    finish(
        heavy,
        "select",
        folder / "candidates",
        "--scores",
        folder / "scores",
        "--strategy",
        "bottom-k",
        "--k",
        2,
        "-o",
        found.groups,
    )
    return found


@pytest.fixture(scope="module")
def straight(heavy: StageServer, inputs: Inputs, fast_root: Path) -> dict[object, Undisturbed]:
    """An undisturbed training of each kind."""
    runs = {}
    for kind in WEIGHTS:
        output = fast_root / f"straight-{kind[1]}"
        runs[kind] = Undisturbed(output, finish(heavy, *train(inputs, output, *kind)).elapsed_s)
    return runs


@pytest.fixture(scope="module")
def straight_eval(heavy: StageServer, inputs: Inputs, fast_root: Path) -> Undisturbed:
    output = fast_root / "straight-eval"
    return Undisturbed(output, finish(heavy, *evaluate(inputs, output)).elapsed_s)


def finish(server: StageServer, *words: object) -> Outcome:
    outcome = server.run(*words)
    assert outcome.code == 0, outcome.stderr
    return outcome


def train(inputs: Inputs, output: Path, *more: object) -> list[object]:
    return [
        "train",
        inputs.groups,
        "--model",
        inputs.model,
        "--learning-rate",
        1e-3,
        "--global-batch-size",
        2,
        "--num-train-epochs",
        N_EPOCHS,
        "--save-steps",
        SAVE_STEPS,
        "-o",
        output,
        *more,
    ]


def two_steps(inputs: Inputs, output: Path, *more: object) -> list[object]:
    return [
        "train",
        inputs.groups,
        "--model",
        inputs.model,
        "--learning-rate",
        1e-3,
        "--global-batch-size",
        2,
        "--max-steps",
        2,
        "--report-to",
        "none",
        "-o",
        output,
        *more,
    ]


def logprobs(inputs: Inputs, output: Path, *more: object) -> list[object]:
    return ["logprobs", inputs.groups, "--model", inputs.model, "-o", output, *more]


def evaluate(inputs: Inputs, output: Path) -> list[object]:
    return [
        "eval",
        "--policy",
        inputs.model,
        "--baseline",
        inputs.other,
        "--prompts",
        inputs.prompts,
        "--scorer",
        "fake",
        "--backend",
        "transformers",
        "--n",
        2,
        "--max-tokens",
        8,
        "--part-size",
        1,
        # of parts that share a batch the last digits would depend on which ones those are
        "--batch-size",
        1,
        "--bootstrap-draws",
        500,
        "-o",
        output,
    ]


def last_step(output: Path) -> int:
    """Return the step of the last complete checkpoint, 0 without one."""
    path = find_last_checkpoint(output)
    return 0 if path is None else int(path.name.removeprefix("checkpoint-"))


def assert_same_policy(output: Path, expected: Path, kind: tuple[object, ...]) -> None:
    """Weights, figures, metrics and every response's fate, and nothing hidden left behind."""
    assert (output / WEIGHTS[kind]).read_bytes() == (expected / WEIGHTS[kind]).read_bytes()
    assert (output / "summary.json").read_bytes() == (expected / "summary.json").read_bytes()
    metrics = [
        pq.read_table(folder / "metrics.parquet").drop_columns("tokens_per_s")
        for folder in (output, expected)
    ]
    assert metrics[0].equals(metrics[1])
    assert digests_of(output) == digests_of(expected)
    assert (output / "reference").exists() == ("dpo" in kind)
    if "dpo" in kind:
        assert_same_artifact(output / "reference", expected / "reference")
    assert not list(output.rglob(".*"))


def assert_same_evaluation(output: Path, expected: Path) -> None:
    assert rows_of(output) == rows_of(expected)
    assert digests_of(output) == digests_of(expected)
    assert (output / "summary.json").read_bytes() == (expected / "summary.json").read_bytes()
    assert not list(output.rglob(".*"))


def assert_refused(outcome: Outcome, code: int, *sentences: str) -> None:
    assert outcome.code == code, outcome.stderr
    for sentence in sentences:
        assert sentence in " ".join(outcome.stderr.split())


def parts_of(evaluation: Path) -> dict[Path, tuple[int, int]]:
    """Return each part on disk below an evaluation and what tells it from one that was made again."""
    folders = [
        evaluation,
        *(
            evaluation / side / what
            for side in ("policy", "baseline")
            for what in ("candidates", "scores")
        ),
    ]
    return {
        folder / name: identity
        for folder in folders
        for name, identity in identities_of(folder).items()
    }


@each_kind
def test_sigterm_in_training_saves_a_checkpoint_and_the_same_command_goes_on_to_the_same_weights(
    heavy: StageServer,
    inputs: Inputs,
    straight: dict[object, Undisturbed],
    folder: Path,
    kind: tuple[object, ...],
) -> None:
    for attempt in range(8):
        output = folder / f"stopped{attempt}"
        moment_s = straight[kind].elapsed_s * (0.5 + 0.05 * attempt)
        stopped = heavy.run(
            *train(inputs, output, *kind), signal_after_s=moment_s, signal=signal.SIGTERM
        )
        if stopped.code == 75 and last_step(output):
            break
    step = last_step(output)
    assert 0 < step < N_STEPS
    assert_refused(
        stopped,
        75,
        f"stopped: train stopped on request at step {step} of {N_STEPS}, with a checkpoint",
        "hint: run the same command again to go on",
    )
    assert not (output / WEIGHTS[kind]).exists()
    again = finish(heavy, *train(inputs, output, *kind))
    assert f"resuming from {output}/checkpoint-{step}" in again.stderr
    assert_same_policy(output, straight[kind].folder, kind)


@each_kind
def test_training_killed_at_random_moments_ends_with_the_same_weights(
    heavy: StageServer,
    inputs: Inputs,
    straight: dict[object, Undisturbed],
    folder: Path,
    kind: tuple[object, ...],
) -> None:
    """The last complete checkpoint never goes back, whatever the moment."""
    moments = random.Random(str(kind))
    n_kills, episode = 0, 0
    while n_kills < KILLS:
        output = folder / f"episode{episode}"
        reached, killed = 0, True
        while killed:
            moment_s = moments.uniform(0.2, 1.0) * straight[kind].elapsed_s
            outcome = heavy.run(*train(inputs, output, *kind), signal_after_s=moment_s)
            killed = outcome.code == -signal.SIGKILL
            n_kills += killed
            assert last_step(output) >= reached
            # killed behind its last step, a run has nothing left to resume
            resumes = f"resuming from {output}/checkpoint-" in outcome.stderr
            assert resumes or killed or reached in (0, last_step(output))
            reached = last_step(output)
        assert outcome.code == 0, outcome.stderr
        assert_same_policy(output, straight[kind].folder, kind)
        episode += 1


def test_a_reference_killed_before_every_file_operation_repeats_no_part_and_training_takes_it(
    heavy: StageServer, inputs: Inputs, straight: dict[object, Undisturbed], folder: Path
) -> None:
    """Each run dies a little later than the one before, until one ends; what was whole stays as it was."""
    finish(heavy, *logprobs(inputs, folder / "straight"))
    output, died_at, seen = folder / "killed", 0, identities_of(folder / "nothing")
    while True:
        outcome = heavy.run(*logprobs(inputs, output), die_at_event=died_at, watched=str(output))
        now = identities_of(output)
        assert seen.items() <= now.items()
        seen, died_at = now, died_at + 1
        if outcome.code == 0:
            break
        assert outcome.code == -signal.SIGKILL
    assert died_at > 3
    assert_same_artifact(output, folder / "straight")
    finish(heavy, *train(inputs, folder / "policy", *ADAPTER, "--reference", output))
    assert (folder / "policy" / WEIGHTS[ADAPTER]).read_bytes() == (
        straight[ADAPTER].folder / WEIGHTS[ADAPTER]
    ).read_bytes()
    assert_same_artifact(output, straight[ADAPTER].folder / "reference")


def test_training_killed_while_it_measures_its_reference_ends_with_the_same_weights(
    heavy: StageServer, inputs: Inputs, straight: dict[object, Undisturbed], folder: Path
) -> None:
    output, died_at, seen = folder / "policy", 0, identities_of(folder / "nothing")
    while len(seen) < 3:
        outcome = heavy.run(
            *train(inputs, output, *ADAPTER),
            die_at_event=died_at,
            watched=str(output / "reference"),
        )
        assert outcome.code == -signal.SIGKILL
        now = identities_of(output / "reference")
        assert seen.items() <= now.items()
        seen, died_at = now, died_at + 1
    finish(heavy, *train(inputs, output, *ADAPTER))
    assert identities_of(output / "reference") == seen
    assert_same_policy(output, straight[ADAPTER].folder, ADAPTER)


def test_sigterm_in_logprobs_stops_after_a_part_and_shards_share_the_rest(
    heavy: StageServer, inputs: Inputs, folder: Path
) -> None:
    elapsed_s = finish(heavy, *logprobs(inputs, folder / "straight")).elapsed_s
    for attempt in range(60):
        output = folder / f"stopped{attempt}"
        stopped = heavy.run(
            *logprobs(inputs, output),
            signal_after_s=elapsed_s * (0.3 + 0.025 * (attempt % 30)),
            signal=signal.SIGTERM,
        )
        if (
            "logprobs stopped on request" in stopped.stderr
        ):  # earlier, while the model is loaded, there is nothing to finish
            break
        assert stopped.code in (0, 75)
    assert_refused(
        stopped, 75, "logprobs stopped on request", "left hint: run the same command again to go on"
    )
    made = identities_of(output)
    for index in (0, 1):
        slurm = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2"}
        assert heavy.run(*logprobs(inputs, output), env=slurm).code == 0
    assert made.items() <= identities_of(output).items()
    assert_same_artifact(output, folder / "straight")


def test_a_second_run_says_that_the_policy_is_kept_and_touches_nothing(
    heavy: StageServer, inputs: Inputs, straight: dict[object, Undisturbed]
) -> None:
    output = straight[WHOLE].folder
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = finish(heavy, *train(inputs, output, *WHOLE))
    assert f"{output}: the policy is trained and kept" in again.stderr
    assert "loading" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


@pytest.mark.parametrize("damage", ["removed", "cut off"])
def test_a_finished_model_that_was_lost_is_saved_again_from_the_last_checkpoint(
    heavy: StageServer,
    inputs: Inputs,
    straight: dict[object, Undisturbed],
    folder: Path,
    damage: str,
) -> None:
    output = folder / "policy"
    shutil.copytree(straight[WHOLE].folder, output)
    weights = output / "model.safetensors"
    if damage == "removed":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    again = finish(heavy, *train(inputs, output, *WHOLE))
    assert "training finished, but the model is not usable" in again.stderr
    assert f"resuming from {output}/checkpoint-{N_STEPS}" in again.stderr
    assert_same_policy(output, straight[WHOLE].folder, WHOLE)


def test_a_cut_off_checkpoint_is_skipped_with_a_word_and_changes_nothing(
    heavy: StageServer, inputs: Inputs, straight: dict[object, Undisturbed], folder: Path
) -> None:
    output = folder / "policy"
    shutil.copytree(straight[ADAPTER].folder, output)
    for path in output.glob("part-*"):
        path.unlink()
    last = output / f"checkpoint-{N_STEPS}"
    (last / "optimizer.pt").write_bytes((last / "optimizer.pt").read_bytes()[:200])
    again = finish(heavy, *train(inputs, output, *ADAPTER))
    assert f"{last} is skipped: optimizer.pt is missing or cut off" in again.stderr
    assert f"resuming from {output}/checkpoint-{N_STEPS - SAVE_STEPS}" in again.stderr
    assert_same_policy(output, straight[ADAPTER].folder, ADAPTER)


def test_an_overwrite_killed_before_every_file_operation_never_presents_old_weights_as_new(
    heavy: StageServer, inputs: Inputs, folder: Path
) -> None:
    """Until the old checkpoints are gone: the command without --overwrite refuses the old run or makes the new one."""
    finish(heavy, *two_steps(inputs, folder / "old"))
    finish(heavy, *two_steps(inputs, folder / "wanted", "--beta", 3))
    wanted, old = ((folder / name / "model.safetensors").read_bytes() for name in ("wanted", "old"))
    assert wanted != old
    died_at, n_refused, gone = 0, 0, False
    while not gone:
        output = folder / f"died{died_at}"
        shutil.copytree(folder / "old", output)
        command = two_steps(inputs, output, "--beta", 3)
        outcome = heavy.run(*command, "--overwrite", die_at_event=died_at, watched=str(output))
        assert outcome.code == -signal.SIGKILL
        gone = not list(output.glob("checkpoint-*"))
        rerun = heavy.run(*command)
        if rerun.code == 2:
            assert "knobs.beta" in rerun.stderr
            assert (output / "model.safetensors").read_bytes() == old
            n_refused += 1
        else:
            assert rerun.code == 0, rerun.stderr
            assert (output / "model.safetensors").read_bytes() == wanted
        died_at += 1
    assert 0 < n_refused < died_at


def test_a_run_stopped_with_overwrite_names_the_flag_that_would_throw_its_checkpoint_away(
    heavy: StageServer, inputs: Inputs, straight: dict[object, Undisturbed], folder: Path
) -> None:
    elapsed_s = straight[WHOLE].elapsed_s
    for share in (0.5, 0.6, 0.7, 0.8):
        stopped = heavy.run(
            *train(inputs, folder / "policy", *WHOLE, "--overwrite"),
            signal_after_s=share * elapsed_s,
            signal=signal.SIGTERM,
        )
        if stopped.code == 75:
            break
    assert_refused(stopped, 75, "hint: run the same command again without --overwrite to go on")


def test_sigterm_in_eval_stops_after_a_part_and_the_same_command_goes_on_to_the_same_figures(
    heavy: StageServer, inputs: Inputs, straight_eval: Undisturbed, folder: Path
) -> None:
    for attempt in range(12):
        output = folder / f"stopped{attempt}"
        moment_s = straight_eval.elapsed_s * (0.3 + 0.05 * attempt)
        stopped = heavy.run(
            *evaluate(inputs, output), signal_after_s=moment_s, signal=signal.SIGTERM
        )
        if stopped.code == 75 and parts_of(output):
            break
    assert_refused(
        stopped, 75, "stopped on request", "left hint: run the same command again to go on"
    )
    made = parts_of(output)
    assert 0 < len(made) < 4 * N_PROMPTS + 1
    assert not (output / "summary.json").exists()
    finish(heavy, *evaluate(inputs, output))
    assert made.items() <= parts_of(output).items()
    assert_same_evaluation(output, straight_eval.folder)


def test_eval_killed_at_random_moments_repeats_no_part_and_ends_with_the_same_figures(
    heavy: StageServer, inputs: Inputs, straight_eval: Undisturbed, folder: Path
) -> None:
    moments = random.Random("eval")
    n_kills, episode = 0, 0
    while n_kills < KILLS:
        output = folder / f"episode{episode}"
        seen: dict[Path, tuple[int, int]] = {}
        killed = True
        while killed:
            outcome = heavy.run(
                *evaluate(inputs, output),
                signal_after_s=moments.uniform(0.3, 1.0) * straight_eval.elapsed_s,
            )
            killed = outcome.code == -signal.SIGKILL
            n_kills += killed
            assert seen.items() <= parts_of(output).items()
            seen = parts_of(output)
        assert outcome.code == 0, outcome.stderr
        assert_same_evaluation(output, straight_eval.folder)
        episode += 1


def test_an_empty_groups_folder_is_no_artifact(
    heavy: StageServer, inputs: Inputs, folder: Path
) -> None:
    (folder / "groups").mkdir()
    assert_refused(
        heavy.run(*train(inputs._replace(groups=folder / "groups"), folder / "policy")),
        1,
        f"{folder}/groups",
        "run.json",
    )
    assert not (folder / "policy").exists()


def test_groups_of_rejected_prompts_only_are_an_error_that_says_so(
    heavy: StageServer, inputs: Inputs, folder: Path
) -> None:
    """One response a prompt leaves nothing to compare: select rejects every prompt."""
    finish(
        heavy,
        "generate",
        inputs.prompts,
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        1,
        "-o",
        folder / "candidates",
    )
    finish(heavy, "score", folder / "candidates", "--scorer", "fake", "-o", folder / "scores")
    selected = heavy.run(
        "select",
        folder / "candidates",
        "--scores",
        folder / "scores",
        "--strategy",
        "bottom-k",
        "--k",
        1,
        "-o",
        folder / "groups",
    )
    assert selected.code == 0, selected.stderr
    assert all(row["role"] is None for row in rows_of(folder / "groups"))
    assert_refused(
        heavy.run(*train(inputs._replace(groups=folder / "groups"), folder / "policy")),
        1,
        f"no group of {folder}/groups can be trained on: it holds no group",
        "prefpipe inspect",
    )


def test_missing_parts_of_the_groups_exit_with_4(
    heavy: StageServer, inputs: Inputs, folder: Path
) -> None:
    shutil.copytree(inputs.groups, folder / "groups")
    (folder / "groups" / "part-00001-of-00003.parquet").unlink()
    assert_refused(
        heavy.run(*train(inputs._replace(groups=folder / "groups"), folder / "policy")),
        4,
        "is incomplete: 1 of 3 parts are missing (part 1)",
        "--allow-partial",
    )


@pytest.mark.parametrize(
    ("flags", "sentences"),
    [
        (
            ("--lora-alpha", 8),
            ["--lora-alpha, --lora-dropout and --lora-target-modules need --lora-r"],
        ),
        (
            ("--objective", "dpo", "--gamma", 1),
            ["dpo has no knob gamma: it belongs to ampo, refa, mmpo, simpo"],
        ),
        (
            ("--objective", "simpo", "--comparison", "group"),
            ["simpo has no knob comparison: it belongs to mmpo"],
        ),
        (("--objective", "grpo"), ["grpo", "ampo"]),
        (
            ("--global-batch-size", 3, "--per-device-train-batch-size", 2),
            ["--global-batch-size 3 prompts is not a multiple of 2", "change --global-batch-size"],
        ),
        (
            ("--lora-r", 4, "--lora-target-modules", "nonsense"),
            ["--lora-target-modules nonsense", "leave --lora-target-modules out"],
        ),
        (("--max-length", 20, "--on-too-long", "error"), ["is too long", "raise --max-length"]),
        (("--max-steps", 3), ["--max-steps and --num-train-epochs exclude each other"]),
    ],
    ids=lambda value: (
        "-".join(map(str, value)).replace("--", "") if isinstance(value, tuple) else ""
    ),
)
def test_flags_that_cannot_be_used_exit_with_2_and_say_what_to_change(
    heavy: StageServer,
    inputs: Inputs,
    folder: Path,
    flags: tuple[object, ...],
    sentences: list[str],
) -> None:
    assert_refused(heavy.run(*train(inputs, folder / "policy", *flags)), 2, *sentences)
    assert not list(folder.glob("policy/part-*"))


def broken_model(inputs: Inputs, path: Path, what: str) -> Path:
    """Copy the policy without its tokenizer, without its chat template, with pickle weights, or with cut off ones."""
    shutil.copytree(inputs.model, path)
    weights = path / "model.safetensors"
    if what == "tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).unlink()
    elif what == "chat template":
        (path / "chat_template.jinja").unlink()
    elif what == "pickle":
        torch.save(load_file(weights), path / "pytorch_model.bin")
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-10])
    return path


@pytest.mark.parametrize(
    ("what", "sentences"),
    [
        ("tokenizer", ["no tokenizer in the model folder", "copy tokenizer.json"]),
        (
            "chat template",
            ["no chat template in the model folder", "put a chat_template.jinja into the folder"],
        ),
        (
            "pickle",
            [
                "has only pickle weights (pytorch_model.bin), which prefpipe refuses",
                "convert it to safetensors once",
            ],
        ),
        ("cut off", ["model.safetensors"]),
    ],
)
def test_a_model_folder_that_cannot_be_used_is_refused_before_anything_is_written(
    heavy: StageServer, inputs: Inputs, folder: Path, what: str, sentences: list[str]
) -> None:
    model = broken_model(inputs, folder / "model", what)
    assert_refused(
        heavy.run(*train(inputs._replace(model=model), folder / "policy")),
        1,
        str(model),
        *sentences,
    )
    assert not (folder / "policy").exists()


def test_resume_from_a_folder_without_a_checkpoint_is_refused_before_the_model_is_loaded(
    heavy: StageServer, inputs: Inputs, folder: Path
) -> None:
    refused = heavy.run(*train(inputs, folder / "policy", "--resume-from", inputs.model))
    assert_refused(
        refused,
        2,
        f"{inputs.model} holds no complete checkpoint",
        "pass a complete checkpoint-N folder, or leave --resume-from out",
    )
    assert "loading" not in refused.stderr
    assert not (folder / "policy").exists()


def test_an_early_checkpoint_can_be_gone_on_from_by_name(
    heavy: StageServer, inputs: Inputs, straight: dict[object, Undisturbed], folder: Path
) -> None:
    """From the last checkpoint but one of another folder of the same run, to the same weights."""
    checkpoint = straight[WHOLE].folder / f"checkpoint-{N_STEPS - SAVE_STEPS}"
    assert checkpoint_problem(checkpoint) is None
    run = finish(heavy, *train(inputs, folder / "policy", *WHOLE, "--resume-from", checkpoint))
    assert f"resuming from {checkpoint}" in run.stderr
    assert_same_policy(folder / "policy", straight[WHOLE].folder, WHOLE)


def test_other_settings_in_the_folder_of_a_finished_policy_are_refused_by_name(
    heavy: StageServer, inputs: Inputs, straight: dict[object, Undisturbed]
) -> None:
    before = json.loads((straight[WHOLE].folder / "run.json").read_text())
    assert_refused(
        heavy.run(*train(inputs, straight[WHOLE].folder, "--objective", "dpo")),
        2,
        'objective: "ampo" on disk, "dpo" requested',
        "--overwrite",
    )
    assert json.loads((straight[WHOLE].folder / "run.json").read_text()) == before


@pytest.mark.parametrize("free_kib", [60, 260, 700])
def test_training_on_a_full_disk_is_one_error_and_goes_on_when_there_is_room(
    heavy: StageServer, inputs: Inputs, folder: Path, free_kib: int
) -> None:
    """What fails first are the metrics, the weights of a checkpoint, or its optimizer's state: three libraries."""
    with small_disk(folder / "disk", free_kib) as disk:
        full = heavy.run(*train(inputs, disk / "policy"))
        assert_refused(full, 1, f"cannot write {disk / 'policy'}", "hint: ")
        grow(disk, mib=64)
        finish(heavy, *train(inputs, disk / "policy"))
