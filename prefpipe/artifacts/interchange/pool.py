"""What is read from other tools' files: prompts with their responses and scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prefpipe.artifacts.conversations import Turns
from prefpipe.artifacts.prompts import Prompts


class ImportedResponse(NamedTuple):
    """One response of a file.

    Attributes:
        row: the number of its row, from 0.
        place: the row's name in messages.
        messages: the prompt.
        text: the response; None if there is none, and then ``failure`` says why.
        prompt_id: None for the messages' hash.
        sample_idx: None for the order within the prompt.
        model: who wrote it.
        finish_reason: how it ended.
        failure: why there is no text.
        scores: by scorer; None if the file has no score.
    """

    row: int
    place: str
    messages: Turns
    text: str | None
    prompt_id: str | None = None
    sample_idx: int | None = None
    model: str | None = None
    finish_reason: str | None = None
    failure: str | None = None
    scores: Mapping[str, float | None] = {}


@dataclass(frozen=True)
class Pool:
    """All prompts of a file, in the order in which they first appear, and their responses.

    ``responses`` has one list a prompt, by ``sample_idx``. ``notes`` say how the file was read.
    """

    prompts: Prompts
    responses: list[list[ImportedResponse]]
    scorers: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def n_responses(self) -> int:
        """Responses of all prompts."""
        return sum(map(len, self.responses))
