"""Text to token ids, for groups whose stored ids belong to another tokenizer or are missing.

Stored ids are what the policy really sampled, and are used whenever they fit. Otherwise the
conversation goes through the policy's own chat template, and the response is what the template adds
after the prompt.

If the tokens of the prompt are not the first tokens of prompt plus response, the response is
tokenised separately. That happens when a response begins with a newline, which many tokenizers join
with the newline at the end of the prompt. A policy never writes such a joint token, because its
prompt is fixed before it begins. So separate tokens are what it would have sampled, and a note
counts such responses.

Control tokens in a response or in a prompt are text, see `prefpipe.text.chat_template`, and never
end a response.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.errors import InputError
from prefpipe.text.begun_turns import answered
from prefpipe.text.chat_template import PROBE_ANSWERS, PROBES, ChatTemplate
from prefpipe.text.control_text import CONTROL_TEXT, notes_of_control_text
from prefpipe.text.control_tokens import TemplateError

Message = Mapping[str, Any]

N_TOKENISED, N_APART = "n_tokenised", "n_tokenised_apart"
"""Tally names: encoded responses, and those tokenised separately from their prompts."""


class Encoded(NamedTuple):
    """A conversation as tokens.

    ``prompt`` includes the generation prompt, ``response`` the end of the turn if the response
    ended itself. ``is_apart``: the two were tokenised separately, because jointly the prompt has
    other tokens. ``holds_control_text``: a turn or the response holds the text of a control token,
    which was read as text.
    """

    prompt: list[int]
    response: list[int]
    is_apart: bool = False
    holds_control_text: bool = False


class EncodingError(InputError):
    """One conversation that this model cannot encode; others may be fine.

    ``problem``: ``template_error``, the template cannot write it, or ``not_prefix``, it writes the
        prompt differently once it is answered.
    """

    def __init__(self, problem: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.problem = problem


class Encoder:
    """A tokenizer with a chat template, and the ids that end a turn.

    It counts its encodings, so each thread needs its own, see `anew`.

    Args:
        tokenizer: a transformers tokenizer.
        eos_token_ids: the model's; the tokenizer's own is always included.
        today: the date for a template that reads the clock.
        template_args: the template's arguments beside the conversation.
        template: an existing template of this tokenizer and these ids, if any.
    """

    def __init__(
        self,
        tokenizer: Any,
        eos_token_ids: Sequence[int],
        *,
        today: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = {tokenizer.eos_token_id, *eos_token_ids} - {None}
        if template is None:
            template = ChatTemplate(
                tokenizer, eos_ids=sorted(self.eos_token_ids), today=today, args=template_args
            )
        self.template = template
        self.n_encoded = 0
        self.n_apart = 0
        self.n_with_control_text = 0
        self._last_prompt: tuple[list[Message], str, list[int]] | None = None
        self._anchors: list[str] | None = None

    def anew(self) -> "Encoder":
        """Return an encoder with the same tokenizer and template, and empty counts."""
        return Encoder(self.tokenizer, sorted(self.eos_token_ids), template=self.template)

    def encode(
        self, prompt_id: str, messages: Sequence[Message], response: str, *, finished: bool
    ) -> Encoded:
        """Return prompt ids, generation prompt included, and response ids.

        The counts are for `notes`.

        Args:
            prompt_id: for messages.
            messages: the conversation up to the response.
            response: the response's text.
            finished: whether it ended itself; its ids then end with the template's end of turn. A
                response cut at a token limit ends with its last token.

        Raises:
            EncodingError: this conversation cannot be encoded.
            InputError: the prompt begins with two BOS, like every prompt of this model.
        """
        encoded = self.encode_as_it_is(prompt_id, messages, response, finished=finished)
        if begins_with_two_bos(encoded.prompt, self.tokenizer.bos_token_id):
            raise InputError(
                f"prompt {prompt_id} begins with two {self.tokenizer.bos_token} tokens: template "
                "and tokenizer both add one",
                hint="remove bos_token from the chat template",
            )
        self.n_encoded += 1
        self.n_apart += encoded.is_apart
        self.n_with_control_text += encoded.holds_control_text
        return encoded

    def encode_as_it_is(
        self, prompt_id: str, messages: Sequence[Message], response: str, *, finished: bool
    ) -> Encoded:
        """Return the same as `encode` without the check for two BOS, and count nothing.

        Raises:
            EncodingError: as `encode`.
        """
        whole_turns = answered(messages, response)
        try:
            prompt_text, prompt = self._prompt(messages)
            whole_text = self.template.text(whole_turns, add_generation_prompt=False)
            whole = self.template.tokenise(whole_text)
        except TemplateError as error:
            raise EncodingError(
                "template_error",
                f"prompt {prompt_id}: the policy's chat template refuses its conversation: "
                f"{error.why}",
                hint="choose a model whose chat template accepts these turns",
            ) from error

        is_apart = whole[: len(prompt)] != prompt
        if not is_apart:
            rest = whole[len(prompt) :]
        elif whole_text.startswith(prompt_text):
            rest = self._apart(whole_text[len(prompt_text) :])
        else:
            raise EncodingError(
                "not_prefix",
                f"prompt {prompt_id}: its text is not the beginning of prompt plus response; "
                "the chat template writes a finished turn differently",
                hint="train the model that generated the responses: their token ids are stored",
            )

        holds_control_text = any(self.holds_control_text(turn) for turn in whole_turns)
        return Encoded(
            prompt, self._until_end(rest, finished=finished), is_apart, holds_control_text
        )

    def notes(self) -> list[str]:
        """Return sentences about the encoded responses for the user."""
        return notes_on_encoding(self.tally())

    def tally(self) -> dict[str, float]:
        """Return the counts by name, to be added to those of other encoders."""
        return {
            N_TOKENISED: self.n_encoded,
            N_APART: self.n_apart,
            CONTROL_TEXT + self.template.control_token: self.n_with_control_text,
        }

    def _prompt(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Return text and ids of a prompt.

        Those of the last prompt are cached, because responses of one prompt come together.
        """
        turns = list(messages)
        if self._last_prompt is None or self._last_prompt[0] != turns:
            text = self.template.text(turns, add_generation_prompt=True)
            self._last_prompt = turns, text, self.template.tokenise(text)
        _, text, ids = self._last_prompt
        return text, list(ids)

    def _apart(self, text: str) -> list[int]:
        """Return the ids of the text after a prompt, without joining it with the prompt.

        Some tokenizers put a space before every text. With such a tokenizer the text is tokenised
        after an anchor, so that it is not the first text; a response that joins with nothing shows
        which anchor works.
        """
        if self._anchors is None:
            self._anchors = self._find_anchors()
        for anchor in self._anchors:
            before = self.template.tokenise(anchor) if anchor else []
            ids = self.template.tokenise(anchor + text)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self.template.tokenise(text)

    def _find_anchors(self) -> list[str]:
        question = [{"role": "user", "content": PROBES[0]}]
        answered = [*question, {"role": "assistant", "content": PROBE_ANSWERS[0]}]
        prompt_text = self.template.text(question, add_generation_prompt=True)
        whole_text = self.template.text(answered, add_generation_prompt=False)
        prompt, whole = self.template.tokenise(prompt_text), self.template.tokenise(whole_text)
        if whole[: len(prompt)] != prompt or not whole_text.startswith(prompt_text):
            return [""]

        text, expected = whole_text[len(prompt_text) :], whole[len(prompt) :]
        written = [
            spelling
            for spelling in self.template.control_tokens.values()
            if spelling in prompt_text
        ]
        # In the order of trial: preferably none at all.
        serving = []
        for anchor in ("", *written, "\n", ":"):
            before = self.template.tokenise(anchor) if anchor else []
            if self.template.tokenise(anchor + text) == [*before, *expected]:
                serving.append(anchor)
        return serving

    def _until_end(self, ids: list[int], *, finished: bool) -> list[int]:
        """Cut what the template adds after the end of the turn.

        The end itself is cut, too, if the response was cut off.
        """
        ends = [position for position, token in enumerate(ids) if token in self.eos_token_ids]
        # Only the template writes control tokens; an ordinary token that ends turns may also be in
        # the response.
        control_ends = [end for end in ends if ids[end] in self.template.control_tokens]
        end = len(ids)
        if control_ends:
            end = control_ends[0]
        elif ends:
            end = ends[-1]
        return ids[: end + 1] if finished else ids[:end]

    def holds_control_text(self, turn: Message) -> bool:
        """Return whether a turn holds the text of a control token."""
        texts = [text for text in turn.values() if isinstance(text, str)]
        return any(map(self.template.holds_control_text, texts))


def notes_on_encoding(tally: Mapping[str, float]) -> list[str]:
    """Return sentences about encoded responses from their `Encoder.tally`."""
    notes = []
    n_encoded, n_apart = int(tally.get(N_TOKENISED, 0)), int(tally.get(N_APART, 0))
    if n_apart:
        notes.append(
            f"{n_apart:,} of {n_encoded:,} responses are tokenised separately from their "
            "prompts: tokenised together, their first letters would change the prompts' last tokens"
        )
    return notes + notes_of_control_text(tally, n_encoded)


def begins_with_two_bos(ids: Sequence[int], bos_token_id: int | None) -> bool:
    """Return whether template and tokenizer both added the beginning of sequence."""
    return bos_token_id is not None and list(ids[:2]) == [bos_token_id, bos_token_id]
