"""Check groups as training data for a model, before you request a GPU.

Reads: ``groups``, and a model's tokenizer, chat template and configuration. Writes: nothing; it
loads no weights. Returns JSON values.

Tokens, length limit and left-out responses come from the same code as in ``train``.
"""

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from math import ceil
from shlex import quote
from typing import Any, NamedTuple

import numpy as np

from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.template_args import recorded_args
from prefpipe.artifacts.template_dates import date_for_run
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.configs.check import CheckConfig
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
from prefpipe.maths.statistics.mmpo_targets import targets_of
from prefpipe.models.location import folders_on_disk
from prefpipe.models.shape import (
    build_without_weights,
    memory_shape,
    shape_of,
)
from prefpipe.models.tokenizer import hash_tokenizer, read_chat_template
from prefpipe.stages.check.findings import findings_of
from prefpipe.stages.check.pairs import PairCheck
from prefpipe.stages.check.tokens import TokenCheck, stop_settings
from prefpipe.stages.check.weights import WeightCheck
from prefpipe.stages.savings import Machine
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.training_groups import COLUMNS, candidates_of, encoder_in, ids_fit
from prefpipe.stages.train.auto_gamma import gamma_of
from prefpipe.stages.train.loss_weights import open_weighing
from prefpipe.training.encoding import Encoder
from prefpipe.training.groups import Group, Response
from prefpipe.training.start_values import START_VALUES

TOKENIZER_TOKENS = ("pad_token", "eos_token", "bos_token")


class PlannedTraining(NamedTuple):
    """The planned training; the fields are those of ``prefpipe train``.

    ``gamma`` is a number, and ``gamma_choice`` the line on it if ``auto`` chose it.
    """

    model: str
    max_length: int = 2048
    on_too_long: str = "drop"
    objective: str = "ampo"
    gamma: float | None = None
    gamma_choice: str | None = None
    weight_by: str | None = None
    global_batch_size: int | None = None
    max_batch_tokens: int = 16_384
    lora_r: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False


class _OpenedModel(NamedTuple):
    """What is known of a model without its weights.

    ``problem`` if no causal language model can be built: ``built`` and ``config`` are None then.
    """

    encoder: Encoder | None
    tokenizer: dict[str, Any]
    template_problem: str | None
    built: Any = None
    config: Any = None
    problem: str | None = None


def planned_training(config: CheckConfig) -> PlannedTraining:
    """Return the training that a command asks about, its gamma chosen where that is requested.

    Raises:
        InputError: no scores to choose gamma by.
        UsageError: no gamma that fits, or one out of range.
    """
    said: list[str] = []
    gamma = gamma_of(
        config.gamma,
        point_wins=config.point_wins,
        rater_scores=config.rater_scores,
        say=said.append,
    )
    if gamma is not None:
        resolve_knobs(config.objective, {"gamma": gamma})
    given = {
        name: getattr(config, name)
        for name in PlannedTraining._fields
        if name not in ("gamma", "gamma_choice")
    }
    return PlannedTraining(**given, gamma=gamma, gamma_choice=" ".join(said) or None)


def check(groups: Artifact, training: PlannedTraining, machine: Machine | None) -> dict[str, Any]:
    """Return ``findings`` with their severity, the facts behind them, ``lengths`` and the ``step``.

    Args:
        groups: what ``select`` kept.
        training: what it would be trained with.
        machine: on what, for the time of a step; None: no time.

    Raises:
        ModelError: the model is not on this machine.
        IncompleteInputError: the groups have no part yet.
        UsageError: a weight expression that does not fit the groups.
    """
    present = groups.present(range(groups.n_parts), allow_partial=True)
    if not present:
        raise IncompleteInputError(
            f"{groups.path} has no parts yet",
            hint=f"run `prefpipe status {quote(str(groups.path))}`",
        )

    objective = find_objective(training.objective)
    weights = None
    if training.weight_by is not None:
        weights = WeightCheck(
            open_weighing(training.weight_by, groups, "GROUPS", of_pairs=objective.compares)
        )

    # The template uses the settings recorded for the candidates, so they cannot differ.
    model = _open_model(
        training.model,
        date_for_run(None, None, [groups.path]),
        recorded_args(groups.record.identity) or {},
    )
    fits = ids_fit(groups, model.tokenizer["hash"], model.tokenizer["chat_template_hash"])
    n_vocabulary = None
    if model.built is not None:
        n_vocabulary = int(model.built.get_input_embeddings().weight.shape[0])

    tokens = TokenCheck(
        model.encoder,
        takes_stored=fits,
        n_vocabulary=n_vocabulary,
        stops=stop_settings(candidates_of(groups)),
    )
    pairs = PairCheck(
        max_length=training.max_length, on_too_long=training.on_too_long, roles=objective.roles
    )
    columns = list(COLUMNS)
    if weights is not None:
        columns += [name for name in weights.columns if name not in columns]
    finish: Counter[str] = Counter()
    n_rejected = 0
    for index in groups.in_turn(present):
        table, _ = groups.read(index, columns)
        rows_by_prompt: dict[str, list[Row]] = {}
        for row in rows_of(table):
            if row["role"] is None:
                n_rejected += 1
                continue
            finish[row["finish_reason"] or "unknown"] += 1
            rows_by_prompt.setdefault(row["prompt_id"], []).append(row)
        for rows in rows_by_prompt.values():
            _add_group(rows, tokens, pairs, weights)

    totals = np.array(pairs.totals, np.float64)
    step = None
    if model.built is not None and pairs.n_left:
        step = _step(model, pairs, training, machine)
    facts = {
        "groups": str(groups.path),
        "training": training._asdict(),
        "n_parts": groups.n_parts,
        "n_parts_present": len(present),
        "n_prompts_rejected": n_rejected,
        "tokenizer": model.tokenizer,
        "model_problem": model.problem,
        "stored_ids_fit": fits,
        "samplers": sum(len(each.get("models", [])) for each in candidates_of(groups)),
        "problems": dict(tokens.problems),
        "examples": tokens.examples,
        "n_template_looks": tokens.n_looks,
        "n_tokenised": tokens.n_encoded,
        "template_problem": model.template_problem,
        "finish_reasons": dict(finish),
        **pairs.facts(),
        "lengths": Distribution.of("prompt plus response", totals, "tokens").to_json(),
        "targets": _targets(training, pairs),
        "weights": None if weights is None else weights.facts(),
        "n_over_limit": int((totals > training.max_length).sum()),
        "max_positions": getattr(model.config, "max_position_embeddings", None),
        "step": step,
    }
    return {"findings": [finding._asdict() for finding in findings_of(facts)], **facts}


def _open_model(
    reference: str, template_date: str, template_args: Mapping[str, Any]
) -> _OpenedModel:
    """Open a model's tokenizer and template, and build it without its weights."""
    folders = folders_on_disk(reference)
    tokenizer_hash = hash_tokenizer(folders.tokenizer)
    template = read_chat_template(folders.tokenizer)
    tokenizer: dict[str, Any] = {
        "hash": tokenizer_hash,
        "chat_template_hash": None if template is None else sha256(template.encode()).hexdigest(),
        **dict.fromkeys(TOKENIZER_TOKENS),
    }

    encoder, template_problem = None, None
    if tokenizer_hash is not None:
        encoder = encoder_in(
            folders.tokenizer,
            folders.config,
            template_date=template_date,
            template_args=template_args,
        )
        for name in TOKENIZER_TOKENS:
            tokenizer[name] = getattr(encoder.tokenizer, name)
    if template is None:
        encoder = None  # it could make no tokens of a conversation
    if encoder is not None:
        try:
            encoder.template.self_test(reference, answered=True)
        except ModelError as error:
            template_problem = error.message

    try:
        built, config = build_without_weights(folders.config)
    except ModelError as error:
        return _OpenedModel(encoder, tokenizer, template_problem, problem=error.message)
    return _OpenedModel(encoder, tokenizer, template_problem, built, config)


def _add_group(
    rows: list[Row], tokens: TokenCheck, pairs: PairCheck, weights: WeightCheck | None
) -> None:
    """Pass a prompt's rows to the checks, as the group that ``train`` would make."""
    responses, texts = [], []
    prompt = None
    for row in rows:
        ids = tokens.ids_of(row)
        if ids is None:
            continue
        if prompt is not None and list(prompt) != list(ids.prompt):
            place = f"response {row['sample_idx']} of prompt {row['prompt_id']}"
            tokens.count("other_prompt", place)
            continue

        prompt = ids.prompt
        beats = None
        if row["beats"] is not None:
            beats = [pair["sample_idx"] for pair in row["beats"]]
        responses.append(
            Response(row["sample_idx"], ids.response, row["reward"], row["role"], beats=beats)
        )
        texts.append(row["response"] or "")
    if prompt is not None:
        kept = pairs.add(Group(rows[0]["prompt_id"], prompt, responses), texts)
        if weights is not None:
            weights.add(kept, rows)


def _targets(training: PlannedTraining, pairs: PairCheck) -> dict[str, Any] | None:
    """Return the soft labels of the objective for the rewards; None if it has none."""
    if training.objective != "mmpo":
        return None
    gamma = resolve_knobs("mmpo", {"gamma": training.gamma})["gamma"]
    return targets_of(np.array(pairs.margins, np.float64), float(gamma))


def _step(
    model: _OpenedModel, pairs: PairCheck, training: PlannedTraining, machine: Machine | None
) -> dict[str, Any]:
    """Return an estimate of one optimizer step and of one pass over the groups.

    Memory, FLOP, and time on a machine.
    """
    batch = training.global_batch_size or START_VALUES[training.objective].global_batch_size
    # A group that is longer is computed in several passes.
    n_tokens_at_once = min(pairs.largest, training.max_batch_tokens)
    footprint = step_footprint(
        memory_shape(model.built, model.config),
        StepRecipe(
            n_tokens_at_once, training.lora_r, training.bf16, training.gradient_checkpointing
        ),
    )

    shape, sums = shape_of(model.built, model.config), pairs.token_sums()
    recipe = Recipe(
        gradient_checkpointing=training.gradient_checkpointing, lora=training.lora_r > 0
    )
    pass_flop = training_work(shape.shape, sums, recipe).total
    # Where a batch is larger than all groups together, a step is one pass.
    step_share = min(1.0, batch / pairs.n_left)
    step_flop = pass_flop * step_share
    reference_flop = 0.0
    if find_objective(training.objective).needs_reference:
        reference_flop = forward_work(shape.shape, sums).total

    times = None
    if machine is not None:
        times = {
            "name": machine.name,
            "tflops": machine.tflops,
            "mfu": machine.mfu,
            "step_s": _seconds(step_flop, machine),
            "pass_hours": _seconds(pass_flop, machine) / SECONDS_AN_HOUR,
            "reference_hours": _seconds(reference_flop, machine) / SECONDS_AN_HOUR,
        }
    return {
        "n_parameters": shape.n_parameters,
        "global_batch_size": batch,
        "n_steps_a_pass": ceil(pairs.n_left / batch),
        "n_tokens_at_once": n_tokens_at_once,
        "largest_group_tokens": pairs.largest,
        "n_tokens_a_step": round(sums.tokens * step_share),
        "memory_bytes": {**footprint._asdict(), "total": footprint.total},
        "flop_a_step": step_flop,
        "flop_a_pass": pass_flop,
        "flop_reference": reference_flop,
        "notes": list(shape.notes),
        "machine": times,
    }


def _seconds(flop: float, machine: Machine) -> float:
    return gpu_hours(flop, tflops=machine.tflops, mfu=machine.mfu) * SECONDS_AN_HOUR
