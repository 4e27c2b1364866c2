"""Rows of ``groups`` as what is trained on and measured: one place for train, logprobs and check.

Stored token ids are what the policy really sampled. They are taken where tokenizer and chat
template of the model at hand are those that sampled them; otherwise the conversation is tokenised
again.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.template_args import FIELD as TEMPLATE_ARGS
from prefpipe.artifacts.template_dates import FIELD
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.errors import InputError
from prefpipe.models.files import ModelFiles
from prefpipe.models.tokenizer import find_eos_ids
from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.stages.shared.earlier_rounds import parent_name
from prefpipe.text.thoughts import FIELD as THOUGHTS
from prefpipe.training.encoding import Encoder, EncodingError
from prefpipe.training.groups import Group, Response

COLUMNS = (
    "prompt_id",
    "sample_idx",
    "role",
    "reward",
    "messages",
    "response",
    "prompt_token_ids",
    "response_token_ids",
    "finish_reason",
    "beats",
    "status",
    "reason",
)
"""What is read of groups."""

CANDIDATE_COLUMNS = tuple(name for name in COLUMNS if name not in ("role", "reward", "beats"))
"""What is read of candidates, which nothing was selected from."""

AGAIN = (
    "no token ids for this tokenizer and chat template are stored (imports have none): the "
    "conversations are tokenised again"
)


def stored_ids_fit(groups: Artifact, model: ModelFiles) -> bool:
    """Return whether all models that sampled the candidates had this tokenizer and template."""
    return ids_fit(
        groups,
        model.tokenizer_hash,
        model.chat_template_hash,
        model.template_date,
        model.template_args,
    )


def candidates_of(groups: Artifact) -> list[dict[str, Any]]:
    """Return the identities of the candidates that groups were selected from, this round's first.

    For candidates, it is their own identity.
    """
    identity = groups.record.identity
    identities = [identity.get("candidates", identity)]
    while (name := parent_name(len(identities), "candidates")) in identity:
        identities.append(identity[name])
    return identities


def ids_fit(
    groups: Artifact,
    tokenizer_hash: str | None,
    chat_template_hash: str | None,
    template_date: str | None = None,
    template_args: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether every model that sampled the candidates had this tokenizer and chat template.

    A template that reads the clock must have used the same date; candidates sampled before dates
    were recorded have an unknown date, and their ids are used.

    Args:
        groups: groups, or candidates themselves.
        tokenizer_hash: of the model at hand.
        chat_template_hash: of the model at hand.
        template_date: the date that its chat template uses, if it reads the clock.
        template_args: what its template is given beside the conversation; None if that is to
            be as it was.
    """
    samplers: list[dict[str, Any]] = []
    for candidates in candidates_of(groups):
        models = candidates.get("models") or []
        if not models:
            return False
        samplers += models

    # an unrecorded date cannot be shown to differ
    days = {template_date, *(sampler.get(FIELD) for sampler in samplers)} - {None}
    if len(days) > 1:
        return False
    # as it was: rounds that were selected from together may differ in it
    if template_args is None:
        template_args = samplers[0].get(TEMPLATE_ARGS) or {}

    for sampler in samplers:
        hashes = sampler.get("tokenizer_hash"), sampler.get("chat_template_hash")
        if hashes != (tokenizer_hash, chat_template_hash):
            return False
        if (sampler.get(TEMPLATE_ARGS) or {}) != template_args:
            return False
    return True


def refuse_lost_thoughts(groups: Artifact, model: ModelFiles) -> None:
    """Refuse to make tokens again of responses that began with thoughts.

    The texts are only the answers: a model trained on them learns not to think.

    Raises:
        InputError: a model of the candidates thought before it answered.
    """
    identity = groups.record.identity
    candidates = identity.get("candidates", identity)
    if any(sampler.get(THOUGHTS) for sampler in candidates.get("models") or []):
        raise InputError(
            f"{groups.path} holds answers without the thoughts that came before them, and its "
            f"token ids do not fit {model.requested}, which has another tokenizer or chat "
            "template",
            hint="train a model with the tokenizer and template that sampled; or sample with "
            "--thinking-markers none, which leaves the thoughts in the responses",
        )


def encoder_of(model: ModelFiles, *, trust_remote_code: bool = False) -> Encoder:
    """Return a model's tokenizer and chat template, and the ids that end its turns.

    No weights are loaded.

    Raises:
        ModelError: the template fails on two plain questions and their answers, or leaves them out.
    """
    # An adapter's folder has no configuration: what ends a turn is its base's.
    folder = model.base.path if model.base is not None else model.path
    encoder = encoder_in(
        model.tokenizer_path,
        folder,
        trust_remote_code=trust_remote_code,
        template_date=model.template_date,
        template_args=model.template_args,
    )
    encoder.template.self_test(model.requested, answered=True)
    return encoder


def encoder_in(
    tokenizer_folder: Path,
    config_folder: Path,
    *,
    trust_remote_code: bool = False,
    template_date: str | None = None,
    template_args: Mapping[str, Any] | None = None,
) -> Encoder:
    """Return the tokenizer and chat template in one folder, with the ids that end a turn.

    These ids come from the configuration in the other folder.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        tokenizer_folder, trust_remote_code=trust_remote_code, local_files_only=True
    )
    eos_ids = sorted(find_eos_ids(config_folder, tokenizer.eos_token_id))
    return Encoder(tokenizer, eos_ids, today=template_date, template_args=template_args)


def read_rows(groups: Artifact, *, allow_partial: bool, further: Sequence[str] = ()) -> list[Row]:
    """Return the rows of the groups, rejected prompts among them.

    Args:
        groups: the artifact.
        allow_partial: read the parts that are there.
        further: columns that are read beside `COLUMNS`.

    Raises:
        IncompleteInputError: parts are missing and ``allow_partial`` is not set.
    """
    columns = [*COLUMNS, *(name for name in further if name not in COLUMNS)]
    return rows_of(groups.read_all(columns, allow_partial=allow_partial))


def groups_for(
    rows: Sequence[Row],
    source: Artifact,
    model: ModelFiles,
    log: Callable[[str], None],
    *,
    trust_remote_code: bool = False,
) -> list[Group]:
    """Return the groups as tokens of a model.

    They are the stored ids if these fit. Else the conversations are tokenised again, which is
    logged.

    Raises:
        InputError: as `groups_of`.
    """
    if stored_ids_fit(source, model):
        return groups_of(rows, None)
    refuse_lost_thoughts(source, model)
    log(AGAIN)
    encoder = encoder_of(model, trust_remote_code=trust_remote_code)
    groups = groups_of(rows, encoder)
    for note in encoder.notes():
        log(note)
    return groups


def groups_of(rows: Sequence[Row], encoder: Encoder | None) -> list[Group]:
    """Return the groups that select kept, with stored ids, or with those of ``encoder``.

    A response without tokens of the encoder's model is kept without any, with its ``problem``.

    Raises:
        InputError: a response without stored ids, or ids of different prompts within one group.
    """
    groups: dict[str, Group] = {}
    for row in rows:
        if row["role"] is None:
            continue
        beats = None
        if row["beats"] is not None:
            beats = [pair["sample_idx"] for pair in row["beats"]]
        _add(groups, row, encoder, reward=row["reward"], role=row["role"], beats=beats)
    return list(groups.values())


def groups_of_candidates(rows: Sequence[Row], encoder: Encoder | None) -> list[Group]:
    """Return every candidate with a response, one group per prompt, to measure and not to train.

    Candidates have no rewards and roles; all get the same placeholder.

    Raises:
        InputError: as `groups_of`.
    """
    groups: dict[str, Group] = {}
    for row in rows:
        if row["response"] is not None:
            _add(groups, row, encoder, reward=0.0, role="positive", beats=None)
    return list(groups.values())


def _add(
    groups: dict[str, Group],
    row: Row,
    encoder: Encoder | None,
    *,
    reward: float,
    role: str,
    beats: Sequence[int] | None,
) -> None:
    """Add a row's tokens to its prompt's group."""
    prompt_id = row["prompt_id"]
    place = f"response {row['sample_idx']} of prompt {prompt_id}"
    prompt_ids, response_ids = row["prompt_token_ids"], row["response_token_ids"]
    problem = None
    if encoder is not None:
        # A response that was cut at the token limit has not ended its turn.
        is_finished = row["finish_reason"] != "length"
        try:
            encoded = encoder.encode(
                prompt_id, row["messages"], row["response"], finished=is_finished
            )
            prompt_ids, response_ids = encoded.prompt, encoded.response
        except EncodingError as error:  # one response must not stop all others
            prompt_ids, response_ids, problem = [], [], error.message
    if prompt_ids is None or response_ids is None:
        raise InputError(
            f"{place} has no stored token ids",
            hint="generate again with a backend that keeps token ids",
        )

    group = groups.setdefault(prompt_id, Group(prompt_id, prompt_ids, []))
    if not group.prompt_token_ids:  # those before it have no tokens
        group = group._replace(prompt_token_ids=prompt_ids)
    if problem is None and group.prompt_token_ids != prompt_ids:
        raise InputError(
            f"{place} has prompt tokens that differ from those of the responses before it",
            hint="select again",
        )
    response = Response(row["sample_idx"], response_ids, reward, role, beats=beats, problem=problem)
    groups[prompt_id] = group._replace(responses=[*group.responses, response])
