"""What eval says of policy health on screen."""

from typing import Any

import pytest

from prefpipe.report.page_figures import HEALTH_LABELS
from prefpipe.stages.evaluate.health import HEALTH, SHARED, health_notes, health_rows

NONE = dict.fromkeys(("mean", "se", "low", "high"))


def measure(before: float, after: float, half: float, n: int = 40) -> dict[str, Any]:
    gap = after - before
    return {
        "baseline": {"mean": before, "se": 0.1, "low": before - half, "high": before + half},
        "policy": {"mean": after, "se": 0.1, "low": after - half, "high": after + half},
        "difference": {"mean": gap, "se": half / 2, "low": gap - half, "high": gap + half, "n": n},
    }


def figures(**changed: dict[str, Any]) -> dict[str, Any]:
    """Nothing moved but what is named."""
    still = {
        name: measure(0.5, 0.5, 0.1) for name in (*SHARED, *HEALTH, "n_tokens", "length_chars")
    } | changed
    kl = {
        "policy": {"mean": 0.25, "se": 0.02, "low": 0.2, "high": 0.3},
        "baseline": NONE,
        "difference": NONE,
        "n_prompts": 40,
    }
    health = {name: still[name] for name in HEALTH} | {"kl_per_token": kl, "kl_per_response": kl}
    return {**still, "health": health}


def test_nothing_is_said_where_nothing_moved() -> None:
    assert health_notes(figures()) == []


@pytest.mark.parametrize(
    "name", [name for name, watched in (SHARED | HEALTH).items() if watched.worse]
)
def test_what_got_worse_beyond_its_interval_is_told_and_what_got_better_is_not(name: str) -> None:
    watched = (SHARED | HEALTH)[name]
    worse, better = (
        measure(0.5, 0.5 + 0.2 * watched.worse, 0.1),
        measure(0.5, 0.5 - 0.2 * watched.worse, 0.1),
    )
    (note,) = health_notes(figures(**{name: worse}))
    assert note.startswith(f"{watched.name} {'rose' if watched.worse > 0 else 'fell'}: ")
    assert health_notes(figures(**{name: better})) == []
    assert health_notes(figures(**{name: measure(0.5, 0.5 + 0.05 * watched.worse, 0.1)})) == []


def test_notes_give_both_means_and_the_difference() -> None:
    notes = health_notes(
        figures(truncated=measure(0.1, 0.3, 0.1), n_tokens=measure(100.0, 140.0, 20.0))
    )
    assert notes == [
        "responses are 40% longer: 100.0 to 140.0, difference +40.0 [+20.0, +60.0] tokens",
        "responses cut at the token limit rose: 10.0% to 30.0%, difference +20.0% [+10.0%, +30.0%]",
    ]
    (shorter,) = health_notes(figures(n_tokens=measure(100.0, 60.0, 20.0)))
    assert shorter.startswith("responses are 40% shorter")


def test_a_length_that_moved_by_less_than_a_tenth_is_no_news() -> None:
    assert health_notes(figures(n_tokens=measure(100.0, 105.0, 2.0))) == []


def test_of_few_prompts_no_warning_is_made() -> None:
    assert health_notes(figures(refused=measure(0.0, 0.5, 0.1, n=9))) == []
    assert len(health_notes(figures(refused=measure(0.0, 0.5, 0.1, n=10)))) == 1


def test_rows_show_both_sides_and_the_difference() -> None:
    rows = list(health_rows(figures(refused=measure(0.1, 0.2, 0.05))))
    assert rows[0] == (
        "KL to the reference, nats per token",
        "",
        "0.250 [0.200, 0.300]",
        "",
        "0.020",
    )
    assert (
        "refusals",
        "10.0% [5.0%, 15.0%]",
        "20.0% [15.0%, 25.0%]",
        "+10.0% [+5.0%, +15.0%]",
        "2.5%",
    ) in rows


def test_a_measure_without_a_value_has_no_row() -> None:
    without = {
        "baseline": NONE,
        "policy": NONE,
        "difference": NONE | {"n": 0},
        "reason": "no embeddings",
    }
    found = figures(embedding_diversity=without)
    found["health"]["kl_per_token"] = {"reason": "--no-kl"}
    labels = [row[0] for row in health_rows(found)]
    assert "embedding distance" not in labels
    assert "KL to the reference, nats per token" not in labels
    assert health_notes(found) == []


def test_the_summary_of_an_earlier_release_is_shown_without_health() -> None:
    old = figures()
    del old["health"]
    assert [row[0] for row in health_rows(old)] == ["repeated 4-grams", "cut at the token limit"]
    assert health_notes(old) == []


def test_the_report_shows_every_measure_in_the_form_that_eval_prints() -> None:
    for name, watched in (SHARED | HEALTH).items():
        assert HEALTH_LABELS[name] == (watched.name, watched.form)
    assert HEALTH_LABELS["refused"] == ("refusals", "{:.1%}")


def test_where_tokens_are_not_known_the_length_is_told_in_characters() -> None:
    """Imported responses have no token counts; that they became ten times as long is still news."""
    unknown = {"baseline": NONE, "policy": NONE, "difference": NONE | {"n": 0}}
    (note,) = health_notes(figures(n_tokens=unknown, length_chars=measure(26.0, 260.0, 10.0)))
    assert note == "responses are 900% longer: 26 to 260, difference +234 [+224, +244] characters"
    assert health_notes(figures(n_tokens=unknown)) == []
