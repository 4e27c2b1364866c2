"""Which prompts are kept out of training to be evaluated on.

A prompt's side follows from the seed and its own id, and from nothing else: not from the order of rows, the parts, the
objective, or which other prompts there are. So two runs with the same seed hold out the same prompts, and more data moves none
of the old ones to the other side.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from prefpipe.errors import InputError
from prefpipe.training.groups import Fate, Group, PreparedGroups

HELD_OUT = "held_out"
N_NAMED = 3


class HasPrompt(Protocol):
    """Anything that belongs to one prompt: a group, a pair."""

    @property
    def prompt_id(self) -> str:
        """Key of the prompt."""


Item = TypeVar("Item", bound=HasPrompt)


class Split(NamedTuple):
    """What is trained on, with every response's fate, and what is evaluated on."""

    train: PreparedGroups
    evaluation: list[Group]


def place_of(prompt_id: str, seed: int) -> float:
    """Return a prompt's place in [0, 1): 53 bits of ``sha256(["eval", seed, prompt_id])``. Below the fraction is held out."""
    digest = hashlib.sha256(json.dumps(["eval", seed, prompt_id]).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def split_groups(
    items: Sequence[Item], fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Return (train, evaluation), both in the order they came in; all items of a prompt are on one side.

    Args:
        items: groups, or anything else that has a ``prompt_id``.
        fraction: expected share of prompts that is held out, in [0, 1); 0 holds out nothing.
        seed: another seed holds out other prompts.

    Raises:
        InputError: nothing is left on one of the sides.
    """
    if fraction <= 0:
        return list(items), []
    held = [place_of(item.prompt_id, seed) < fraction for item in items]
    train = [item for item, is_held in zip(items, held, strict=True) if not is_held]
    evaluation = [item for item, is_held in zip(items, held, strict=True) if is_held]
    if not train or not evaluation:
        n_prompts = len({item.prompt_id for item in items})
        raise InputError(
            f"--eval-fraction {fraction:g} of {n_prompts} prompts leaves none to {'evaluate' if train else 'train'} on",
            hint="another --eval-fraction or --seed, or hold prompts out yourself with --eval-groups",
        )
    return train, evaluation


def hold_out(prepared: PreparedGroups, fraction: float, seed: int) -> Split:
    """Split prepared groups; responses that are evaluated on have the fate ``held_out``, those left out keep theirs.

    Raises:
        InputError: nothing is left on one of the sides.
    """
    train, evaluation = split_groups(prepared.groups, fraction, seed)
    fates = dict(prepared.fates)
    for group in evaluation:
        for response in group.responses:
            key = group.prompt_id, response.sample_idx
            reason = fates[key].reason
            fates[key] = Fate(
                HELD_OUT, "evaluated on" if reason is None else f"evaluated on, truncated: {reason}"
            )
    return Split(PreparedGroups(train, fates), evaluation)


def refuse_shared_prompts(
    train: Sequence[HasPrompt], evaluation: Sequence[HasPrompt], name: str
) -> None:
    """Refuse an evaluation set that has a prompt of the training set.

    Raises:
        InputError: how many prompts are on both sides, and the first of them.
    """
    both = sorted({item.prompt_id for item in train} & {item.prompt_id for item in evaluation})
    if both:
        shown = ", ".join(both[:N_NAMED]) + (", ..." if len(both) > N_NAMED else "")
        n_prompts = len({item.prompt_id for item in evaluation})
        raise InputError(
            f"{len(both)} of the {n_prompts} prompts of {name} are trained on as well: {shown}",
            hint="evaluate on other prompts, or hold some of these out with --eval-fraction",
        )
