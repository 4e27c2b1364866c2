"""``prefpipe objectives``: the table and each row, for people and for scripts."""

import json
import subprocess
import sys

import pytest

from prefpipe.cli.main import run as prefpipe
from prefpipe.maths.objectives.losses import LOSSES
from prefpipe.maths.objectives.registry import ALL_OBJECTIVES


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("columns", [80, 160])
def test_the_list_has_name_score_knobs_and_paper_of_every_objective(
    columns: int, capsys, monkeypatch
) -> None:
    """A narrow terminal gets blocks of lines, a wide one a table; nothing is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert prefpipe(["objectives"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= columns
    names = [
        line.partition(":" if columns == 80 else " ")[0]
        for line in page.splitlines()
        if line[:1].islower()
    ]
    assert [name for name in names if name in ALL_OBJECTIVES] == list(ALL_OBJECTIVES)
    if columns == 80:
        for row in ALL_OBJECTIVES.values():
            assert squeezed(row.formula) in squeezed(page)
            assert squeezed(
                ", ".join(f"{knob.name} {knob.shown_default}" for knob in row.knobs)
            ) in squeezed(page)


def test_the_list_as_json_is_the_table(capsys) -> None:
    assert prefpipe(["objectives", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(ALL_OBJECTIVES)
    for name, objective in ALL_OBJECTIVES.items():
        assert rows[name]["formula"] == objective.formula
        assert rows[name]["source"] == objective.source
        assert rows[name]["needs_reference"] == objective.needs_reference
        assert {knob["name"]: knob["default"] for knob in rows[name]["knobs"]} == {
            knob.name: knob.default for knob in objective.knobs
        }
    assert rows["rdpo"]["knobs"][1]["range"] == "at least 0 and below 0.5"


@pytest.mark.parametrize("name", ALL_OBJECTIVES)
def test_one_objective_is_explained_with_its_whole_docstring(name: str, capsys) -> None:
    assert prefpipe(["objectives", name]) == 0
    page = capsys.readouterr().out
    for line in LOSSES[name].__doc__.splitlines():
        assert line.strip() in page
    assert prefpipe(["objectives", name, "--json"]) == 0
    assert "Source:" in json.loads(capsys.readouterr().out)["documentation"]


def test_an_unknown_objective_exits_with_2_and_names_those_there_are(capsys) -> None:
    assert prefpipe(["objectives", "kto"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unknown objective 'kto'" in captured.err
    assert "ampo, refa" in captured.err


@pytest.mark.slow
def test_the_list_loads_no_pytorch() -> None:
    code = "import sys\nfrom prefpipe.cli.main import run\nrun(['objectives'])\nsys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )
