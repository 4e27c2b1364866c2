"""How many response tokens a training has seen after each step, known before it begins.

The seed decides which prompts a step uses, and the lengths of their responses are on disk. So a
study knows at which step one training has seen as many tokens as another, without running either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.artifacts.template_args import recorded_args
from prefpipe.artifacts.template_dates import CLOCK, date_for_run
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError
from prefpipe.maths.objectives.registry import find_objective, objective_of
from prefpipe.models.files import ModelFiles
from prefpipe.models.location import folders_on_disk, locate_model
from prefpipe.models.tokenizer import hash_tokenizer, read_chat_template
from prefpipe.stages.shared.training_groups import ids_fit
from prefpipe.stages.train.inputs import OpenedGroups, start_of
from prefpipe.stages.train.trainable import open_trainable
from prefpipe.stages.train.training_data import read_groups
from prefpipe.training.batches import order_of_epoch
from prefpipe.training.evaluation_split import split_groups
from prefpipe.training.groups import ROLES
from prefpipe.training.reward_model import with_template

COLUMNS = ("prompt_id", "sample_idx", "role", "prompt_token_ids", "response_token_ids")
"""What is read of groups whose stored token ids are trained on."""

MAX_LENGTH = 2048
"""Of a training that nobody described: the default of its flag."""


class PromptTokens(NamedTuple):
    """A training prompt, and the tokens of its training responses."""

    prompt_id: str
    n_tokens: int


def tokens_by_step(
    groups: Location,
    *,
    seed: int,
    global_batch_size: int,
    n_steps: int,
    training: TrainConfig | None = None,
) -> np.ndarray:
    """Return (n_steps,) int64: the response tokens trained on up to each step.

    They are ``n_tokens`` of the run's ``metrics.parquet``, summed.

    Args:
        groups: folder written by select.
        seed: of the training, its ``--seed``.
        global_batch_size: prompts a step.
        n_steps: as many as are requested; epochs follow each other without end.
        training: what else decides which responses are trained on: objective, lengths, model. None:
            an objective that compares positives with negatives, on stored token ids.

    Raises:
        IncompleteInputError: parts are missing.
        InputError: no groups, or none that can be trained on.
        ModelError: the model is needed and not there.
        UsageError: a response is too long and ``--on-too-long`` is ``error``.
    """
    prompts = trained_prompts(groups, training)
    return sum_by_step(
        prompts,
        seed=seed,
        global_batch_size=global_batch_size,
        n_steps=n_steps,
        eval_fraction=0.0 if training is None else training.eval_fraction,
    )


def sum_by_step(
    prompts: Sequence[PromptTokens],
    *,
    seed: int,
    global_batch_size: int,
    n_steps: int,
    eval_fraction: float = 0.0,
) -> np.ndarray:
    """Return `tokens_by_step` of prompts already read, for many seeds of one set.

    Args:
        prompts: what `trained_prompts` returned.
        seed: of the training.
        global_batch_size: prompts a step.
        n_steps: as many as are requested.
        eval_fraction: share of the prompts that is held out.

    Raises:
        InputError: no prompt is left to train on.
    """
    trained, _ = split_groups(prompts, eval_fraction, seed)
    if not trained:
        raise InputError(
            "no group can be trained on",
            hint="run `prefpipe check` to see why, response by response",
        )
    n_tokens = np.array([prompt.n_tokens for prompt in trained], np.int64)

    starts = np.arange(0, len(trained), global_batch_size)
    steps = [np.zeros(0, np.int64)]
    for epoch in range(-(-n_steps // len(starts))):
        order = order_of_epoch(len(trained), seed, epoch)
        # A step never reaches into the next epoch: the last one of each is short.
        steps.append(np.add.reduceat(n_tokens[order], starts))
    return np.cumsum(np.concatenate(steps)[:n_steps])


def groups_prompts(groups: Location) -> list[str]:
    """Return the prompts that select kept responses of, in their order on disk.

    Raises:
        IncompleteInputError: parts are missing.
        InputError: no groups.
    """
    artifact = open_input(groups, schema="groups", name="GROUPS")
    table = artifact.read_all(("prompt_id", "role"))
    kept = table.filter(pc.is_valid(table["role"]))
    prompt_ids: list[str] = pc.unique(kept["prompt_id"]).to_pylist()
    return prompt_ids


def trained_prompts(groups: Location, training: TrainConfig | None = None) -> list[PromptTokens]:
    """Return the prompts that are trained or evaluated on, in the order of the groups.

    Stored token ids are counted in place. They are made as in training only if the model would
    tokenise the texts differently, or reads whole conversations.

    Args:
        groups: folder written by select.
        training: as in `tokens_by_step`.

    Raises:
        As `tokens_by_step`.
    """
    artifact = open_input(groups, schema="groups", name="GROUPS")
    if training is None:
        rows = _stored_rows(artifact, ROLES, allow_partial=False)
        if rows is None:
            raise InputError(
                f"{groups} has responses without stored token ids (imports have none)",
                hint="name the model that is trained: its tokenizer makes them",
            )
        return _count(rows, ROLES, max_length=MAX_LENGTH, truncates=False)

    roles = find_objective(objective_of(training.target, training.objective)).roles
    if training.target == "policy" and _takes_stored_ids(artifact, training):
        rows = _stored_rows(artifact, roles, allow_partial=training.allow_partial)
        # What training refuses is refused in its words.
        is_refused = rows is None or (
            training.on_too_long == "error" and rows.exceed(training.max_length)
        )
        if rows is not None and not is_refused:
            return _count(
                rows,
                roles,
                max_length=training.max_length,
                truncates=training.on_too_long == "truncate",
            )
    return _count_as_trained(artifact, training)


@dataclass(frozen=True)
class _StoredRows:
    """The responses of the roles that are trained on, in their order on disk; N of them.

    ``prompt_ids``: by number; ``prompt``: (N,) the number of each one's; ``tokens``: of all of
    them, one after another, those of response i from ``starts[i]`` on.
    """

    prompt_ids: list[str]
    prompt: np.ndarray
    sample_idx: np.ndarray
    is_positive: np.ndarray
    n_prompt: np.ndarray
    n_response: np.ndarray
    tokens: np.ndarray
    starts: np.ndarray

    def exceed(self, max_length: int) -> bool:
        """Return whether a response is too long."""
        return bool((self.n_prompt + self.n_response > max_length).any())


def _stored_rows(
    groups: Artifact, roles: Sequence[str], *, allow_partial: bool
) -> _StoredRows | None:
    """Return the rows with stored token ids, None if a response has none."""
    table = groups.read_all(COLUMNS, allow_partial=allow_partial)
    table = table.filter(pc.is_in(table["role"], pa.array(roles)))
    column = {name: pa.concat_arrays(table[name].chunks) for name in COLUMNS}
    responses = column["response_token_ids"]
    if responses.null_count or column["prompt_token_ids"].null_count:
        return None

    prompts = column["prompt_id"].dictionary_encode()
    n_response = pc.list_value_length(responses).to_numpy().astype(np.int64)
    return _StoredRows(
        prompt_ids=prompts.dictionary.to_pylist(),
        prompt=prompts.indices.to_numpy(),
        sample_idx=column["sample_idx"].to_numpy(),
        is_positive=pc.equal(column["role"], "positive").to_numpy(zero_copy_only=False),
        n_prompt=pc.list_value_length(column["prompt_token_ids"]).to_numpy().astype(np.int64),
        n_response=n_response,
        tokens=responses.flatten().to_numpy(),
        starts=np.cumsum(n_response) - n_response,
    )


def _count(
    rows: _StoredRows, roles: Sequence[str], *, max_length: int, truncates: bool
) -> list[PromptTokens]:
    """Return what `prefpipe.training.groups.prepare_groups` would leave, counted.

    It applies the same rules to all responses at once: keep responses that fit or are cut to fit,
    one of equal token sequences, and prompts with every role.
    """
    room = max_length - rows.n_prompt
    n_used = np.minimum(rows.n_response, room) if truncates else rows.n_response
    is_used = (n_used > 0) & (n_used <= room)
    is_used &= ~_are_copies(rows, n_used, is_used)

    n_prompts = len(rows.prompt_ids)
    is_trained = np.ones(n_prompts, bool)
    for role in roles:
        has_role = is_used & (rows.is_positive == (role == "positive"))
        is_trained &= np.bincount(rows.prompt[has_role], minlength=n_prompts) > 0

    n_tokens = np.zeros(n_prompts, np.int64)
    np.add.at(n_tokens, rows.prompt[is_used], n_used[is_used])
    return [
        PromptTokens(rows.prompt_ids[number], int(n_tokens[number]))
        for number in np.flatnonzero(is_trained)
    ]


def _are_copies(rows: _StoredRows, n_used: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return (N,) bool: the same tokens as a response of the prompt that comes before it.

    Positives come before negatives, then lower indices.
    """
    is_copy = np.zeros(len(n_used), bool)
    order = np.lexsort((rows.sample_idx, ~rows.is_positive, n_used, rows.prompt))
    order = order[is_used[order]]

    # Only neighbours in this order can be copies: the same prompt, and as many tokens.
    number, length = rows.prompt[order], n_used[order]
    is_alike = (number[1:] == number[:-1]) & (length[1:] == length[:-1])
    seen: set[bytes] = set()
    for place in np.flatnonzero(is_alike) + 1:
        if place < 2 or not is_alike[place - 2]:  # the first two of their kind
            seen = {_bytes_of(rows, order[place - 1], length[place])}
        tokens = _bytes_of(rows, order[place], length[place])
        is_copy[order[place]] = tokens in seen
        seen.add(tokens)
    return is_copy


def _bytes_of(rows: _StoredRows, row: int, n_tokens: int) -> bytes:
    start = rows.starts[row]
    return rows.tokens[start : start + n_tokens].tobytes()


def _takes_stored_ids(groups: Artifact, training: TrainConfig) -> bool:
    """Return whether training uses the stored ids; weights are not checked."""
    tokenizer = folders_on_disk(training.model).tokenizer
    template = read_chat_template(tokenizer)
    template_hash = None if template is None else sha256(template.encode()).hexdigest()
    day = None
    if template is not None and CLOCK in template:
        day = date_for_run(training.template_date, None, [groups.path])
    return ids_fit(groups, hash_tokenizer(tokenizer), template_hash, day)


def _count_as_trained(groups: Artifact, training: TrainConfig) -> list[PromptTokens]:
    """Read groups as training reads them, and count what is left."""
    objective = find_objective(objective_of(training.target, training.objective))
    start = start_of(training, _model_of(training, groups))
    trainable = open_trainable(start, objective, lambda _line: None)
    opened = OpenedGroups(groups, None, allow_partial=training.allow_partial)
    read = read_groups(opened, trainable, training.on_too_long, lambda _line: None)

    counted = []
    for group in read.prepared.groups:
        n_tokens = sum(len(response.token_ids) for response in group.responses)
        counted.append(PromptTokens(group.prompt_id, n_tokens))
    return counted


def _model_of(training: TrainConfig, groups: Artifact) -> ModelFiles:
    """Return the model, with the template settings of the candidates."""
    day = date_for_run(training.template_date, None, [groups.path])
    model = locate_model(training.model, trust_remote_code=training.trust_remote_code).dated(day)
    if training.chat_template is not None:
        model = with_template(model, training.chat_template, day)
    args = recorded_args(groups.record.identity)
    return model.given(training.template_args if args is None else args)
