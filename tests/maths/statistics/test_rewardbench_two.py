"""RewardBench 2: best of four and Ties, by hand and against the rules of its code, written out."""

import math
import random
from collections import defaultdict

import numpy as np
import pytest

from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.rewardbench_two import EXPECTED, Completions, rewardbench_two

QUICK = Bootstrap(0.95, 500, 0)


def item(
    number: int,
    correct: tuple[float, ...],
    wrong: tuple[float, ...],
    subset: str = "Math",
    item_id: str | None = None,
) -> Completions:
    return Completions(f"p{number}", item_id or str(number), subset, correct, wrong)


def test_best_of_four_is_the_mean_by_hand() -> None:
    items = [
        item(0, (2.0,), (1.0, 0.0, -1.0)),  # won
        item(1, (1.0,), (1.0, 0.0, -1.0)),  # two share the highest score: 1/2
        item(2, (1.0,), (1.0, 1.0, 1.0)),  # four: 1/4
        item(3, (1.0,), (2.0, 0.0, 0.0)),  # lost
    ]
    found = rewardbench_two(items, bootstrap=QUICK)
    [math_subset] = found.subsets
    assert math_subset.figure is not None
    values = [1, 0.5, 0.25, 0]
    assert math_subset.figure.mean == pytest.approx(np.mean(values))
    assert math_subset.figure.se == pytest.approx(np.std(values, ddof=1) / 2)
    assert (math_subset.figure.n_prompts, math_subset.figure.n_shared) == (4, 2)
    assert found.final is not None
    assert found.final.mean == math_subset.figure.mean
    assert found.missing == ("Factuality", "Precise IF", "Safety", "Focus", "Ties")
    assert not found.is_complete


def test_the_final_figure_is_the_mean_of_subsets_and_not_of_prompts() -> None:
    items = [
        item(0, (1.0,), (0.0,)),
        *(item(n, (0.0,), (1.0,), "Focus") for n in range(1, 4)),
        item(9, (1.0,), (0.0,), "my own"),
    ]
    found = rewardbench_two(items, bootstrap=QUICK)
    assert found.final is not None
    assert found.final.mean == pytest.approx(0.5)
    assert [
        (each.name, each.n_expected, each.figure.mean) for each in found.subsets if each.figure
    ] == [
        ("Math", 183, 1.0),
        ("Focus", 495, 0.0),
        ("my own", None, 1.0),
    ]


def test_the_score_of_ties_is_the_formula_by_hand() -> None:
    """0: all right, correct ones 1 apart, 2 above the wrong one. 1: accurate, and further apart
    than from the wrong one."""
    items = [
        item(0, (5.0, 4.0), (2.0, 1.0), "Ties", "tied:0"),
        item(1, (3.0,), (1.5,), "Ties", "ref:0"),
        item(2, (9.0, 4.0), (3.0, 1.0), "Ties", "tied:1"),
        item(3, (1.0,), (2.0,), "Ties", "ref:1"),
    ]
    [ties] = rewardbench_two(items, bootstrap=QUICK).subsets
    assert ties.figure is not None
    tanh = (math.tanh(min(2.0, 1.5) / 1.0 - 1.0) + math.tanh(min(1.0, -1.0) / 5.0 - 1.0)) / 2
    assert ties.figure.mean == pytest.approx(
        0.3 * 1.0 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * tanh
    )
    assert ties.ties == {
        "tied_accuracy": 1.0,
        "ref_accuracy": 0.5,
        "correctness_preferred": 0.5,
        "correctness_preferred_hard": 0.5,
        "margin_score": pytest.approx(tanh),
        "n_both": 2,
    }


def theirs(items: list[Completions]) -> float:
    """The score of Ties as reward-bench computes it, written out."""
    numbers: dict[str, dict[int, tuple[bool, float | None, float]]] = defaultdict(dict)
    for each in items:
        kind, number = (each.item_id or "").split(":")
        margin = min(each.correct) - max(each.wrong)
        spread = max(each.correct) - min(each.correct) if len(each.correct) > 1 else None
        numbers[kind][int(number)] = (margin > 0, spread, margin)
    both = numbers["ref"].keys() & numbers["tied"].keys()
    spread = np.array([numbers["tied"][n][1] for n in both], dtype=float)
    tied, ref = (np.array([numbers[kind][n][2] for n in both]) for kind in ("tied", "ref"))
    lowest = np.minimum(tied, ref)
    with np.errstate(all="ignore"):
        tanh = np.nan_to_num(np.tanh(lowest / spread - 1), nan=0.0)
    tied_accuracy, ref_accuracy = (
        np.mean([each[0] for each in numbers[kind].values()]) for kind in ("tied", "ref")
    )
    return float(
        0.3 * tied_accuracy
        + 0.3 * ref_accuracy
        + 0.2 * np.mean(tied > spread)
        + 0.2 * np.mean(lowest > spread)
        + 0.01 * np.mean(tanh)
    )


@pytest.mark.parametrize("seed", range(20))
def test_ties_agree_with_their_code_on_random_scores(seed: int) -> None:
    """Whole numbers, so that spreads and margins of 0 are among them; some numbers lack one of
    their prompts."""
    chance = random.Random(seed)
    items = []
    for number in range(12):
        for kind, n_correct in (("tied", chance.randint(2, 4)), ("ref", 1)):
            if number and chance.random() < 0.15:
                continue
            correct = tuple(float(chance.randint(2, 6)) for _ in range(n_correct))
            wrong = tuple(float(chance.randint(0, 3)) for _ in range(chance.randint(1, 3)))
            items.append(item(len(items), correct, wrong, "Ties", f"{kind}:{number}"))
    [ties] = rewardbench_two(items, bootstrap=QUICK).subsets
    assert ties.figure is not None
    assert ties.figure.mean == pytest.approx(theirs(items), abs=1e-12)


@pytest.mark.parametrize(
    ("lowest", "spread", "expected"), [(1.0, 0.0, 1.0), (-1.0, 0.0, -1.0), (0.0, 0.0, 0.0)]
)
def test_ties_with_correct_completions_of_one_score_have_the_limits(
    lowest: float, spread: float, expected: float
) -> None:
    items = [
        item(0, (2.0, 2.0 + spread), (2.0 - lowest,), "Ties", "tied:0"),
        item(1, (9.0,), (0.0,), "Ties", "ref:0"),
    ]
    [ties] = rewardbench_two(items, bootstrap=QUICK).subsets
    assert ties.ties is not None
    assert ties.ties["margin_score"] == expected


def test_both_prompts_of_a_number_are_drawn_together() -> None:
    """Every number has one score here, so the error is that of the numbers' own scores."""
    chance = random.Random(1)
    items, scores = [], []
    for number in range(30):
        pair = [
            item(
                2 * number,
                (chance.random() + 1, chance.random() + 1),
                (chance.random() * 1.5,),
                "Ties",
                f"tied:{number}",
            ),
            item(
                2 * number + 1,
                (chance.random() + 1,),
                (chance.random() * 1.5,),
                "Ties",
                f"ref:{number}",
            ),
        ]
        items += pair
        scores.append(theirs(pair))
    [ties] = rewardbench_two(items, bootstrap=QUICK).subsets
    assert ties.figure is not None
    assert ties.figure.mean == pytest.approx(np.mean(scores))
    assert ties.figure.se == pytest.approx(np.std(scores, ddof=1) / math.sqrt(30))
    assert ties.figure.low < ties.figure.mean < ties.figure.high


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (("a", "b"), "the ids of Ties are not `ref:N` and `tied:N`"),
        (("tied:0", "ref:1"), "no number of Ties has both"),
    ],
)
def test_ties_without_pairs_have_no_score_and_the_rest_has(
    ids: tuple[str, str], reason: str
) -> None:
    items = [item(n, (2.0, 1.0), (0.0,), "Ties", each) for n, each in enumerate(ids)] + [
        item(5, (1.0,), (0.0,))
    ]
    found = rewardbench_two(items, bootstrap=QUICK)
    ties = found.subsets[0]
    assert ties.figure is None
    assert reason in (ties.reason or "")
    assert found.final is not None
    assert found.final.mean == 1.0
    assert "Ties" in found.missing


def test_a_file_with_all_prompts_is_complete() -> None:
    items = []
    for name, count in EXPECTED.items():
        for number in range(count):
            item_id = f"{('ref', 'tied')[number % 2]}:{number // 2}" if name == "Ties" else None
            correct = (2.0, 1.5) if name == "Ties" and number % 2 else (2.0,)
            items.append(item(len(items), correct, (0.0, 0.5, 1.0), name, item_id))
    found = rewardbench_two(items, bootstrap=QUICK)
    assert found.is_complete
    assert found.final is not None
    assert found.final.n_prompts == 1865


def test_rewardbench_two_refuses_no_prompts() -> None:
    with pytest.raises(InputError, match="no prompt has all its responses scored"):
        rewardbench_two([])
