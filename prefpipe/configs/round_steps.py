"""The steps of a plan: the command lines that ``prefpipe rounds`` runs, one after another.

`steps_of` is the one place that makes them. What runs them, prints them or compares them with what
is on disk reads the same list.

Seeds: round r generates, selects and trains with ``seed + 1000 (r - 1)``. Evaluations sample with
``seed + 100`` in every round, so that rounds are compared on the same random numbers.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import local_path
from prefpipe.configs.plan_sections import SECTIONS, words_of
from prefpipe.configs.recorded_commands import Word
from prefpipe.configs.round_plan import (
    ALL,
    SPLIT,
    RoundPlan,
    plan_error,
)
from prefpipe.configs.sampling import SERVED
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import UsageError

FOLDERS = {
    "generate": "candidates",
    "score": "scores",
    "embed": "embeddings",
    "select": "groups",
    "train": "policy",
    "eval": "eval",
}
"""Of a stage, in the folder of its round."""
SEED_STEP = 1000
"""From one round's seed to the next."""
EVAL_SEED = 100
"""Added to the seed where an evaluation samples."""
_LORA_SHAPE = ("lora_r", "lora_alpha", "lora_target_modules")


@dataclass(frozen=True)
class Step:
    """One command of a round.

    Attributes:
        number: of the round, from 1.
        stage: the command.
        arguments: its words, by field.
        config: what the command makes of them.
    """

    number: int
    stage: str
    arguments: tuple[Word, ...]
    config: StageConfig

    @property
    def output(self) -> Path:
        """The folder that it writes."""
        return local_path(self.config.output, "--output")

    @property
    def words(self) -> list[str]:
        """The words after ``prefpipe``."""
        words = [self.stage]
        for argument in self.arguments:
            words += argument.words()
        return words


def round_folder(run: Path, number: int) -> Path:
    """Return the folder of a round."""
    return run / f"round-{number:02d}"


def number_of_folder(name: str) -> int | None:
    """Return the round whose folder `round_folder` calls so, None where it calls none so."""
    match = re.fullmatch(r"round-(0[1-9]|[1-9][0-9])", name)
    return None if match is None else int(match[1])


def output_of(run: Path, number: int, stage: str) -> Path:
    """Return the folder that a stage writes in a round."""
    return round_folder(run, number) / FOLDERS[stage]


def start_of(plan: RoundPlan, run: Path, number: int) -> str:
    """Return what a round samples from and starts its training from."""
    return policy_of(plan, run, number - 1)


def policy_of(plan: RoundPlan, run: Path, number: int) -> str:
    """Return the model that is there after a round: its policy; after round 0 the plan's own."""
    return plan.model if number == 0 else str(output_of(run, number, "train"))


def steps_of(
    plan: RoundPlan, run: Path, *, name: str, overwrite: Overwrite = Overwrite.NO
) -> list[Step]:
    """Return the commands of all rounds, in order.

    Args:
        plan: what is to be run.
        run: the folder of all rounds.
        name: of the plan, for messages.
        overwrite: handed to each command.

    Raises:
        UsageError: values that a command refuses, all at once, with section and round.
    """
    steps: list[Step] = []
    problems: dict[str, int] = {}
    for number in range(1, plan.rounds + 1):
        for stage in plan.stages:
            values = _values(plan, run, number, stage)
            if overwrite:
                values["overwrite"] = str(overwrite)
            try:
                config = SECTIONS[stage].from_values(values)
            except UsageError as error:
                message = error.message
                if "embed" not in plan.sections:
                    message = message.replace("needs --embeddings", "needs the section `embed`")
                problems.setdefault(f"{stage}: {message}", number)
                continue
            arguments = tuple(words_of(SECTIONS[stage], values))
            steps.append(Step(number, stage, arguments, config))

    # once each, of the first round that has it
    lines = [
        problem if number == 1 else f"round {number}, {problem}"
        for problem, number in problems.items()
    ]
    lines += [*_served_problems(plan), *_adapter_problems(plan)]
    if lines:
        raise plan_error(name, lines)
    return steps


def baseline_round(plan: RoundPlan, number: int) -> int:
    """Return the round in which the baseline of a round's evaluation was sampled and rated.

    That is once, and again only where another `eval` section would sample or rate it otherwise.
    """
    while number > 1 and plan.section("eval", number) == plan.section("eval", number - 1):
        number -= 1
    return number


def _values(plan: RoundPlan, run: Path, number: int, stage: str) -> dict[str, Any]:
    """Return what a command is given, by field, in the order in which a person would type it."""
    at = {each: str(output_of(run, number, each)) for each in FOLDERS}
    section = plan.section(stage, number)
    output = {"output": at[stage]}
    seed = {"seed": plan.seed + SEED_STEP * (number - 1)}

    if stage == "generate":
        start = {"model": start_of(plan, run, number)}
        share = {}
        if plan.prompt_use == SPLIT and plan.rounds > 1:
            share = {"prompt_share": f"{number}/{plan.rounds}"}
        return {"prompts": plan.prompts, **output, **start, **share, **section, **seed}

    if stage in ("score", "embed"):
        return {"candidates": at["generate"], **output, **section}

    if stage == "select":
        inputs: dict[str, Any] = {"candidates": at["generate"], "scores": at["score"]}
        if "embed" in plan.sections:
            inputs["embeddings"] = at["embed"]
        if plan.pools == ALL and number > 1:
            inputs["earlier"] = [str(round_folder(run, each)) for each in range(1, number)]
        return {**inputs, **output, **section, **seed}

    if stage == "train":
        start = {"model": start_of(plan, run, number)}
        reference = plan.reference_round(number)
        if reference != number - 1:  # what the training starts from is the command's own default
            start["reference_model"] = policy_of(plan, run, reference)
        return {"groups": at["select"], **output, **start, **section, **seed}

    sides = _sides(plan, run, number, section)
    return {"policy": at["train"], **sides, **output, **section, "seed": plan.seed + EVAL_SEED}


def _sides(plan: RoundPlan, run: Path, number: int, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an evaluation compares with: the model, or what it has sampled in a round."""
    sampled_in = baseline_round(plan, number)
    if sampled_in == number:
        return {"baseline": plan.model}

    baseline = output_of(run, sampled_in, "eval") / "baseline"
    sides = {
        "baseline": str(baseline / "candidates"),
        "baseline_scores": str(baseline / "scores"),
    }
    # of a folder the command does not know the model, and of a served one there is no divergence
    if section.get("kl", True) and section.get("backend") not in SERVED:
        sides["kl_reference"] = plan.model
    return sides


def _served_problems(plan: RoundPlan) -> Iterator[str]:
    """Yield the rounds that would sample from a server, which goes on with its own model."""
    for stage in ("generate", "eval"):
        for number in _rounds_of_change(plan, stage):
            if plan.section(stage, number).get("backend") == "openai":
                place = stage if number == 1 else f"round {number}, {stage}"
                yield (
                    f"{place}: `backend: openai` samples from the model that a server was started "
                    "with, and a round samples from a policy that was just trained; pass vllm or "
                    "transformers"
                )


def _adapter_problems(plan: RoundPlan) -> Iterator[str]:
    """Yield the rounds that would train an adapter further in another shape than it has."""
    for number in _rounds_of_change(plan, "train")[1:]:
        before, now = plan.section("train", number - 1), plan.section("train", number)
        if not before.get("lora_r") or not now.get("lora_r"):
            continue  # an adapter that is not trained further is merged into its base
        for key in _LORA_SHAPE:
            if before.get(key) != now.get(key):
                yield (
                    f"round {number}, train: `{key}` is {now.get(key)} and was {before.get(key)}: "
                    f"the adapter of round {number - 1} is trained further as it is"
                )


def _rounds_of_change(plan: RoundPlan, stage: str) -> Sequence[int]:
    """Return the rounds in which a section is another one than in the round before; 1 first."""
    if stage not in plan.sections:
        return []
    later = range(2, plan.rounds + 1)
    changed = [r for r in later if plan.section(stage, r) != plan.section(stage, r - 1)]
    return [1, *changed]
