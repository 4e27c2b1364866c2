"""The example notebook runs from top to bottom, in a kernel, where its files are."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[1] / "sample_data" / "from_python.ipynb"


@pytest.mark.slow
def test_the_example_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook,
        # the first call of select compiles its loops
        timeout=800,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    client.execute(env=dict(os.environ))

    texts = [_text_of(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert "4 of 4 parts  100%" in texts[1]
    assert "640 rows: 640 ok" in texts[1]
    assert "StageRun(stage='select'" in texts[2]
    assert "positive" in texts[3]
    assert texts[6] == "(0.667, 0.211)"
    # a stage draws its progress in place: it adds no output a part
    assert max(len(cell.get("outputs", [])) for cell in notebook.cells) <= 8


def _text_of(cell) -> str:
    pieces = []
    for output in cell.outputs:
        assert output.output_type != "error", output
        pieces.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(pieces)
