"""What differs between training a policy and training a reward model, outside the steps themselves.

A trainable model reads rows as groups of tokens, is loaded, tells the trainer how its output is
scored, and is saved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import UsageError
from prefpipe.maths.objectives.registry import Objective
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.training_groups import groups_for
from prefpipe.stages.train.conversations import conversations_of
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.training.forward import share_prompts
from prefpipe.training.groups import ROLES, Group, missing_pair, missing_role
from prefpipe.training.head_scores import share_conversations
from prefpipe.training.policy import (
    LoraSettings,
    Policy,
    check_lora,
    load_policy,
    model_card,
    save_policy,
)
from prefpipe.training.ranks import cuts_weights
from prefpipe.training.reward_model import (
    finished_reward_model,
    load_reward_model,
    load_reward_tokenizer,
    longest_conversation,
    require_reward_start,
)
from prefpipe.training.scoring import PolicyScoring, RewardScoring, Scoring
from prefpipe.training.settings import TrainSettings
from prefpipe.training.trainer import GroupTrainer


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """The starting model, and which of its weights are trained.

    ``target``: ``policy`` or ``reward``. ``lora``: the adapters, None if all weights are
    trained. ``max_length``: longest prompt plus response, in tokens.
    """

    target: str
    model: ModelFiles
    lora: LoraSettings | None
    max_length: int
    seed: int
    bf16: bool
    load_in_4bit: bool
    chat_template: Path | None
    trust_remote_code: bool

    @property
    def kind(self) -> str:
        """What the saved folder is called in the run's figures."""
        if self.target == "reward":
            return "reward-model"
        return "model" if self.lora is None else "adapter"


class Trainable(Protocol):
    """A model that can be trained."""

    @property
    def max_length(self) -> int:
        """Longest prompt plus response, in tokens."""

    @property
    def roles(self) -> Sequence[str]:
        """Roles of the responses that are trained on."""

    def missing(self, group: Group) -> str | None:
        """Name what a group lacks to be trained on."""

    def groups(self, rows: Sequence[Row], source: Artifact) -> list[Group]:
        """Return the rows' groups as tokens."""

    def load(self) -> Policy:
        """Load the model and its tokenizer for training."""

    def share(self, model: Any) -> str | None:
        """Prepare the model to compute each prompt once, or say why that is impossible."""

    def scoring(self, settings: TrainSettings, eval_groups: Sequence[Group]) -> Scoring:
        """Return how the trainer computes scores, losses and measures from the model's output."""

    def calibration(self, trainer: GroupTrainer) -> dict[str, Any] | None:
        """Return the trained model's calibration on the evaluated pairs, None if it has none."""

    def save(
        self,
        trained: Policy,
        folder: Path,
        facts: dict[str, Any],
        weights: dict[str, Any] | None,
        *,
        trains_on: bool = False,
    ) -> None:
        """Write the model into a folder.

        ``facts``: the run's facts for the model card. ``weights``: all of them, if the object's own
        are sharded over several devices. ``trains_on``: keep the trained object intact; else it may
        be consumed.
        """


@dataclass(frozen=True)
class TrainablePolicy:
    """A language model, trained on the tokens that it sampled itself if they are stored."""

    start: StartSettings
    roles: Sequence[str]
    log: Callable[[str], None]

    @property
    def max_length(self) -> int:
        """The length that was requested."""
        return self.start.max_length

    def missing(self, group: Group) -> str | None:
        """Name the missing role: most objectives compare positives with negatives."""
        return missing_role(group, self.roles)

    def groups(self, rows: Sequence[Row], source: Artifact) -> list[Group]:
        """Return the groups with stored ids, or tokenised again."""
        return groups_for(
            rows,
            source,
            self.start.model,
            self.log,
            trust_remote_code=self.start.trust_remote_code,
        )

    def load(self) -> Policy:
        """Load the policy."""
        return load_policy(
            self.start.model,
            lora=self.start.lora,
            bf16=self.start.bf16,
            seed=self.start.seed,
            load_in_4bit=self.start.load_in_4bit,
            trust_remote_code=self.start.trust_remote_code,
        )

    def share(self, model: Any) -> str | None:
        """Prepare the model for packed rows."""
        return share_prompts(model)

    def scoring(self, settings: TrainSettings, _eval_groups: Sequence[Group]) -> Scoring:
        """Return scores computed from log-probabilities."""
        return PolicyScoring(settings.objective, settings.knobs, sft_weight=settings.sft_weight)

    def calibration(self, _trainer: GroupTrainer) -> None:
        """Return nothing: the scores of a policy are relative to a reference."""

    def save(
        self,
        trained: Policy,
        folder: Path,
        facts: dict[str, Any],
        weights: dict[str, Any] | None,
        *,
        trains_on: bool = False,  # noqa: ARG002 - a policy is as it was in any case
    ) -> None:
        """Write the policy, or its adapter."""
        card = model_card(trained, self.start.model, facts)
        save_policy(trained, folder, card, weights=weights)


@dataclass(frozen=True)
class TrainableRewardModel:
    """A sequence classifier with one output, on whole conversations in its own chat template."""

    start: StartSettings
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    max_length: int
    log: Callable[[str], None]

    @property
    def roles(self) -> Sequence[str]:
        """Both, because it learns from pairs."""
        return ROLES

    def missing(self, group: Group) -> str | None:
        """Say that there is no pair: a reward model learns only from pairs."""
        return missing_pair(group)

    def groups(self, rows: Sequence[Row], _source: Artifact) -> list[Group]:
        """Return the groups as templated conversations; stored ids are a policy's."""
        groups = conversations_of(rows, self.template)

        kept = [row for row in rows if row["role"] is not None]
        n_with_control_text = sum(self.template.holds_control_text(row["response"]) for row in kept)
        for note in self.template.note_on_control_text(n_with_control_text, len(kept)):
            self.log(note)
        return groups

    def load(self) -> Policy:
        """Load the classifier, with a new head if it has none.

        Raises:
            UsageError: adapters, which are merged in the end, over weights that are cut over
                several devices.
        """
        if self.start.lora is not None and cuts_weights():
            raise UsageError(
                "--lora-r of a reward model is merged when it is saved, which FSDP and ZeRO-3 do "
                "not allow",
                hint="use `prefpipe launch-config ddp` or zero2, or leave out --lora-r",
            )
        return load_reward_model(
            self.start.model,
            self.tokenizer,
            lora=self.start.lora,
            seed=self.start.seed,
            trust_remote_code=self.start.trust_remote_code,
        )

    def share(self, model: Any) -> str | None:
        """Prepare the model for packed rows."""
        return share_conversations(model)

    def scoring(self, settings: TrainSettings, eval_groups: Sequence[Group]) -> Scoring:
        """Return scores of the head, and the calibration of evaluated pairs."""
        width = max((len(group.responses) for group in eval_groups), default=0)
        return RewardScoring(settings.objective, settings.knobs, width=width)

    def calibration(self, trainer: GroupTrainer) -> dict[str, Any] | None:
        """Return the calibration of the model that is saved.

        It is measured now unless the last evaluation measured that model.
        """
        scoring = trainer.scoring
        assert isinstance(scoring, RewardScoring)
        if trainer.eval_dataset is None:
            return None

        state = trainer.state
        saved_step = state.global_step
        if trainer.args.load_best_model_at_end and state.best_global_step:
            saved_step = state.best_global_step
        evaluated_steps = [entry["step"] for entry in state.log_history if "eval_loss" in entry]

        # Early stopping may have taken another model, and a run may have gone on from its last
        # step.
        if scoring.calibration is None or evaluated_steps[-1:] != [saved_step]:
            trainer.predict(trainer.eval_dataset)
        return scoring.calibration

    def save(
        self,
        trained: Policy,
        folder: Path,
        facts: dict[str, Any],
        weights: dict[str, Any] | None,
        *,
        trains_on: bool = False,
    ) -> None:
        """Write the whole model, adapters merged."""
        merged = finished_reward_model(trained, trains_on=trains_on)
        card = model_card(merged, self.start.model, facts, kind="A reward model")
        save_policy(merged, folder, card, weights=weights)


def open_trainable(
    start: StartSettings, objective: Objective, log: Callable[[str], None]
) -> Trainable:
    """Return a policy, or a reward model with its tokenizer and chat template.

    Args:
        start: what is trained.
        objective: says which roles are.
        log: takes lines that a user should read about the model.

    Raises:
        ModelError: a reward model's template fails on a question and its answer.
    """
    if start.target == "policy":
        return TrainablePolicy(start, objective.roles, log)

    tokenizer = load_reward_tokenizer(
        start.model, chat_template=start.chat_template, trust_remote_code=start.trust_remote_code
    )
    template = ChatTemplate(tokenizer, today=start.model.template_date)
    limit = longest_conversation(start.model, tokenizer, trust_remote_code=start.trust_remote_code)
    if limit < start.max_length:
        log(
            f"{start.model.requested} reads at most {limit} tokens: --max-length "
            f"{start.max_length} is lowered to {limit}"
        )
    return TrainableRewardModel(start, tokenizer, template, min(start.max_length, limit), log)


def check_start(start: StartSettings) -> None:
    """Refuse a model that the target cannot start from, and adapters that it cannot have.

    No weights are loaded.

    Raises:
        ModelError: no chat template, or a kind of model that the target does not start from.
        UsageError: a chat template that cannot be read, or adapters as `check_lora` refuses them.
    """
    if start.target == "reward":
        require_reward_start(start.model, start.chat_template)
        return

    require_chat_template(start.model)
    if start.lora is not None:
        check_lora(
            start.model,
            start.lora,
            load_in_4bit=start.load_in_4bit,
            trust_remote_code=start.trust_remote_code,
        )
