"""Conversations as token ids: the template writes the structure, contents are data, and the clock stands still.

One place for policies, reward models, judges and generators, so that a text is the same tokens everywhere. The tokenizer is
handed in.

**Contents are data.** A response may speak of ``<|im_end|>``. Rendered and tokenised as one text, it would end its own turn
there, and could write the next ones. So a control token counts as one only where the template itself writes it; in contents its
letters are tokenised like any others. A conversation that holds no such text, nearly every one, goes through ``transformers``
as it always did, to the same ids.

The others go two ways round the tokenizer's own matching. A mark is put inside each control token that stands in a content,
so that the template cannot lose track of it, and what the rendered text still spells out whole was written by the template.
These are then spelled anew, with letters that nobody else can write, and the text is tokenised by a copy of the tokenizer that
knows the same control tokens, with the same ids, under these new spellings alone. Everything between two control tokens is
tokenised in one piece, with the tokenizer's own rules, as text of ordinary letters is.

**Tools are told, or the conversation is refused.** A template that writes nothing of the tools of a prompt, of a call in it or of
what a tool returned would make another prompt of it, and nothing would say so. So each of them is taken out or changed, one by
one, and what the template writes then must be another text.

**The clock stands still.** A template may call ``strftime_now``. It is given the date of the run, at midnight.
"""

import hashlib
import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from tokenizers import Tokenizer

from prefpipe.errors import InputError, ModelError, PrefpipeError
from prefpipe.surrogates import replace_lone_surrogates
from prefpipe.text.tool_turns import CALLS, for_template, holds_tools, without_each

Turn = Mapping[str, Any]

CLOCK = "strftime_now"
"""The one function of chat templates that reads the clock, as in `prefpipe.artifacts.template_dates`."""
CLOCK_VARIABLE = "prefpipe_clock"
CLOCK_MACRO = (
    "{% macro strftime_now(format) %}{% set told = namespace(text=format) %}"
    "{% for directive, value in prefpipe_clock %}{% set told.text = told.text | replace(directive, value) %}{% endfor %}"
    "{{ told.text }}{% endmacro %}\n"
)
"""Stands in front of a template that reads the clock: templates are given plain data, and no function of ours."""
PROBES = ("Which seven boats are blue?", "Where do old clocks sleep?")
PROBE_ANSWERS = ("The boats in the north harbour.", "Under the stairs of the tower.")
TRIED = "the template was tried on two plain questions, without and with a system turn before them"


class TemplateError(InputError):
    """A conversation that the template cannot write, or that cannot be told apart from what it writes.

    ``why`` is the reason alone, for messages that name the row.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the model's chat template refuses this conversation: {why}",
            hint="change the turns, or leave out --system-prompt if it is the system turn",
        )
        self.why = why


class ChatTemplate:
    """A tokenizer with a chat template.

    Args:
        tokenizer: of transformers.
        eos_ids: the ids that end a turn; they are control tokens whatever the tokenizer calls them.
        today: what a template that reads the clock is told, ``YYYY-MM-DD``; default the day on which this object is made.
    """

    def __init__(
        self, tokenizer: Any, *, eos_ids: Sequence[int] = (), today: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.today = today or datetime.now().astimezone().date().isoformat()
        # digits, which no template changes, between two characters that are none
        self._mark = f"\ufdd0{secrets.randbelow(10**16):016}\ufdd1"
        self._escaped_mark = self._mark.encode("unicode_escape").decode()
        template = tokenizer.chat_template or ""
        source = template if isinstance(template, str) else json.dumps(template)
        self._reads_clock = CLOCK in source
        self._told: set[str] = set()
        """Hashes of prompts with tools of which the template is known to leave nothing out."""

        self.control_tokens: dict[int, str] = _control_tokens(tokenizer, source, eos_ids)
        """Spellings by id."""
        # longest first, so that a token comes before those that it contains
        spellings = sorted(self.control_tokens.values(), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, spellings)) or "(?!)")
        self._normalised_control = self._find_normalised(spellings)

    def text(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
        """Return what the template writes; control tokens in contents carry a mark, see `without_marks`.

        Raises:
            TemplateError: the template raises anything: it is a program of the model's author; or it leaves out a tool, a call
                of one, or what one returned.
        """
        told, tools = for_template(turns)
        told, tools = self._readable(told), self._readable(tools)
        if self._holds_control(told) or self._holds_control(tools):
            told, tools = self._marked(told), self._marked(tools)
        text = self._rendered(told, tools, add_generation_prompt=add_generation_prompt)
        if holds_tools(turns):
            self._refuse_what_is_not_told(
                told, tools, text, add_generation_prompt=add_generation_prompt
            )
            text = text.replace(self._escaped_mark, self._mark)  # as Python and ASCII JSON write it
        return text

    def ids(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> list[int]:
        """Return the ids of what the template writes; no token is added to it.

        Raises:
            TemplateError: as `text` and `tokenise`.
        """
        return self.tokenise(self.text(turns, add_generation_prompt=add_generation_prompt))

    def conversation_ids(self, turns: Sequence[Turn], response: str) -> list[int]:
        """Return the ids of a conversation and its response as a finished turn, with what the template adds behind it.

        Raises:
            TemplateError: as `ids`.
        """
        answered = [*turns, {"role": "assistant", "content": response}]
        return self.ids(answered, add_generation_prompt=False)

    def rated_ids(self, turns: Sequence[Turn], response: str) -> list[int]:
        """Return `conversation_ids` for a model that rates the response, which must not pass for a whole conversation.

        Raises:
            TemplateError: as `ids`; or the template writes turns with plain words, and the response holds those in front of a
                user's turn: whatever follows them would be read as what the user says next.
        """
        if self.holds_turn_words(response):
            raise TemplateError(
                f"the response holds {self._turn_words!r}, and this template writes the same in front of a user's turn: the two "
                "cannot be told apart"
            )
        return self.conversation_ids(turns, response)

    def tokenise(self, text: str) -> list[int]:
        """Return the ids of a text that `text` returned, or of a piece of one.

        Raises:
            TemplateError: control tokens in contents cannot be told from the template's own with this tokenizer.
        """
        needs_care = self._mark in text or self._holds_normalised_control(text)
        if not needs_care:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        # what is still spelled out whole was written by the template
        private = self._private_tokenizer
        renamed = self._control.sub(lambda found: self._private_spellings[found.group()], text)
        made: list[int] = private.encode(self.without_marks(renamed), add_special_tokens=False).ids

        # no more of them may come out than were written; the token of what is unknown comes of ordinary letters
        unknown = getattr(self.tokenizer, "unk_token", None)
        n_written = sum(found.group() != unknown for found in self._control.finditer(text))
        n_made = sum(self.control_tokens.get(token, unknown) != unknown for token in made)
        if n_made != n_written:
            raise TemplateError(
                "a content holds the text of a control token, and the tokenizer makes one of it"
            )
        return made

    def without_marks(self, text: str) -> str:
        """Return a text as a reader should see it."""
        return text.replace(self._mark, "")

    def holds_control_text(self, text: str) -> bool:
        """Return whether a content holds the text of a control token, which is read as text."""
        return self._control.search(text) is not None or self._holds_normalised_control(text)

    def note_on_control_text(self, n: int, n_conversations: int) -> list[str]:
        """Return a sentence on conversations whose contents hold the text of a control token, none for none."""
        if not n:
            return []
        what = f"the text of a control token, such as {self._example}"
        return [f"{n:,} of {n_conversations:,} conversations hold {what}: it is read as text"]

    @property
    def turn_words(self) -> str | None:
        """What the template writes in front of a user's turn, where that is plain words that a response may hold."""
        return self._turn_words

    def holds_turn_words(self, response: str) -> bool:
        """Return whether a response holds the `turn_words`, or begins with them: a turn begins in front of it as well."""
        words = self._turn_words
        return words is not None and (
            words in response or response.lstrip().startswith(words.lstrip())
        )

    def self_test(self, name: str, *, answered: bool) -> None:
        """Refuse a template that is no use before a large model is loaded for it.

        Args:
            name: of the model, for messages.
            answered: whether finished answers are tried as well, for a model that is to read them.

        Raises:
            ModelError: the template fails on plain questions, leaves them out, or makes the same tokens of different ones.
        """
        hint = "correct chat_template.jinja in a copy of the model's folder"
        texts = self._probe_texts(name, answered=answered)
        for probe, text in texts.items():
            if probe.casefold() not in text.casefold():
                raise ModelError(
                    f"the chat template of {name} leaves the text of a turn out: of {probe!r} it makes {text!r}",
                    hint="a template that loops over a content's parts writes nothing of a plain text; "
                    + hint,
                )
        ids = {tuple(self.tokenise(text)) for text in texts.values()}
        if len(ids) < len(texts):
            raise ModelError(
                f"the chat template of {name} makes the same tokens of different turns", hint=hint
            )

    @property
    def _example(self) -> str:
        """A control token for messages: the end of a turn, where it is known."""
        return str(
            getattr(self.tokenizer, "eos_token", None)
            or next(iter(self.control_tokens.values()), "none")
        )

    @cached_property
    def _turn_words(self) -> str | None:
        turns = [
            {"role": "user", "content": PROBES[0]},
            {"role": "assistant", "content": PROBE_ANSWERS[0]},
            {"role": "user", "content": PROBES[1]},
        ]
        try:
            text = self._rendered(turns, None, add_generation_prompt=False)
        except TemplateError:
            return None
        _, is_there, behind = text.partition(PROBE_ANSWERS[0])
        between, is_next, _ = behind.partition(PROBES[1])
        if not (is_there and is_next) or self._control.search(between):
            return None
        words = between.strip(" ").rstrip()
        return words if any(map(str.isalnum, words)) else None

    def _probe_texts(self, name: str, *, answered: bool) -> dict[str, str]:
        """Return what the template writes of each probe, in the first form that it takes."""
        problem: TemplateError | None = None
        for before in ([], [{"role": "system", "content": "Be brief."}]):
            questions = [[*before, {"role": "user", "content": probe}] for probe in PROBES]
            try:
                texts = {
                    probe: self.text(turns, add_generation_prompt=True)
                    for probe, turns in zip(PROBES, questions, strict=True)
                }
                if answered:
                    for probe in PROBE_ANSWERS:
                        turns = [*questions[0], {"role": "assistant", "content": probe}]
                        texts[probe] = self.text(turns, add_generation_prompt=False)
            except TemplateError as error:
                problem = problem or error
            else:
                return texts
        assert problem is not None
        raise ModelError(
            f"the chat template of {name} fails on one question{' and its answer' if answered else ''}: {problem.why}",
            hint=f"correct chat_template.jinja in a copy of the model's folder; {TRIED}",
        ) from problem

    def _rendered(
        self, turns: Sequence[Turn], tools: Sequence[Any] | None, *, add_generation_prompt: bool
    ) -> str:
        settings: dict[str, Any] = {}
        if tools:
            settings["tools"] = list(tools)
        if self._reads_clock:
            source = CLOCK_MACRO + self.tokenizer.get_chat_template(**settings)
            settings |= {
                "chat_template": source,
                CLOCK_VARIABLE: _told_by(datetime.fromisoformat(self.today)),
            }
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

    def _refuse_what_is_not_told(
        self,
        turns: Sequence[dict[str, Any]],
        tools: Sequence[Any] | None,
        text: str,
        *,
        add_generation_prompt: bool,
    ) -> None:
        """Refuse a conversation of which the template leaves out a tool, a call of one, or what one returned.

        Raises:
            TemplateError: naming what, and the flag that leaves it out knowingly.
        """
        # the answers of one prompt are looked at once: what is told of the prompt does not depend on them
        is_answer = (
            not add_generation_prompt
            and turns[-1]["role"] == "assistant"
            and CALLS not in turns[-1]
        )
        seen = json.dumps([turns[:-1] if is_answer else turns, tools])
        prompt = hashlib.sha256(seen.encode()).hexdigest()
        if prompt in self._told:
            return
        for what, flag, other_turns, other_tools in without_each(turns, tools):
            try:
                other = self._rendered(
                    other_turns, other_tools, add_generation_prompt=add_generation_prompt
                )
            except TemplateError:
                continue  # it reads what is missing now
            if other == text:
                name = getattr(self.tokenizer, "name_or_path", "") or "the tokenizer"
                raise TemplateError(
                    f"the chat template of {name} writes nothing of {what}, and the model would not know of it; choose a model "
                    f"whose template takes tools, or {flag}"
                )
        self._told.add(prompt)

    def _readable(self, value: Any) -> Any:
        """Return a turn without half characters, which no tokenizer takes."""
        if isinstance(value, str):
            return replace_lone_surrogates(value)
        if isinstance(value, Mapping):
            return {self._readable(key): self._readable(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._readable(each) for each in value]
        return value

    def _holds_control(self, value: Any) -> bool:
        if isinstance(value, str):
            return self._control.search(value) is not None
        if isinstance(value, Mapping):
            return any(map(self._holds_control, (*value.keys(), *value.values())))
        if isinstance(value, list | tuple):
            return any(map(self._holds_control, value))
        return False

    def _marked(self, value: Any) -> Any:
        """Return a turn with a mark behind the first letter of each control token in it."""
        if isinstance(value, str):
            while self._control.search(
                value
            ):  # tokens may overlap: what is left of one may spell another
                value = self._control.sub(
                    lambda found: found.group()[0] + self._mark + found.group()[1:], value
                )
            return value
        if isinstance(value, Mapping):
            return {self._marked(key): self._marked(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(each) for each in value]
        return value

    def _find_normalised(self, spellings: Sequence[str]) -> "re.Pattern[str] | None":
        """Return a pattern of the control tokens that are looked for in normalised text, where there are any.

        A tokenizer that writes everything in lower case may find ``[SEP]`` in ``[sep]``.
        """
        normalizer = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "normalizer", None)
        if normalizer is None:
            return None
        tokens = self.tokenizer.added_tokens_decoder
        late = [
            self.control_tokens[token_id]
            for token_id in self.control_tokens
            if tokens[token_id].normalized
        ]
        if not late:
            return None
        late = sorted((text for text in spellings if text in late), key=len, reverse=True)
        return re.compile("|".join(re.escape(normalizer.normalize_str(text)) for text in late))

    def _holds_normalised_control(self, text: str) -> bool:
        if self._normalised_control is None:
            return False
        written = self._control.sub("\n", text)  # the template's own are found as they are spelled
        normalised = self.tokenizer.backend_tokenizer.normalizer.normalize_str(written)
        return self._normalised_control.search(normalised) is not None

    @cached_property
    def _private_spellings(self) -> dict[str, str]:
        """Return how each control token is spelled for the copy of the tokenizer: by nobody else, for it is drawn at random."""
        secret = secrets.token_hex(8)
        return {
            spelling: f"\ufdd2{secret}:{token_id}\ufdd3"
            for token_id, spelling in self.control_tokens.items()
        }

    @cached_property
    def _private_tokenizer(self) -> Tokenizer:
        """Return the copy of the tokenizer that knows control tokens by their private spellings.

        Raises:
            TemplateError: there is no such copy of a tokenizer that is written in Python.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TemplateError(
                "a content holds the text of a control token, which this kind of tokenizer cannot keep apart"
            )
        copy = Tokenizer.from_str(
            json.dumps(_renamed(json.loads(backend.to_str()), self._private_spellings))
        )
        for token_id, spelling in self.control_tokens.items():
            if copy.token_to_id(self._private_spellings[spelling]) != token_id:
                raise TemplateError(
                    f"a content holds the text of a control token, and {spelling} cannot be spelled anew"
                )
        return copy


def _told_by(moment: datetime) -> list[list[str]]:
    """Return every directive of ``strftime``, ``%d`` and ``%-d`` alike, with its value."""
    values = []
    for letter in string.ascii_letters:
        for directive in (f"%-{letter}", f"%{letter}"):
            value = moment.strftime(directive)
            if "%" not in value:  # what is no directive comes back as it is
                values.append([directive, value])
    return [*values, ["%%", "%"]]


def _control_tokens(tokenizer: Any, template: str, eos_ids: Sequence[int]) -> dict[int, str]:
    """Return the control tokens by id: special ones, ends of turns, and what else the template writes around turns.

    Not those that come as a pair of tags, ``<think>`` and ``</think>``, unless they are called special: templates write them
    too, and responses that hold them mean the tokens.
    """
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    spellings = {token.content for token in added.values()}
    control: dict[int, str] = {}
    for token_id, token in added.items():
        bare = token.content.removeprefix("</").removeprefix("<").removesuffix(">")
        is_tag = {f"<{bare}>", f"</{bare}>"} <= spellings
        is_written = token.content in template and not token.content.isspace() and not is_tag
        if token.special or token_id in eos_ids or is_written:
            control[token_id] = token.content
    return control


def _renamed(content: dict[str, Any], spellings: Mapping[str, str]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` whose control tokens are spelled anew, with the ids and habits that they have.

    They are renamed in the vocabulary as well: a model of pieces (Unigram) would find them there by their old letters.
    """
    for token in content["added_tokens"]:
        if token["content"] in spellings:
            # their new letters are not touched by a normaliser, and are looked for before it
            token |= {"content": spellings[token["content"]], "normalized": False}

    model = content["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {
            spellings.get(piece, piece): token_id for piece, token_id in vocabulary.items()
        }
    else:
        model["vocab"] = [[spellings.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in spellings:
        model["unk_token"] = spellings[model["unk_token"]]
    if "merges" in model:
        pairs = [
            merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]
        ]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & spellings.keys()]

    # nothing of these is used: what the template writes is tokenised as it is
    return content | {"post_processor": None, "truncation": None, "padding": None}
