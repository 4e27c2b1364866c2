"""The cost of training on the kept groups, compared with training on every usable candidate."""

from collections.abc import Mapping
from shlex import quote
from typing import Any, NamedTuple

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.maths.compute.training_compute import (
    TALLIED,
    ModelShape,
    Plan,
    PoolAndKept,
    Recipe,
    TokenSums,
    gpu_hours,
    planned_tokens,
    tallied_tokens,
    training_work,
)

AGAIN_HINT = "run again, with --overwrite, the `prefpipe select` command that made it"


class TrainedModel(NamedTuple):
    """The model's name as given, its shape, and notes on the count.

    ``n_parameters`` are all it has.
    """

    name: str
    shape: ModelShape
    n_parameters: int
    n_active_parameters: int
    notes: tuple[str, ...] = ()


class Machine(NamedTuple):
    """A GPU: its peak in 10^12 FLOP a second, and the share of it that training reaches.

    ``price_per_hour`` if any.
    """

    name: str
    tflops: float
    dtype: str | None
    mfu: float
    price_per_hour: float | None = None


class Basis(NamedTuple):
    """What is compared, its source, and notes on it."""

    sums: PoolAndKept
    source: Mapping[str, Any]
    shared_prompt: bool
    notes: tuple[str, ...]


def basis_of_groups(artifact: Artifact, *, shared_prompt: bool) -> Basis:
    """Return the pool and the kept groups of a selection, from the tallies of its parts on disk.

    Raises:
        InputError: no tally, or no group.
    """
    present = artifact.present(range(artifact.n_parts), allow_partial=True)
    if not present:
        raise InputError(
            f"{artifact.path} has no parts yet",
            hint=f"run `prefpipe status {quote(str(artifact.path))}`",
        )
    tally = artifact.tally(present)
    if any(name not in tally for name in TALLIED):
        raise InputError(f"{artifact.path} has no token sums in its parts", hint=AGAIN_HINT)
    if not tally["n_groups"]:
        raise InputError(
            f"no prompt of {artifact.path} has a group: there is nothing to train on",
            hint=f"run `prefpipe inspect {quote(str(artifact.path))}` to see what select rejected",
        )

    source = {
        "groups": str(artifact.path),
        "n_parts": artifact.n_parts,
        "n_parts_present": len(present),
        "tally": tally,
    }
    sums = tallied_tokens(tally, shared_prompt=shared_prompt)
    notes = _notes_of_tally(tally, artifact.n_parts, len(present))
    return Basis(sums, source, shared_prompt, tuple(notes))


def _notes_of_tally(tally: Mapping[str, float], n_parts: int, n_present: int) -> list[str]:
    """Return notes on sums that parts tallied."""
    notes = ["the full pool is every usable candidate of the prompts that have a group"]
    if n_present < n_parts:
        notes.append(f"these figures cover the {n_present} of {n_parts} parts that are on disk")
    n_rejected = tally["n_prompts"] - tally["n_groups"]
    if n_rejected:
        notes.append(f"{n_rejected:,.0f} prompts without a group are counted on neither side")
    if tally["usable_estimated"]:
        usable = f"{tally['usable_estimated']:,.0f} of {tally['n_usable']:,.0f} usable candidates"
        kept = f"{tally['kept_estimated']:,.0f} of {tally['n_kept']:,.0f} kept ones"
        notes.append(
            f"{usable}, {kept}, have no token counts: their tokens are estimated from characters"
        )
    return notes


def basis_of_plan(plan: Plan, *, shared_prompt: bool) -> Basis:
    """Return the pool and the kept groups of a selection that has not been run."""
    sums = planned_tokens(plan, shared_prompt=shared_prompt)
    note = (
        "an estimate before any run: every prompt gets a group, every candidate is usable and of "
        "mean length"
    )
    return Basis(sums, {"plan": plan._asdict()}, shared_prompt, (note,))


def savings(basis: Basis, model: TrainedModel, recipe: Recipe, machine: Machine) -> dict[str, Any]:
    """Return the work of both trainings and their difference, as JSON values.

    Keys:

    - ``pool``, ``kept`` and ``saved``, each with ``n_prompts``, ``n_responses``,
      ``n_prompt_tokens``, ``n_response_tokens``, ``n_tokens`` (a pass over the data), ``flop`` (all
      passes), ``gpu_hours`` and ``cost`` (null without a price);
    - ``saved_share`` of the FLOP, in [0, 1];
    - ``model``, ``recipe``, ``machine``, ``source`` and ``notes``: what it rests on.
    """
    pool = _costs(basis.sums.pool, model.shape, recipe, machine)
    kept = _costs(basis.sums.kept, model.shape, recipe, machine)
    saved = {}
    for name, whole in pool.items():
        saved[name] = None if whole is None else whole - kept[name]

    return {
        "source": dict(basis.source),
        "pool": pool,
        "kept": kept,
        "saved": saved,
        "saved_share": saved["flop"] / pool["flop"] if pool["flop"] else None,
        "model": {
            "name": model.name,
            "n_parameters": model.n_parameters,
            "n_active_parameters": model.n_active_parameters,
            **model.shape._asdict(),
        },
        "recipe": {**recipe._asdict(), "shared_prompt": basis.shared_prompt},
        "machine": {
            "name": machine.name,
            "peak_tflops": machine.tflops,
            "dtype": machine.dtype,
            "mfu": machine.mfu,
            "price_per_hour": machine.price_per_hour,
        },
        "notes": [*basis.notes, *model.notes],
    }


def _costs(sums: TokenSums, shape: ModelShape, recipe: Recipe, machine: Machine) -> dict[str, Any]:
    """Return what one training costs: tokens, FLOP, GPU-hours and money."""
    flop = training_work(shape, sums, recipe).total
    hours = gpu_hours(flop, tflops=machine.tflops, mfu=machine.mfu)
    price = machine.price_per_hour
    return {
        "n_prompts": sums.n_prompts,
        "n_responses": sums.n_responses,
        "n_prompt_tokens": sums.prompt_tokens,
        "n_response_tokens": sums.response_tokens,
        "n_tokens": sums.tokens,
        "flop": flop,
        "gpu_hours": hours,
        "cost": None if price is None else hours * price,
    }
