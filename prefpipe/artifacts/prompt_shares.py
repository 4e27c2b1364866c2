"""Disjoint shares of a prompts file: which prompts are the second third of them.

Prompts are sorted by a hash of their ``prompt_id``, and the list is cut into N runs of equal
length. So shares differ by one prompt at most in size, hold any family of prompts in about its
proportion, whatever the order of the file, and stay the same when the file is reordered. One prompt
more in the file moves one prompt at most over each cut. Within a share the prompts keep the order
of the file. The seed has no influence: runs with any ``--seed`` have the same shares, so rounds
that sample with different seeds never sample a prompt twice.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from prefpipe.errors import InputError, UsageError

SALT = "prefpipe prompt share"
"""Hashed with an id, so that ids which are hashes of other things are sorted again."""


class PromptShare(NamedTuple):
    """Share ``number`` of ``n_shares``, from 1: ``2/3`` is the second third of the prompts."""

    number: int
    n_shares: int

    def places(self, prompt_ids: Sequence[str], source: str) -> list[int]:
        """Return the prompts of this share: their places in the file, ascending.

        Args:
            prompt_ids: of all prompts, in the order of the file.
            source: the file, for the message.

        Raises:
            InputError: fewer prompts than shares, so that one would have none.
        """
        n_prompts = len(prompt_ids)
        if n_prompts < self.n_shares:
            raise InputError(
                f"--prompt-share {self}: {source} holds {n_prompts:,} prompts, too few for "
                f"{self.n_shares:,} shares",
                hint=f"pass {n_prompts:,} shares or fewer, or more prompts",
            )

        by_hash = sorted(range(n_prompts), key=lambda place: _sort_key(prompt_ids[place]))
        first = (self.number - 1) * n_prompts // self.n_shares
        end = self.number * n_prompts // self.n_shares
        return sorted(by_hash[first:end])

    def __str__(self) -> str:
        """Return it as ``--prompt-share`` takes it."""
        return f"{self.number}/{self.n_shares}"


def parse_prompt_share(text: str) -> PromptShare:
    """Return the share that a text names.

    Raises:
        UsageError: it is no ``I/N`` with I within 1 and N.
    """
    # one spelling a share: "02/3" would be another run
    match = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(
            f"--prompt-share must be I/N with I within 1 and N, such as 2/3 for the second third, "
            f"not {text!r}"
        )
    return PromptShare(int(match[1]), int(match[2]))


def _sort_key(prompt_id: str) -> bytes:
    text = f"{SALT}\0{prompt_id}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
