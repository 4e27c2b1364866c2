"""The knobs of ``prefpipe train``.

A knob or learning setting that is not given takes the objective's own start value; ``docs/objectives.md`` lists them.
The knobs of objectives, and what is said of them, come from the table in ``prefpipe.maths.objectives.registry``.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from prefpipe.configs.options import TemplatedConfig, option
from prefpipe.errors import UsageError
from prefpipe.maths.objectives.registry import (
    DEFAULTS,
    OBJECTIVES,
    OFFERED,
    TARGETS,
    find_objective,
    objective_of,
    owners_of,
)

YOUNGER = ("load_in_4bit", "eval_fraction", "early_stopping_patience")
"""Identity fields that came after runs were on disk."""

SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")


def knob_option(name: str) -> Any:
    """Declare the flag of a knob: the help says what it means to each objective that has it, the choices are theirs."""
    by_meaning: dict[str, dict[str, None]] = {}
    choices: dict[str, None] = {}
    for owner, knob in owners_of(name):
        by_meaning.setdefault(knob.help, {})[find_objective(owner).flag_name] = None
        choices |= dict.fromkeys(knob.choices)
    text = "; ".join(
        f"{meaning.replace(';', ',')} ({_words([*owners])})"
        for meaning, owners in by_meaning.items()
    )
    return option(None, choices=tuple(choices), help=text)


def _words(owners: list[str]) -> str:
    others = [name for name in OBJECTIVES if name not in owners]
    return f"all of a policy but {' and '.join(others)}" if len(others) < 3 else ", ".join(owners)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TemplatedConfig):
    """Train a policy, or a reward model, on groups; the result is a model folder, or a LoRA adapter of a policy."""

    stage: ClassVar[str] = "train"
    VERSION: ClassVar[int] = 1

    groups: Path = option(
        positional=True, identity=False, metavar="GROUPS", help="folder written by select"
    )
    model: str = option(
        identity=False,
        metavar="MODEL",
        help="the model to start from: a folder, bundled:NAME, org/name[@revision], or an adapter",
    )
    target: str = option(
        "policy", choices=tuple(TARGETS), help="what is trained: a policy, or a reward model"
    )
    objective: str | None = option(
        None,
        choices=OFFERED,
        help="what is optimised: `prefpipe objectives` lists them, docs/objectives.md says which when; default "
        + ", ".join(f"{name} ({target})" for target, name in DEFAULTS.items()),
    )
    chat_template: Path | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="chat template of the reward model, where the model has none or another one is wanted; needs --target reward",
    )
    beta: float | None = knob_option("beta")
    gamma: float | None = knob_option("gamma")
    alpha: float | None = knob_option("alpha")
    deviation: str | None = knob_option("deviation")
    comparison: str | None = knob_option("comparison")
    length_normalise: bool | None = knob_option("length_normalise")
    eos_weight: float | None = knob_option("eos_weight")
    eta: float | None = knob_option("eta")
    form: str | None = knob_option("form")
    eps: float | None = knob_option("eps")
    tau: float | None = knob_option("tau")
    weight: float | None = knob_option("weight")
    reference: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="folder written by logprobs: the reference's log-probabilities; default made in OUTPUT/reference where it is needed",
    )
    reference_model: str | None = option(
        None,
        identity=False,
        metavar="MODEL",
        help="the reference policy: a model, or `base` for the model under an adapter; default what the training starts from",
    )
    learning_rate: float | None = option(
        None, help="peak learning rate; default the objective's, ten times that with LoRA"
    )
    num_train_epochs: float | None = option(
        None, help="passes over the groups; default the objective's"
    )
    max_steps: int | None = option(None, help="optimizer steps, instead of passes")
    global_batch_size: int | None = option(
        None, help="prompts an optimizer step, over all devices; default the objective's"
    )
    per_device_train_batch_size: int = option(
        1, identity=False, help="prompts a device computes at once: memory, not the result"
    )
    max_batch_tokens: int = option(
        16_384,
        identity=False,
        help="tokens a device computes at once; a group that is longer takes two passes, to the same gradient",
    )
    shared_prompt: bool = option(
        True,
        identity=False,
        help="compute each prompt once for all its responses, where the model allows",
    )
    max_length: int = option(2048, help="longest prompt plus response, in tokens")
    on_too_long: str = option(
        "drop", choices=("drop", "truncate", "error"), help="what to do with a longer response"
    )
    lr_scheduler_type: str = option("cosine", choices=SCHEDULES, help="how the learning rate falls")
    warmup_ratio: float | None = option(
        None, help="share of the steps over which the learning rate rises; default the objective's"
    )
    weight_decay: float = option(0.0, help="decoupled weight decay of AdamW")
    max_grad_norm: float = option(1.0, help="gradients are clipped to this norm")
    seed: int = option(0, help="seed of the order of prompts and of LoRA's start")
    bf16: bool = option(False, help="compute in bfloat16; weights that are trained stay float32")
    gradient_checkpointing: bool = option(
        False, identity=False, help="compute activations twice to keep fewer in memory"
    )
    lora_r: int = option(0, help="rank of LoRA adapters, 0 trains all weights")
    lora_alpha: float | None = option(None, help="scale of LoRA adapters; default 2 x rank")
    lora_dropout: float = option(0.0, help="dropout in LoRA adapters, the only dropout there is")
    lora_target_modules: tuple[str, ...] = option(
        (), help="layers to adapt, repeat for several; default every linear layer"
    )
    load_in_4bit: bool = option(
        False,
        help="hold the frozen base under LoRA adapters in 4 bits (QLoRA): needs the extra `qlora`",
    )
    eval_fraction: float = option(
        0.0,
        help="share of the prompts that is evaluated on instead of trained on, drawn by --seed and prompt_id",
    )
    eval_groups: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="groups to evaluate on, of other prompts; instead of --eval-fraction",
    )
    eval_reference: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="folder written by logprobs for --eval-groups; default made in OUTPUT/reference-eval",
    )
    eval_steps: int | None = option(
        None, identity=False, help="optimizer steps between evaluations; default a tenth of the run"
    )
    early_stopping_patience: int | None = option(
        None,
        help="stop after so many evaluations without a better held-out accuracy, and save the best evaluation's model",
    )
    max_hours: float | None = option(
        None,
        identity=False,
        help="wall-clock budget of this call: save and exit with 75 before it is over; the same command goes on",
    )
    save_steps: int = option(100, identity=False, help="optimizer steps between checkpoints")
    save_total_limit: int = option(2, identity=False, help="checkpoints kept")
    logging_steps: int = option(
        1,
        identity=False,
        help="optimizer steps between rows of the metrics; each checkpoint and evaluation has one too",
    )
    report_to: tuple[str, ...] = option(
        ("tensorboard",),
        identity=False,
        help="trackers; repeat for several",
        choices=("tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "none"),
    )
    resume_from: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="checkpoint to go on from; default the last complete one in the output",
    )
    allow_partial: bool = option(
        False, identity=False, help="train on the parts of the groups that are there"
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")

    def problems(self) -> list[str]:
        found = super().problems()
        checks = (
            (
                self.learning_rate is None or self.learning_rate > 0,
                f"--learning-rate must be above 0, not {self.learning_rate}",
            ),
            (
                self.num_train_epochs is None or self.num_train_epochs > 0,
                "--num-train-epochs must be above 0",
            ),
            (
                self.max_steps is None or self.max_steps >= 1,
                f"--max-steps must be 1 or more, not {self.max_steps}",
            ),
            (
                self.global_batch_size is None or self.global_batch_size >= 1,
                "--global-batch-size must be 1 or more",
            ),
            (
                self.per_device_train_batch_size >= 1,
                "--per-device-train-batch-size must be 1 or more",
            ),
            (
                self.max_batch_tokens >= 1,
                f"--max-batch-tokens must be 1 or more, not {self.max_batch_tokens}",
            ),
            (self.max_length >= 2, f"--max-length must be 2 or more, not {self.max_length}"),
            (
                self.warmup_ratio is None or 0 <= self.warmup_ratio < 1,
                "--warmup-ratio must be at least 0 and below 1",
            ),
            (self.weight_decay >= 0, f"--weight-decay must be 0 or more, not {self.weight_decay}"),
            (self.max_grad_norm > 0, f"--max-grad-norm must be above 0, not {self.max_grad_norm}"),
            (self.seed >= 0, f"--seed must be 0 or more, not {self.seed}"),
            (self.lora_r >= 0, f"--lora-r must be 0 or more, not {self.lora_r}"),
            (
                0 <= self.lora_dropout < 1,
                f"--lora-dropout must be at least 0 and below 1, not {self.lora_dropout}",
            ),
            (
                min(self.save_steps, self.save_total_limit, self.logging_steps) >= 1,
                "--save-steps, --save-total-limit and --logging-steps must be 1 or more",
            ),
            (
                self.max_steps is None or self.num_train_epochs is None,
                "--max-steps and --num-train-epochs exclude each other",
            ),
            (
                self.lora_r > 0 or not self._given_lora(),
                "--lora-alpha, --lora-dropout and --lora-target-modules need --lora-r",
            ),
            (
                self.lora_r > 0 or not self.load_in_4bit,
                "--load-in-4bit needs --lora-r: 4-bit weights are not trained",
            ),
            (
                self.reference is None or self.reference_model is None,
                "--reference and --reference-model exclude each other",
            ),
            (
                self.chat_template is None or self.target == "reward",
                "--chat-template needs --target reward",
            ),
            (
                0 <= self.eval_fraction < 1,
                f"--eval-fraction must be at least 0 and below 1, not {self.eval_fraction}",
            ),
            (
                self.eval_steps is None or self.eval_steps >= 1,
                f"--eval-steps must be 1 or more, not {self.eval_steps}",
            ),
            (
                not self.eval_fraction or self.eval_groups is None,
                "--eval-fraction and --eval-groups exclude each other",
            ),
            (
                self.evaluates or self.eval_steps is None,
                "--eval-steps needs --eval-fraction or --eval-groups",
            ),
            (
                self.early_stopping_patience is None or self.early_stopping_patience >= 1,
                f"--early-stopping-patience must be 1 or more, not {self.early_stopping_patience}",
            ),
            (
                self.evaluates or self.early_stopping_patience is None,
                "--early-stopping-patience needs --eval-fraction or --eval-groups",
            ),
            (
                self.max_hours is None or self.max_hours > 0,
                f"--max-hours must be above 0, not {self.max_hours}",
            ),
            (
                self.eval_reference is None or self.eval_groups is not None,
                "--eval-reference needs --eval-groups",
            ),
            (
                len(self.report_to) == 1 or "none" not in self.report_to,
                "--report-to none stands alone",
            ),
        )
        return [
            *found,
            *self._objective_problems(),
            *(sentence for holds, sentence in checks if not holds),
        ]

    def _objective_problems(self) -> list[str]:
        try:
            objective_of(self.target, self.objective)
        except UsageError as error:
            return [f"{error}; {error.hint}"]
        if self.target == "reward":
            references = {
                "--reference": self.reference,
                "--reference-model": self.reference_model,
                "--eval-reference": self.eval_reference,
            }
            found = [
                f"{flag} is of no use: a reward model has no reference"
                for flag, value in references.items()
                if value
            ]
            if self.load_in_4bit:
                found.append(
                    "--load-in-4bit: a reward model is saved whole and merged, which 4-bit weights cannot be"
                )
            if self.on_too_long == "truncate":
                found.append(
                    "--on-too-long truncate: a reward model reads whole conversations, as score gives it; drop or error"
                )
            return found
        return []

    def identity(self) -> dict[str, Any]:
        """Return what can change the result. Younger fields that were left alone are not mentioned, as before they were there."""
        default = {item.name: item.default for item in fields(self) if item.name in YOUNGER}
        return {
            name: value
            for name, value in super().identity().items()
            if name not in default or value != default[name]
        }

    @property
    def evaluates(self) -> bool:
        """Whether anything is held out."""
        return self.eval_fraction > 0 or self.eval_groups is not None

    def _given_lora(self) -> bool:
        return (
            self.lora_alpha is not None or self.lora_dropout > 0 or bool(self.lora_target_modules)
        )
