"""Conversations to token ids and back, one way for every engine that runs in this process.

The engines are handed ids and hand back ids. Text is made here, so that the same ids give the same
text whichever engine sampled them, and so that no engine adds a second BOS to a templated string.
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from transformers import AutoTokenizer

from prefpipe.backends.protocol import GenerationRequest, Message, SamplingParams
from prefpipe.errors import ModelError
from prefpipe.models.files import ModelFiles
from prefpipe.models.tokenizer import find_eos_ids
from prefpipe.text.begun_turns import is_begun
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.text.stop_texts import StopTexts, find_stop
from prefpipe.text.thoughts import is_opened, split_thought

N_TOKENS_JOINED = 16
"""Of a begun answer, decoded with what goes on from it: more than one character takes."""


class Reading(NamedTuple):
    """What a response says.

    ``thought``: what the model thought before it, None where it did not, or where thoughts are not
    told apart. ``is_stopped``: it ended at a stop text.
    """

    text: str
    thought: str | None
    is_stopped: bool


class ChatTokenizer:
    """A model's tokenizer and chat template, and the ids that end its responses.

    `encode` and `decode` may be called from several threads.

    Raises:
        ModelError: the template fails on two plain questions, or leaves them out.
    """

    def __init__(self, model: ModelFiles, *, trust_remote_code: bool) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(
            model.tokenizer_path, trust_remote_code=trust_remote_code, local_files_only=True
        )
        whole = model.base or model
        self.eos_ids = find_eos_ids(whole.path, self.tokenizer.eos_token_id)
        self.template = ChatTemplate(
            self.tokenizer,
            eos_ids=sorted(self.eos_ids),
            today=model.template_date,
            args=model.template_args,
        )
        self.thoughts = model.thoughts
        # A fast tokenizer that two threads use at a time may raise "Already borrowed".
        self._lock = threading.Lock()
        self.template.self_test(model.requested, answered=False)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the templated conversation, generation prompt included.

        What the turns say is text and never a control token, see the template.

        Raises:
            TemplateError: the chat template refuses the conversation (a system turn, say, or two
                user turns in a row).
            ModelError: the template and the tokenizer both put a BOS in front.
        """
        with self._lock:
            ids = self.template.ids(messages, add_generation_prompt=True)
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise ModelError(
                f"the prompt begins with two {self.tokenizer.bos_token} tokens: "
                "template and tokenizer both add one",
                hint="remove bos_token from the chat template",
            )
        return ids

    def ids_joined(self, messages: Sequence[Message], prompt: Sequence[int]) -> Sequence[int]:
        """Return the ids that a response's text joins: none, but the last ones of a begun answer.

        Args:
            messages: the prompt's.
            prompt: its ids.
        """
        return prompt[-N_TOKENS_JOINED:] if is_begun(messages) else ()

    def decode(self, ids: Sequence[int], joined: Sequence[int] = ()) -> str:
        """Return the text of a response's ids, without special tokens.

        Args:
            ids: the response's.
            joined: see `ids_joined`. A tokenizer that writes a space in front of every word would
                leave out that of the response's first.
        """
        # By hand: an end that is no special token would stay in the text.
        body = ids[:-1] if ids and ids[-1] in self.eos_ids else ids
        text = self._decoded(body)
        if not joined:
            return text
        beginning, whole = self._decoded(joined), self._decoded([*joined, *body])
        return whole.removeprefix(beginning) if whole.startswith(beginning) else text

    def _decoded(self, ids: Sequence[int]) -> str:
        with self._lock:
            text: str = self.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return text

    def reading_of(
        self, request: GenerationRequest, ids: Sequence[int], params: SamplingParams
    ) -> Reading:
        """Return what the ids of a response say.

        Args:
            request: what was asked.
            ids: the response's.
            params: what all requests share.
        """
        prompt = request.prompt_token_ids or self.encode(request.messages)
        joined = self.ids_joined(request.messages, prompt)
        text, is_stopped = self.text_of(ids, params, joined)
        if self.thoughts is None:
            return Reading(text, None, is_stopped)

        if set(self.thoughts) & set(self.tokenizer.all_special_tokens):
            text = self._with_special_markers(ids, params, is_stopped=is_stopped)
        with self._lock:
            end_of_prompt = self.tokenizer.decode(prompt[-N_TOKENS_JOINED:])
        opened = is_opened(request.messages, end_of_prompt, self.thoughts)
        answer, thought = split_thought(text, self.thoughts, opened=opened)
        return Reading(answer, thought, is_stopped)

    def _with_special_markers(
        self, ids: Sequence[int], params: SamplingParams, *, is_stopped: bool
    ) -> str:
        """Return the text of ids with the markers of a thought, which are control tokens here.

        A start at the beginning, and the first end: any other is a control token among others.
        """
        assert self.thoughts is not None
        start, end = map(self.tokenizer.convert_tokens_to_ids, self.thoughts)
        body = list(ids)
        text = ""
        if body[:1] == [start]:
            text, body = self.thoughts.start, body[1:]
        if end in body:
            place = body.index(end)
            text += self._decoded(body[:place]) + self.thoughts.end
            body = body[place + 1 :]
        text += self.decode(body)
        stop = find_stop(text, params.stop) if is_stopped else None
        return text if stop is None else text[: stop[0]]

    def text_of(
        self, ids: Sequence[int], params: SamplingParams, joined: Sequence[int] = ()
    ) -> tuple[str, bool]:
        """Return the text of a response, and whether it ended at a stop text.

        That is left out of it, with what its last token holds beyond.

        Args:
            ids: the response's.
            params: what all requests share.
            joined: see `ids_joined`.
        """
        decode = partial(self.decode, joined=joined)
        if params.stop:
            text = StopTexts(params.stop, params.min_tokens, decode).text_before(ids)
            if text is not None:
                return text, True
        return decode(ids), False
