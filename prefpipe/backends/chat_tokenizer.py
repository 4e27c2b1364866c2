"""Conversations to token ids and back, one way for every engine that runs in this process.

The engines are handed ids and hand back ids. Text is made here, so that the same ids give the same
text whichever engine sampled them, and so that no engine adds a second BOS to a templated string.
"""

import threading
from collections.abc import Sequence

from transformers import AutoTokenizer

from prefpipe.backends.protocol import Message
from prefpipe.errors import ModelError
from prefpipe.models.files import ModelFiles
from prefpipe.models.tokenizer import find_eos_ids
from prefpipe.text.chat_template import ChatTemplate


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

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a response's ids, without special tokens."""
        # By hand: an end that is no special token would stay in the text.
        body = ids[:-1] if ids and ids[-1] in self.eos_ids else ids
        with self._lock:
            text: str = self.tokenizer.decode(
                body, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return text
