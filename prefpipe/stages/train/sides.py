"""What differs between training a policy and training a reward model, outside the steps themselves.

A side reads rows as groups of tokens, loads the model, says how the trainer is to look at it, and saves it.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Protocol

from prefpipe.artifacts.store import Artifact
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import UsageError
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.runtime import Runtime
from prefpipe.stages.shared.training_groups import groups_for
from prefpipe.stages.train.conversations import conversations_of
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.training.forward import share_prompts
from prefpipe.training.groups import Group, lacks_pair, lacks_role
from prefpipe.training.head_scores import share_conversations
from prefpipe.training.policy import LoraSettings, Policy, load_policy, model_card, save_policy
from prefpipe.training.ranks import cuts_weights
from prefpipe.training.reward_model import (
    finished_reward_model,
    load_reward_model,
    load_reward_tokenizer,
    longest_conversation,
    read_template,
    require_reward_start,
)
from prefpipe.training.settings import TrainSettings
from prefpipe.training.targets import PolicyTarget, RewardTarget, Target
from prefpipe.training.trainer import GroupTrainer


class Side(Protocol):
    """What is trained. ``max_length``: longest prompt plus response, in tokens."""

    max_length: int

    def lacks(self, group: Group) -> str | None:
        """Name what a group needs to be trained on and lacks."""

    def groups(self, rows: Sequence[Row], source: Artifact) -> list[Group]:
        """Return the rows' groups as tokens."""

    def load(self, lora: LoraSettings | None) -> Policy:
        """Load the model and its tokenizer for training."""

    def share(self, model: Any) -> str | None:
        """Prepare the model so that each prompt is computed once, or say why it cannot be."""

    def target(self, settings: TrainSettings, eval_groups: Sequence[Group]) -> Target:
        """Return how the trainer makes scores, losses and measures of what the model says."""

    def calibration(self, trainer: GroupTrainer) -> dict[str, Any] | None:
        """Return the calibration of the trained model on the evaluated pairs, None where it has none."""

    def save(self, trained: Policy, facts: dict[str, Any], weights: dict[str, Any] | None) -> None:
        """Write the result into the output folder; the trained object may be used up.

        ``weights``: all of them, where the object's own are cut over several devices.
        """


class PolicySide:
    """A language model, on the tokens that it sampled itself where they are stored."""

    def __init__(self, config: TrainConfig, model: ModelFiles, runtime: Runtime) -> None:
        self.config, self.model, self.runtime = config, model, runtime
        self.max_length = config.max_length

    def lacks(self, group: Group) -> str | None:
        """Name the role that is lacking: objectives of a group compare positives with negatives."""
        return lacks_role(group)

    def groups(self, rows: Sequence[Row], source: Artifact) -> list[Group]:
        """Return the groups with stored ids, or tokenised again."""
        return groups_for(
            rows,
            source,
            self.model,
            self.runtime.log,
            trust_remote_code=self.config.trust_remote_code,
        )

    def load(self, lora: LoraSettings | None) -> Policy:
        """Load the policy."""
        config = self.config
        return load_policy(
            self.model,
            lora=lora,
            bf16=config.bf16,
            seed=config.seed,
            load_in_4bit=config.load_in_4bit,
            trust_remote_code=config.trust_remote_code,
        )

    def share(self, model: Any) -> str | None:
        """Prepare the model for packed rows."""
        return share_prompts(model)

    def target(self, settings: TrainSettings, _eval_groups: Sequence[Group]) -> Target:
        """Return scores made of log-probabilities."""
        return PolicyTarget(settings.objective, settings.knobs)

    def calibration(self, _trainer: GroupTrainer) -> None:
        """Return nothing: the scores of a policy are relative to a reference."""

    def save(self, trained: Policy, facts: dict[str, Any], weights: dict[str, Any] | None) -> None:
        """Write the policy, or its adapter."""
        save_policy(
            trained, self.config.output, model_card(trained, self.model, facts), weights=weights
        )


class RewardSide:
    """A sequence classifier with one output, on whole conversations in its own chat template."""

    def __init__(self, config: TrainConfig, model: ModelFiles, runtime: Runtime) -> None:
        self.config, self.model, self.runtime = config, model, runtime
        self.tokenizer = load_reward_tokenizer(
            model, chat_template=config.chat_template, trust_remote_code=config.trust_remote_code
        )
        self.template = ChatTemplate(self.tokenizer, today=model.template_date)
        limit = longest_conversation(
            model, self.tokenizer, trust_remote_code=config.trust_remote_code
        )
        self.max_length = min(config.max_length, limit)
        if limit < config.max_length:
            runtime.log(
                f"{model.requested} reads {limit} tokens at most: --max-length {config.max_length} is {limit}"
            )

    def lacks(self, group: Group) -> str | None:
        """Say that there is no pair: whatever roles are left, pairs are all that a reward model learns from."""
        return lacks_pair(group)

    def groups(self, rows: Sequence[Row], _source: Artifact) -> list[Group]:
        """Return the groups as templated conversations; stored ids are a policy's."""
        groups = conversations_of(rows, self.template)
        kept = [row for row in rows if row["role"] is not None]
        n_with_control_text = sum(self.template.holds_control_text(row["response"]) for row in kept)
        for note in self.template.note_on_control_text(n_with_control_text, len(kept)):
            self.runtime.log(note)
        return groups

    def load(self, lora: LoraSettings | None) -> Policy:
        """Load the classifier, with a fresh head where it has none.

        Raises:
            UsageError: adapters, which are merged in the end, over weights that are cut over several devices.
        """
        if lora is not None and cuts_weights():
            raise UsageError(
                "--lora-r of a reward model is merged when it is saved, which FSDP and ZeRO-3 do not allow",
                hint="use `prefpipe launch-config ddp` or zero2, or leave out --lora-r",
            )
        config = self.config
        return load_reward_model(
            self.model,
            self.tokenizer,
            lora=lora,
            seed=config.seed,
            trust_remote_code=config.trust_remote_code,
        )

    def share(self, model: Any) -> str | None:
        """Prepare the model for packed rows."""
        return share_conversations(model)

    def target(self, settings: TrainSettings, eval_groups: Sequence[Group]) -> Target:
        """Return scores of the head, and the calibration of evaluated pairs."""
        width = max((len(group.responses) for group in eval_groups), default=0)
        return RewardTarget(settings.objective, settings.knobs, width=width)

    def calibration(self, trainer: GroupTrainer) -> dict[str, Any] | None:
        """Return the calibration of the model that is saved, measured now unless the last evaluation was of it."""
        target = trainer.target
        assert isinstance(target, RewardTarget)
        if trainer.eval_dataset is None:
            return None
        state = trainer.state
        evaluated = [entry["step"] for entry in state.log_history if "eval_loss" in entry]
        saved = (
            state.best_global_step
            if trainer.args.load_best_model_at_end and state.best_global_step
            else state.global_step
        )
        if target.calibration is None or evaluated[-1:] != [saved]:
            trainer.predict(
                trainer.eval_dataset
            )  # early stopping took another model, or a run went on from its last step
        return target.calibration

    def save(self, trained: Policy, facts: dict[str, Any], weights: dict[str, Any] | None) -> None:
        """Write the whole model, adapters merged."""
        merged = finished_reward_model(trained)
        card = model_card(merged, self.model, facts, kind="A reward model")
        save_policy(merged, self.config.output, card, weights=weights)


def side_of(config: TrainConfig, model: ModelFiles, runtime: Runtime) -> Side:
    """Return the side that ``--target`` names."""
    return (RewardSide if config.target == "reward" else PolicySide)(config, model, runtime)


def require_start(config: TrainConfig, model: ModelFiles) -> None:
    """Refuse a model that the target cannot be trained from, before anything is loaded.

    Raises:
        ModelError: no chat template, or a kind of model that the target does not start from.
        UsageError: a chat template that cannot be read.
    """
    if config.target == "reward":
        require_reward_start(model, config.chat_template)
    else:
        require_chat_template(model)


def template_identity(config: TrainConfig) -> dict[str, str]:
    """Return what ``--chat-template`` adds to the run's identity: the text's hash, not the path."""
    if config.chat_template is None:
        return {}
    return {"chat_template": sha256(read_template(config.chat_template).encode()).hexdigest()}
