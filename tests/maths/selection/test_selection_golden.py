"""What select chooses for fixed pools, tied to the stage's VERSION.

A choice that moves needs a new VERSION and a line in the changelog.

``PREFPIPE_UPDATE_GOLDEN=1 pytest tests/maths/selection/test_selection_golden.py`` writes the file;
read its diff.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.selection_evidence import evidence_for

from prefpipe.configs.select import SelectConfig
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.select_responses import select_responses

GOLDEN = Path(__file__).parents[2] / "golden" / f"select-v{SelectConfig.VERSION}.json"


def pools() -> list[tuple[np.ndarray, np.ndarray]]:
    """Forty pools of 8 to 32 candidates by arithmetic alone, so that no generator's release can
    move them."""
    made = []
    for number in range(40):
        n = 8 + number % 25
        places = np.arange(1, n + 1)
        rewards = np.round(np.sin(places * (number + 1) * 1.7) * 3.0, 3)
        angles = np.outer(places, np.arange(1, 7)) * (0.37 + 0.11 * number)
        made.append((rewards, np.round(np.cos(angles), 4)))
    return made


def chosen(strategy: str) -> list[Any]:
    rows = []
    for number, (rewards, vectors) in enumerate(pools()):
        evidence = evidence_for(strategy, len(rewards))
        # In a batch of one, as delta may find no negative, which is an error of a single pool.
        if "samplers" in evidence:
            evidence["samplers"] = [evidence["samplers"]]
            found = select_responses(
                rewards[None], vectors[None], 1 + number % 7, strategy, seed=number, **evidence
            )
            rows.append([found.positives[0].tolist(), found.negatives[0].tolist()])
            continue
        found = select_responses(
            rewards, vectors, 1 + number % 7, strategy, seed=number, **evidence
        )
        cost = None if np.isnan(found.cost) else round(found.cost, 6)
        rows.append([found.positives.tolist(), found.negatives.tolist(), cost])
    return rows


def test_there_is_a_golden_file_for_this_version() -> None:
    if os.environ.get("PREFPIPE_UPDATE_GOLDEN"):
        lines = [f"{json.dumps(name)}: {json.dumps(chosen(name))}" for name in sorted(STRATEGIES)]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert GOLDEN.exists(), (
        "VERSION changed: write the golden file and say in CHANGELOG.md which numbers moved"
    )


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_choices_are_those_of_this_version(strategy: str) -> None:
    assert chosen(strategy) == json.loads(GOLDEN.read_text())[strategy]
