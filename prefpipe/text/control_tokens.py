"""Control tokens of a tokenizer, and how contents that spell one stay text.

**Contents are data.** A response may mention ``<|im_end|>``. Rendered and tokenised as one text, it
would end its own turn there, and could write the next ones. So a control token counts only if the
template itself writes it; in contents its letters are tokenised like any others. Nearly all
conversations hold no such text and go through ``transformers`` unchanged, to the same ids.

The others avoid the tokenizer's own matching in two steps:

- A mark is put inside each control token that a content spells, so that the template cannot lose
  track of it. Every token that the rendered text still spells whole was written by the template.
- These are then replaced by private spellings, which no text can contain. The text is tokenised by
  a copy of the tokenizer that knows the same control tokens, with the same ids, only under these
  new spellings. Everything between two control tokens is tokenised in one piece as ordinary text,
  by the tokenizer's own rules.
"""

import json
import re
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from prefpipe.errors import InputError


class TemplateError(InputError):
    """A conversation that the template cannot write, or whose contents imitate its output.

    ``why`` is only the reason, for messages that name the row.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the model's chat template refuses this conversation: {why}",
            hint="change the turns, or leave --system-prompt out if it causes the system turn",
        )
        self.why = why


class ControlTokens:
    """The control tokens of a tokenizer with a chat template. Several threads may use them.

    ``spellings`` are the texts of these tokens by id.

    Args:
        tokenizer: a transformers tokenizer.
        template: its source.
        eos_ids: the ids that end a turn; they are control tokens even if the tokenizer does not
            mark them as special.
    """

    def __init__(self, tokenizer: Any, template: str, eos_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # Each call of a fast tokenizer may change its settings, which fails while another thread
        # encodes with it.
        self._lock = threading.RLock()
        self.spellings = _spellings_of(tokenizer, template, eos_ids)
        self._pattern = re.compile(
            "|".join(map(re.escape, _longest_first(self.spellings.values()))) or "(?!)"
        )
        self._normalised_pattern = self._pattern_in_normalised_text()

        # Digits, which no template changes, between two noncharacters.
        self._mark = f"\ufdd0{secrets.randbelow(10**16):016}\ufdd1"
        self._escaped_mark = self._mark.encode("unicode_escape").decode()

    @property
    def example(self) -> str:
        """A control token for messages: the end of a turn, if known."""
        end = getattr(self._tokenizer, "eos_token", None)
        return str(end or next(iter(self.spellings.values()), "none"))

    def is_written_in(self, text: str) -> bool:
        """Return whether a template's output holds a control token."""
        return self._pattern.search(text) is not None

    def is_spelled_in(self, content: str) -> bool:
        """Return whether a content holds the text of a control token, which is read as text."""
        return self.is_written_in(content) or self._is_in_normalised(content)

    def marked(self, content: str) -> str:
        """Return a content with a mark after the first letter of each control token in it."""
        # Tokens may overlap: the rest of one may spell another.
        while self._pattern.search(content):
            content = self._pattern.sub(self._with_mark, content)
        return content

    def _with_mark(self, match: re.Match[str]) -> str:
        return match.group()[0] + self._mark + match.group()[1:]

    def unescaped(self, text: str) -> str:
        """Return a rendered text with marks unescaped where a template wrote JSON."""
        return text.replace(self._escaped_mark, self._mark)

    def without_marks(self, text: str) -> str:
        """Return a text without marks, for readers."""
        return text.replace(self._mark, "")

    def tokenise(self, text: str) -> list[int]:
        """Return the ids of a rendered text, or of a piece of one; no token is added.

        Raises:
            TemplateError: this tokenizer cannot separate control tokens in contents from the
                template's own.
        """
        needs_care = self._mark in text or self._is_in_normalised(text)
        if not needs_care:
            with self._lock:
                ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        # Tokens still spelled whole were written by the template. Spellings are drawn once, so the
        # copy is made by one thread.
        with self._lock:
            private = self._private_tokenizer
        renamed = self._pattern.sub(lambda match: self._private_spellings[match.group()], text)
        made: list[int] = private.encode(self.without_marks(renamed), add_special_tokens=False).ids

        # No more may come out than were written; ordinary letters can give the unknown token.
        unknown = getattr(self._tokenizer, "unk_token", None)
        n_written = sum(match.group() != unknown for match in self._pattern.finditer(text))
        n_made = sum(self.spellings.get(token, unknown) != unknown for token in made)
        if n_made != n_written:
            raise TemplateError(
                "a content holds the text of a control token, and the tokenizer turns it into one"
            )
        return made

    def _pattern_in_normalised_text(self) -> re.Pattern[str] | None:
        """Return a pattern of the control tokens that are matched in normalised text, if any.

        A tokenizer that writes everything in lower case may find ``[SEP]`` in ``[sep]``.
        """
        normalizer = getattr(
            getattr(self._tokenizer, "backend_tokenizer", None), "normalizer", None
        )
        if normalizer is None:
            return None
        tokens = self._tokenizer.added_tokens_decoder
        late = {text for token_id, text in self.spellings.items() if tokens[token_id].normalized}
        if not late:
            return None
        normalised = [normalizer.normalize_str(text) for text in _longest_first(late)]
        return re.compile("|".join(map(re.escape, normalised)))

    def _is_in_normalised(self, text: str) -> bool:
        if self._normalised_pattern is None:
            return False
        # The template's own are found by their exact spelling.
        written = self._pattern.sub("\n", text)
        normalised = self._tokenizer.backend_tokenizer.normalizer.normalize_str(written)
        return self._normalised_pattern.search(normalised) is not None

    @cached_property
    def _private_spellings(self) -> dict[str, str]:
        """Return each control token's random spelling for the copy, which no text can contain."""
        secret = secrets.token_hex(8)
        return {
            spelling: f"\ufdd2{secret}:{token_id}\ufdd3"
            for token_id, spelling in self.spellings.items()
        }

    @cached_property
    def _private_tokenizer(self) -> Tokenizer:
        """Return the copy of the tokenizer that knows control tokens by their private spellings.

        Raises:
            TemplateError: a tokenizer written in Python has no such copy.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TemplateError(
                "a content holds the text of a control token, which this kind of tokenizer "
                "cannot keep as text"
            )

        content = _renamed(json.loads(backend.to_str()), self._private_spellings)
        private = Tokenizer.from_str(json.dumps(content))
        # The ids must be those of the model.
        for token_id, spelling in self.spellings.items():
            if private.token_to_id(self._private_spellings[spelling]) != token_id:
                raise TemplateError(
                    f"a content holds the text of a control token, and {spelling} has no "
                    "other tokenisation"
                )
        return private


def _longest_first(spellings: Iterable[str]) -> list[str]:
    """Return the spellings so that a token comes before those that it contains."""
    return sorted(spellings, key=len, reverse=True)


def _spellings_of(tokenizer: Any, template: str, eos_ids: Sequence[int]) -> dict[int, str]:
    """Return the control tokens by id: special ones, ends of turns, and others of the template.

    Not those that come as a pair of tags, ``<think>`` and ``</think>``, unless they are called
    special: templates write them too, and responses that hold them mean the tokens.
    """
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    known = {token.content for token in added.values()}
    spellings: dict[int, str] = {}
    for token_id, token in added.items():
        bare = token.content.removeprefix("</").removeprefix("<").removesuffix(">")
        is_tag = {f"<{bare}>", f"</{bare}>"} <= known
        is_written = token.content in template and not token.content.isspace() and not is_tag
        if token.special or token_id in eos_ids or is_written:
            spellings[token_id] = token.content
    return spellings


def _renamed(content: dict[str, Any], spellings: Mapping[str, str]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` with new spellings of control tokens, ids and options unchanged.

    The vocabulary is renamed, too: a Unigram model would find them there by their old letters.
    """
    for token in content["added_tokens"]:
        if token["content"] in spellings:
            # The new spellings are matched before the normaliser and not changed by it.
            token |= {"content": spellings[token["content"]], "normalized": False}

    model = content["model"]
    pieces = model["vocab"]
    if isinstance(pieces, dict):
        model["vocab"] = {spellings.get(piece, piece): number for piece, number in pieces.items()}
    else:
        model["vocab"] = [[spellings.get(piece, piece), score] for piece, score in pieces]
    if model.get("unk_token") in spellings:
        model["unk_token"] = spellings[model["unk_token"]]

    # Merges that make or use a control token are dropped.
    if "merges" in model:
        merges = []
        for merge in model["merges"]:
            pair = merge if isinstance(merge, list) else merge.split(" ")
            if not {*pair, "".join(pair)} & spellings.keys():
                merges.append(pair)
        model["merges"] = merges

    # These are unused: the template's output is tokenised unchanged.
    return content | {"post_processor": None, "truncation": None, "padding": None}
