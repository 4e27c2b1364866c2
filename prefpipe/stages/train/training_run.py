"""One training run: from the rows of the groups to a saved policy and the figures of the run."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from prefpipe.artifacts.store import Artifact
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, StoppedEarly
from prefpipe.maths.objectives.registry import find_objective
from prefpipe.models.files import ModelFiles
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.runtime import Runtime
from prefpipe.stages.train.evaluation import EvaluationGroups, check_apart
from prefpipe.stages.train.reference import Reference
from prefpipe.stages.train.sides import side_of
from prefpipe.training.callbacks import (
    CollapseWarning,
    FirstStep,
    LogWithCheckpoints,
    MetricsFile,
    ProgressBar,
    StopWhenAsked,
    TensorBoard,
)
from prefpipe.training.checkpoints import find_last_checkpoint, require_checkpoint, require_wrapper
from prefpipe.training.early_stopping import EarlyStopping, evaluation_figures
from prefpipe.training.evaluation_split import hold_out
from prefpipe.training.forward import share_as_first
from prefpipe.training.groups import (
    Group,
    Key,
    PreparedGroups,
    prepare_groups,
    require_known_tokens,
    require_reward_gaps,
    with_reference,
)
from prefpipe.training.measures import FALLS, mean_measures
from prefpipe.training.policy import LoraSettings, Policy
from prefpipe.training.ranks import any_process, cuts_weights, from_first, processes
from prefpipe.training.settings import TrainSettings, training_arguments
from prefpipe.training.shared_prompt import pieces_of
from prefpipe.training.time_budget import TimeBudget
from prefpipe.training.trainer import GroupTrainer

TENSORBOARD_FOLDER = "tensorboard"


class _Trained(NamedTuple):
    """What the loop ended with."""

    stopped: bool
    log_history: list[dict[str, Any]]
    n_steps: int
    max_steps: int
    early: EarlyStopping | None
    calibration: dict[str, Any] | None
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
        self,
        config: TrainConfig,
        settings: TrainSettings,
        model: ModelFiles,
        reference: Reference | None,
        runtime: Runtime,
        evaluation: EvaluationGroups | None = None,
    ) -> None:
        self.config, self.settings, self.model, self.reference, self.runtime = (
            config,
            settings,
            model,
            reference,
            runtime,
        )
        self.evaluation = evaluation
        self.side = side_of(config, model, runtime)
        self.budget = (
            None if config.max_hours is None else TimeBudget(config.max_hours, runtime.started)
        )
        self.rows: list[Row] = []
        self.prepared = PreparedGroups([], {})
        self.eval_groups: list[Group] = []
        self.eval_counts: dict[str, int] = {}
        self.ref_logps: dict[Key, tuple[float, int]] = {}

    def train(self, rows: list[Row], source: Artifact) -> dict[str, Any]:
        """Train on the rows' groups, save the policy and return the figures of the run.

        Raises:
            InputError: no group is left to train on.
            StoppedEarly: a stop was asked for; a checkpoint is on disk.
        """
        config = self.config
        arguments = training_arguments(self.settings, config.output)
        self._prepare(rows, source)
        groups = self._with_reference(self.prepared.groups)
        self.runtime.log(f"loading {self.model.requested}")
        policy = self.side.load(lora_of(config))
        if not cuts_weights():
            policy.model.to(arguments.device)
        n_vocabulary = policy.model.get_input_embeddings().weight.shape[0]
        require_known_tokens([*groups, *self.eval_groups], n_vocabulary)
        self._share_prompts(policy)
        n_evaluated = f" and {len(self.eval_groups)} to evaluate on" if self.eval_groups else ""
        self.runtime.log(
            f"{len(groups)} groups{n_evaluated}, {self.settings.global_batch_size} prompts a step = "
            f"{arguments.world_size} devices x {self.settings.per_device_train_batch_size} x "
            f"{arguments.gradient_accumulation_steps} accumulated; learning rate {self.settings.learning_rate:g}"
        )
        # From the first step until the model is saved, steps are kept however long that takes.
        with ExitStack() as finishing:
            trained = self._loop(policy, groups, arguments, finishing)
            return self._saved(policy, trained)

    def _saved(self, policy: Policy, trained: _Trained) -> dict[str, Any]:
        """Save what was trained and return the figures of the run.

        Raises:
            StoppedEarly: the run was stopped, with a checkpoint.
        """
        config = self.config
        if trained.stopped:
            is_budget = self.budget is not None and not self.runtime.should_stop()
            why = f"before --max-hours {config.max_hours:g} are over" if is_budget else "as asked"
            raise StoppedEarly(
                f"train stopped {why} at step {trained.n_steps} of {trained.max_steps}, with a checkpoint",
                hint=f"run the same command again{_without_flags(config)} to go on",
            )
        figures = self._figures(trained)
        if processes().is_main_process:
            facts = {
                name: figures[name]
                for name in ("objective", "knobs", "learning_rate", "n_groups", "n_steps")
            }
            if trained.early is not None and trained.early.best is not None:
                facts["saved_step"] = trained.early.best["step"]
            self.side.save(policy, facts, trained.weights)
        return figures

    def fate_rows(self) -> list[Row]:
        """Return one row of ``POLICY`` for every row of the groups."""
        lengths = {
            (group.prompt_id, response.sample_idx): len(response.token_ids)
            for group in [*self.prepared.groups, *self.eval_groups]
            for response in group.responses
        }
        result = []
        for row in self.rows:
            key = row["prompt_id"], row["sample_idx"]
            status, reason = self.prepared.fates.get(key, (row["status"], row["reason"]))
            own = {name: row[name] for name in ("prompt_id", "sample_idx", "role", "reward")}
            ref_logp, _ = self.ref_logps.get(key, (None, 0))
            result.append(
                own
                | {
                    "n_tokens": lengths.get(key, 0),
                    "ref_logp": ref_logp,
                    "status": status,
                    "reason": reason,
                }
            )
        return result

    def _prepare(self, rows: list[Row], source: Artifact) -> None:
        config = self.config
        self.rows = rows
        groups = self.side.groups(rows, source)
        prepared = prepare_groups(
            groups,
            max_length=self.side.max_length,
            on_too_long=config.on_too_long,
            lacks=self.side.lacks,
        )
        words = prepared.describe_left_out()
        if words:
            n_left_out = sum(prepared.left_out.values())
            self.runtime.log(
                f"{n_left_out} of {len(prepared.fates)} responses are left out: {words}"
            )
        if not prepared.groups:
            refused = next(
                (
                    fate.reason
                    for fate in prepared.fates.values()
                    if fate.status == "template_error"
                ),
                None,
            )
            first = "" if refused is None else f"; {refused}"
            raise InputError(
                f"no group of {config.groups} can be trained on: {words or 'it holds no group'}{first}",
                hint="raise --max-length"
                if any("long" in name for name in prepared.counts)
                else f"run `prefpipe inspect {quote(str(config.groups))}` for what select rejected",
            )
        self.prepared, self.eval_groups = hold_out(prepared, config.eval_fraction, config.seed)
        if self.evaluation is not None:
            evaluated = self.evaluation.prepare(config, self.side, self.runtime)
            self.eval_groups, self.eval_counts = (
                evaluated.groups,
                dict(sorted(evaluated.counts.items())),
            )
            check_apart(groups, self.eval_groups, self.runtime)
        if find_objective(self.settings.objective).needs_reward_gaps:
            require_reward_gaps([*self.prepared.groups, *self.eval_groups], self.settings.objective)

    def _share_prompts(self, policy: Policy) -> None:
        """Compute each prompt once a group, or say why it is computed once a response."""
        problem = (
            share_as_first(policy.model, self.side.share)
            if self.config.shared_prompt
            else "--no-shared-prompt"
        )
        pieces = pieces_of(self.prepared.groups, self.config.max_batch_tokens)
        once = sum(len(group.prompt_token_ids) for group in pieces)
        each = sum(
            len(group.prompt_token_ids) * len(group.responses) for group in self.prepared.groups
        )
        if problem is None:
            n_cut = len(pieces) - len(self.prepared.groups)
            rows = (
                f", once for each of {n_cut:,} more rows that --max-batch-tokens cuts"
                if n_cut
                else ""
            )
            self.runtime.log(
                f"each prompt is computed once{rows}: {once:,} prompt tokens instead of {each:,}"
            )
        else:
            self.runtime.log(
                f"each prompt is computed once a response, {each:,} prompt tokens: {problem}"
            )

    def _with_reference(self, groups: list[Group]) -> list[Group]:
        """Give each response its log-probability under the reference, measured now where it is not on disk yet."""
        runtime = self.runtime
        if self.budget is not None:
            would_not_fit = self.budget.stops_between_parts()
            runtime = replace(
                runtime, should_stop=lambda: self.runtime.should_stop() or would_not_fit()
            )
        try:
            if self.evaluation is not None:
                self.eval_groups = self.evaluation.with_reference(
                    self.eval_groups, self.config, self.model, runtime
                )
            if self.reference is None:
                return groups
            self.ref_logps = self.reference.logps(self.config, self.model, runtime)
        except StoppedEarly as error:
            if self.budget is None or self.runtime.should_stop():
                raise
            words = f"--max-hours {self.config.max_hours:g} are nearly over: {error.message}"
            raise StoppedEarly(words, hint=error.hint) from error
        if self.evaluation is None:
            self.eval_groups = with_reference(self.eval_groups, self.ref_logps)
        return with_reference(groups, self.ref_logps)

    def _loop(
        self, policy: Policy, groups: list[Group], arguments: Any, finishing: ExitStack
    ) -> _Trained:
        config, runtime = self.config, self.runtime
        budget = self.budget
        stop = StopWhenAsked(
            lambda: any_process(runtime.should_stop() or (budget is not None and budget.is_up()))
        )
        callbacks = [MetricsFile(config.output), CollapseWarning(), ProgressBar(runtime.progress)]
        callbacks += (
            [stop] if budget is None else [budget, stop]
        )  # it measures a step before it is asked
        callbacks.append(LogWithCheckpoints())
        callbacks.append(
            FirstStep(lambda: finishing.enter_context(runtime.finishing(however_long=True)))
        )
        early = (
            None
            if config.early_stopping_patience is None
            else EarlyStopping(config.early_stopping_patience)
        )
        if early is not None:
            callbacks.append(early)
        if "tensorboard" in self.settings.report_to:
            callbacks.append(TensorBoard(config.output / TENSORBOARD_FOLDER))
        if config.resume_from is not None:
            checkpoint: Path | None = require_checkpoint(config.resume_from)
        else:
            checkpoint = from_first(find_last_checkpoint(config.output, runtime.log))
        if checkpoint is not None:
            runtime.log(f"going on from {checkpoint}")
        arguments.eval_on_start = (
            bool(self.eval_groups) and checkpoint is None
        )  # the baseline; a checkpoint has it in its log
        target = self.side.target(self.settings, self.eval_groups)
        trainer = GroupTrainer(
            policy.model,
            arguments,
            self.settings,
            groups,
            tokenizer=policy.tokenizer,
            eval_groups=self.eval_groups,
            callbacks=callbacks,
            target=target,
        )
        if checkpoint is not None:
            require_wrapper(checkpoint, trainer.wrapper)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
        calibration = None if stop.stopped else self.side.calibration(trainer)
        weights = None if stop.stopped else trainer.whole_weights()
        return _Trained(
            stop.stopped,
            state.log_history,
            state.global_step,
            state.max_steps,
            early,
            calibration,
            weights,
        )

    def _figures(self, trained: _Trained) -> dict[str, Any]:
        rows = [entry for entry in trained.log_history if "loss" in entry]
        n_averaged = max(
            1, len(rows) // 3
        )  # single steps see other prompts: their losses do not compare
        names = (
            "loss",
            "rewards/margins",
            "rewards/accuracy",
            "logps/chosen",
            "logps/rejected",
            *FALLS,
            "kl",
        )
        return {
            "objective": self.settings.objective,
            "knobs": dict(self.settings.knobs),
            "learning_rate": self.settings.learning_rate,
            "n_groups": len(self.prepared.groups),
            "n_responses": sum(len(group.responses) for group in self.prepared.groups),
            "n_eval_groups": len(self.eval_groups),
            "n_eval_responses": sum(len(group.responses) for group in self.eval_groups),
            **({"eval_counts": self.eval_counts} if self.eval_counts else {}),
            "n_steps": trained.n_steps,
            "first": mean_measures(rows[:n_averaged], names),
            "last": mean_measures(rows[-n_averaged:], names),
            "n_steps_averaged": n_averaged,
            "evaluation": evaluation_figures(trained.log_history, trained.early),
            "kind": "reward-model"
            if self.config.target == "reward"
            else "adapter"
            if self.config.lora_r
            else "model",
        } | ({} if trained.calibration is None else {"calibration": trained.calibration})


def _without_flags(config: TrainConfig) -> str:
    """Name the flags that would throw away what the stopped run has done if they were given again."""
    flags = ["--overwrite"] if config.overwrite.replaces_this_run else []
    if config.resume_from is not None:
        flags.append("--resume-from")
    return f" without {' and '.join(flags)}" if flags else ""
