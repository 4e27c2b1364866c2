"""One training run: from the rows of the groups to a saved policy and the figures of the run."""

from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.model_files import ModelFiles
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, StoppedEarly
from prefpipe.maths.objectives import find_objective
from prefpipe.stages.candidate_rows import Row
from prefpipe.stages.runtime import Runtime
from prefpipe.stages.train_groups import AGAIN, encoder_of, groups_of, stored_ids_fit
from prefpipe.stages.train_reference import Reference
from prefpipe.training.callbacks import CollapseWarning, MetricsFile, ProgressBar, StopWhenAsked, TensorBoard
from prefpipe.training.checkpoints import find_last_checkpoint, require_checkpoint, require_wrapper
from prefpipe.training.forward import share_prompts_as_first
from prefpipe.training.groups import Group, Key, PreparedGroups, prepare_groups, require_reward_gaps, with_reference
from prefpipe.training.measures import mean_measures
from prefpipe.training.policy import LoraSettings, Policy, load_policy, model_card, save_policy
from prefpipe.training.ranks import any_process, cuts_weights, from_first, processes
from prefpipe.training.settings import TrainSettings, training_arguments
from prefpipe.training.trainer import GroupTrainer

TENSORBOARD_FOLDER = "tensorboard"
TRAINED = ("ok", "truncated")


class _Trained(NamedTuple):
    """What the loop ended with."""

    stopped: bool
    log_history: list[dict[str, Any]]
    n_steps: int
    max_steps: int
    weights: dict[str, Any] | None


def lora_of(config: TrainConfig) -> LoraSettings | None:
    """Return the adapters that a run trains, None where it trains all weights."""
    if not config.lora_r:
        return None
    alpha = config.lora_alpha if config.lora_alpha is not None else 2.0 * config.lora_r
    return LoraSettings(config.lora_r, alpha, config.lora_dropout, config.lora_target_modules)


class TrainRun:
    """One run: rows in, a saved policy and its figures out."""

    def __init__(
        self, config: TrainConfig, settings: TrainSettings, model: ModelFiles, reference: Reference | None, runtime: Runtime
    ) -> None:
        self.config, self.settings, self.model, self.reference, self.runtime = config, settings, model, reference, runtime
        self.rows: list[Row] = []
        self.prepared = PreparedGroups([], {})
        self.ref_logps: dict[Key, tuple[float, int]] = {}

    def train(self, rows: list[Row], source: Artifact) -> dict[str, Any]:
        """Train on the rows' groups, save the policy and return the figures of the run.

        Errors:
            InputError: no group is left to train on.
            StoppedEarly: a stop was asked for; a checkpoint is on disk.
        """
        config = self.config
        arguments = training_arguments(self.settings, config.output)
        self._prepare(rows, source)
        groups = self._with_reference(self.prepared.groups)
        self.runtime.log(f"loading {self.model.requested}")
        policy = load_policy(
            self.model, lora=lora_of(config), bf16=config.bf16, seed=config.seed, load_in_4bit=config.load_in_4bit,
            trust_remote_code=config.trust_remote_code,
        )  # fmt: skip
        if not cuts_weights():
            policy.model.to(arguments.device)
        self._share_prompts(policy)
        self.runtime.log(
            f"{len(groups)} groups, {self.settings.global_batch_size} prompts a step = {arguments.world_size} devices x "
            f"{self.settings.per_device_train_batch_size} x {arguments.gradient_accumulation_steps} accumulated; "
            f"learning rate {self.settings.learning_rate:g}"
        )
        trained = self._loop(policy, groups, arguments)
        if trained.stopped:
            raise StoppedEarly(
                f"train stopped as asked at step {trained.n_steps} of {trained.max_steps}, with a checkpoint",
                hint=f"run the same command again{_without_flags(config)} to go on",
            )
        figures = self._figures(trained)
        if processes().is_main_process:
            facts = {name: figures[name] for name in ("objective", "knobs", "learning_rate", "n_groups", "n_steps")}
            save_policy(policy, config.output, model_card(policy, self.model, facts), weights=trained.weights)
        return figures

    def fate_rows(self) -> list[Row]:
        """Return one row of ``POLICY`` for every row of the groups."""
        lengths = {
            (group.prompt_id, response.sample_idx): len(response.token_ids)
            for group in self.prepared.groups
            for response in group.responses
        }
        result = []
        for row in self.rows:
            key = row["prompt_id"], row["sample_idx"]
            status, reason = self.prepared.fates.get(key, (row["status"], row["reason"]))
            own = {name: row[name] for name in ("prompt_id", "sample_idx", "role", "reward")}
            ref_logp, _ = self.ref_logps.get(key, (None, 0))
            result.append(own | {"n_tokens": lengths.get(key, 0), "ref_logp": ref_logp, "status": status, "reason": reason})
        return result

    def _prepare(self, rows: list[Row], source: Artifact) -> None:
        encoder = None
        if not stored_ids_fit(source, self.model):
            self.runtime.log(AGAIN)
            encoder = encoder_of(self.model, trust_remote_code=self.config.trust_remote_code)
        self.rows = rows
        groups = groups_of(rows, encoder)
        self.prepared = prepare_groups(groups, max_length=self.config.max_length, on_too_long=self.config.on_too_long)
        left_out = {name: count for name, count in sorted(self.prepared.counts.items()) if name not in TRAINED}
        words = ", ".join(f"{count} {name}" for name, count in left_out.items())
        if words:
            self.runtime.log(f"{sum(left_out.values())} of {len(self.prepared.fates)} responses are left out: {words}")
        if not self.prepared.groups:
            too_long = any("long" in name for name in left_out)
            raise InputError(
                f"no group of {self.config.groups} can be trained on: {words or 'it holds no group'}",
                hint="raise --max-length"
                if too_long
                else f"run `prefpipe inspect {self.config.groups}` for what select rejected",
            )
        if find_objective(self.settings.objective).needs_reward_gaps:
            require_reward_gaps(self.prepared.groups, self.settings.objective)

    def _share_prompts(self, policy: Policy) -> None:
        """Compute each prompt once a group, or say why it is computed once a response."""
        problem = share_prompts_as_first(policy.model) if self.config.shared_prompt else "--no-shared-prompt"
        once = sum(len(group.prompt_token_ids) for group in self.prepared.groups)
        each = sum(len(group.prompt_token_ids) * len(group.responses) for group in self.prepared.groups)
        if problem is None:
            self.runtime.log(f"each prompt is computed once: {once:,} prompt tokens instead of {each:,}")
        else:
            self.runtime.log(f"each prompt is computed once a response, {each:,} prompt tokens: {problem}")

    def _with_reference(self, groups: list[Group]) -> list[Group]:
        """Give each response its log-probability under the reference, measured now where it is not on disk yet."""
        if self.reference is None:
            return groups
        self.ref_logps = self.reference.logps(self.config, self.model, self.runtime)
        return with_reference(groups, self.ref_logps)

    def _loop(self, policy: Policy, groups: list[Group], arguments: Any) -> _Trained:
        config, runtime = self.config, self.runtime
        stop = StopWhenAsked(lambda: any_process(runtime.should_stop()))
        callbacks = [MetricsFile(config.output), CollapseWarning(), ProgressBar(runtime.progress), stop]
        if "tensorboard" in self.settings.report_to:
            callbacks.append(TensorBoard(config.output / TENSORBOARD_FOLDER))
        if config.resume_from is not None:
            checkpoint: Path | None = require_checkpoint(config.resume_from)
        else:
            checkpoint = from_first(find_last_checkpoint(config.output, runtime.log))
        if checkpoint is not None:
            runtime.log(f"going on from {checkpoint}")
        trainer = GroupTrainer(policy.model, arguments, self.settings, groups, tokenizer=policy.tokenizer, callbacks=callbacks)
        if checkpoint is not None:
            require_wrapper(checkpoint, trainer.wrapper)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
        weights = None if stop.stopped else trainer.whole_weights()
        return _Trained(stop.stopped, state.log_history, state.global_step, state.max_steps, weights)

    def _figures(self, trained: _Trained) -> dict[str, Any]:
        rows = [entry for entry in trained.log_history if "loss" in entry]
        n_averaged = max(1, len(rows) // 3)  # single steps see other prompts: their losses do not compare
        names = ("loss", "rewards/margins", "rewards/accuracy", "logps/chosen", "logps/rejected")
        return {
            "objective": self.settings.objective,
            "knobs": dict(self.settings.knobs),
            "learning_rate": self.settings.learning_rate,
            "n_groups": len(self.prepared.groups),
            "n_responses": sum(len(group.responses) for group in self.prepared.groups),
            "n_steps": trained.n_steps,
            "first": mean_measures(rows[:n_averaged], names),
            "last": mean_measures(rows[-n_averaged:], names),
            "n_steps_averaged": n_averaged,
            "kind": "adapter" if self.config.lora_r else "model",
        }


def _without_flags(config: TrainConfig) -> str:
    """Name the flags that would throw away what the stopped run has done if they were given again."""
    flags = [
        flag for flag, given in (("--overwrite", config.overwrite), ("--resume-from", config.resume_from is not None)) if given
    ]
    return f" without {' and '.join(flags)}" if flags else ""
