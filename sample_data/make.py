"""Rebuild prompts.jsonl and heldout.jsonl, byte for byte: `python sample_data/make.py [FOLDER]`.

Four families of short tasks, each with constraints that a program can verify, on everyday topics. A
topic is either in the training file or in the held-out file, so prompts are held out by id and the
families are the same.
"""

import json
import random
import sys
from pathlib import Path

TOPICS = (
    "the ocean", "a rainy day", "coffee", "bicycles", "the moon", "winter", "a library", "bread",
    "gardens", "music", "mountains", "cats", "trains", "the desert", "a birthday", "bridges",
    "honey", "football", "maps", "the night sky", "rivers", "a market", "tea", "forests",
    "painting", "the wind", "a lighthouse", "chess", "islands", "cooking", "snow", "dogs",
    "a museum", "clocks", "the beach", "horses", "letters", "volcanoes", "a school", "dancing",
    "apples", "castles", "sleep", "the city", "robots", "birds", "a harbour", "shoes", "glass",
    "spring", "theatre", "bees", "a village", "swimming", "stars", "rice", "windows",
    "photography", "whales", "autumn", "farms", "kites", "a kitchen", "trees", "soup",
    "lightning", "pianos", "waterfalls", "paper", "the market square", "boats", "camels",
    "friendship", "caves", "a sunrise", "wolves", "gold", "umbrellas", "roads", "summer",
)  # fmt: skip
N_TRAIN_TOPICS = 40


def brief(topic: str) -> dict[str, object]:
    """A short answer."""
    prompt = f"Tell me something about {topic}. Use at most 12 words."
    return {"prompt": prompt, "checks": [{"type": "words", "min": 3, "max": 12}]}


def lowercase(topic: str) -> dict[str, object]:
    """A short answer without capital letters."""
    prompt = f"Write one short sentence about {topic}. Use only lowercase letters, no capitals."
    return {
        "prompt": prompt,
        "checks": [{"type": "lowercase"}, {"type": "words", "min": 3, "max": 15}],
    }


def no_commas(topic: str) -> dict[str, object]:
    """Two sentences without commas."""
    prompt = f"Describe {topic} in two sentences. Do not use any commas."
    return {
        "prompt": prompt,
        "checks": [
            {"type": "no_commas"},
            {"type": "sentences", "exactly": 2},
            {"type": "words", "min": 6},
        ],
    }


def bullets(topic: str) -> dict[str, object]:
    """A list of three."""
    prompt = f'List three words that go with {topic}. Write three lines, each starting with "- ".'
    return {
        "prompt": prompt,
        "checks": [
            {"type": "bullets", "exactly": 3, "style": "bullet"},
            {"type": "words", "min": 3, "max": 12},
        ],
    }


FAMILIES = (brief, lowercase, no_commas, bullets)


def rows(topics: list[str]) -> list[dict[str, object]]:
    """One prompt for each topic, the families in turn."""
    made = []
    for number, topic in enumerate(topics):
        family = FAMILIES[number % len(FAMILIES)]
        subject = topic.removeprefix("the ").removeprefix("a ").replace(" ", "-")
        prompt_id = f"{family.__name__}-{subject}"
        made.append({"prompt_id": prompt_id, "family": family.__name__, **family(topic)})
    return made


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    topics = list(TOPICS)
    random.Random(7).shuffle(topics)
    for name, part in (
        ("prompts.jsonl", topics[:N_TRAIN_TOPICS]),
        ("heldout.jsonl", topics[N_TRAIN_TOPICS:]),
    ):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(part)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
