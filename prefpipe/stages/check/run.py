"""Look at groups as training data for a model, before a GPU is asked for: nothing is written and no weight is loaded.

Reads: ``groups``, and a model's tokenizer, chat template and configuration. Returns what was found as JSON values. The same code
makes the tokens, applies the length limit and leaves responses out as in ``train``.
"""

from collections import Counter
from hashlib import sha256
from math import ceil
from shlex import quote
from typing import Any, NamedTuple

import numpy as np

from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.template_dates import date_for_run
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.errors import IncompleteInputError, ModelError
from prefpipe.maths.compute.training_compute import (
    SECONDS_AN_HOUR,
    Recipe,
    forward_work,
    gpu_hours,
    training_work,
)
from prefpipe.maths.compute.training_memory import StepRecipe, step_footprint
from prefpipe.maths.objectives.registry import find_objective, resolve_knobs
from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.models.location import folders_on_disk
from prefpipe.models.shape import (
    build_without_weights,
    memory_shape,
    shape_of,
)
from prefpipe.models.tokenizer import hash_tokenizer, read_chat_template
from prefpipe.stages.check.findings import judge
from prefpipe.stages.check.pairs import PairCheck, targets_of
from prefpipe.stages.check.tokens import TokenCheck
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.training_groups import COLUMNS, encoder_in, ids_fit
from prefpipe.training.encoding import Encoder
from prefpipe.training.groups import Group, Response
from prefpipe.training.settings import START_VALUES


class Training(NamedTuple):
    """The training that is looked ahead to; the fields are those of ``prefpipe train``."""

    model: str
    max_length: int = 2048
    on_too_long: str = "drop"
    objective: str = "ampo"
    gamma: float | None = None
    global_batch_size: int | None = None
    max_batch_tokens: int = 16_384
    lora_r: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False


class Machine(NamedTuple):
    """A device by its peak in 10^12 FLOP a second, and the share of it that training reaches."""

    name: str
    tflops: float
    mfu: float


class _Model(NamedTuple):
    """What is known of a model without its weights; ``problem`` where no causal language model can be built."""

    encoder: Encoder | None
    tokenizer: dict[str, Any]
    built: Any
    config: Any
    problem: str | None
    template_problem: str | None


def check(groups: Artifact, training: Training, machine: Machine | None) -> dict[str, Any]:
    """Return what was found: ``findings`` with their severity, the facts behind them, ``lengths`` and the ``step``.

    Raises:
        ModelError: the model is not on this machine.
        IncompleteInputError: the groups have no part yet.
    """
    present = groups.present(range(groups.n_parts), allow_partial=True)
    if not present:
        raise IncompleteInputError(
            f"{groups.path} has no parts yet",
            hint=f"run `prefpipe status {quote(str(groups.path))}`",
        )
    model = _open_model(training.model, date_for_run(None, None, [groups.path]))
    # the template is told the day that the candidates have on record, so days cannot differ
    fits = ids_fit(groups, model.tokenizer["hash"], model.tokenizer["chat_template_hash"])
    n_vocabulary = (
        None if model.built is None else int(model.built.get_input_embeddings().weight.shape[0])
    )
    tokens = TokenCheck(model.encoder, takes_stored=fits, n_vocabulary=n_vocabulary)
    pairs = PairCheck(max_length=training.max_length, on_too_long=training.on_too_long)
    finish: Counter[str] = Counter()
    n_rejected = 0
    for index in present:
        rows = rows_of(groups.read(index, list(COLUMNS))[0])
        kept = [row for row in rows if row["role"] is not None]
        n_rejected += len(rows) - len(kept)
        finish.update(row["finish_reason"] or "unknown" for row in kept)
        for own in _by_prompt(kept):
            _add_group(own, tokens, pairs)
    lengths = Distribution.of("prompt plus response", np.array(pairs.totals, np.float64), "tokens")
    found = {
        "groups": str(groups.path),
        "training": training._asdict(),
        "n_parts": groups.n_parts,
        "n_parts_present": len(present),
        "n_prompts_rejected": n_rejected,
        "tokenizer": model.tokenizer,
        "model_problem": model.problem,
        "stored_ids_fit": fits,
        "samplers": len(groups.record.identity.get("candidates", {}).get("models", [])),
        "problems": dict(tokens.problems),
        "examples": tokens.examples,
        "n_template_looks": tokens.n_looks,
        "n_tokenised": tokens.n_encoded,
        "template_problem": model.template_problem,
        "finish_reasons": dict(finish),
        **pairs.facts(),
        "lengths": lengths.to_json(),
        "targets": _targets(training, pairs),
        "n_over_limit": sum(total > training.max_length for total in pairs.totals),
        "max_positions": getattr(model.config, "max_position_embeddings", None),
        "step": None
        if model.built is None or not pairs.n_left
        else _step(model, pairs, training, machine),
    }
    return {"findings": [finding._asdict() for finding in judge(found)], **found}


def _targets(training: Training, pairs: PairCheck) -> dict[str, Any] | None:
    """Return the soft labels that the objective makes of the rewards; None where it makes none."""
    if training.objective != "mmpo":
        return None
    gamma = resolve_knobs("mmpo", {"gamma": training.gamma})["gamma"]
    return targets_of(np.array(pairs.margins, np.float64), float(gamma))


def _open_model(reference: str, template_date: str) -> _Model:
    folders = folders_on_disk(reference)
    digest, template = hash_tokenizer(folders.tokenizer), read_chat_template(folders.tokenizer)
    template_hash = None if template is None else sha256(template.encode()).hexdigest()
    tokenizer: dict[str, Any] = {
        "hash": digest,
        "chat_template_hash": template_hash,
        "pad_token": None,
        "eos_token": None,
        "bos_token": None,
    }
    encoder = None
    if digest is not None:
        encoder = encoder_in(folders.tokenizer, folders.config, template_date=template_date)
        tokenizer |= {
            name: getattr(encoder.tokenizer, name)
            for name in ("pad_token", "eos_token", "bos_token")
        }
    if template is None:
        encoder = None
    template_problem = None
    if encoder is not None:
        try:
            encoder.template.self_test(reference, answered=True)
        except ModelError as error:
            template_problem = error.message
    try:
        built, config = build_without_weights(folders.config)
    except ModelError as error:
        return _Model(encoder, tokenizer, None, None, error.message, template_problem)
    return _Model(encoder, tokenizer, built, config, None, template_problem)


def _by_prompt(rows: list[Row]) -> list[list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["prompt_id"], []).append(row)
    return list(found.values())


def _add_group(rows: list[Row], tokens: TokenCheck, pairs: PairCheck) -> None:
    """Hand a prompt's rows to both checks, as the group that ``train`` would make of them."""
    responses, texts = [], []
    prompt = None
    for row in rows:
        ids = tokens.ids_of(row)
        if ids is None:
            continue
        if prompt is not None and list(prompt) != list(ids.prompt):
            tokens.count(
                "other_prompt", f"response {row['sample_idx']} of prompt {row['prompt_id']}"
            )
            continue
        prompt = ids.prompt
        beats = None if row["beats"] is None else [pair["sample_idx"] for pair in row["beats"]]
        responses.append(
            Response(row["sample_idx"], ids.response, row["reward"], row["role"], beats=beats)
        )
        texts.append(row["response"] or "")
    if prompt is not None:
        pairs.add(Group(rows[0]["prompt_id"], prompt, responses), texts)


def _step(
    model: _Model, pairs: PairCheck, training: Training, machine: Machine | None
) -> dict[str, Any]:
    """Return an estimate of one optimizer step and of one pass over the groups: memory, FLOP, and time on a machine."""
    shape, sums = shape_of(model.built, model.config), pairs.token_sums()
    batch = training.global_batch_size or START_VALUES[training.objective].global_batch_size
    recipe = Recipe(
        gradient_checkpointing=training.gradient_checkpointing, lora=training.lora_r > 0
    )
    n_tokens = min(pairs.largest, training.max_batch_tokens)
    footprint = step_footprint(
        memory_shape(model.built, model.config),
        StepRecipe(n_tokens, training.lora_r, training.bf16, training.gradient_checkpointing),
    )
    pass_flop = training_work(shape.shape, sums, recipe).total
    n_steps = ceil(pairs.n_left / batch)
    share = min(1.0, batch / pairs.n_left)
    needs_reference = find_objective(training.objective).needs_reference
    reference_flop = forward_work(shape.shape, sums).total if needs_reference else 0.0
    return {
        "n_parameters": shape.n_parameters,
        "global_batch_size": batch,
        "n_steps_a_pass": n_steps,
        "n_tokens_at_once": n_tokens,
        "largest_group_tokens": pairs.largest,
        "n_tokens_a_step": round(sums.tokens * share),
        "memory_bytes": {**footprint._asdict(), "total": footprint.total},
        "flop_a_step": pass_flop * share,
        "flop_a_pass": pass_flop,
        "flop_reference": reference_flop,
        "notes": list(shape.notes),
        "machine": None
        if machine is None
        else {
            **machine._asdict(),
            "step_s": _seconds(pass_flop * share, machine),
            "pass_hours": _seconds(pass_flop, machine) / SECONDS_AN_HOUR,
            "reference_hours": _seconds(reference_flop, machine) / SECONDS_AN_HOUR,
        },
    }


def _seconds(flop: float, machine: Machine) -> float:
    return gpu_hours(flop, tflops=machine.tflops, mfu=machine.mfu) * SECONDS_AN_HOUR
