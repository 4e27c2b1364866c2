"""Groups to padded tensors, and the order in which groups are visited.

Axes: P prompts (groups), R responses of a prompt, S sequences (the responses of all groups, one
after the other, without gaps), T tokens. Only this module makes the response mask.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from prefpipe.training.groups import NO_GROUP, Group, Response, pairs_in
from prefpipe.training.shared_prompt import n_packed_tokens, pack_groups, pieces_of

Batch = dict[str, Any]
"""A micro-batch, packed or padded.

Packed: the row of `prefpipe.training.shared_prompt.pack_groups`. Padded: ``input_ids``,
``attention_mask``, ``response_mask``, (S, T), prompt then response, padded on the right.
Either way:

``ended``: (S,) bool, whether the response's last token is an end-of-sequence token.
``slots``: (P, R) int, row of ``input_ids`` of each response, -1 where a group has fewer than R.
``rewards``: (P, R) float32; ``positives``: (P, R) bool.
``ref_logps``: (P, R) float32, only with a reference.
``n_prompt_tokens``: int, prompt tokens if each prompt is computed once a response.
``pairs``: (P, R, R) bool, which response beats which, only where selection named pairs.
``weights``: (P,) float32, how much each prompt counts, only if the weights differ.
``pair_weights``: (P, R, R) float32, how much each pair counts within its prompt, likewise.
"""


class GroupCollator:
    """Make a batch of groups: packed, each prompt once, or padded.

    ``pad_token_id`` may be any token because it is masked.

    ``end_token_ids``: the tokens that end a response; a response that does not end with one was cut
    off.
    """

    def __init__(
        self, pad_token_id: int, end_token_ids: Collection[int] = (), *, packed: bool = False
    ) -> None:
        self.pad_token_id = pad_token_id
        self.packed = packed
        self.end_token_ids = frozenset(end_token_ids)

    def __call__(self, groups: Sequence[Group]) -> Batch:
        """Return the batch; see ``Batch`` for its tensors."""
        batch = pack_groups(groups) if self.packed else self._pad(groups)
        batch["ended"] = self.ended(groups)
        batch["n_prompt_tokens"] = sum(
            len(group.prompt_token_ids) * len(group.responses) for group in groups
        )

        width = max(len(group.responses) for group in groups)
        slots = torch.full((len(groups), width), -1)
        rewards = torch.zeros(len(groups), width)
        positives = torch.zeros(len(groups), width, dtype=torch.bool)
        ref_logps = torch.zeros(len(groups), width)
        has_reference, has_named_pairs = True, False
        row = 0
        for p, group in enumerate(groups):
            for r, response in enumerate(group.responses):
                slots[p, r] = row
                rewards[p, r] = response.reward
                positives[p, r] = response.role == "positive"
                if response.ref_logp is None:
                    has_reference = False
                else:
                    ref_logps[p, r] = response.ref_logp
                has_named_pairs |= response.beats is not None
                row += 1

        batch |= {"slots": slots, "rewards": rewards, "positives": positives}
        if has_named_pairs:
            batch["pairs"] = pairs_of(groups, width)
        if has_reference:
            batch["ref_logps"] = ref_logps
        if any(group.weight != 1 for group in groups):
            batch["weights"] = torch.tensor([group.weight for group in groups])
        if any(group.pair_weights is not None for group in groups):
            batch["pair_weights"] = pair_weights_of(groups, width)
        return batch

    def _pad(self, groups: Sequence[Group]) -> Batch:
        return pad_sequences(sequences_of(groups), self.pad_token_id)

    def ended(self, groups: Sequence[Group]) -> Tensor:
        """Return (S,) bool: which responses end with an end-of-sequence token."""
        ended = []
        for group in groups:
            for response in group.responses:
                ids = response.token_ids
                ended.append(len(ids) > 0 and ids[-1] in self.end_token_ids)
        return torch.tensor(ended)


IDLE = Group("", [0], [Response(0, [0, 0], 0.0, "positive")])
"""What an idle device computes while others wait for it."""


class BudgetCollator:
    """Cut a device's prompts into micro-batches of at most ``max_tokens`` tokens.

    Returns ``{"batches": [...], "n_prompts": P, "idle": ...}``. Micro-batches are made by
    `GroupCollator`. If packed, a group that is too long becomes a micro-batch whose ``rows`` are
    several packed rows, cut between responses; a single response always fits. The last batches of
    an epoch may have no group. ``idle`` is a row of three tokens, for passes that a device makes
    only because others have more work.
    """

    def __init__(self, collator: GroupCollator, max_tokens: int) -> None:
        self.collator = collator
        self.max_tokens = max_tokens

    def __call__(self, places: Sequence[Group | None]) -> dict[str, Any]:
        """Return the micro-batches, in order."""
        groups = [group for group in places if group is not None]
        batches: list[Batch] = []
        pending: list[Group] = []
        for group in groups:
            if pending and self._n_tokens([*pending, group]) > self.max_tokens:
                batches.append(self._batch(pending))
                pending = []
            pending.append(group)
        if pending:
            batches.append(self._batch(pending))
        return {"batches": batches, "n_prompts": len(groups), "idle": self.collator([IDLE])}

    def _n_tokens(self, groups: Sequence[Group]) -> int:
        if self.collator.packed:
            return sum(n_packed_tokens(group) for group in groups)
        return max(map(longest_sequence, groups)) * sum(len(group.responses) for group in groups)

    def _batch(self, groups: Sequence[Group]) -> Batch:
        batch = self.collator(groups)
        # Only packed groups can be cut; padded ones, and single responses, are computed whole.
        is_too_long = self._n_tokens(groups) > self.max_tokens
        if self.collator.packed and is_too_long and len(groups[0].responses) > 1:
            batch["rows"] = [
                pack_groups([piece]) | {"ended": self.collator.ended([piece])}
                for piece in pieces_of(groups, self.max_tokens)
            ]
        return batch


def pairs_of(groups: Sequence[Group], width: int) -> Tensor:
    """Return (P, R, R) bool: the pairs named by selection, of responses that remain.

    A group without named pairs in a batch that has some pairs every positive with every negative.
    """
    pairs = torch.zeros(len(groups), width, width, dtype=torch.bool)
    for p, group in enumerate(groups):
        places = {response.sample_idx: r for r, response in enumerate(group.responses)}
        for winner, loser in pairs_in(group):
            pairs[p, places[winner.sample_idx], places[loser.sample_idx]] = True
    return pairs


def pair_weights_of(groups: Sequence[Group], width: int) -> Tensor:
    """Return (P, R, R): each pair's weight; 1 everywhere if a group's pairs weigh equally."""
    weights = torch.ones(len(groups), width, width)
    for p, group in enumerate(groups):
        places = {response.sample_idx: r for r, response in enumerate(group.responses)}
        for (winner, loser), weight in (group.pair_weights or {}).items():
            weights[p, places[winner], places[loser]] = weight
    return weights


def sequences_of(groups: Sequence[Group]) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Return (prompt, response) token ids of all responses, one after the other."""
    sequences: list[tuple[Sequence[int], Sequence[int]]] = []
    for group in groups:
        sequences += [(group.prompt_token_ids, each.token_ids) for each in group.responses]
    return sequences


def pad_sequences(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token_id: int
) -> Batch:
    """Return ``input_ids``, ``attention_mask``, ``response_mask`` (S, T) of (prompt, response)."""
    length = max(len(prompt) + len(response) for prompt, response in sequences)
    input_ids = torch.full((len(sequences), length), pad_token_id)
    attention_mask = torch.zeros(len(sequences), length, dtype=torch.long)
    response_mask = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, (prompt, response) in enumerate(sequences):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor([*prompt, *response])
        attention_mask[row, :end] = 1
        response_mask[row, len(prompt) : end] = True
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "response_mask": response_mask,
    }


def longest_sequence(group: Group) -> int:
    """Return the tokens of the group's longest prompt plus response: the width it pads to."""
    longest_response = max(len(response.token_ids) for response in group.responses)
    return len(group.prompt_token_ids) + longest_response


def order_of_epoch(n_groups: int, seed: int, epoch: int) -> list[int]:
    """Return the groups in the order in which an epoch, counted from 0, cuts them into steps."""
    # Nothing else draws from this generator: the order depends only on seed and epoch.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(n_groups, generator=generator).tolist()
    return order


class GlobalBatchSampler(Sampler[int]):
    """Visit groups in an order that depends only on seed and epoch, with similar lengths together.

    Groups are shuffled and cut into global batches; within a global batch, which is one optimizer
    step, they are sorted by length. The step's gradient is the same in any order, and micro-batches
    of like lengths pad less.

    An epoch ends with empty places up to a multiple of ``at_once``, the prompts that all devices
    take together: otherwise accelerate would fill up with prompts from the epoch's beginning, which
    would count twice.
    """

    def __init__(
        self, lengths: Sequence[int], *, global_batch_size: int, seed: int, at_once: int = 1
    ) -> None:
        self.lengths = list(lengths)
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.at_once = at_once
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's shuffle; accelerate calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self._n_empty()

    def _n_empty(self) -> int:
        return -len(self.lengths) % self.at_once

    def __iter__(self) -> Iterator[int]:
        order = order_of_epoch(len(self.lengths), self.seed, self.epoch)
        for start in range(0, len(order), self.global_batch_size):
            batch = order[start : start + self.global_batch_size]
            yield from sorted(batch, key=lambda index: self.lengths[index], reverse=True)
        yield from [NO_GROUP] * self._n_empty()
