"""The knobs of ``prefpipe train``.

A knob or learning setting that is not given takes the objective's own start value;
``docs/explanation/objectives.md`` lists them. The knobs of objectives, and what is said of them,
come from the table in ``prefpipe.maths.objectives.registry``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.options import option
from prefpipe.configs.stage import TEMPLATE_HEADING
from prefpipe.configs.template_args import PolicyTemplateConfig
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

YOUNGER = (
    "load_in_4bit",
    "eval_fraction",
    "early_stopping_patience",
    "sft_weight",
    "weight_by",
    "warmup_steps",
)
"""Identity fields that came after runs were on disk."""

AUTO = "auto"
"""Of ``--gamma``: chosen by what a point is worth, or by the raters' agreement."""

POINT_WINS_HELP = (
    "with --gamma auto: share of the time, such as 0.75, that a response rated one point higher "
    "wins"
)
RATER_SCORES_HELP = (
    "with --gamma auto: scores of the same responses by two or more raters, to fit gamma to their "
    "agreement"
)
WEIGHT_BY_HELP = (
    "weight of prompts and pairs in the loss: an expression over the groups' columns, margin, "
    "chosen_COLUMN and rejected_COLUMN; default: equal weights"
)
"""What ``check``, which looks ahead, says of a flag as well."""

SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")


def _objectives_by_target() -> str:
    """Return the names for each target, the default marked: mmpo is one of both."""
    lists = []
    for target, names in TARGETS.items():
        shown = [f"{name} (default)" if name == DEFAULTS[target] else name for name in names]
        lists.append(f"{target}: {', '.join(shown)}")
    return ";\n".join(lists)


_OBJECTIVES_BY_TARGET = _objectives_by_target()


def knob_option(
    name: str, *, more: str = "", metavar: str | None = None, common: bool = False
) -> Any:
    """Declare the flag of a knob as the objectives that have it declare the knob.

    The help says what it means to each of them, a line for each meaning, and the choices are
    theirs; ``more`` is the last line.
    """
    owners_by_meaning: dict[str, list[str]] = {}
    choices: dict[str, None] = {}
    for owner, knob in owners_of(name):
        owners = owners_by_meaning.setdefault(knob.help, [])
        flag_name = find_objective(owner).flag_name
        if flag_name not in owners:
            owners.append(flag_name)
        choices |= dict.fromkeys(knob.choices)

    if len(owners_by_meaning) == 1:
        ((meaning, owners),) = owners_by_meaning.items()
        lines = [f"{meaning} ({_owner_words(owners)})"]
    else:
        # a semicolon parts the lines where they are joined
        lines = []
        for meaning, owners in owners_by_meaning.items():
            lines.append(f"{', '.join(owners)}: {meaning.replace(';', ',')}")
    if more:
        lines.append(more)
    return option(
        None, choices=tuple(choices), help=";\n".join(lines), metavar=metavar, common=common
    )


def _owner_words(owners: list[str]) -> str:
    """Return the objectives that have a knob, or the few that have not."""
    others = [name for name in OBJECTIVES if name not in owners]
    if len(others) < 4:
        *first, last = others
        return f"all of a policy but {', '.join(first)} and {last}"
    return ", ".join(owners)


def gamma_problems(
    objective: str | None,
    gamma: str | None,
    point_wins: float | None,
    rater_scores: Location | None,
) -> list[str]:
    """Return what is wrong with gamma, as text, and with what it is chosen by."""
    choosers = {"--point-wins": point_wins, "--rater-scores": rater_scores}
    given = [flag for flag, value in choosers.items() if value is not None]
    if gamma != AUTO:
        problems = [f"{flag} goes together with --gamma auto" for flag in given]
        if gamma is not None and not _is_finite(gamma):
            problems.append(f"--gamma must be a finite number or auto, not {gamma!r}")
        return problems

    problems = []
    if objective != "mmpo":
        problems.append("--gamma auto belongs to --objective mmpo")
    if len(given) != 1:
        problems.append(f"--gamma auto needs one of {' and '.join(choosers)}")
    return problems


def _is_finite(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class TrainConfig(PolicyTemplateConfig):
    """Train a policy or a reward model on the groups.

    Writes a Hugging Face model folder, or a LoRA adapter. Settings without a default use the
    objective's own: `prefpipe objectives NAME` shows them.
    """

    stage: ClassVar[str] = "train"
    VERSION: ClassVar[int] = 1
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "model", "overwrite", "allow_partial"),
        "What is trained, and with which loss": (
            "target",
            "objective",
            "beta",
            "gamma",
            "point_wins",
            "rater_scores",
            "alpha",
            "deviation",
            "comparison",
            "length_normalise",
            "eos_weight",
            "eta",
            "form",
            "eps",
            "tau",
            "weight",
            "sft_weight",
            "weight_by",
            "reference",
            "reference_model",
        ),
        "Optimisation": (
            "learning_rate",
            "num_train_epochs",
            "max_steps",
            "global_batch_size",
            "max_length",
            "on_too_long",
            "lr_scheduler_type",
            "warmup_ratio",
            "warmup_steps",
            "weight_decay",
            "max_grad_norm",
            "seed",
        ),
        "LoRA": ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "load_in_4bit"),
        "Memory and speed": (
            "bf16",
            "gradient_checkpointing",
            "max_batch_tokens",
            "per_device_train_batch_size",
            "shared_prompt",
        ),
        "Evaluation": (
            "eval_fraction",
            "eval_groups",
            "eval_reference",
            "eval_steps",
            "early_stopping_patience",
        ),
        "Checkpoints, metrics and stopping": (
            "save_steps",
            "save_total_limit",
            "keep_step",
            "resume_from",
            "max_hours",
            "logging_steps",
            "report_to",
        ),
        TEMPLATE_HEADING: ("chat_template", "template_arg", "template_date", "trust_remote_code"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe train run/groups -o run/policy --model Qwen/Qwen3-4B --objective ampo "
            "--lora-r 16"
        ),
        (
            "prefpipe train run/groups -o run/reward-model --model Qwen/Qwen3-4B --target reward "
            "--bf16"
        ),
    )

    output: Path = option(
        common=True,
        help="folder of the artifact to write",
        identity=False,
        flag="-o",
        metavar="DIR",
    )
    groups: Location = option(
        positional=True,
        identity=False,
        metavar="GROUPS",
        common=True,
        help="folder written by select",
    )
    model: str = option(
        identity=False,
        metavar="MODEL",
        common=True,
        help="the model to start from: a folder, bundled:NAME, org/name[@revision], or an adapter",
    )
    target: str = option(
        "policy", choices=tuple(TARGETS), common=True, help="train a policy, or a reward model"
    )
    objective: str | None = option(
        None,
        choices=OFFERED,
        metavar="NAME",
        common=True,
        help=f"loss to train with (`prefpipe objectives` explains each);\n{_OBJECTIVES_BY_TARGET}",
    )
    chat_template: Path | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="chat template of the reward model, to replace the model's own; needs --target reward",
    )
    beta: float | None = knob_option("beta", common=True)
    gamma: str | None = knob_option(
        "gamma", more="auto (mmpo): from --point-wins or --rater-scores", metavar="X", common=True
    )
    point_wins: float | None = option(
        None, identity=False, above=0.5, below=1, help=POINT_WINS_HELP
    )
    rater_scores: Location | None = option(
        None, identity=False, metavar="DIR", help=RATER_SCORES_HELP
    )
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
    sft_weight: float = option(
        0.0,
        minimum=0,
        help="weight of an added term: the mean negative log-likelihood per token of the "
        "positives; 0 is off",
    )
    weight_by: str | None = option(None, metavar="EXPRESSION", help=WEIGHT_BY_HELP)
    reference: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="folder written by logprobs: the reference's log-probabilities; default: measured "
        "if needed, in OUTPUT/reference",
    )
    reference_model: str | None = option(
        None,
        identity=False,
        metavar="MODEL",
        help="reference policy: a model, or `base` for the model under an adapter; default: "
        "the model that training starts from",
    )
    learning_rate: float | None = option(
        None,
        above=0,
        common=True,
        help="peak learning rate; default: the objective's, ten times higher with LoRA",
    )
    num_train_epochs: float | None = option(
        None, above=0, common=True, help="passes over the groups; default: the objective's"
    )
    max_steps: int | None = option(None, minimum=1, help="optimizer steps, instead of passes")
    global_batch_size: int | None = option(
        None,
        minimum=1,
        common=True,
        help="prompts per optimizer step, over all devices; default: the objective's",
    )
    per_device_train_batch_size: int = option(
        1,
        identity=False,
        minimum=1,
        help="prompts a device computes at once; changes memory, not the result",
    )
    max_batch_tokens: int = option(
        16_384,
        identity=False,
        minimum=1,
        help="tokens a device computes at once; a longer group takes two passes, with the same "
        "gradient",
    )
    shared_prompt: bool = option(
        True,
        identity=False,
        help="compute each prompt once for all its responses, if the model allows it",
    )
    max_length: int = option(
        2048, minimum=2, common=True, help="longest prompt plus response, in tokens"
    )
    on_too_long: str = option(
        "drop", choices=("drop", "truncate", "error"), help="what to do with a longer response"
    )
    lr_scheduler_type: str = option(
        "cosine", choices=SCHEDULES, help="shape of the learning rate after warm-up"
    )
    warmup_ratio: float | None = option(
        None,
        minimum=0,
        below=1,
        help="share of the steps over which the learning rate rises; default: the objective's",
    )
    warmup_steps: int | None = option(
        None,
        minimum=0,
        help="steps over which the learning rate rises, instead of --warmup-ratio",
    )
    weight_decay: float = option(0.0, minimum=0, help="decoupled weight decay of AdamW")
    max_grad_norm: float = option(1.0, above=0, help="clip gradients to this norm")
    seed: int = option(
        0,
        minimum=0,
        maximum=2**32 - 1,
        common=True,
        help="seed of the prompt order and of LoRA's initial weights",
    )
    bf16: bool = option(
        False, common=True, help="compute in bfloat16; trained weights stay float32"
    )
    gradient_checkpointing: bool = option(
        False, identity=False, common=True, help="recompute activations to save memory"
    )
    lora_r: int = option(
        0, minimum=0, common=True, help="rank of LoRA adapters, 0 trains all weights"
    )
    lora_alpha: float | None = option(None, help="scale of LoRA adapters; default: 2 x rank")
    lora_dropout: float = option(
        0.0, minimum=0, below=1, help="dropout in LoRA adapters; nothing else has dropout"
    )
    lora_target_modules: tuple[str, ...] = option(
        (), help="layers to adapt; repeatable; default: every linear layer"
    )
    load_in_4bit: bool = option(
        False,
        help="hold the frozen base under LoRA adapters in 4 bits (QLoRA); needs the extra `qlora`",
    )
    eval_fraction: float = option(
        0.0,
        minimum=0,
        below=1,
        common=True,
        help="share of the prompts to hold out for evaluation, drawn by --seed and prompt_id; "
        "0: none",
    )
    eval_groups: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="groups of other prompts to evaluate on, instead of --eval-fraction",
    )
    eval_reference: Location | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="folder written by logprobs for --eval-groups; default: measured in "
        "OUTPUT/reference-eval",
    )
    eval_steps: int | None = option(
        None,
        identity=False,
        minimum=1,
        help="optimizer steps between evaluations; default: a tenth of the run",
    )
    early_stopping_patience: int | None = option(
        None,
        minimum=1,
        help="stop after this many evaluations without a better held-out accuracy (sft: loss), "
        "and save the best model",
    )
    max_hours: float | None = option(
        None,
        identity=False,
        above=0,
        help="hours this call may run: save and exit with code 75 before then; the same "
        "command resumes; default: no limit",
    )
    save_steps: int = option(
        100,
        identity=False,
        minimum=1,
        help="optimizer steps between checkpoints: a crash loses at most these; each checkpoint "
        "holds weights and optimizer state",
    )
    save_total_limit: int = option(2, identity=False, minimum=1, help="checkpoints to keep")
    keep_step: tuple[int, ...] = option(
        (),
        identity=False,
        minimum=1,
        metavar="N",
        help="also write the model after N optimizer steps, to OUTPUT/step-0000N; repeatable",
    )
    logging_steps: int = option(
        1,
        identity=False,
        minimum=1,
        help="optimizer steps between rows of the metrics; checkpoints and evaluations always "
        "have one",
    )
    report_to: tuple[str, ...] = option(
        ("tensorboard",),
        identity=False,
        help="experiment trackers; repeatable",
        choices=("tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "none"),
    )
    resume_from: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="checkpoint to resume from; default: the last complete one in the output",
    )
    allow_partial: bool = option(
        False, identity=False, help="train on the parts of the groups that exist"
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")

    def problems(self) -> list[str]:
        return [
            *super().problems(),
            *self._objective_problems(),
            *gamma_problems(self.objective, self.gamma, self.point_wins, self.rater_scores),
            *self._length_of_run_problems(),
            *self._adapter_problems(),
            *self._evaluation_problems(),
        ]

    def _objective_problems(self) -> list[str]:
        """Return what does not go with the target or its objective."""
        # alone: what goes with an objective that the target does not have is not to be said
        try:
            objective_of(self.target, self.objective)
        except UsageError as error:
            return [f"{error}; {error.hint}"]

        problems = []
        if self.objective == "sft" and self.sft_weight:
            problems.append("--sft-weight has no effect: --objective sft consists of that term")
        if self.reference is not None and self.reference_model is not None:
            problems.append("--reference and --reference-model exclude each other")
        if self.target != "reward":
            if self.chat_template is not None:
                problems.append("--chat-template needs --target reward")
            return problems

        references = {
            "--reference": self.reference,
            "--reference-model": self.reference_model,
            "--eval-reference": self.eval_reference,
        }
        for flag, value in references.items():
            if value:
                problems.append(f"{flag} has no effect: a reward model has no reference")
        if self.template_arg:
            problems.append(
                "--template-arg has no effect: it is for the policy's template, and a reward model "
                "uses its own template's default"
            )
        if self.sft_weight:
            problems.append(
                "--sft-weight has no effect: a reward model gives responses no likelihood"
            )
        if self.load_in_4bit:
            problems.append(
                "--load-in-4bit: a reward model is merged and saved whole, and 4-bit weights "
                "cannot be merged"
            )
        if self.on_too_long == "truncate":
            problems.append(
                "--on-too-long truncate: a reward model reads whole conversations; use drop or "
                "error"
            )
        return problems

    def _length_of_run_problems(self) -> list[str]:
        problems = []
        if self.max_steps is not None and self.num_train_epochs is not None:
            problems.append("--max-steps and --num-train-epochs exclude each other")
        if self.max_steps is not None and max(self.keep_step, default=0) > self.max_steps:
            problems.append(
                f"--keep-step {max(self.keep_step)} is never reached: the run ends at --max-steps "
                f"{self.max_steps}"
            )
        problems += self._warmup_problems()
        if len(self.report_to) > 1 and "none" in self.report_to:
            problems.append("--report-to none excludes other trackers")
        return problems

    def _warmup_problems(self) -> list[str]:
        problems = []
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            problems.append("--warmup-ratio and --warmup-steps exclude each other")
        # as a share too, but that is the objective's own and was never refused
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            problems.append(
                "--warmup-steps has no effect: --lr-scheduler-type constant has no warm-up; use "
                "constant_with_warmup"
            )
        return problems

    def _adapter_problems(self) -> list[str]:
        if self.lora_r > 0:
            return []
        problems = []
        if self.lora_alpha is not None or self.lora_dropout > 0 or self.lora_target_modules:
            problems.append("--lora-alpha, --lora-dropout and --lora-target-modules need --lora-r")
        if self.load_in_4bit:
            problems.append("--load-in-4bit needs --lora-r: 4-bit weights are not trained")
        return problems

    def _evaluation_problems(self) -> list[str]:
        problems = []
        if self.eval_fraction and self.eval_groups is not None:
            problems.append("--eval-fraction and --eval-groups exclude each other")
        if self.eval_reference is not None and self.eval_groups is None:
            problems.append("--eval-reference needs --eval-groups")
        if not self.evaluates:
            if self.eval_steps is not None:
                problems.append("--eval-steps needs --eval-fraction or --eval-groups")
            if self.early_stopping_patience is not None:
                problems.append("--early-stopping-patience needs --eval-fraction or --eval-groups")
        return problems

    def identity(self) -> dict[str, Any]:
        """Return what can change the result.

        Younger fields that were left alone are not mentioned, as before they were there.
        """
        identity = super().identity()
        for item in fields(self):
            if item.name in YOUNGER and identity[item.name] == item.default:
                del identity[item.name]
        return identity

    @property
    def evaluates(self) -> bool:
        """Whether anything is held out."""
        return self.eval_fraction > 0 or self.eval_groups is not None
