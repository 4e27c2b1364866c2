"""Random groups for training tests, over the vocabulary of the tiny models."""

import random

from prefpipe.training.groups import Group, Response
from support.tiny_models import END_ID, FIRST_BYTE_ID, VOCAB_SIZE


def make_group(prompt_id, n_prompt=5, lengths=(4, 6, 3), seed=0, n_positive=1):
    """A group whose first responses are the positives; reward falls with the index."""
    randomness = random.Random(f"{seed}-{prompt_id}")

    def tokens(n):
        return [randomness.randrange(FIRST_BYTE_ID, VOCAB_SIZE) for _ in range(n)]

    responses = [
        Response(
            i,
            [*tokens(length - 1), END_ID],
            float(len(lengths) - i),
            "positive" if i < n_positive else "negative",
        )
        for i, length in enumerate(lengths)
    ]
    return Group(prompt_id, tokens(n_prompt), responses)


def make_groups(n=8, seed=0):
    """Groups of two to four responses, of different lengths."""
    return [
        make_group(
            f"p{i}",
            n_prompt=3 + i % 4,
            lengths=tuple(3 + (i * 7 + j * 5) % 9 for j in range(2 + i % 3)),
            seed=seed,
        )
        for i in range(n)
    ]
