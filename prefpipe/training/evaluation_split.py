"""Which prompts are held out of training for evaluation.

The seed and a prompt's own id alone decide whether it is held out, not the order of rows, the
parts, the objective, or the other prompts. So two runs with the same seed hold out the same
prompts, and more data does not move the old ones.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from prefpipe.errors import InputError
from prefpipe.training.groups import Group, PreparedGroups, ResponseStatus

HELD_OUT = "held_out"

N_NAMED = 3
"""The most prompts in both sets that a message names."""


class HasPrompt(Protocol):
    """Anything that belongs to one prompt: a group, a pair."""

    @property
    def prompt_id(self) -> str:
        """Key of the prompt."""


Item = TypeVar("Item", bound=HasPrompt)


class Split(NamedTuple):
    """The training set, with every response's status, and the evaluation set."""

    train: PreparedGroups
    evaluation: list[Group]


def place_of(prompt_id: str, seed: int) -> float:
    """Return a prompt's place in [0, 1): prompts below the fraction are held out.

    It is 53 bits of ``sha256(["eval", seed, prompt_id])``.
    """
    digest = hashlib.sha256(json.dumps(["eval", seed, prompt_id]).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def split_groups(
    items: Sequence[Item], fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Return (train, evaluation), both in the order they came in.

    All items of a prompt are in the same one.

    Args:
        items: groups, or anything else that has a ``prompt_id``.
        fraction: expected share of held-out prompts, in [0, 1); 0 holds out nothing.
        seed: another seed holds out other prompts.

    Raises:
        InputError: one of the two is empty.
    """
    if fraction <= 0:
        return list(items), []

    train: list[Item] = []
    evaluation: list[Item] = []
    for item in items:
        is_held_out = place_of(item.prompt_id, seed) < fraction
        (evaluation if is_held_out else train).append(item)

    if not train or not evaluation:
        n_prompts = len({item.prompt_id for item in items})
        empty = "evaluate" if train else "train"
        raise InputError(
            f"--eval-fraction {fraction:g} of {n_prompts} prompts leaves none to {empty} on",
            hint="change --eval-fraction or --seed, or pass held-out prompts with --eval-groups",
        )
    return train, evaluation


def hold_out(prepared: PreparedGroups, fraction: float, seed: int) -> Split:
    """Split prepared groups.

    Responses for evaluation get the status ``held_out``; dropped ones keep their status.

    Raises:
        InputError: one of the two is empty.
    """
    train, evaluation = split_groups(prepared.groups, fraction, seed)

    statuses = dict(prepared.statuses)
    for group in evaluation:
        for response in group.responses:
            key = group.prompt_id, response.sample_idx
            reason = "evaluated on"
            if statuses[key].reason is not None:
                reason = f"evaluated on, truncated: {statuses[key].reason}"
            statuses[key] = ResponseStatus(HELD_OUT, reason)

    return Split(PreparedGroups(train, statuses), evaluation)


def refuse_shared_prompts(
    train: Sequence[HasPrompt], evaluation: Sequence[HasPrompt], name: str
) -> None:
    """Refuse an evaluation set that has a prompt of the training set.

    Raises:
        InputError: states how many prompts are in both, and names the first.
    """
    evaluated = {item.prompt_id for item in evaluation}
    shared = sorted(evaluated & {item.prompt_id for item in train})
    if not shared:
        return

    shown = ", ".join(shared[:N_NAMED])
    if len(shared) > N_NAMED:
        shown += ", ..."
    raise InputError(
        f"{len(shared)} of the {len(evaluated)} prompts of {name} are also trained on: {shown}",
        hint="pass other prompts with --eval-groups, or hold some out with --eval-fraction",
    )
