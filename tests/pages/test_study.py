"""The figures of a study on the terminal: the numbers, what is not done, and 80 columns."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.study_tables import declare_later, write_study

from prefpipe.pages.study import study_page
from prefpipe.stages.study.figures import figures_of


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("study") / "s"
    write_study(
        folder,
        {"contrasts": [["best", "same"]]},
        failed=[("best", 1)],
        waiting=[("worse", 2)],
    )
    declare_later(folder, "best", "worse")
    return figures_of(folder)


def shown(figures: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, record=True, file=StringIO())
    for item in study_page(figures):
        console.print(item, soft_wrap=False)
    return console.export_text()


def test_every_arm_and_contrast_is_a_row_with_its_numbers(figures: dict[str, Any]) -> None:
    lines = shown(figures).splitlines()
    for entry in figures["budgets"]:
        measure = entry["measures"]["reward"]
        for contrast in measure["contrasts"]:
            interval = f"{contrast['mean']:+.3f} [{contrast['low']:+.3f}, {contrast['high']:+.3f}]"
            [line] = [line for line in lines if interval in line and " - " in line]
            assert line.startswith(f"{contrast['first']} - {contrast['second']}")
            assert f"{contrast['detectable_holm']:.3f}" in line
            is_separable = contrast["declared"] and contrast["verdict"] != "not_separable"
            assert ("*" in line) == is_separable
            assert ("later" in line) == (not contrast["declared"])
        for arm in measure["arms"]:
            mean = f"{arm['mean']:.3f} [{arm['low']:.3f}, {arm['high']:.3f}]"
            [line] = [line for line in lines if mean in line and line.startswith(arm["arm"])]
            to_base = arm["to_base"]
            assert f"{to_base['mean']:+.3f} [{to_base['low']:+.3f}, {to_base['high']:+.3f}]" in line
        kl = {arm["arm"]: f"{arm['mean']:.3f}" for arm in entry["measures"]["kl_per_token"]["arms"]}
        for arm, mean in kl.items():
            assert any(line.startswith(arm) and line.endswith(mean) for line in lines)


def test_what_is_not_done_comes_first_and_a_later_contrast_is_explained(
    figures: dict[str, Any],
) -> None:
    text = shown(figures)
    assert text.startswith("NOT DONE: 7 of 9 runs are done, 1 failed, 1 waiting.")
    assert "failed: best, seed 1: train, exit 1\n" in text
    assert "2 of 3, 1 failed" in text
    assert "later: a contrast added after results were seen; it is not corrected for" in text


def test_nothing_is_wider_than_the_terminal(tmp_path: Path) -> None:
    names = [f"arm-{number}".ljust(64, "x") for number in range(3)]
    write_study(
        tmp_path / "s",
        {
            "arms": {name: {} for name in names},
            "contrasts": [names[:2]],
            "budgets": {"prompts": 60},
        },
    )
    text = shown(figures_of(tmp_path / "s"))
    assert max(map(len, text.splitlines())) <= 80
    assert "".join(names[0]) in "".join(line.split("  ")[0] for line in text.splitlines())


def test_a_study_without_a_finished_run_says_so(tmp_path: Path) -> None:
    every = [(arm, seed) for arm in ("best", "same", "worse") for seed in (0, 1, 2)]
    write_study(tmp_path / "s", waiting=every)
    text = shown(figures_of(tmp_path / "s"))
    assert text.startswith("NOT DONE: 0 of 9 runs are done, 9 waiting.")
    assert text.count("no run is judged yet") == 2
