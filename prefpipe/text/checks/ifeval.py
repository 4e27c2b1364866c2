r"""IFEval's instructions as checks, with the parameters of docs/guides/checks.md.

    {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    [{"type": "regex", "pattern": "\\A[^,]*+\\Z", "strict": true, "not_empty": true}]

Twenty of the 25 instructions are judged exactly as google-research's
``instruction_following_eval`` judges them in its strict mode. Five need a language detector or
NLTK's sentence splitter there, and become the nearest check here (``NEAR``). Instructions that
cannot be judged the same way, such as an argument that IFEval would draw at random, are refused and
never skipped.

Patterns are written with possessive repeats, so that every one of them reads a response once.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import regex  # type: ignore[import-untyped]

IFEVAL_VERSION: Final = 1
"""Increased when an instruction's check changes; part of the fingerprint of IFEval's scores."""
IDS_COLUMN: Final = "instruction_id_list"
KWARGS_COLUMN: Final = "kwargs"

_CASE_ALONE: Final = "the case is judged exactly, and that it is English is not judged"
NEAR: Final[Mapping[str, str]] = {
    "language:response_language": "py3langid tells the language here and langdetect there",
    "length_constraints:number_sentences": (
        "sentences are split by rules here and by NLTK's punkt there"
    ),
    "change_case:capital_word_frequency": (
        "words are found by a pattern here and by NLTK's tokenizer there"
    ),
    "change_case:english_capital": _CASE_ALONE,
    "change_case:english_lowercase": _CASE_ALONE,
}
"""Instructions whose check may differ from IFEval's, and how."""

_Arguments = Mapping[str, Any]
_SPACE: Final = r"[\s\x1c-\x1f]"
_NO_SPACE: Final = r"[^\s\x1c-\x1f]"
_WORD: Final = r"[\p{L}\p{N}_]"
_NEVER: Final = "(?!)"
_EXTRA_CAPITALS: Final = {"i": "\u0130", "k": "\u212a"}
"""Signs beside the capital letter that Python's ``lower`` makes a letter, or a text with it, of."""


def checks_of_instructions(ids: Any, kwargs: Any) -> list[dict[str, Any]]:
    """Return a prompt's checks, one for each of its instructions and in their order.

    Args:
        ids: the column ``instruction_id_list``: a list, or JSON text of one.
        kwargs: the column ``kwargs``: a list of objects, as long; nulls in them count as absent.

    Raises:
        ValueError: names the instruction without a check, or the unusable argument.
    """
    names, arguments = _as_list(ids, IDS_COLUMN), _as_list(kwargs, KWARGS_COLUMN)
    if len(names) != len(arguments):
        raise ValueError(
            f"`{IDS_COLUMN}` holds {len(names)} and `{KWARGS_COLUMN}` {len(arguments)}: "
            "expected the same number"
        )

    checks = []
    for name, given in zip(names, arguments, strict=True):
        if not isinstance(name, str) or name not in _MAKERS:
            raise ValueError(
                f"no check is known for the instruction {name!r}; known: {', '.join(_MAKERS)}"
            )
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"{name}: its arguments are {given!r}, which is not an object")

        present = {key: value for key, value in (given or {}).items() if value is not None}
        try:
            check = _MAKERS[name](present)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        checks.append({**check, "strict": True, "not_empty": True})
    return checks


def _as_list(value: Any, column: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`{column}` is not JSON: {error}") from error

    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise ValueError(f"`{column}` must be a list, got {value!r:.60}")  # noqa: TRY004 - reported, not raised
    return list(value)


def _number(given: _Arguments, name: str, *, least: int = 0) -> int:
    """Return a whole number; IFEval draws one at random if it is missing or negative."""
    value = given.get(name)
    # Tables store whole numbers beside nulls as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        shown = "is missing" if value is None else f"is {value!r}"
        raise ValueError(
            f"`{name}` {shown}, so IFEval would draw one at random; a whole number from "
            f"{least} is needed"
        )
    return value


def _text(given: _Arguments, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"`{name}` is {value!r}, so IFEval would draw one at random; a text is needed"
        )
    return value


def _texts(given: _Arguments, name: str) -> list[str]:
    value = given.get(name)
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not value or not all(isinstance(text, str) for text in value):
        raise ValueError(
            f"`{name}` is {value!r}, so IFEval would draw some at random; a list of texts is needed"
        )
    return list(value)


def _limits(given: _Arguments, relation: str, number: int) -> dict[str, int]:
    """Return the limits of a count: IFEval knows only ``less than`` and ``at least``."""
    value = given.get(relation)
    if value == "less than":
        return {"max": number - 1}
    if value == "at least":
        return {"min": number}
    raise ValueError(f"`{relation}` is {value!r}; it must be 'less than' or 'at least'")


def _pattern(pattern: str, *, ignore_case: bool = False) -> dict[str, Any]:
    """Return a check on a pattern, which must compile."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"it does not give a valid regular expression: {error}") from error

    check: dict[str, Any] = {"type": "regex", "pattern": pattern}
    if ignore_case:
        check["ignore_case"] = True
    return check


def _at_least(item: str, number: int, *, run: str = "") -> str:
    """Return a pattern of so many places where ``item`` matches, from left to right as ``findall``.

    Args:
        item: the counted pattern.
        number: how often.
        run: text to skip at once: if no item begins at its start, none begins inside it.
    """
    passed = rf"(?:{run}|[\s\S])" if run else r"[\s\S]"
    return rf"(?:(?:(?!{item}){passed})*+(?>{item})){{{number}}}"


def _counted(item: str, limits: Mapping[str, int], *, ignore_case: bool = False) -> dict[str, Any]:
    if "min" in limits:
        pattern = r"\A" + _at_least(item, limits["min"])
    elif limits["max"] < 0:
        pattern = _NEVER
    else:
        pattern = rf"\A(?!{_at_least(item, limits['max'] + 1)})"
    return _pattern(pattern, ignore_case=ignore_case)


def _literal(text: str) -> str:
    """Return a text as a pattern.

    IFEval treats such texts as regular expressions, so they must not hold special characters.

    Raises:
        ValueError: the text holds a special character.
    """
    if set(text) & set(r".^$*+?{}[]\|()"):
        raise ValueError(
            f"{text!r} is a regular expression to IFEval, whose matches prefpipe cannot "
            "count exactly"
        )
    return re.escape(text)


def _keywords(given: _Arguments) -> dict[str, Any]:
    pattern = r"\A"
    for keyword in sorted(_texts(given, "keywords")):
        pattern += rf"(?=[\s\S]*?(?:{keyword}))"
    return _pattern(pattern, ignore_case=True)


def _frequency(given: _Arguments) -> dict[str, Any]:
    limits = _limits(given, "relation", _number(given, "frequency"))
    return _counted(_literal(_text(given, "keyword").strip()), limits, ignore_case=True)


def _forbidden(given: _Arguments) -> dict[str, Any]:
    # IFEval's \b is that of Python's re, for which a combining mark is not part of a word.
    edge = rf"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))"
    words = sorted(set(_texts(given, "forbidden_words")))
    any_word = "|".join(rf"{edge}{word}{edge}" for word in words)
    return _pattern(rf"\A(?![\s\S]*?(?:{any_word}))", ignore_case=True)


def _letters(given: _Arguments) -> dict[str, Any]:
    letter = _text(given, "letter")
    if len(letter) > 1:
        raise ValueError(
            f"`letter` is {letter!r}, so IFEval would draw one at random; one character is needed"
        )

    number = _number(given, "let_frequency")
    if given.get("let_relation") is None:
        raise ValueError("`let_relation` is missing, so IFEval would draw one at random")
    limits = _limits(given, "let_relation", number)

    # IFEval counts in the lower-cased response: every character that becomes the letter counts.
    lower = letter.lower()
    signs = {lower, *_EXTRA_CAPITALS.get(lower, "")}
    if lower.upper().lower() == lower:
        signs.add(lower.upper())
    return _counted("[" + "".join(map(re.escape, sorted(signs))) + "]", limits)


def _language(given: _Arguments) -> dict[str, Any]:
    return {"type": "language", "language": _text(given, "language")}


def _sentences(given: _Arguments) -> dict[str, Any]:
    limits = _limits(given, "relation", _number(given, "num_sentences"))
    if limits.get("max", 0) < 0:
        return _pattern(_NEVER)
    return {"type": "sentences", **limits}


def _paragraphs(given: _Arguments) -> dict[str, Any]:
    """Count texts between dividers of three asterisks.

    An empty one may be at either end, and nowhere else.
    """
    number = _number(given, "num_paragraphs", least=1)
    inside = r"(?!\*\*\*)"
    paragraph = rf"(?:{inside}{_SPACE})*+{inside}{_NO_SPACE}(?:{inside}[\s\S])*+"
    more = rf"(?:\*\*\*{paragraph}){{{number - 1}}}"
    return _pattern(rf"\A(?:{_SPACE}*+\*\*\*)?+{paragraph}{more}(?:\*\*\*{_SPACE}*+)?\Z")


def _words(given: _Arguments) -> dict[str, Any]:
    """Count runs of letters, digits and underscores: ``don't`` is two words there."""
    limits = _limits(given, "relation", _number(given, "num_words"))
    return _counted(rf"{_WORD}++", limits)


def _first_word(given: _Arguments) -> dict[str, Any]:
    """Count paragraphs between empty lines, and look for the word that one of them begins with.

    A word ends at a punctuation mark.
    """
    number = _number(given, "num_paragraphs", least=1)
    place = _number(given, "nth_paragraph", least=1)
    if place > number:
        raise ValueError(
            f"`nth_paragraph` {place} is above `num_paragraphs` {number}, so IFEval would "
            "draw one at random"
        )

    word = _text(given, "first_word").lower()
    # IFEval's comparison never holds such a character.
    if set(word) & set(".,?!'\"") or any(sign.isspace() for sign in word):
        return _pattern(_NEVER)

    inside = r"(?!\n\n)"
    blank = rf"(?:{inside}{_SPACE})*+"
    full = rf"{blank}{inside}{_NO_SPACE}(?:{inside}[\s\S])*+"
    more = rf"(?:\n\n(?:{blank}\n\n)*+{full}){{{number - 1}}}"
    so_many = rf"(?:{blank}\n\n)*+{full}{more}(?:\n\n{blank})*+\Z"

    before = rf"(?:(?:{inside}[\s\S])*+\n\n){{{place - 1}}}{blank}'*+\"*+"
    first_word = rf"(?i:{re.escape(word)})(?=[.,?!'\"]|{_SPACE}|\Z)"
    return _pattern(rf"\A(?={so_many}){before}{first_word}")


def _placeholders(given: _Arguments) -> dict[str, Any]:
    """Count square brackets that close on their line."""
    number = _number(given, "num_placeholders")
    opened = r"\[[^\n\]]*+"
    return _pattern(r"\A" + _at_least(rf"{opened}\]", number, run=opened))


def _postscript(given: _Arguments) -> dict[str, Any]:
    """Look for a marker anywhere, whatever its case."""
    marker = _text(given, "postscript_marker").strip()
    known = {"P.P.S": rf"p\.{_SPACE}?p\.{_SPACE}?s", "P.S.": rf"p\.{_SPACE}?s\."}
    return _pattern(known.get(marker, marker.lower()), ignore_case=True)


def _bullets(given: _Arguments) -> dict[str, Any]:
    """Count lines that begin with an asterisk and another sign, and lines that begin with a dash.

    They are counted separately there, and a line end may follow an asterisk, so that the next line
    belongs to it.
    """
    number = _number(given, "num_bullets")
    # The pattern has a branch for each split of the number between the two signs.
    if number > 100:
        raise ValueError(f"`num_bullets` is {number}; prefpipe counts 100 at most")

    star, dash = rf"^{_SPACE}*+\*[^*][^\n]*+", rf"^{_SPACE}*+-[^\n]*+"
    white = rf"^{_SPACE}++"

    def exactly(item: str, n: int) -> str:
        return rf"(?={_at_least(item, n, run=white)})(?!{_at_least(item, n + 1, run=white)})"

    ways = [exactly(star, n) + exactly(dash, number - n) for n in range(number + 1)]
    return _pattern(rf"(?m)\A(?:{'|'.join(ways)})")


def _options(_given: _Arguments) -> dict[str, Any]:
    return _pattern(r"My answer is (?:yes|no|maybe)\.")


def _highlights(given: _Arguments) -> dict[str, Any]:
    """Count texts between single and between double asterisks separately.

    Empty ones do not count.
    """
    number = _number(given, "num_highlights")
    # A branch for each split of the number between single and double asterisks.
    if number > 100:
        raise ValueError(f"`num_highlights` is {number}; prefpipe counts 100 at most")

    single, double = _at_least_full(r"\*"), _at_least_full(r"\*\*")
    ways = [rf"(?={single(n)})(?={double(number - n)})" for n in range(number + 1)]
    return _pattern(rf"\A(?:{'|'.join(ways)})")


def _at_least_full(edge: str) -> Callable[[int], str]:
    """Return a function that makes a pattern of so many texts between edges.

    Texts of only white space are skipped.
    """
    full = rf"{edge}(?=[^\n*]*?[^\s*\x1c-\x1f])[^\n*]*+{edge}"
    either = rf"{edge}[^\n*]*+{edge}"

    def at_least(number: int) -> str:
        over = rf"(?!{full})(?>{either})|(?!{either})[\s\S]"
        return rf"(?:(?:{over})*+(?>{full})){{{number}}}"

    return at_least


def _sections(given: _Arguments) -> dict[str, Any]:
    """Count a word followed by a number."""
    splitter = _literal(_text(given, "section_spliter").strip())
    return _pattern(r"\A" + _at_least(rf"{splitter}{_SPACE}?\d++", _number(given, "num_sections")))


def _json(_given: _Arguments) -> dict[str, Any]:
    return {"type": "json", "style": "python"}


def _title(_given: _Arguments) -> dict[str, Any]:
    """Look for double angular brackets on one line.

    More than brackets and white space must be between them.
    """
    something = r"(?:[^\s>\x1c-\x1f]|>[^\n>])"
    return _pattern(rf"(?m)^(?:(?!<<)[^\n])*+<<<*+(?=[^\n]*>>)[^\n]*?{something}[^\n]*>>")


def _two_responses(_given: _Arguments) -> dict[str, Any]:
    """Look for two texts, not the same, with six asterisks between them.

    An empty one may be at either end.
    """
    inside = r"(?!\*{6})"
    first = rf"(?>(?P<first>{inside}{_NO_SPACE}(?:{inside}[\s\S])*?)(?={_SPACE}*+\*{{6}}))"
    end = rf"(?:\*{{6}}{_SPACE}*+)?\Z"
    other = rf"(?!{_SPACE}*+(?P=first){_SPACE}*+{end})"
    second = rf"(?:{inside}{_SPACE})*+{inside}{_NO_SPACE}(?:{inside}[\s\S])*+"
    return _pattern(
        rf"\A(?:{_SPACE}*+\*{{6}})?+{_SPACE}*+{first}{_SPACE}*+\*{{6}}{other}{second}{end}"
    )


def _repeat(given: _Arguments) -> dict[str, Any]:
    return {"type": "starts_with", "text": _text(given, "prompt_to_repeat")}


def _end(given: _Arguments) -> dict[str, Any]:
    """Look for a phrase at the end, whatever its case.

    Straight quotation marks around the response do not count.
    """
    phrase = _text(given, "end_phrase").strip()
    # IFEval removes the marks at the response's end, but not those of the phrase.
    if phrase.endswith('"'):
        return _pattern(_NEVER)

    before = rf'(?<!\A{_SPACE}*"*)' if phrase.startswith('"') else ""
    return _pattern(rf'{before}{re.escape(phrase)}"*+{_SPACE}*+\Z', ignore_case=True)


def _capital_words(given: _Arguments) -> dict[str, Any]:
    limits = _limits(given, "capital_relation", _number(given, "capital_frequency"))
    joint = "[-'\u2019]"
    capitals = r"[\p{Lu}\p{N}_]"
    begin = rf"(?<!{_WORD})(?<!{_WORD}{joint})"
    end = rf"(?!{joint}?{_WORD})"
    word = rf"[\p{{N}}_]*+\p{{Lu}}{capitals}*+(?:{joint}{capitals}++)*+"
    return _counted(begin + word + end, limits)


def _capital(_given: _Arguments) -> dict[str, Any]:
    return _pattern(r"\A(?=[\s\S]*?\p{Uppercase})[^\p{Lowercase}\p{Lt}]*+\Z")


def _lowercase(_given: _Arguments) -> dict[str, Any]:
    return _pattern(r"\A(?=[\s\S]*?\p{Lowercase})[^\p{Uppercase}\p{Lt}]*+\Z")


def _no_comma(_given: _Arguments) -> dict[str, Any]:
    return _pattern(r"\A[^,]*+\Z")


def _quotation(_given: _Arguments) -> dict[str, Any]:
    return _pattern(rf'\A{_SPACE}*+"[\s\S]*"{_SPACE}*+\Z')


_MAKERS: Final[Mapping[str, Callable[[_Arguments], dict[str, Any]]]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _options,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capital,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}
INSTRUCTIONS: Final = tuple(_MAKERS)
"""The 25 instructions of IFEval."""
