"""Files as Arena-Hard's ``gen_judgment.py`` writes them, and its own count of the verdicts, written out."""

import json
from pathlib import Path
from typing import Any

POINTS = {
    "A>B": [1.0],
    "A>>B": [1.0] * 3,
    "A=B": [0.5],
    "A<<B": [0.0] * 3,
    "A<B": [0.0],
    "B>A": [0.0],
    "B>>A": [0.0] * 3,
    "B=A": [0.5],
    "B<<A": [1.0] * 3,
    "B<A": [1.0],
}


def judgment(uid: str, first: str | None, second: str | None, **more: Any) -> dict[str, Any]:
    """Return a line of v2.0: in the first game the baseline is A, in the second the model."""
    games = [
        None if score == "null" else {"score": score, "judgment": {"answer": "..."}, "prompt": []}
        for score in (first, second)
    ]
    return {
        "uid": uid,
        "category": "hard_prompt",
        "judge": "gpt-4.1",
        "model": "mine",
        "baseline": "o3-mini-2025-01-31",
        "games": games,
        **more,
    }


def judgment_v01(number: str, *scores: str | None, **more: Any) -> dict[str, Any]:
    """Return a line of v0.1, which names neither the baseline nor a category."""
    games = [{"user_prompt": "...", "judgment": "...", "score": score} for score in scores]
    return {
        "question_id": number,
        "model": "mine",
        "judge": "gpt-4-1106-preview",
        "games": games,
        **more,
    }


def judgments(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write a file and return its path."""
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def points_of(first: str, second: str) -> list[float]:
    """Return what Arena-Hard counts for the model of one prompt: the second game as it is, the first turned round."""
    return POINTS[second] + [1 - point for point in POINTS[first]]
