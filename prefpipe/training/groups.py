"""Groups to train on: one prompt, its kept responses with rewards and roles, checked against the length limit.

A response is trained on whole or not at all, unless truncation is asked for; what is left out has a status and a
reason. A group that is left without a positive or without a negative is left out whole: there is nothing to compare.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from torch.utils.data import Dataset

from prefpipe.errors import InputError, UsageError

KEPT = ("ok", "truncated", "held_out")
"""The statuses of responses that are trained or evaluated on."""
ON_TOO_LONG = ("drop", "truncate", "error")
Key = tuple[str, int]
"""``(prompt_id, sample_idx)``: what joins a candidate's rows everywhere."""


class Response(NamedTuple):
    """One response to train on.

    ``token_ids`` are the ids as sampled, end of sequence included when there was one. ``role`` is ``positive`` or
    ``negative``. ``ref_logp`` is the summed log-probability under the reference policy, None where none is needed.
    ``beats``: the samples that this one is to beat under pairwise objectives; None: a positive beats every negative.
    ``problem``: why the model's chat template makes no tokens of this response, which has none then.
    """

    sample_idx: int
    token_ids: Sequence[int]
    reward: float
    role: str
    ref_logp: float | None = None
    beats: Sequence[int] | None = None
    problem: str | None = None


class Group(NamedTuple):
    """What ``select`` kept for one prompt."""

    prompt_id: str
    prompt_token_ids: Sequence[int]
    responses: Sequence[Response]


class Fate(NamedTuple):
    """What became of one response: ``ok``, or why it is not trained on (``truncated`` ones are)."""

    status: str
    reason: str | None = None


class PreparedGroups(NamedTuple):
    """Groups that can be trained on, and the fate of every response that came in, by key."""

    groups: list[Group]
    fates: dict[Key, Fate]

    @property
    def counts(self) -> Counter[str]:
        """Responses by status."""
        return Counter(fate.status for fate in self.fates.values())

    @property
    def left_out(self) -> dict[str, int]:
        """Responses that can be neither trained nor evaluated on, by status."""
        return {name: count for name, count in sorted(self.counts.items()) if name not in KEPT}

    def describe_left_out(self) -> str:
        """Return ``left_out`` in words, "" where there is nothing."""
        return ", ".join(f"{count} {name}" for name, count in self.left_out.items())


NO_GROUP = -1
"""Index of the empty places that fill the last batches of an epoch, where prompts do not divide by processes."""


class GroupDataset(Dataset[Group | None]):
    """Groups as the trainer wants them: an indexed data set."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Group | None:
        return None if index == NO_GROUP else self.groups[index]


def lacks_role(group: Group) -> str | None:
    """Name the role that a group lacks, None for neither."""
    roles = {response.role for response in group.responses}
    return next((role for role in ("positive", "negative") if role not in roles), None)


def lacks_pair(group: Group) -> str | None:
    """Return ``pair`` where a group has none, of those that selection named or else of a positive and a negative."""
    return None if pairs_in(group) else "pair"


def prepare_groups(
    groups: Sequence[Group],
    *,
    max_length: int,
    on_too_long: str,
    lacks: Callable[[Group], str | None] = lacks_role,
) -> PreparedGroups:
    """Check groups against the length limit and leave out what cannot be compared.

    Statuses: ``ok``; ``truncated`` (cut at the limit and trained on); ``too_long`` (prompt plus response);
    ``prompt_too_long`` (no room for a single response token); ``empty`` (no token); ``template_error`` (see ``problem``);
    ``identical`` (the same tokens as a response that stays: a positive stays before a negative, then the lower index);
    ``no_contrast`` (fine itself, but the group lost what it needs, its last positive or negative, say).

    Args:
        groups: any order; order is kept.
        max_length: longest prompt plus response, in tokens.
        on_too_long: ``drop`` the response, ``truncate`` it to the limit, or stop with an ``error``.
        lacks: names what a group needs and lacks, None for nothing.

    Raises:
        UsageError: something is too long and ``on_too_long`` is ``error``.
        InputError: a prompt has no token, a reward is not finite, a role is unknown, or a key comes twice.
    """
    kept: list[Group] = []
    fates: dict[Key, Fate] = {}
    for group in groups:
        check_group(group, fates)
        fitting, own_fates = fit_length(group, max_length=max_length, on_too_long=on_too_long)
        responses, copies = _without_copies(group.prompt_id, fitting)
        fates |= own_fates | copies
        left = group._replace(responses=responses)
        lost = lacks(left)
        if lost is None:
            kept.append(left)
            continue
        for response in responses:
            fates[group.prompt_id, response.sample_idx] = Fate(
                "no_contrast", f"no {lost} is left in the group"
            )
    return PreparedGroups(kept, fates)


def with_reference(
    groups: Sequence[Group], reference: Mapping[Key, tuple[float, int]]
) -> list[Group]:
    """Return groups whose responses carry the reference's summed log-probability.

    Args:
        groups: what ``prepare_groups`` kept.
        reference: by key, the sum and the number of tokens it is a sum of.

    Raises:
        InputError: a response is missing from ``reference``, or was measured over another number of tokens.
    """
    return [
        group._replace(
            responses=[
                _with_reference(group.prompt_id, response, reference)
                for response in group.responses
            ]
        )
        for group in groups
    ]


def pairs_in(group: Group) -> list[tuple[Response, Response]]:
    """Return (winner, loser): the pairs that selection named, of responses that are still there, else positives x negatives."""
    if any(response.beats is not None for response in group.responses):
        places = {response.sample_idx: response for response in group.responses}
        return [
            (winner, places[idx])
            for winner in group.responses
            for idx in winner.beats or ()
            if idx in places
        ]
    positives = [response for response in group.responses if response.role == "positive"]
    negatives = [response for response in group.responses if response.role == "negative"]
    return [(winner, loser) for winner in positives for loser in negatives]


def require_reward_gaps(groups: Sequence[Group], objective: str) -> None:
    """Refuse pairs whose winner is not rated above its loser, for an objective that takes the logarithm of the gap.

    Raises:
        UsageError: there is such a pair; it names the first and counts all.
    """
    pairs = [(group, winner, loser) for group in groups for winner, loser in pairs_in(group)]
    without = [
        (group, winner, loser) for group, winner, loser in pairs if not winner.reward > loser.reward
    ]
    if without:
        group, winner, loser = without[0]
        raise UsageError(
            f"{objective} takes the logarithm of the reward gap, and in {len(without)} of {len(pairs)} pairs the winner is not "
            f"rated above the loser: in prompt {group.prompt_id} response {winner.sample_idx} has reward {winner.reward:g} and "
            f"response {loser.sample_idx} has {loser.reward:g}",
            hint="leave such pairs out with `prefpipe select --min-margin`, or train with mmpo or rpo, which can read them",
        )


def _with_reference(
    prompt_id: str, response: Response, reference: Mapping[Key, tuple[float, int]]
) -> Response:
    logp, n_tokens = reference.get((prompt_id, response.sample_idx), (None, 0))
    place = f"response {response.sample_idx} of prompt {prompt_id}"
    if logp is None:
        raise InputError(
            f"no reference log-probability for {place}",
            hint="make the reference again, of these groups",
        )
    if n_tokens != len(response.token_ids):
        raise InputError(
            f"the reference log-probability of {place} is a sum over {n_tokens} tokens, and the response has "
            f"{len(response.token_ids)}",
            hint="the reference was made with another --max-length or --on-too-long; make it again",
        )
    return response._replace(ref_logp=logp)


def check_group(group: Group, seen: Mapping[Key, Fate]) -> None:
    """Refuse a group that cannot be trained on or measured, whatever its length.

    Raises:
        InputError: a prompt has no token, a reward is not finite, a role is unknown, or a key comes twice or is in ``seen``.
    """
    has_tokens = any(response.problem is None for response in group.responses)
    if not group.prompt_token_ids and has_tokens:
        raise InputError(
            f"prompt {group.prompt_id} has no token",
            hint="nothing would predict a response's first token",
        )
    for position, response in enumerate(group.responses):
        place = f"response {response.sample_idx} of prompt {group.prompt_id}"
        twice = any(other.sample_idx == response.sample_idx for other in group.responses[:position])
        if twice or (group.prompt_id, response.sample_idx) in seen:
            raise InputError(
                f"{place} comes twice", hint="groups are keyed by prompt_id and sample_idx"
            )
        if response.reward is None or not isfinite(response.reward):
            raise InputError(f"{place} has reward {response.reward}", hint="score and select again")
        if response.role not in {"positive", "negative"}:
            raise InputError(
                f"{place} has role {response.role!r}, not positive or negative", hint="select again"
            )


def require_known_tokens(groups: Sequence[Group], n_vocabulary: int) -> None:
    """Refuse token ids that the model has no embedding for: on a GPU they end the process without a word of which.

    Raises:
        InputError: naming the first.
    """
    for group in groups:
        for place, ids in (
            (f"prompt {group.prompt_id}", group.prompt_token_ids),
            *(
                (f"response {each.sample_idx} of prompt {group.prompt_id}", each.token_ids)
                for each in group.responses
            ),
        ):
            if ids and not 0 <= min(ids) <= max(ids) < n_vocabulary:
                wrong = next(token for token in ids if not 0 <= token < n_vocabulary)
                raise InputError(
                    f"{place} holds the token id {wrong}, and the model has {n_vocabulary} tokens",
                    hint="pass the model that sampled the responses, or generate again; `prefpipe check` lists them all",
                )


def fit_length(
    group: Group, *, max_length: int, on_too_long: str
) -> tuple[list[Response], dict[Key, Fate]]:
    """Return the responses that fit the length limit, cut where that is asked for, in their order, and the fate of all.

    Statuses: ``ok``, ``truncated``, ``too_long``, ``prompt_too_long``, ``empty`` and ``template_error``, as in `prepare_groups`.

    Raises:
        UsageError: something is too long and ``on_too_long`` is ``error``.
    """
    room = max_length - len(group.prompt_token_ids)
    fates: dict[Key, Fate] = {}
    fitting: list[Response] = []
    for response in group.responses:
        key = group.prompt_id, response.sample_idx
        length = len(response.token_ids)
        words = f"{len(group.prompt_token_ids)} prompt tokens + {length} response tokens, the limit is {max_length}"
        if response.problem is not None:
            fates[key] = Fate("template_error", response.problem)
        elif length == 0:
            fates[key] = Fate("empty", "the response has no token")
        elif length <= room:
            fates[key] = Fate("ok")
            fitting.append(response)
        elif on_too_long == "error":
            raise UsageError(
                f"response {response.sample_idx} of prompt {group.prompt_id} is too long: {words}",
                hint="raise --max-length, or choose --on-too-long drop or truncate",
            )
        elif room < 1:
            fates[key] = Fate("prompt_too_long", words)
        elif on_too_long == "truncate":
            fates[key] = Fate("truncated", words)
            fitting.append(response._replace(token_ids=response.token_ids[:room]))
        else:
            fates[key] = Fate("too_long", words)
    return fitting, fates


def _without_copies(
    prompt_id: str, responses: Sequence[Response]
) -> tuple[list[Response], dict[Key, Fate]]:
    """Return the responses whose tokens differ, in their order, and the fate of the others."""
    fates: dict[Key, Fate] = {}
    first: dict[tuple[int, ...], Response] = {}
    for response in sorted(responses, key=lambda each: (each.role != "positive", each.sample_idx)):
        original = first.setdefault(tuple(response.token_ids), response)
        if original is not response:
            fates[prompt_id, response.sample_idx] = Fate(
                "identical", f"the same tokens as response {original.sample_idx}"
            )
    return [
        response for response in responses if first[tuple(response.token_ids)] is response
    ], fates
