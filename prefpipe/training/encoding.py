"""Text back to token ids, for groups whose stored ids belong to another tokenizer or are not there.

Stored ids are what the policy really sampled and are trained on wherever they fit. Otherwise the conversation goes through
the policy's own chat template, and the response is what the template adds behind the prompt: so the templated
prompt must be a token prefix of the templated whole, which is checked, not hoped for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from prefpipe.errors import InputError

Message = Mapping[str, str]


class Encoder:
    """A tokenizer with a chat template, and the ids that end a turn."""

    def __init__(self, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = {tokenizer.eos_token_id, *eos_token_ids} - {None}

    def encode(
        self, prompt_id: str, messages: Sequence[Message], response: str, *, finished: bool
    ) -> tuple[list[int], list[int]]:
        """Return prompt ids, generation prompt included, and response ids.

        Args:
            prompt_id: for messages.
            messages: the conversation up to the response.
            response: the response's text.
            finished: whether it ended by itself; its ids then end with the template's end of turn. One that was cut at a token
                limit ends with its last token.

        Errors:
            InputError: the template refuses the conversation, the prompt begins with two BOS, or it is not a prefix of the
                whole: templates that strip reasoning or rewrite earlier turns do that.
        """
        prompt, whole = self.templated(prompt_id, messages, response)
        if begins_with_two_bos(prompt, self.tokenizer.bos_token_id):
            raise InputError(
                f"prompt {prompt_id} begins with two {self.tokenizer.bos_token} tokens: template and tokenizer both add one",
                hint="remove bos_token from the chat template",
            )
        if whole[: len(prompt)] != prompt:
            raise InputError(
                f"prompt {prompt_id}: its {len(prompt)} tokens are not the first tokens of prompt plus response; the chat "
                "template writes a finished turn differently",
                hint="train the model that generated the responses, whose token ids are stored",
            )
        return prompt, self._until_end(whole[len(prompt) :], finished=finished)

    def encode_apart(self, prompt_id: str, messages: Sequence[Message], response: str) -> tuple[list[int], list[int]]:
        """Return prompt ids and the ids of a finished response that is tokenised by itself, as a policy would write it.

        For responses whose first characters would melt into the last token of the prompt (a newline behind the newline that
        ends the generation prompt): `encode` refuses them, for stored texts must give the tokens that were sampled.

        Errors:
            InputError: the template refuses the conversation, or the text of the prompt is no beginning of the whole.
        """
        turns = [dict(message) for message in messages]
        answered = [*turns, {"role": "assistant", "content": response}]
        prompt = self._ids(prompt_id, turns, add_generation_prompt=True)
        texts = [
            str(self.tokenizer.apply_chat_template(each, add_generation_prompt=is_open, tokenize=False))
            for each, is_open in ((turns, True), (answered, False))
        ]
        if not texts[1].startswith(texts[0]):
            raise InputError(f"prompt {prompt_id}: the chat template writes it differently once it is answered",
                             hint="choose a model whose template leaves earlier turns as they are")  # fmt: skip
        rest: list[int] = self.tokenizer(texts[1][len(texts[0]) :], add_special_tokens=False)["input_ids"]
        return prompt, self._until_end(rest, finished=True)

    def templated(self, prompt_id: str, messages: Sequence[Message], response: str) -> tuple[list[int], list[int]]:
        """Return the ids of the templated prompt, and of the conversation with the response as a finished turn; unchecked.

        Errors:
            InputError: the template refuses the conversation.
        """
        turns = [dict(message) for message in messages]
        whole = [*turns, {"role": "assistant", "content": response}]
        return (self._ids(prompt_id, turns, add_generation_prompt=True),
                self._ids(prompt_id, whole, add_generation_prompt=False))  # fmt: skip

    def _ids(self, prompt_id: str, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
            )
        except jinja2.TemplateError as error:
            raise InputError(f"prompt {prompt_id}: the policy's chat template refuses its conversation: {error}",
                             hint="choose a model whose template takes these turns") from error  # fmt: skip
        return ids

    def _until_end(self, ids: list[int], *, finished: bool) -> list[int]:
        """Cut what the template adds after the end of the turn, and the end itself where the response was cut off."""
        end = next((position for position, token in enumerate(ids) if token in self.eos_token_ids), len(ids))
        return ids[: end + 1] if finished else ids[:end]


def begins_with_two_bos(ids: Sequence[int], bos_token_id: int | None) -> bool:
    """Return whether template and tokenizer have both put the beginning of sequence in front."""
    return bos_token_id is not None and list(ids[:2]) == [bos_token_id, bos_token_id]
