"""Groups to train on: one prompt, its kept responses with rewards and roles, all checked.

A response is used whole or not at all, unless truncation is requested; dropped responses have a
status and a reason. A group without a positive or without a negative is dropped whole, because
there is nothing to compare. Objectives without comparisons use only the positives.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from prefpipe.errors import InputError, UsageError

KEPT = ("ok", "truncated", "held_out")
"""The statuses of responses that are trained or evaluated on."""


ROLES = ("positive", "negative")

Key = tuple[str, int]
"""``(prompt_id, sample_idx)``, which joins a candidate's rows everywhere."""


class Response(NamedTuple):
    """One response to train on.

    ``token_ids`` are the ids as sampled, end of sequence included when there was one. ``role`` is
    ``positive`` or ``negative``. ``ref_logp`` is the summed log-probability under the reference
    policy, None if none is needed. ``beats``: the samples that this one should beat under pairwise
    objectives; None: a positive beats every negative. ``problem``: why the model's chat template
    cannot encode this response, which then has no tokens.
    """

    sample_idx: int
    token_ids: Sequence[int]
    reward: float
    role: str
    ref_logp: float | None = None
    beats: Sequence[int] | None = None
    problem: str | None = None


class Group(NamedTuple):
    """The responses that ``select`` kept for one prompt.

    ``weight``: how much the prompt counts in the loss, 1 on the mean over prompts.
    ``pair_weights``: how much each pair (winner, loser) counts within it, by ``sample_idx``; None:
        equal weights.
    """

    prompt_id: str
    prompt_token_ids: Sequence[int]
    responses: Sequence[Response]
    weight: float = 1.0
    pair_weights: Mapping[tuple[int, int], float] | None = None


class ResponseStatus(NamedTuple):
    """``ok``, or why a response is not trained on (``truncated`` ones are)."""

    status: str
    reason: str | None = None


class PreparedGroups(NamedTuple):
    """Groups to train on, and the status of every input response, by key."""

    groups: list[Group]
    statuses: dict[Key, ResponseStatus]

    @property
    def counts(self) -> Counter[str]:
        """Responses by status."""
        return Counter(each.status for each in self.statuses.values())

    @property
    def left_out(self) -> dict[str, int]:
        """Responses that can be neither trained nor evaluated on, by status."""
        return {name: count for name, count in sorted(self.counts.items()) if name not in KEPT}

    def describe_left_out(self) -> str:
        """Return ``left_out`` in words, "" if it is empty."""
        return ", ".join(f"{count} {name}" for name, count in self.left_out.items())


NO_GROUP = -1
"""Index of the empty places that fill an epoch's last batches if prompts do not divide by
processes.
"""


def missing_role(group: Group, roles: Sequence[str] = ROLES) -> str | None:
    """Return the first role that no response of a group has; None if none is missing."""
    there = {response.role for response in group.responses}
    for role in roles:
        if role not in there:
            return role
    return None


def missing_pair(group: Group) -> str | None:
    """Return ``pair`` if a group has no pair.

    Pairs are those named by selection, else a positive with a negative.
    """
    return None if pairs_in(group) else "pair"


def prepare_groups(
    groups: Sequence[Group],
    *,
    max_length: int,
    on_too_long: str,
    find_missing: Callable[[Group], str | None] = missing_role,
    roles: Sequence[str] = ROLES,
) -> PreparedGroups:
    """Check groups against the length limit and drop what cannot be compared.

    Statuses: ``ok``; ``truncated`` (cut at the limit and trained on); ``too_long`` (prompt plus
    response); ``prompt_too_long`` (no room for a single response token); ``empty`` (no token);
    ``template_error`` (see ``problem``); ``identical`` (the same tokens as a kept response: a
    positive is kept before a negative, then the lower index); ``no_contrast`` (fine itself, but the
    group lost something it needs, such as its last positive or negative); ``unused_negative`` (the
    objective trains on positives alone).

    Args:
        groups: any order; order is kept.
        max_length: longest prompt plus response, in tokens.
        on_too_long: ``drop`` the response, ``truncate`` it to the limit, or stop with an ``error``.
        find_missing: names what a group lacks for training; None for nothing.
        roles: the roles to train on.

    Raises:
        UsageError: something is too long and ``on_too_long`` is ``error``.
        InputError: a prompt has no tokens, a reward is not finite, a role is unknown, or a key
            occurs twice.
    """
    kept: list[Group] = []
    statuses: dict[Key, ResponseStatus] = {}
    for group in groups:
        check_group(group, statuses)
        used, unused = _of_roles(group, roles)
        fitting, lengths = fit_length(used, max_length=max_length, on_too_long=on_too_long)
        responses, copies = _without_copies(group.prompt_id, fitting)
        statuses |= unused | lengths | copies

        # Last: a dropped response may have been the group's only negative.
        remaining = group._replace(responses=responses)
        missing = find_missing(remaining)
        if missing is None:
            kept.append(remaining)
            continue
        no_contrast = ResponseStatus("no_contrast", f"no {missing} is left in the group")
        for response in responses:
            statuses[group.prompt_id, response.sample_idx] = no_contrast

    return PreparedGroups(kept, statuses)


def with_reference(
    groups: Sequence[Group], reference: Mapping[Key, tuple[float, int]]
) -> list[Group]:
    """Return groups whose responses carry the reference's summed log-probability.

    Args:
        groups: what ``prepare_groups`` kept.
        reference: by key, the sum and its number of tokens.

    Raises:
        InputError: a response is missing from ``reference``, or its number of tokens differs.
    """
    measured = []
    for group in groups:
        responses = []
        for response in group.responses:
            place = f"response {response.sample_idx} of prompt {group.prompt_id}"
            key = group.prompt_id, response.sample_idx
            if key not in reference:
                raise InputError(
                    f"no reference log-probability for {place}",
                    hint="run `prefpipe logprobs` again on these groups",
                )

            logp, n_tokens = reference[key]
            if n_tokens != len(response.token_ids):
                raise InputError(
                    f"the reference log-probability of {place} is a sum over {n_tokens} "
                    f"tokens, but the response has {len(response.token_ids)}",
                    hint="run `prefpipe logprobs` again with this run's --max-length and "
                    "--on-too-long",
                )
            responses.append(response._replace(ref_logp=logp))
        measured.append(group._replace(responses=responses))
    return measured


def pairs_in(group: Group) -> list[tuple[Response, Response]]:
    """Return (winner, loser) of every pair.

    The pairs are those named by selection, of responses that remain; if it named none, positives x
    negatives.
    """
    pairs: list[tuple[Response, Response]] = []
    if any(response.beats is not None for response in group.responses):
        by_index = {response.sample_idx: response for response in group.responses}
        for winner in group.responses:
            # A loser may have been dropped after it was named.
            losers = [by_index[index] for index in winner.beats or () if index in by_index]
            pairs += [(winner, loser) for loser in losers]
        return pairs

    negatives = [response for response in group.responses if response.role == "negative"]
    for response in group.responses:
        if response.role == "positive":
            pairs += [(response, negative) for negative in negatives]
    return pairs


def require_reward_gaps(groups: Sequence[Group], objective: str) -> None:
    """Refuse pairs whose winner is not rated above its loser.

    The objective takes the logarithm of the gap.

    Raises:
        UsageError: there is such a pair; the message names the first and counts all.
    """
    n_pairs = 0
    without_gap = []
    for group in groups:
        for winner, loser in pairs_in(group):
            n_pairs += 1
            if not winner.reward > loser.reward:
                without_gap.append((group, winner, loser))
    if not without_gap:
        return

    group, winner, loser = without_gap[0]
    raise UsageError(
        f"{objective} takes the logarithm of the reward gap, but in {len(without_gap)} of "
        f"{n_pairs} pairs the winner is not rated above the loser: "
        f"in prompt {group.prompt_id} response {winner.sample_idx} has reward {winner.reward:g} "
        f"and response {loser.sample_idx} has {loser.reward:g}",
        hint="drop such pairs with `prefpipe select --min-margin`, or train with mmpo or rpo, "
        "which accept them",
    )


def check_group(group: Group, seen: Mapping[Key, ResponseStatus]) -> None:
    """Refuse a group that cannot be trained on or measured, whatever its length.

    Raises:
        InputError: a prompt has no tokens, a reward is not finite, a role is unknown, or a key
            occurs twice or is in ``seen``.
    """
    has_tokens = any(response.problem is None for response in group.responses)
    if not group.prompt_token_ids and has_tokens:
        raise InputError(
            f"prompt {group.prompt_id} has no tokens",
            hint="remove the prompt: nothing would predict a response's first token",
        )

    indices: set[int] = set()
    for response in group.responses:
        place = f"response {response.sample_idx} of prompt {group.prompt_id}"
        is_in_group = response.sample_idx in indices
        if is_in_group or (group.prompt_id, response.sample_idx) in seen:
            raise InputError(
                f"{place} occurs twice", hint="select again: (prompt_id, sample_idx) must be unique"
            )
        indices.add(response.sample_idx)

        if response.reward is None or not isfinite(response.reward):
            raise InputError(
                f"{place} has reward {response.reward}",
                hint="run `prefpipe score` and `prefpipe select` again",
            )
        if response.role not in ROLES:
            raise InputError(
                f"{place} has role {response.role!r}, not positive or negative",
                hint="run `prefpipe select` again",
            )


def require_known_tokens(groups: Sequence[Group], n_vocabulary: int) -> None:
    """Refuse token ids that the model has no embedding for.

    On a GPU they would end the process without naming them.

    Raises:
        InputError: names the first.
    """
    for group in groups:
        _require_known(group.prompt_token_ids, n_vocabulary, f"prompt {group.prompt_id}")
        for response in group.responses:
            place = f"response {response.sample_idx} of prompt {group.prompt_id}"
            _require_known(response.token_ids, n_vocabulary, place)


def _require_known(token_ids: Sequence[int], n_vocabulary: int, place: str) -> None:
    # Min and max first: they are fast and usually settle the check.
    if not token_ids or 0 <= min(token_ids) <= max(token_ids) < n_vocabulary:
        return
    wrong = next(token for token in token_ids if not 0 <= token < n_vocabulary)
    raise InputError(
        f"{place} holds the token id {wrong}, but the model has only {n_vocabulary} tokens",
        hint="pass the model that sampled the responses, or generate again; `prefpipe check` lists "
        "them all",
    )


def fit_length(
    group: Group, *, max_length: int, on_too_long: str
) -> tuple[list[Response], dict[Key, ResponseStatus]]:
    """Return the responses that fit the length limit, cut if requested, and the status of all.

    Statuses: ``ok``, ``truncated``, ``too_long``, ``prompt_too_long``, ``empty`` and
    ``template_error``, as in `prepare_groups`.

    Raises:
        UsageError: something is too long and ``on_too_long`` is ``error``.
    """
    n_prompt = len(group.prompt_token_ids)
    room = max_length - n_prompt
    statuses: dict[Key, ResponseStatus] = {}
    fitting: list[Response] = []
    for response in group.responses:
        n_response = len(response.token_ids)
        lengths = (
            f"{n_prompt} prompt tokens + {n_response} response tokens, the limit is {max_length}"
        )

        if response.problem is not None:
            status = ResponseStatus("template_error", response.problem)
        elif n_response == 0:
            status = ResponseStatus("empty", "the response has no token")
        elif n_response <= room:
            status = ResponseStatus("ok")
            fitting.append(response)
        elif on_too_long == "error":
            raise UsageError(
                f"response {response.sample_idx} of prompt {group.prompt_id} is too long: "
                f"{lengths}",
                hint="raise --max-length, or pass --on-too-long drop or truncate",
            )
        elif room < 1:
            status = ResponseStatus("prompt_too_long", lengths)
        elif on_too_long == "truncate":
            status = ResponseStatus("truncated", lengths)
            fitting.append(response._replace(token_ids=response.token_ids[:room]))
        else:
            status = ResponseStatus("too_long", lengths)
        statuses[group.prompt_id, response.sample_idx] = status

    return fitting, statuses


def _of_roles(group: Group, roles: Sequence[str]) -> tuple[Group, dict[Key, ResponseStatus]]:
    """Return the group with the responses of these roles, and the status of the others."""
    statuses: dict[Key, ResponseStatus] = {}
    used = []
    for response in group.responses:
        if response.role in roles:
            used.append(response)
            continue
        statuses[group.prompt_id, response.sample_idx] = ResponseStatus(
            f"unused_{response.role}", f"the objective trains on {' and '.join(roles)}s alone"
        )
    return group._replace(responses=used), statuses


def _without_copies(
    prompt_id: str, responses: Sequence[Response]
) -> tuple[list[Response], dict[Key, ResponseStatus]]:
    """Return the responses whose tokens differ, in their order, and the status of the others."""
    statuses: dict[Key, ResponseStatus] = {}
    originals: dict[tuple[int, ...], Response] = {}
    # The first of equal responses is kept, so preferred ones come first.
    for response in sorted(responses, key=lambda each: (each.role != "positive", each.sample_idx)):
        original = originals.setdefault(tuple(response.token_ids), response)
        if original is not response:
            reason = f"the same tokens as response {original.sample_idx}"
            statuses[prompt_id, response.sample_idx] = ResponseStatus("identical", reason)

    different = [
        response for response in responses if originals[tuple(response.token_ids)] is response
    ]
    return different, statuses
