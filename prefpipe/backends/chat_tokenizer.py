"""Conversations to token ids and back, the same way for every engine in this process.

Engines take ids and return ids. Text is made here, so that the same ids give the same text for
every engine, and no engine adds a second BOS to a templated string.
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
"""Tokens of a begun answer that are decoded with its continuation: more than a character needs."""


class Reading(NamedTuple):
    """A response as text.

    ``thought``: what the model thought before it; None if it did not think or thoughts are not
        separated. ``is_stopped``: it ended at a stop text.
    """

    text: str
    thought: str | None
    is_stopped: bool


class ChatTokenizer:
    """A model's tokenizer and chat template, and the ids that end its responses.

    `encode` and `decode` may be called from several threads.

    Raises:
        ModelError: the template fails on two plain questions, or drops them.
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
        # A fast tokenizer used by two threads at once may raise "Already borrowed".
        self._lock = threading.Lock()
        self.template.self_test(model.requested, answered=False)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the templated conversation, generation prompt included.

        The content of turns is text and never a control token; see the template.

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
        """Return the last ids of a begun answer, which the response continues; else none.

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
                drop the one before the response's first word.
        """
        # By hand: an end that is not a special token would stay in the text.
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
        """Return the ids of a response as text.

        Args:
            request: the request.
            ids: the response's.
            params: settings shared by all requests.
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
        """Return the text of ids with thought markers that are control tokens.

        Kept are a start marker at the beginning and the first end marker; others are ordinary
        control tokens.
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

        The text ends before the stop text, without the rest of its last token.

        Args:
            ids: the response's.
            params: settings shared by all requests.
            joined: see `ids_joined`.
        """
        decode = partial(self.decode, joined=joined)
        if params.stop:
            text = StopTexts(params.stop, params.min_tokens, decode).text_before(ids)
            if text is not None:
                return text, True
        return decode(ids), False
