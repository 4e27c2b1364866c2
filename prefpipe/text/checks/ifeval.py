r"""IFEval's instructions as checks: what a prompts file of IFEval asks for, in the words of docs/checks.md.

    {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    [{"type": "regex", "pattern": "\\A[^,]*+\\Z", "strict": true, "not_empty": true}]

Twenty of the 25 instructions are judged exactly as google-research's ``instruction_following_eval`` judges them in its strict
mode; five need a language detector or NLTK's sentence splitter there, and stand here by the nearest check (``NEAR``). What
cannot be judged as it is there, such as an argument that IFEval would draw by chance, is refused and never left out.

Patterns are written with possessive repeats, so that every one of them reads a response once.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import regex  # type: ignore[import-untyped]

IFEVAL_VERSION: Final = 1
"""Rises when an instruction becomes another check; part of the fingerprint of scores of IFEval's prompts."""
IDS_COLUMN: Final = "instruction_id_list"
KWARGS_COLUMN: Final = "kwargs"

NEAR: Final[Mapping[str, str]] = {
    "language:response_language": "py3langid tells the language here and langdetect there",
    "length_constraints:number_sentences": "sentences are split by rules here and by NLTK's punkt there",
    "change_case:capital_word_frequency": "words are found by a pattern here and by NLTK's tokenizer there",
    "change_case:english_capital": "the case is judged exactly, and that it is English is not judged",
    "change_case:english_lowercase": "the case is judged exactly, and that it is English is not judged",
}
"""Instructions whose check may differ from IFEval's, and in what."""

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
        ValueError: naming the instruction that has no check, or the argument that cannot be used.
    """
    names, arguments = _as_list(ids, IDS_COLUMN), _as_list(kwargs, KWARGS_COLUMN)
    if len(names) != len(arguments):
        raise ValueError(
            f"`{IDS_COLUMN}` holds {len(names)} and `{KWARGS_COLUMN}` {len(arguments)}: one of each belongs together"
        )

    checks = []
    for name, given in zip(names, arguments, strict=True):
        if not isinstance(name, str) or name not in _MAKERS:
            raise ValueError(
                f"no check is known for the instruction {name!r}; known: {', '.join(_MAKERS)}"
            )
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"{name}: its arguments are {given!r}, which is no object")
        present = {key: value for key, value in (given or {}).items() if value is not None}
        try:
            made = _MAKERS[name](present)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        checks.append({**made, "strict": True, "not_empty": True})
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
    """Return a whole number; IFEval draws one by chance where it is missing or negative."""
    value = given.get(name)
    if (
        isinstance(value, float) and value.is_integer()
    ):  # tables keep whole numbers beside nulls as floats
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        shown = "is missing" if value is None else f"is {value!r}"
        raise ValueError(
            f"`{name}` {shown}, and IFEval would draw one by chance; a whole number from {least} is needed"
        )
    return value


def _text(given: _Arguments, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"`{name}` is {value!r}, and IFEval would draw one by chance; a text is needed"
        )
    return value


def _texts(given: _Arguments, name: str) -> list[str]:
    value = given.get(name)
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or not value
        or not all(isinstance(text, str) for text in value)
    ):
        raise ValueError(
            f"`{name}` is {value!r}, and IFEval would draw some by chance; a list of texts is needed"
        )
    return list(value)


def _limits(given: _Arguments, relation: str, number: int) -> dict[str, int]:
    """Return the limits of a count: ``less than`` and ``at least`` are all that IFEval knows."""
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
        raise ValueError(f"it gives no regular expression: {error}") from error
    return {"type": "regex", "pattern": pattern} | ({"ignore_case": True} if ignore_case else {})


def _at_least(item: str, number: int, *, run: str = "") -> str:
    """Return a pattern: from the start, so many places where ``item`` matches, found from left to right as ``findall`` does.

    Args:
        item: what is counted.
        number: how often.
        run: what holds no beginning of an item where none begins at its start, and is passed over at once.
    """
    passed = rf"(?:{run}|[\s\S])" if run else r"[\s\S]"
    return rf"(?:(?:(?!{item}){passed})*+(?>{item})){{{number}}}"


def _counted(item: str, limits: Mapping[str, int], *, ignore_case: bool = False) -> dict[str, Any]:
    if "min" in limits:
        return _pattern(r"\A" + _at_least(item, limits["min"]), ignore_case=ignore_case)
    most = limits["max"]
    return _pattern(
        _NEVER if most < 0 else rf"\A(?!{_at_least(item, most + 1)})", ignore_case=ignore_case
    )


def _literal(text: str) -> str:
    """Return a text as a pattern; IFEval takes such texts for regular expressions, and no sign may mean something there.

    Raises:
        ValueError: the text holds such a sign.
    """
    if set(text) & set(r".^$*+?{}[]\|()"):
        raise ValueError(
            f"{text!r} is a regular expression to IFEval, and how often one matches is not told exactly here"
        )
    return re.escape(text)


def _keywords(given: _Arguments) -> dict[str, Any]:
    ahead = "".join(rf"(?=[\s\S]*?(?:{keyword}))" for keyword in sorted(_texts(given, "keywords")))
    return _pattern(rf"\A{ahead}", ignore_case=True)


def _frequency(given: _Arguments) -> dict[str, Any]:
    limits = _limits(given, "relation", _number(given, "frequency"))
    return _counted(_literal(_text(given, "keyword").strip()), limits, ignore_case=True)


def _forbidden(given: _Arguments) -> dict[str, Any]:
    # IFEval's \b is that of Python's re, to which a combining mark is no part of a word.
    edge = rf"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))"
    words = "|".join(
        rf"{edge}{word}{edge}" for word in sorted(set(_texts(given, "forbidden_words")))
    )
    return _pattern(rf"\A(?![\s\S]*?(?:{words}))", ignore_case=True)


def _letters(given: _Arguments) -> dict[str, Any]:
    letter = _text(given, "letter")
    if len(letter) > 1:
        raise ValueError(
            f"`letter` is {letter!r}, and IFEval would draw one by chance; one sign is needed"
        )
    lower = letter.lower()
    signs = {
        lower,
        *(capital for capital in (lower.upper(),) if capital.lower() == lower),
        *_EXTRA_CAPITALS.get(lower, ""),
    }
    number = _number(given, "let_frequency")
    if given.get("let_relation") is None:
        raise ValueError("`let_relation` is missing, and IFEval would draw one by chance")
    return _counted(
        "[" + "".join(map(re.escape, sorted(signs))) + "]", _limits(given, "let_relation", number)
    )


def _language(given: _Arguments) -> dict[str, Any]:
    return {"type": "language", "language": _text(given, "language")}


def _sentences(given: _Arguments) -> dict[str, Any]:
    limits = _limits(given, "relation", _number(given, "num_sentences"))
    if limits.get("max", 0) < 0:
        return _pattern(_NEVER)
    return {"type": "sentences", **limits}


def _paragraphs(given: _Arguments) -> dict[str, Any]:
    """Count texts between dividers of three asterisks: an empty one may stand at either end, and nowhere else."""
    number = _number(given, "num_paragraphs", least=1)
    inside = r"(?!\*\*\*)"
    paragraph = rf"(?:{inside}{_SPACE})*+{inside}{_NO_SPACE}(?:{inside}[\s\S])*+"
    return _pattern(
        rf"\A(?:{_SPACE}*+\*\*\*)?+{paragraph}(?:\*\*\*{paragraph}){{{number - 1}}}(?:\*\*\*{_SPACE}*+)?\Z"
    )


def _words(given: _Arguments) -> dict[str, Any]:
    """Count runs of letters, digits and underscores: ``don't`` is two words there."""
    limits = _limits(given, "relation", _number(given, "num_words"))
    return _counted(rf"{_WORD}++", limits)


def _first_word(given: _Arguments) -> dict[str, Any]:
    """Count paragraphs between empty lines, and look for the word that one begins with, up to a punctuation mark."""
    number = _number(given, "num_paragraphs", least=1)
    place = _number(given, "nth_paragraph", least=1)
    if place > number:
        raise ValueError(
            f"`nth_paragraph` {place} is above `num_paragraphs` {number}, and IFEval would draw one by chance"
        )
    word = _text(given, "first_word").lower()
    if set(word) & set(".,?!'\"") or any(sign.isspace() for sign in word):
        return _pattern(_NEVER)  # what IFEval compares with never holds such a sign

    inside = r"(?!\n\n)"
    blank = rf"(?:{inside}{_SPACE})*+"
    full = rf"{blank}{inside}{_NO_SPACE}(?:{inside}[\s\S])*+"
    so_many = rf"(?:{blank}\n\n)*+{full}(?:\n\n(?:{blank}\n\n)*+{full}){{{number - 1}}}(?:\n\n{blank})*+\Z"
    begins = rf"(?:(?:{inside}[\s\S])*+\n\n){{{place - 1}}}{blank}'*+\"*+(?i:{re.escape(word)})(?=[.,?!'\"]|{_SPACE}|\Z)"
    return _pattern(rf"\A(?={so_many}){begins}")


def _placeholders(given: _Arguments) -> dict[str, Any]:
    """Count square brackets that close on their line."""
    opened = r"\[[^\n\]]*+"
    return _pattern(
        r"\A" + _at_least(rf"{opened}\]", _number(given, "num_placeholders"), run=opened)
    )


def _postscript(given: _Arguments) -> dict[str, Any]:
    """Look for a marker anywhere, whatever its case."""
    marker = _text(given, "postscript_marker").strip()
    known = {"P.P.S": rf"p\.{_SPACE}?p\.{_SPACE}?s", "P.S.": rf"p\.{_SPACE}?s\."}
    return _pattern(known.get(marker, marker.lower()), ignore_case=True)


def _bullets(given: _Arguments) -> dict[str, Any]:
    """Count lines that begin with an asterisk and another sign, and lines that begin with a dash.

    They are counted apart there, and what follows an asterisk may be the line's end, so that the next line belongs to it.
    """
    number = _number(given, "num_bullets")
    if number > 100:
        raise ValueError(f"`num_bullets` is {number}; more than 100 are not counted here")
    star, dash = rf"^{_SPACE}*+\*[^*][^\n]*+", rf"^{_SPACE}*+-[^\n]*+"
    white = rf"^{_SPACE}++"
    ways = []
    for n_stars in range(number + 1):
        counts = ((star, n_stars), (dash, number - n_stars))
        way = ""
        for item, n in counts:
            way += rf"(?={_at_least(item, n, run=white)})(?!{_at_least(item, n + 1, run=white)})"
        ways.append(way)
    return _pattern(rf"(?m)\A(?:{'|'.join(ways)})")


def _options(_given: _Arguments) -> dict[str, Any]:
    return _pattern(r"My answer is (?:yes|no|maybe)\.")


def _highlights(given: _Arguments) -> dict[str, Any]:
    """Count texts between single asterisks and texts between double ones, apart; empty ones do not count."""
    number = _number(given, "num_highlights")
    if number > 100:
        raise ValueError(f"`num_highlights` is {number}; more than 100 are not counted here")
    single, double = _at_least_full(r"\*"), _at_least_full(r"\*\*")
    ways = [rf"(?={single(n)})(?={double(number - n)})" for n in range(number + 1)]
    return _pattern(rf"\A(?:{'|'.join(ways)})")


def _at_least_full(edge: str) -> Callable[[int], str]:
    """Return what makes a pattern of so many texts between edges, those of white space alone passed over."""
    full = rf"{edge}(?=[^\n*]*?[^\s*\x1c-\x1f])[^\n*]*+{edge}"
    either = rf"{edge}[^\n*]*+{edge}"

    def at_least(number: int) -> str:
        over = rf"(?!{full})(?>{either})|(?!{either})[\s\S]"
        return rf"(?:(?:{over})*+(?>{full})){{{number}}}"

    return at_least


def _sections(given: _Arguments) -> dict[str, Any]:
    """Count a word with a number behind it."""
    splitter = _literal(_text(given, "section_spliter").strip())
    return _pattern(r"\A" + _at_least(rf"{splitter}{_SPACE}?\d++", _number(given, "num_sections")))


def _json(_given: _Arguments) -> dict[str, Any]:
    return {"type": "json", "style": "python"}


def _title(_given: _Arguments) -> dict[str, Any]:
    """Look for double angular brackets on one line with more than brackets and white space between them."""
    something = r"(?:[^\s>\x1c-\x1f]|>[^\n>])"
    return _pattern(rf"(?m)^(?:(?!<<)[^\n])*+<<<*+(?=[^\n]*>>)[^\n]*?{something}[^\n]*>>")


def _two_responses(_given: _Arguments) -> dict[str, Any]:
    """Look for two texts, not the same, with six asterisks between them; an empty one may stand at either end."""
    inside = r"(?!\*{6})"
    first = rf"(?>(?P<first>{inside}{_NO_SPACE}(?:{inside}[\s\S])*?)(?={_SPACE}*+\*{{6}}))"
    end = rf"(?:\*{{6}}{_SPACE}*+)?\Z"
    return _pattern(
        rf"\A(?:{_SPACE}*+\*{{6}})?+{_SPACE}*+{first}{_SPACE}*+\*{{6}}(?!{_SPACE}*+(?P=first){_SPACE}*+{end})"
        rf"(?:{inside}{_SPACE})*+{inside}{_NO_SPACE}(?:{inside}[\s\S])*+{end}"
    )


def _repeat(given: _Arguments) -> dict[str, Any]:
    return {"type": "starts_with", "text": _text(given, "prompt_to_repeat")}


def _end(given: _Arguments) -> dict[str, Any]:
    """Look for a phrase at the end, whatever its case; straight quotation marks around the response do not count."""
    phrase = _text(given, "end_phrase").strip()
    if phrase.endswith('"'):
        return _pattern(
            _NEVER
        )  # the marks at the response's end are taken away there, and those of the phrase are not
    before = rf'(?<!\A{_SPACE}*"*)' if phrase.startswith('"') else ""
    return _pattern(rf'{before}{re.escape(phrase)}"*+{_SPACE}*+\Z', ignore_case=True)


def _capital_words(given: _Arguments) -> dict[str, Any]:
    limits = _limits(given, "capital_relation", _number(given, "capital_frequency"))
    joint, edge = "[-'\u2019]", _WORD
    word = (
        rf"(?<!{edge})(?<!{edge}{joint})[\p{{N}}_]*+\p{{Lu}}[\p{{Lu}}\p{{N}}_]*+(?:{joint}[\p{{Lu}}\p{{N}}_]++)*+"
        rf"(?!{joint}?{edge})"
    )
    return _counted(word, limits)


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
