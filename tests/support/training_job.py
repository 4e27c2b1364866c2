"""A small training run for a process of its own, which can be told to kill itself with SIGKILL in the middle."""

import multiprocessing
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
from transformers import TrainerCallback

from prefpipe.maths.objectives.registry import resolve_knobs
from prefpipe.models.files import inspect_model
from prefpipe.training.callbacks import MetricsFile
from prefpipe.training.checkpoints import find_last_checkpoint
from prefpipe.training.early_stopping import EarlyStopping
from prefpipe.training.forward import reference_logps
from prefpipe.training.groups import with_reference
from prefpipe.training.policy import LoraSettings, load_policy, save_policy
from prefpipe.training.settings import TrainSettings, training_arguments
from prefpipe.training.trainer import GroupTrainer
from support.tiny_groups import make_groups

# The fork server imports this module once, for all runs, and knows of the tests' folder by the
# environment only.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["support.training_job"])


def metrics_of(folder):
    """Rows of ``metrics.parquet``, without the one column that no two runs share."""
    return pq.read_table(Path(folder) / "metrics.parquet").drop_columns("tokens_per_s").to_pylist()


class DieAtStep(TrainerCallback):
    """SIGKILL at the beginning of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, _args, state, _control, **_kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingTrainer(GroupTrainer):
    """SIGKILL while writing a checkpoint: after the weights, or with the optimizer half written."""

    die_in_save = None

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.die_in_save == (self.state.global_step, "weights"):
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)
        if self.die_in_save == (self.state.global_step, "optimizer"):
            os.truncate(Path(output_dir) / "optimizer.pt", 100)
            os.kill(os.getpid(), signal.SIGKILL)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        if self.die_in_save == (self.state.global_step, "state"):
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder, model_path, lora, die_at_step=None, die_in_save=None, patience=None):
    """12 steps over 4 epochs of 10 groups, resuming by itself.

    What it skips goes to ``skipped.txt``.

    With ``patience`` it is evaluated at every step on 5 other groups, with early stopping.
    """
    folder = Path(folder)
    files = inspect_model(model_path, "tiny")
    shape = LoraSettings(r=4, alpha=8, dropout=0.2) if lora else None
    policy = load_policy(files, lora=shape, bf16=False, seed=0)
    groups = make_groups(10)
    groups = with_reference(groups, reference_logps(policy.model, groups, pad_token_id=0))
    settings = TrainSettings(
        objective="mmpo",
        knobs=resolve_knobs("mmpo", {"beta": 1.0}),
        learning_rate=1e-2,
        num_train_epochs=4,
        global_batch_size=4,
        per_device_train_batch_size=2,
        save_steps=2,
        evaluates=patience is not None,
        eval_steps=1,
    )
    evaluated, early = [], []
    if patience is not None:
        evaluated = make_groups(5, seed=1)
        evaluated = with_reference(
            evaluated, reference_logps(policy.model, evaluated, pad_token_id=0)
        )
        early = [EarlyStopping(patience)]
    skipped = []
    checkpoint = find_last_checkpoint(folder, skipped.append)
    (folder / "skipped.txt").write_text("\n".join(skipped))
    trainer = DyingTrainer(
        policy.model,
        training_arguments(settings, folder),
        settings,
        groups,
        tokenizer=policy.tokenizer,
        eval_groups=evaluated,
        callbacks=[MetricsFile(folder), *early, DieAtStep(die_at_step)],
    )
    trainer.die_in_save = die_in_save
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save_policy(policy, folder, "card")


def run(*arguments, **named):
    """Run ``train`` in a process of its own and return its exit code, negative for a signal."""
    process = FORK.Process(target=train, args=arguments, kwargs=named)
    process.start()
    process.join(timeout=120)
    assert process.exitcode is not None
    return process.exitcode
