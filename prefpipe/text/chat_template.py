"""Conversations as token ids: the template writes the structure, and contents are data.

Policies, reward models, judges and generators all use this module, so that a text is the same
tokens everywhere. The caller passes the tokenizer.

**Contents are data.** A response that mentions ``<|im_end|>`` does not end its turn there, see
`prefpipe.text.control_tokens`.

**Tools appear, or the conversation is refused.** A template that drops a prompt's tools, a call or
a tool's result would silently produce a different prompt. So each of them is removed or changed,
one by one, and the template's output must change each time.

**The clock is fixed.** A template may call ``strftime_now``, which returns the date of the run, at
midnight.
"""

import hashlib
import json
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2

from prefpipe.errors import ModelError, PrefpipeError
from prefpipe.surrogates import replace_lone_surrogates
from prefpipe.text.begun_turns import answered, is_begun
from prefpipe.text.control_text import note_on_control_text
from prefpipe.text.control_tokens import ControlTokens, TemplateError
from prefpipe.text.tool_turns import CALLS, for_template, holds_tools, without_each

Turn = Mapping[str, Any]

CLOCK = "strftime_now"
"""The one function of chat templates that reads the clock; as `prefpipe.artifacts` names it."""
CLOCK_VARIABLE = "prefpipe_clock"
CLOCK_MACRO = (
    "{% macro strftime_now(format) %}{% set told = namespace(text=format) %}"
    "{% for directive, value in prefpipe_clock %}"
    "{% set told.text = told.text | replace(directive, value) %}{% endfor %}"
    "{{ told.text }}{% endmacro %}\n"
)
"""Prefix of a template that reads the clock.

Templates get plain data only, no functions.
"""
PROBES = ("Which seven boats are blue?", "Where do old clocks sleep?")
PROBE_ANSWERS = ("The boats in the north harbour.", "Under the stairs of the tower.")
TRIED = "prefpipe tried the template on two plain questions, without and with a system turn"


class ChatTemplate:
    """A tokenizer with a chat template. Several threads may use it.

    Args:
        tokenizer: a transformers tokenizer.
        eos_ids: the ids that end a turn; they are control tokens even if the tokenizer does not
            mark them as special.
        today: the date for a template that reads the clock, ``YYYY-MM-DD``; default: the day on
            which this object is created.
        args: the template's arguments beside the conversation, see `prefpipe.text.template_args`.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        eos_ids: Sequence[int] = (),
        today: str | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        template = tokenizer.chat_template or ""
        # Several templates come by name: the output of each counts.
        source = template if isinstance(template, str) else json.dumps(template)
        self.tokenizer = tokenizer
        self.today = today or datetime.now().astimezone().date().isoformat()
        self._args = dict(args or {})
        self._reads_clock = CLOCK in source
        self._control = ControlTokens(tokenizer, source, eos_ids)
        # Marks where a begun answer continues: two characters that no text holds, and digits.
        self._place_to_go_on = f"\ufdd4{secrets.randbelow(10**16):016}\ufdd5"
        self._wholly_written: set[str] = set()
        """Hashes of prompts with tools that the template is known to write completely."""

    @property
    def control_tokens(self) -> dict[int, str]:
        """Spellings of control tokens by id."""
        return self._control.spellings

    def text(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
        """Return the template's output; control tokens in contents carry a mark, see `tokenise`.

        If the last turn begins the answer, the text ends with that beginning instead of a
        generation prompt.

        Raises:
            TemplateError: the template, a program of the model's author, raises an error; or it
                drops a tool, a call or a tool's result; or it changes the beginning of an answer.
        """
        messages, tools = for_template(turns)
        messages, tools = self._as_data(messages), self._as_data(tools)
        if add_generation_prompt and is_begun(turns):
            return self._begun_text(messages, tools)
        text = self._rendered(messages, tools, add_generation_prompt=add_generation_prompt)
        if not holds_tools(turns):
            return text
        self._refuse_omissions(messages, tools, text, add_generation_prompt=add_generation_prompt)
        # Calls and tools are written as JSON, which escapes the mark.
        return self._control.unescaped(text)

    def _begun_text(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """Return the template's output up to the end of the last turn's content.

        Raises:
            TemplateError: as `text`.
        """
        beginning = messages[-1]["content"]
        marked = {**messages[-1], "content": beginning + self._place_to_go_on}
        messages = [*messages[:-1], marked]
        whole = self._rendered(messages, tools, add_generation_prompt=False)
        text, place, _ = whole.rpartition(self._place_to_go_on)
        # A template may strip the beginning of a turn.
        if not place or not text.endswith(beginning.lstrip()):
            raise TemplateError(
                "it cannot continue the assistant's last turn: it writes "
                f"{'another text' if place else 'nothing'} of "
                f"{self._control.without_marks(beginning)[:60]!r}"
            )
        if not holds_tools(messages):
            return text
        self._refuse_omissions(messages, tools, whole, add_generation_prompt=False)
        return self._control.unescaped(text)

    def ids(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> list[int]:
        """Return the ids of the template's output; no token is added.

        Raises:
            TemplateError: as `text` and `tokenise`.
        """
        return self.tokenise(self.text(turns, add_generation_prompt=add_generation_prompt))

    def conversation_ids(self, turns: Sequence[Turn], response: str) -> list[int]:
        """Return the ids of a conversation and its response as a finished turn.

        They include what the template adds after it.

        Raises:
            TemplateError: as `ids`.
        """
        return self.ids(answered(turns, response), add_generation_prompt=False)

    def rated_ids(self, turns: Sequence[Turn], response: str) -> list[int]:
        """Return `conversation_ids` for a model that rates the response.

        Such a response must not pass for a whole conversation.

        Raises:
            TemplateError: as `ids`; or the template marks turns with plain words, and the response
                holds those of a user's turn: the text after them would be read as the user's next
                turn.
        """
        if self.holds_turn_words(response):
            raise TemplateError(
                f"the response holds {self.turn_words!r}, which this template also writes "
                "before a user's turn, so the two cannot be distinguished"
            )
        return self.conversation_ids(turns, response)

    def tokenise(self, text: str) -> list[int]:
        """Return the ids of a text that `text` returned, or of a piece of one.

        Raises:
            TemplateError: this tokenizer cannot separate control tokens in contents from the
                template's own.
        """
        return self._control.tokenise(text)

    def holds_control_text(self, text: str) -> bool:
        """Return whether a content holds the text of a control token, which is read as text."""
        return self._control.is_spelled_in(text)

    @property
    def control_token(self) -> str:
        """A control token for messages: the end of a turn, if known."""
        return self._control.example

    def note_on_control_text(self, n: int, n_conversations: int) -> list[str]:
        """Return a sentence on conversations with the text of a control token, if any."""
        return note_on_control_text(n, n_conversations, self.control_token)

    @cached_property
    def turn_words(self) -> str | None:
        """The template's text before a user's turn, if that is plain words.

        A response may hold such words.
        """
        turns = [
            {"role": "user", "content": PROBES[0]},
            {"role": "assistant", "content": PROBE_ANSWERS[0]},
            {"role": "user", "content": PROBES[1]},
        ]
        try:
            text = self._rendered(turns, None, add_generation_prompt=False)
        except TemplateError:
            return None

        _, answer, behind = text.partition(PROBE_ANSWERS[0])
        between, question, _ = behind.partition(PROBES[1])
        if not answer or not question or self._control.is_written_in(between):
            return None
        # Newlines before the words are part of the marker, `\n\nHuman:`.
        words = between.strip(" ").rstrip()
        return words if any(map(str.isalnum, words)) else None

    def holds_turn_words(self, response: str) -> bool:
        """Return whether a response holds the `turn_words`.

        It may begin with them without the white space before them, because the response begins a
        turn.
        """
        words = self.turn_words
        if words is None:
            return False
        return words in response or response.lstrip().startswith(words.lstrip())

    def self_test(self, name: str, *, answered: bool) -> None:
        """Refuse an unusable template before a large model is loaded.

        Args:
            name: of the model, for messages.
            answered: whether to try finished answers, too, for a model that reads them.

        Raises:
            ModelError: the template fails on plain questions, drops them, or gives different ones
                the same tokens.
        """
        hint = "correct chat_template.jinja in a copy of the model's folder"
        texts = self._probe_texts(name, answered=answered)
        for probe, text in texts.items():
            # A template may write everything in capitals.
            if probe.casefold() not in text.casefold():
                raise ModelError(
                    f"the chat template of {name} drops the text of a turn: it turns "
                    f"{probe!r} into {text!r}",
                    hint=f"{hint}: a template that loops over a content's parts writes nothing "
                    "for plain text",
                )

        ids = {tuple(self.tokenise(text)) for text in texts.values()}
        if len(ids) < len(texts):
            raise ModelError(
                f"the chat template of {name} produces the same tokens for different turns",
                hint=hint,
            )

    def _probe_texts(self, name: str, *, answered: bool) -> dict[str, str]:
        """Return the template's output for each probe, in the first form that it accepts.

        Some templates require a system turn.
        """
        problem: TemplateError | None = None
        for before in ([], [{"role": "system", "content": "Be brief."}]):
            try:
                return self._probe_texts_after(before, answered=answered)
            except TemplateError as error:
                problem = problem or error

        assert problem is not None
        what = "one question and its answer" if answered else "one question"
        raise ModelError(
            f"the chat template of {name} fails on {what}: {problem.why}",
            hint=f"correct chat_template.jinja in a copy of the model's folder; {TRIED}",
        ) from problem

    def _probe_texts_after(self, before: Sequence[Turn], *, answered: bool) -> dict[str, str]:
        texts = {}
        for probe in PROBES:
            question = [*before, {"role": "user", "content": probe}]
            texts[probe] = self.text(question, add_generation_prompt=True)
        if answered:
            question = [*before, {"role": "user", "content": PROBES[0]}]
            for probe in PROBE_ANSWERS:
                turns = [*question, {"role": "assistant", "content": probe}]
                texts[probe] = self.text(turns, add_generation_prompt=False)
        return texts

    def _as_data(self, value: Any) -> Any:
        """Return turns or tools whose texts are marked as data for template and tokenizer."""
        return _with_texts(value, lambda text: self._control.marked(replace_lone_surrogates(text)))

    def _rendered(
        self, turns: Sequence[Turn], tools: Sequence[Any] | None, *, add_generation_prompt: bool
    ) -> str:
        settings = dict(self._args)
        if tools:
            settings["tools"] = list(tools)
        if self._reads_clock:
            # Passed with each call: the tokenizer's own template may be saved with a model.
            source = CLOCK_MACRO + self.tokenizer.get_chat_template(tools=settings.get("tools"))
            clock = _clock_at(datetime.fromisoformat(self.today))
            settings |= {"chat_template": source, CLOCK_VARIABLE: clock}

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(turns), add_generation_prompt=add_generation_prompt, tokenize=False, **settings
            )
        except jinja2.TemplateError as error:
            raise TemplateError(str(error)) from error
        except PrefpipeError:
            raise
        except Exception as error:  # a template is a program and may raise anything
            raise TemplateError(f"{type(error).__name__}: {error}") from error
        return text

    def _refuse_omissions(
        self,
        turns: Sequence[dict[str, Any]],
        tools: Sequence[Any] | None,
        text: str,
        *,
        add_generation_prompt: bool,
    ) -> None:
        """Refuse a conversation if the template drops one of its tools, calls or results.

        Raises:
            TemplateError: names the dropped item, and the flag that drops it explicitly.
        """
        # Once for all answers of a prompt: its own text does not depend on them.
        last = turns[-1]
        is_answer = not add_generation_prompt and last["role"] == "assistant" and CALLS not in last
        prompt = json.dumps([turns[:-1] if is_answer else turns, tools])
        prompt_hash = hashlib.sha256(prompt.encode()).hexdigest()
        if prompt_hash in self._wholly_written:
            return

        for omission in without_each(turns, tools):
            try:
                other = self._rendered(
                    omission.turns, omission.tools, add_generation_prompt=add_generation_prompt
                )
            except TemplateError:
                continue  # it reads the item that is missing now
            if other == text:
                name = getattr(self.tokenizer, "name_or_path", "") or "the tokenizer"
                raise TemplateError(
                    f"the chat template of {name} drops {omission.what}, so the model would "
                    f"not see it; choose a model whose template takes tools, or {omission.way_out}"
                )
        self._wholly_written.add(prompt_hash)


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a nested value with every text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _with_texts(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(each, change) for each in value]
    return value


def _clock_at(moment: datetime) -> list[list[str]]:
    """Return every directive of ``strftime``, ``%d`` and ``%-d`` alike, with its value."""
    values = []
    for letter in string.ascii_letters:
        for directive in (f"%-{letter}", f"%{letter}"):
            value = moment.strftime(directive)
            # Anything that is not a directive comes back unchanged.
            if "%" not in value:
                values.append([directive, value])
    # Last, so that the remaining sign does not begin a directive.
    return [*values, ["%%", "%"]]
