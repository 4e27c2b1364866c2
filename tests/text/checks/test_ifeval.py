"""IFEval's instructions become checks that judge as IFEval judges: each against its rule, written out here."""

import collections
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefpipe.text.checks.column import parse_checks, rate
from prefpipe.text.checks.ifeval import INSTRUCTIONS, NEAR, checks_of_instructions

Rule = Callable[[str], bool]


def score(instruction: str, kwargs: dict[str, Any], response: str) -> float:
    checks = parse_checks(checks_of_instructions([instruction], [kwargs]), "prompt 'p'")
    return rate(response, checks).reward


def related(relation: str, count: int, number: int) -> bool:
    return count < number if relation == "less than" else count >= number


def full_marks(texts: list[str], edge: str) -> int:
    return sum(bool(text[len(edge) : len(text) - len(edge)].strip()) for text in texts)


def divided(text: str, number: int) -> bool:
    found = re.split(r"\s?\*\*\*\s?", text)
    if any(not each.strip() for each in found[1:-1]):
        return False
    ends = sum(not found[place].strip() for place in {0, len(found) - 1})
    return len(found) - ends == number


def first_word(text: str, number: int, nth: int, word: str) -> bool:
    found = text.split("\n\n")
    n_full = sum(bool(each.strip()) for each in found)
    if nth > n_full or not found[nth - 1].strip():
        return False
    begin = found[nth - 1].split()[0].lstrip("'").lstrip('"')
    return n_full == number and re.split("[.,?!'\"]", begin)[0].lower() == word.lower()


def two_responses(text: str) -> bool:
    found = [each.strip() for each in text.split("******")]
    if not all(found[1:-1]):
        return False
    full = [each for each in found if each]
    return len(full) == 2 and full[0] != full[1]


def titled(text: str) -> bool:
    return any(each.lstrip("<").rstrip(">").strip() for each in re.findall(r"<<[^\n]+>>", text))


def is_json(text: str) -> bool:
    text = text.strip()
    for beginning in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(beginning)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def ends(text: str, phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(phrase.strip().lower())


CASES: list[tuple[str, dict[str, Any], Rule]] = [
    ("keywords:existence", {"keywords": ["sun", "Rain"]}, lambda t: all(re.search(k, t, re.IGNORECASE) for k in ("sun", "Rain"))),
    ("keywords:existence", {"keywords": ["a sun"]}, lambda t: bool(re.search("a sun", t, re.IGNORECASE))),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "at least"},
     lambda t: related("at least", len(re.findall("sun", t, re.IGNORECASE)), 2)),
    ("keywords:frequency", {"keyword": "aa", "frequency": 3, "relation": "less than"},
     lambda t: related("less than", len(re.findall("aa", t, re.IGNORECASE)), 3)),
    ("keywords:forbidden_words", {"forbidden_words": ["sun", "no"]},
     lambda t: not any(re.search(rf"\b{w}\b", t, re.IGNORECASE) for w in ("sun", "no"))),
    ("keywords:letter_frequency", {"letter": "N", "let_frequency": 3, "let_relation": "at least"},
     lambda t: collections.Counter(t.lower())["n"] >= 3),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "less than"},
     lambda t: collections.Counter(t.lower())["#"] < 2),
    ("keywords:letter_frequency", {"letter": "k", "let_frequency": 2, "let_relation": "less than"},
     lambda t: collections.Counter(t.lower())["k"] < 2),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, lambda t: divided(t, 2)),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, lambda t: divided(t, 1)),
    ("length_constraints:number_words", {"num_words": 4, "relation": "at least"}, lambda t: len(re.findall(r"\w+", t)) >= 4),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, lambda t: len(re.findall(r"\w+", t)) < 3),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Sun"},
     lambda t: first_word(t, 2, 2, "Sun")),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "no"},
     lambda t: first_word(t, 1, 1, "no")),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "I'm"},
     lambda t: first_word(t, 1, 1, "I'm")),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, lambda t: len(re.findall(r"\[.*?\]", t)) >= 2),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, lambda t: bool(re.search(r"p\.\s?s\.", t.lower()))),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, lambda t: bool(re.search(r"p\.\s?p\.\s?s", t.lower()))),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S."}, lambda t: bool(re.search(r"p.p.s.", t.lower()))),
    *(("detectable_format:number_bullet_lists", {"num_bullets": n}, lambda t, n=n: n == len(
        re.findall(r"^\s*\*[^\*].*$", t, re.MULTILINE)) + len(re.findall(r"^\s*-.*$", t, re.MULTILINE))) for n in (0, 1, 2, 3)),
    ("detectable_format:constrained_response", {},
     lambda t: any(f"My answer is {word}." in t for word in ("yes", "no", "maybe"))),
    *(("detectable_format:number_highlighted_sections", {"num_highlights": n}, lambda t, n=n: n <= full_marks(
        re.findall(r"\*[^\n\*]*\*", t), "*") + full_marks(re.findall(r"\*\*[^\n\*]*\*\*", t), "**")) for n in (1, 2)),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     lambda t: len(re.split(r"\s?Section\s?\d+\s?", t)) - 1 >= 2),
    ("detectable_format:json_format", {}, is_json),
    ("detectable_format:title", {}, titled),
    ("combination:two_responses", {}, two_responses),
    ("combination:repeat_prompt", {"prompt_to_repeat": " The Sun "}, lambda t: t.strip().lower().startswith("the sun")),
    ("startend:end_checker", {"end_phrase": "no rain?"}, lambda t: ends(t, "no rain?")),
    ("startend:end_checker", {"end_phrase": '"no'}, lambda t: ends(t, '"no')),
    ("startend:end_checker", {"end_phrase": 'no"'}, lambda t: ends(t, 'no"')),
    ("startend:quotation", {}, lambda t: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"'),
    ("change_case:english_capital", {}, str.isupper),
    ("change_case:english_lowercase", {}, str.islower),
    ("punctuation:no_comma", {}, lambda t: "," not in t),
]  # fmt: skip
PIECES = [
    *"*-<>[]#\"'.,?! \n\t\r\x1ca1kK_",
    "\n\n",
    "***",
    "******",
    "**",
    "<<",
    ">>",
    "sun",
    "Sun",
    "SUN",
    "Rain",
    "no",
    "No rain?",
    "aa",
    "don't",
    "Section 1",
    "Section2",
    "SECTION 1",
    "P.S.",
    "p. s. ",
    "P.P.S",
    "p.\np.s",
    "My answer is yes.",
    "My answer is no",
    "```json",
    "```",
    "{}",
    '{"a": NaN}',
    "[1]",
    "the sun",
    "The Sun",
    "\u00e9",
    "\u212a",
    "\u2003",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "*sun*",
    "**sun**",
    "[name]",
    "* ",
    "- ",
    "\n* no",
    "\n- no",
    "a sun",
    'a "no',
    "no\n",
    "\u0660",
]
NAMES = [f"{number}-{case[0]}" for number, case in enumerate(CASES)]


def texts_of(seed: int, n: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(PIECES, k=chance.randint(0, 14))) for _ in range(n)]


@pytest.mark.slow
@pytest.mark.parametrize(("instruction", "kwargs", "rule"), CASES, ids=NAMES)
def test_a_check_judges_as_the_rule_of_ifeval(
    instruction: str, kwargs: dict[str, Any], rule: Rule
) -> None:
    """An empty response follows nothing there, whatever the rule."""
    checks = parse_checks(checks_of_instructions([instruction], [kwargs]), "prompt 'p'")
    held = []
    for text in texts_of(len(kwargs), 3000):
        is_followed = bool(text.strip()) and rule(text)
        assert rate(text, checks).reward == float(is_followed), repr(text)
        held.append(is_followed)
    if kwargs not in (
        {"end_phrase": 'no"'},
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "I'm"},
    ):
        assert any(held)
    assert not all(held)


@pytest.mark.slow
@given(response=st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@settings(max_examples=150, deadline=None)
def test_every_check_judges_one_response_as_its_rule(response: str) -> None:
    for instruction, kwargs, rule in CASES:
        assert score(instruction, kwargs, response) == float(
            bool(response.strip()) and rule(response)
        ), instruction


def test_every_instruction_has_a_check_and_the_exact_ones_are_compared_here() -> None:
    assert len(INSTRUCTIONS) == 25
    compared = {case[0] for case in CASES}
    assert compared | set(NEAR) == set(INSTRUCTIONS)
    assert compared & set(NEAR) == {"change_case:english_capital", "change_case:english_lowercase"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("instruction", "kwargs", "good", "bad"),
    [
        (
            "language:response_language",
            {"language": "de"},
            "Der Himmel ist heute blau und die Sonne scheint.",
            "The sky is blue today and the sun shines.",
        ),
        (
            "length_constraints:number_sentences",
            {"num_sentences": 3, "relation": "less than"},
            "One. Two.",
            "One. Two. Three.",
        ),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at least"},
            "A BIG day, WELL-KNOWN.",
            "A big day.",
        ),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 1, "capital_relation": "less than"},
            "Nasa went.",
            "NASA went.",
        ),
        ("change_case:english_capital", {}, "IT IS 5 O'CLOCK.", "IT IS FIVE o'CLOCK."),
        ("change_case:english_lowercase", {}, "it is 5 o'clock.", "It is five."),
    ],
)
def test_near_checks_tell_good_from_bad(
    instruction: str, kwargs: dict[str, Any], good: str, bad: str
) -> None:
    assert (
        score(instruction, kwargs, good),
        score(instruction, kwargs, bad),
        score(instruction, kwargs, " \n"),
    ) == (
        1.0,
        0.0,
        0.0,
    )


def test_a_prompts_reward_is_the_share_of_its_instructions() -> None:
    ids = [
        "punctuation:no_comma",
        "detectable_format:number_highlighted_sections",
        "length_constraints:number_words",
    ]
    kwargs = [{}, {"num_highlights": 1}, {"relation": "at least", "num_words": 3}]
    for form in (kwargs, json.dumps(kwargs)):
        checks = parse_checks(checks_of_instructions(ids, form), "prompt 'p'")
        assert rate("*One* and two", checks).reward == 1.0
        assert rate("*One* or, no", checks).reward == pytest.approx(2 / 3)
        assert rate("", checks).reward == 0.0


def test_nulls_and_floats_of_parquet_are_no_arguments() -> None:
    """The hub's file gives every instruction the keys of all others, and numbers beside nulls are floats in many tables."""
    given = {"num_words": 2.0, "relation": "at least", "keywords": None, "num_bullets": None}
    assert score("length_constraints:number_words", given, "two words") == 1.0


@pytest.mark.parametrize(("ids", "kwargs", "message"), [
    (["count:word_count_range"], [{}], "no check is known for the instruction 'count:word_count_range'"),
    ([7], [{}], "no check is known for the instruction 7"),
    (["punctuation:no_comma"], [], "holds 1 and `kwargs` 0"),
    (["punctuation:no_comma"], ["x"], "which is not an object"),
    ("punctuation:no_comma", [{}], "is not JSON"),
    ({}, [{}], "`instruction_id_list` must be a list"),
    (["length_constraints:number_words"], [{"num_words": 5}], "`relation` is None; it must be 'less than' or 'at least'"),
    (["length_constraints:number_words"], [{"relation": "at least"}], "`num_words` is missing, so IFEval would draw one at random"),
    (["length_constraints:number_words"], [{"num_words": 2.5, "relation": "at least"}], "`num_words` is 2.5"),
    (["keywords:letter_frequency"], [{"letter": "ab", "let_frequency": 1, "let_relation": "at least"}], "one character is needed"),
    (["length_constraints:nth_paragraph_first_word"], [{"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"}], "is above `num_paragraphs` 1"),
    (["keywords:frequency"], [{"keyword": "C++", "frequency": 1, "relation": "at least"}], "'C++' is a regular expression to IFEval"),
    (["keywords:existence"], [{"keywords": ["a("]}], "it does not give a valid regular expression"),
    (["keywords:existence"], [{"keywords": []}], "IFEval would draw some at random"),
])  # fmt: skip
def test_what_cannot_be_judged_as_there_is_refused_by_name(
    ids: Any, kwargs: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        checks_of_instructions(ids, kwargs)


PROSE = [
    "The sunny side, Rain again.",
    "No rain? No rain?",
    "a b c sun",
    "Sunsets and sun.",
    '"Any questions?"',
    "Any questions?",
    "p. s. one more",
    "P.S. Bye",
    "P.P.S. Bye",
    "[name] and [address]",
    "[na\nme] and [address]",
    "[a]",
    "<<Title>>",
    "<< >>",
    "<<a\nb>>",
    "Section 1 a Section 2 b",
    "section 1 section 2",
    '```json\n{"a": NaN}\n```',
    "{}",
    "not json",
    "My answer is yes.",
    "my answer is yes.",
    "*bold* text",
    "** text",
    "**bold**",
    "no, never",
    "no\u060c never",
    "\u201cquoted\u201d",
    '"quoted"',
    "",
    "  ",
    "Nine nuns ran.",
    "don't stop",
    "one *** two",
    "one\n***\ntwo",
    "*** two",
    "Name a lake. Lake Chad.",
    "IN CAPITALS",
]
BY_HAND = {
    "keywords:existence": {"keywords": ["sun", "rain"]},
    "keywords:frequency": {"keyword": "sun", "frequency": 2, "relation": "at least"},
    "keywords:forbidden_words": {"forbidden_words": ["sun"]},
    "keywords:letter_frequency": {"letter": "n", "let_frequency": 3, "let_relation": "at least"},
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:constrained_response": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "Name a lake."},
    "startend:end_checker": {"end_phrase": "Any questions?"},
    "startend:quotation": {},
    "punctuation:no_comma": {},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
}


def rows_of_the_page() -> dict[str, str]:
    page = (Path(__file__).parents[3] / "docs" / "guides" / "checks.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+:\w+)` \| .* \| (.*) \|$", page, re.MULTILINE)
    return {name: cell.replace("\\|", "|") for name, cell in found}


def test_the_page_has_a_row_for_every_instruction() -> None:
    assert sorted(rows_of_the_page()) == sorted(INSTRUCTIONS)
    page = (Path(__file__).parents[3] / "docs" / "guides" / "checks.md").read_text(encoding="utf-8")
    near = re.findall(r"^\| `(\w+:\w+)` \| [^|]*\(\*near\*\)", page, re.MULTILINE)
    assert sorted(near) == sorted(NEAR)


@pytest.mark.parametrize("instruction", BY_HAND)
def test_what_the_page_says_to_write_by_hand_judges_prose_alike(instruction: str) -> None:
    written = re.search(r"`(\{.*\})`", rows_of_the_page()[instruction])
    assert written is not None
    checks = parse_checks([json.loads(written[1])], "docs/guides/checks.md")
    found = {text: rate(text, checks).reward for text in PROSE}
    assert found == {text: score(instruction, BY_HAND[instruction], text) for text in PROSE}
    assert len(set(found.values())) == 2


LONG = {
    "asterisks": "*" * 30_000,
    "brackets": "[" * 10_000,
    "angles": "<" * 30_000,
    "words": "sun " * 10_000,
    "letters": "a" * 40_000,
    "commas": "," * 40_000,
    "lines": "\n" * 5_000 + "x",
    "quotes": '"' * 40_000,
    "bullets": "* a\n" * 5_000,
    "stars": "*a" * 10_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_long_responses_are_judged_in_time(name: str) -> None:
    """No pattern tries the same place again and again, or its search would be stopped and count as not followed."""
    for instruction, kwargs, rule in CASES:
        if (name, instruction) == ("brackets", "detectable_format:json_format"):
            assert (
                score(instruction, kwargs, LONG[name]) == 0.0
            )  # Python's parser gives up with an error there
        else:
            assert score(instruction, kwargs, LONG[name]) == float(rule(LONG[name])), instruction
