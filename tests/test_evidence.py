"""docs/evidence.md has exactly the tables of the committed results, and these are small."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from scipy import stats
from support import evidence_page
from support.evidence_page import MOST_BYTES, NOT_RUN, PAGE, RESULTS, page_of, places, studies
from support.study_tables import N_PROMPTS, write_study

from prefpipe.stages.study.figures import figures_of

SMALL = {
    "seeds": [0, 1],
    "budgets": {"prompts": 60},
    "arms": {"best": {}, "worse": {}},
    "contrasts": [["best", "worse"]],
}
"""Keys of a study whose tables are made in a moment."""


def test_every_study_has_a_place_and_every_place_is_there_once() -> None:
    named = places(PAGE.read_text(encoding="utf-8"))
    assert len(set(named)) == len(named)
    assert set(studies()) <= set(named)


def test_the_page_is_what_the_results_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_of(text, evidence_page.tables()) == text, "run `make evidence`"


def test_the_results_are_small_and_whole() -> None:
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for name in studies():
        there = {path.name for path in (RESULTS / name).iterdir()}
        assert there == {"study.json", "results.parquet", "runs.parquet"}, name


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with places for two studies, of which one is there."""
    page = tmp_path / "evidence.md"
    frame = "# A\n\n<!-- evidence: here -->\nNot run yet.\n<!-- end -->\n\nB\n\n<!-- evidence: later -->\nNot run yet.\n<!-- end -->\n"
    page.write_text(frame)
    write_study(tmp_path / "evidence" / "here", SMALL)
    monkeypatch.setattr(evidence_page, "PAGE", page)
    monkeypatch.setattr(evidence_page, "RESULTS", tmp_path / "evidence")
    return page


def test_a_table_that_differs_fails_and_is_written_again(page: Path, capsys) -> None:
    assert evidence_page.main() == 1
    assert "here: its tables were other ones" in capsys.readouterr().err
    text = page.read_text()
    assert text.startswith("# A\n\n<!-- evidence: here -->\n**Equal prompts**\n")
    assert text.endswith(f"<!-- evidence: later -->\n{NOT_RUN}<!-- end -->\n")
    assert evidence_page.main() == 0
    assert page.read_text() == text

    digit = next(place for place, letter in enumerate(text) if letter.isdigit())
    page.write_text(text[:digit] + "9" + text[digit + 1 :])
    assert evidence_page.main() == 1
    assert page.read_text() == text


def test_one_changed_reward_changes_the_tables(page: Path, capsys) -> None:
    from prefpipe.artifacts.study_tables import RESULTS as SCHEMA
    from prefpipe.artifacts.study_tables import write_study_table

    evidence_page.main()
    assert evidence_page.main() == 0
    path = page.parent / "evidence/here/results.parquet"
    rows = pl.read_parquet(path).to_dicts()
    rows[0]["reward"] += 0.5
    write_study_table(path, SCHEMA, rows)
    assert evidence_page.main() == 1


def test_the_recipe_of_the_page_gives_the_figures(tmp_path: Path) -> None:
    """A fresh reader's polars, with the names of the study exchanged, to 1e-9."""
    write_study(tmp_path, failed=[("worse", 1)])
    text = PAGE.read_text(encoding="utf-8")
    section = text.split("## How to recompute")[1].split("\n## ")[0]
    code = "\n".join(block.split("```")[0] for block in section.split("```python\n")[1:])
    for there, here in (
        ("docs/evidence/selection", str(tmp_path)),
        ("opt-select", "best"),
        ("bottom-k", "worse"),
    ):
        assert there in code
        code = code.replace(there, here)
    found: dict[str, Any] = {}
    exec(code, found)

    reward = figures_of(tmp_path)["budgets"][0]["measures"]["reward"]
    means = dict(found["means"].iter_rows())
    for arm in reward["arms"]:
        assert means[arm["arm"]] == pytest.approx(arm["mean"], abs=1e-9)
    [contrast] = [each for each in reward["contrasts"] if each["second"] == "worse"]
    assert contrast["seeds"] == [0, 2]
    assert found["difference"] == pytest.approx(contrast["mean"], abs=1e-9)
    assert found["se"] == pytest.approx(contrast["se"], abs=1e-9)
    t_seeds, t_prompts = (stats.t.ppf(1 - contrast["p"] / 2, df) for df in (1, N_PROMPTS - 1))
    half = (found["in_seeds"] * t_seeds**2 + found["in_prompts"] * t_prompts**2) ** 0.5
    assert half == pytest.approx(abs(contrast["mean"]), rel=1e-6)
    for name in ("p", "low", "high"):
        assert found[name] == pytest.approx(contrast[name], abs=1e-9), name


def test_results_without_a_place_fail(page: Path, capsys) -> None:
    evidence_page.main()
    write_study(page.parent / "evidence" / "nowhere", SMALL)
    assert evidence_page.main() == 1
    assert "has no place for it, <!-- evidence: nowhere -->" in capsys.readouterr().err
