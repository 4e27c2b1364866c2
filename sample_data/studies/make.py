"""Make the prompts of the studies, byte for byte: `python sample_data/studies/make.py [FOLDER]`.

Ten families of short tasks, each with several constraints that a program can verify and that fail
apart from each other, so that the bad responses to one prompt are bad in different ways. A topic
and a wording are of one split only: `train.jsonl` (240 prompts), `heldout.jsonl` (120) and
`tuning.jsonl` (40, to choose knobs by).
"""

import csv
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
N_TOPICS = {"train": 60, "heldout": 30, "tuning": 10}
FAMILIES_A_TOPIC = 4

Check = dict[str, Any]
Facts = dict[str, Any]
"""What a wording and the checks of one prompt are filled in with."""

PEOPLE = {
    "train": ("Anna", "Tom", "Maria", "Ben", "Lucy", "Sam", "Ivan", "Rosa"),
    "heldout": ("Omar", "Clara", "Paul", "Emma", "Hugo"),
    "tuning": ("Nina", "Leo"),
}
THINGS = {
    "train": ("pears", "stamps", "books", "coins", "eggs", "shells"),
    "heldout": ("cards", "plates", "roses", "nails"),
    "tuning": ("buttons", "cakes"),
}
LANGUAGES = (("French", "fr"), ("Spanish", "es"), ("German", "de"))
AMONG = ["de", "en", "es", "fr", "it", "nl", "pt"]

DIRECT: Check = {
    "type": "regex",
    "pattern": r"\A(?!\W*(?:sure|certainly|of course|here(?:'s| is| are)|(?:i'm |i am )?sorry"
    r"|i can(?:'t|not)|i'm an? |as an ai)\b)",
    "ignore_case": True,
}
"""No preamble ("Here is ...") and no refusal."""

VARIED: Check = {
    "type": "regex",
    "pattern": r"\A(?![\s\S]*?\b(\w{4,})\b(?:[\s\S]*?\b\1\b){2})",
    "ignore_case": True,
}
"""No longer word three times."""


def weighted(weight: float, **check: Any) -> Check:
    """Return a check that counts so much."""
    return {**check, "weight": weight}


def without_pattern(signs: str) -> str:
    """Return a pattern that no text with one of the signs matches."""
    return rf"\A[^{signs}]*\Z"


def riddle(facts: Facts) -> list[Check]:
    """A sentence about a thing that it must not name."""
    return [
        weighted(3, type="words", min=facts["m"], max=facts["n"]),
        weighted(2, type="keywords", exclude=facts["forms"], strict=True),
        weighted(3, type="keywords", all=[facts["must"]]),
        weighted(1, type="sentences", exactly=1),
        weighted(1, **VARIED),
    ]


def lower(facts: Facts) -> list[Check]:
    """A description in lowercase letters without commas."""
    return [
        weighted(1, type="lowercase", strict=True),
        weighted(1, type="lowercase"),
        weighted(3, type="words", min=facts["m"], max=facts["n"]),
        weighted(1, type="no_commas"),
        weighted(3, type="keywords", all=[facts["must"]], any=facts["forms"]),
    ]


def foreign(facts: Facts) -> list[Check]:
    """A short sentence in another language with a name in it."""
    return [
        weighted(2, type="language", language=facts["code"], among=AMONG),
        weighted(3, type="words", min=facts["m"], max=facts["n"]),
        weighted(2, type="keywords", all=[facts["name"]]),
        weighted(1, type="keywords", exclude=[facts["language"]]),
        weighted(1, type="ends_with", text="."),
    ]


def items(facts: Facts) -> list[Check]:
    """A list of three with dashes, without the topic's name."""
    return [
        weighted(2, type="bullets", exactly=3, style="bullet"),
        weighted(1, type="bullets", exactly=3),
        weighted(2, type="words", min=9, max=15),
        weighted(1, type="keywords", exclude=facts["forms"], strict=True),
        weighted(1, **VARIED),
    ]


def fields(_: Facts) -> list[Check]:
    """A small JSON object and nothing around it."""
    return [
        weighted(2, type="json", required=["name", "colour", "place"]),
        weighted(2, type="keywords", all=['"name"', '"colour"', '"place"']),
        weighted(1, type="regex", pattern=r"\A\s*(?:```(?:json)?\s*)?\{"),
        weighted(1, type="regex", pattern=r"\}\s*(?:```\s*)?\Z"),
        weighted(1, type="words", min=6, max=14),
    ]


def question(facts: Facts) -> list[Check]:
    """A question in double quotation marks."""
    return [
        weighted(2, type="regex", pattern=r'\?["”]?\s*\Z'),
        weighted(3, type="words", min=facts["m"], max=facts["n"]),
        weighted(1, type="regex", pattern=r'\A\s*["“]'),
        weighted(2, type="keywords", any=facts["forms"]),
        weighted(1, type="keywords", exclude=["ask", "asked", "asks", "question"]),
    ]


def message(facts: Facts) -> list[Check]:
    """A text message with a given beginning and end."""
    return [
        weighted(2, type="starts_with", text=f"Hi {facts['name']}"),
        weighted(2, type="ends_with", text="See you soon!"),
        weighted(2, type="words", min=12, max=20),
        weighted(2, type="keywords", any=facts["forms"]),
        weighted(1, type="sentences", max=3),
    ]


def total(facts: Facts) -> list[Check]:
    """A sum, answered in one sentence."""
    answer = facts["a"] + facts["b"]
    return [
        weighted(1, type="numeric_answer", answer=answer),
        weighted(1, type="numeric_answer", answer=answer, tolerance=2),
        weighted(2, type="ends_with", text=f"{facts['things']}."),
        weighted(1, type="words", min=6, max=10),
        weighted(1, type="regex", pattern=without_pattern("=+*")),
        weighted(1, type="starts_with", text=facts["name"]),
    ]


def title(facts: Facts) -> list[Check]:
    """A short title with a given word."""
    return [
        weighted(2, type="words", min=4, max=8),
        weighted(3, type="keywords", all=[facts["must"]], any=facts["forms"]),
        weighted(1, type="title_case"),
        weighted(1, type="regex", pattern=without_pattern(':"“”*')),
        weighted(1, type="paragraphs", exactly=1),
    ]


def rephrase(facts: Facts) -> list[Check]:
    """A sentence in other words: an echo fails."""
    words = facts["sentence"].strip(".").split()
    echoes = [" ".join(words[place : place + 3]) for place in (0, 2, 4)]
    return [
        weighted(2, type="words", min=8, max=12),
        weighted(2, type="keywords", exclude=[facts["ban"]]),
        weighted(2, type="keywords", exclude=echoes),
        weighted(2, type="keywords", any=facts["forms"]),
        weighted(1, **DIRECT),
    ]


FAMILIES: dict[str, Callable[[Facts], list[Check]]] = {
    "riddle": riddle,
    "lower": lower,
    "foreign": foreign,
    "items": items,
    "fields": fields,
    "question": question,
    "message": message,
    "total": total,
    "title": title,
    "rephrase": rephrase,
}
"""Each family with the checks of its prompts."""


def read_topics(draw: random.Random) -> dict[str, list[dict[str, str]]]:
    """Return the topics of each split."""
    with (HERE / "topics.csv").open(encoding="utf-8", newline="") as file:
        topics = list(csv.DictReader(file))
    draw.shuffle(topics)

    topics_by_split, begin = {}, 0
    for split, n_topics in N_TOPICS.items():
        topics_by_split[split] = topics[begin : begin + n_topics]
        begin += n_topics
    return topics_by_split


def facts_of(topic: dict[str, str], split: str, draw: random.Random) -> Facts:
    """Return all that one prompt can be filled in with."""
    language, code = draw.choice(LANGUAGES)
    # from prompt to prompt another length, so that no one length is right for all
    least = draw.choice((8, 10, 12, 14, 16))
    forms = {topic["noun"], topic["topic"].removeprefix("the ")}
    return {
        **topic,
        "forms": sorted(forms),
        "m": least,
        "n": least + 5,
        "name": draw.choice(PEOPLE[split]),
        "things": draw.choice(THINGS[split]),
        "a": draw.randint(2, 9),
        "b": draw.randint(2, 6),
        "language": language,
        "code": code,
    }


def rows(
    topics: list[dict[str, str]], split: str, wordings: dict[str, Any], draw: random.Random
) -> list[dict[str, Any]]:
    """Return the prompts of a split: four of the ten families for each topic, in turn."""
    made = []
    n_made = dict.fromkeys(FAMILIES, 0)
    names = list(FAMILIES)
    for number, topic in enumerate(topics):
        for place in range(FAMILIES_A_TOPIC):
            family = names[(number * FAMILIES_A_TOPIC + place) % len(names)]
            facts = facts_of(topic, split, draw)
            of_split = wordings[family][split]
            wording = of_split[n_made[family] % len(of_split)]
            n_made[family] += 1

            subject = topic["topic"].removeprefix("the ").replace(" ", "-")
            made.append(
                {
                    "prompt_id": f"{family}-{subject}",
                    "family": family,
                    "prompt": wording.format(**facts),
                    "checks": FAMILIES[family](facts),
                }
            )
    return made


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else HERE)
    wordings = yaml.safe_load((HERE / "wordings.yaml").read_text(encoding="utf-8"))
    draw = random.Random(15)
    for split, topics in read_topics(draw).items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(topics, split, wordings, draw)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
