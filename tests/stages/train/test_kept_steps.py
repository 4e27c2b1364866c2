"""``--keep-step``: the model of a step on the way, which is that of a run that ends there, whole after kills, and a policy like any other."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from support.finished_run import command
from support.kept_steps_job import run_job
from support.pair_files import evaluate, pairs_file, some_pairs
from support.pipelines import rows_of
from support.tiny_models import CHAT_TEMPLATE, make_tiny_causal_lm, make_tiny_encoder
from support.written_groups import row_of, write_groups

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.train import TrainConfig
from prefpipe.models.files import inspect_model
from prefpipe.models.rounds import round_of_model
from prefpipe.status.checker import standing_of
from prefpipe.status.folders import find_artifacts

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
KILLED = -9
LORA = ["--lora-r", "4", "--lora-dropout", "0.1"]
REWARD = ["--target", "reward", "--objective", "bt"]
KINDS = {
    "whole, without a reference": ["--objective", "ampo"],
    "whole, with a reference and activations twice": [
        "--objective",
        "dpo",
        "--gradient-checkpointing",
    ],
    "adapter": ["--objective", "dpo", *LORA],
    "reward model": REWARD,
    "reward model by adapters": [*REWARD, *LORA],
}
OF_MODEL = ("README.md", "config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model, and groups of two to four responses of 11 prompts, which make 3 steps an epoch."""
    folder = tmp_path_factory.mktemp("kept")
    model = make_tiny_causal_lm(folder / "model")
    rows = [
        row_of(f"p{p}", i, "ab c"[: 1 + p % 4] * (i + 1))
        for p in range(11)
        for i in range(2 + p % 3)
    ]
    identity = inspect_model(model, "tiny").identity()
    write_groups(folder / "groups", [rows], [identity])
    return folder


def words_of(root, output, *flags):
    words = ["train", str(root / "groups"), "--model", str(root / "model"), "-o", str(output)]
    words += ["--global-batch-size", "4", "--learning-rate", "1e-2", "--report-to", "none"]
    words += ["--lr-scheduler-type", "constant_with_warmup", "--warmup-steps", "1"]
    return [*words, *flags]


def train(root, output, *flags):
    command(words_of(root, output, *flags))
    return output


def files_of_model(folder):
    """Every file that makes the model, by name, as bytes."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.jinja"), *folder.glob("adapter_c*")]
    files += [folder / name for name in OF_MODEL if (folder / name).exists()]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_model_of_a_run_that_ends_there_to_the_byte(root, kind, tmp_path):
    """Constant rate; the middle of an epoch, with rows of the log further apart than steps."""
    kept = ["--keep-step", "4", "--keep-step", "2", "--keep-step", "6", "--logging-steps", "100"]
    run = train(root, tmp_path / "run", *KINDS[kind], "--max-steps", "6", *kept)
    undisturbed = train(root, tmp_path / "undisturbed", *KINDS[kind], "--max-steps", "6")
    assert files_of_model(run) == files_of_model(undisturbed)

    ends = {6: undisturbed}
    for step in (2, 4):
        ends[step] = train(root, tmp_path / str(step), *KINDS[kind], "--max-steps", str(step))
    weights = set()
    for step, end in ends.items():
        files = files_of_model(run / f"step-{step:05d}")
        assert len(files) >= 4
        assert files == files_of_model(end)
        weights.add(next(data for name, data in files.items() if name.endswith(".safetensors")))
    assert len(weights) == 3
    assert len(list(run.glob("step-*"))) == 3
    assert not list(run.glob(".*.tmp"))


@pytest.fixture(scope="module")
def kept(root):
    """A run of dpo with two steps kept and checkpoints at 2, 4 and 6."""
    flags = ["--objective", "dpo", "--beta", "0.3", "--max-steps", "6", "--save-steps", "2"]
    flags += ["--save-total-limit", "9", "--keep-step", "3", "--keep-step", "5"]
    return train(root, root / "kept", *flags)


@pytest.mark.slow
def test_it_says_its_round_its_training_and_what_became_of_each_response(kept, root):
    step = kept / "step-00003"
    assert round_of_model(step) == 1
    run, record = (json.loads((path / "run.json").read_text()) for path in (kept, step))
    assert record["fingerprint"] == run["fingerprint"]
    assert record["context"] == run["context"] | {"kept_step": 3}
    name = "part-00000-of-00001.parquet"
    assert (step / name).read_bytes() == (kept / name).read_bytes()
    summary = json.loads((step / "summary.json").read_text())
    assert (summary["n_steps"], summary["objective"]) == (3, "dpo")
    # it is not another artifact of the run, and is one where it is named
    assert find_artifacts(kept) == [kept, kept / "reference"]
    assert find_artifacts(step) == [step]
    assert standing_of(step).state == "done"


@pytest.mark.slow
def test_it_samples_is_trained_from_and_brings_its_beta(kept, root, tmp_path):
    step = kept / "step-00003"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say something."}\n')
    sample = [
        "generate",
        str(prompts),
        "--model",
        str(step),
        "--backend",
        "transformers",
        "--n",
        "2",
    ]
    command([*sample, "--max-tokens", "3", "-o", str(tmp_path / "candidates")])
    context = json.loads((tmp_path / "candidates/run.json").read_text())["context"]
    assert context["sampler_round"] == 1

    pairs = pairs_file(tmp_path, some_pairs(4))
    by_policy = ["--model", str(step), "--reference", str(root / "model")]
    figures = evaluate("calibration", pairs, tmp_path / "calibration", *by_policy)
    assert (figures["beta"], figures["beta_from"]) == (0.3, "training")

    again = ["train", str(root / "groups"), "--model", str(step), "-o", str(tmp_path / "second")]
    command([*again, "--objective", "ampo", "--max-steps", "1", "--report-to", "none"])
    assert round_of_model(tmp_path / "second") == 2


@pytest.mark.slow
def test_an_adapter_of_a_step_is_merged_like_any_other(root, tmp_path):
    flags = [*KINDS["adapter"], "--max-steps", "3", "--keep-step", "2"]
    step = train(root, tmp_path / "run", *flags) / "step-00002"
    command(["merge", str(step), "-o", str(tmp_path / "merged")])
    assert round_of_model(tmp_path / "merged") == 1


@pytest.mark.slow
def test_a_reward_model_of_a_step_scores(root, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text(CHAT_TEMPLATE)
    encoder = make_tiny_encoder(tmp_path / "encoder")
    words = [*words_of(root, tmp_path / "rm", *REWARD), "--chat-template", str(template)]
    words[words.index(str(root / "model"))] = str(encoder)
    command([*words, "--max-steps", "3", "--keep-step", "2"])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say something."}\n')
    candidates = tmp_path / "candidates"
    sample = ["generate", str(prompts), "--model", "fake", "--backend", "fake", "--n", "2"]
    command([*sample, "-o", str(candidates)])
    scorer = f"reward-model:{tmp_path / 'rm/step-00002'}"
    command(["score", str(candidates), "--scorer", scorer, "-o", str(tmp_path / "scores")])
    assert [row["status"] for row in rows_of(tmp_path / "scores")] == ["ok", "ok"]


@pytest.mark.slow
def test_killed_while_it_is_written_it_is_not_there_and_is_made_again_to_the_byte(root, tmp_path):
    """SIGKILL at step 3; at step 4, so that the run goes on from before step 3; at step 3 again, whose folder is being replaced."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    groups, model = root / "groups", root / "model"
    assert run_job(groups, model, straight) == 0

    assert run_job(groups, model, broken, die_at=3) == KILLED
    assert not (broken / "step-00003").exists()
    assert list(broken.glob(".step-00003.*.tmp"))
    assert run_job(groups, model, broken, die_at=4) == KILLED
    assert (broken / "checkpoint-2").exists()
    assert not (broken / "checkpoint-4").exists()
    assert not (broken / "step-00004").exists()
    first = files_of_model(broken / "step-00003")
    assert run_job(groups, model, broken, die_at=3) == KILLED
    assert files_of_model(broken / "step-00003") == first
    assert standing_of(broken / "step-00003").state == "done"

    assert run_job(groups, model, broken) == 0
    for name in ("step-00003", "step-00004", "."):
        assert files_of_model(broken / name) == files_of_model(straight / name)
    assert not list(broken.glob(".*.tmp"))


@pytest.mark.slow
def test_a_step_that_has_gone_by_is_refused_with_what_can_be_done(kept, root, tmp_path, capsys):
    flags = ["--objective", "dpo", "--beta", "0.3", "--max-steps", "6", "--save-steps", "2"]
    before = files_of_model(kept)
    capsys.readouterr()

    # those that are there are no reason to complain, whatever the order and the number
    assert prefpipe(words_of(root, kept, *flags, "--keep-step", "5")) == 0
    # a step after the last one is refused before anything is loaded
    assert prefpipe(words_of(root, kept, *flags, "--keep-step", "7")) == 2
    assert (
        "--keep-step 7 is never reached: the run ends at --max-steps 6" in capsys.readouterr().err
    )

    assert prefpipe(words_of(root, kept, *flags, "--keep-step", "4")) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "has trained 6 steps, and the model of step 4 was not kept" in err
    assert "--overwrite" in err
    earlier = f"-o NEW --resume-from {kept / 'checkpoint-2'}"
    assert earlier in err
    assert files_of_model(kept) == before

    # what the hint says works, and is what would have been kept
    new = tmp_path / "new"
    from_two = ["--keep-step", "4", "--resume-from", str(kept / "checkpoint-2")]
    command(words_of(root, new, *flags, *from_two))
    whole = train(root, tmp_path / "four", *flags[:4], "--max-steps", "4")
    assert files_of_model(new / "step-00004") == files_of_model(whole)

    # `--overwrite=stale` begins again, and only for a step that is not there
    again = tmp_path / "again"
    shutil.copytree(kept, again)
    stamp = (again / "model.safetensors").stat().st_mtime_ns
    command(words_of(root, again, *flags, "--keep-step", "5", "--overwrite=stale"))
    assert (again / "model.safetensors").stat().st_mtime_ns == stamp
    command(words_of(root, again, *flags, "--keep-step", "4", "--overwrite=stale"))
    assert [path.name for path in again.glob("step-*")] == ["step-00004"]
    assert files_of_model(again / "step-00004") == files_of_model(whole)
    assert files_of_model(again) == before

    # an unfinished run stands where its checkpoint is
    stopped = tmp_path / "stopped"
    shutil.copytree(kept, stopped)
    (stopped / "summary.json").unlink()
    (stopped / "step-00005" / "model.safetensors").unlink()
    shutil.rmtree(stopped / "checkpoint-6")
    assert prefpipe(words_of(root, stopped, *flags, "--keep-step", "3", "--keep-step", "5")) == 0
    weights = [load_file(path / "step-00005" / "model.safetensors") for path in (kept, stopped)]
    assert all(weight.equal(weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.slow
def test_a_step_beyond_the_passes_is_refused_before_the_model_is_loaded(root, tmp_path, capsys):
    assert prefpipe(words_of(root, tmp_path / "run", "--objective", "dpo", "--keep-step", "4")) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "--keep-step 4 is never reached: the run ends at step 3, with 11 groups and 4" in err
    assert "loading" not in err


@pytest.mark.slow
def test_a_run_of_other_settings_takes_the_steps_of_the_old_ones_away(root, tmp_path):
    flags = ["--objective", "ampo", "--max-steps", "3", "--keep-step", "2"]
    run = train(root, tmp_path / "run", *flags)
    train(root, run, *flags[:2], "--max-steps", "2", "--overwrite")
    assert not list(run.glob("step-*"))


def config_of(**values):
    return TrainConfig(groups="g", output="o", model="m", **values)


def test_kept_steps_do_not_name_a_run_and_a_warm_up_in_steps_does():
    plain = config_of().identity()
    assert config_of(keep_step=(3, 5)).identity() == plain
    assert "warmup_steps" not in plain
    assert config_of(warmup_steps=0).identity() == plain | {"warmup_steps": 0}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"keep_step": (0,)}, "--keep-step must be 1 or more, not 0"),
        ({"keep_step": (9,), "max_steps": 8}, "--keep-step 9 is never reached"),
        ({"warmup_steps": 2, "warmup_ratio": 0.1}, "--warmup-ratio and --warmup-steps exclude"),
        ({"warmup_steps": 2, "lr_scheduler_type": "constant"}, "--warmup-steps has no effect"),
        ({"warmup_steps": -1}, "--warmup-steps must be 0 or more"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, problem):
    with pytest.raises(Exception, match=problem):
        config_of(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"keep_step": (8, 8, 1), "max_steps": 8},
        {"warmup_steps": 0, "lr_scheduler_type": "constant"},
    ],
)
def test_values_that_go_together_are_taken(values):
    config_of(**values)
