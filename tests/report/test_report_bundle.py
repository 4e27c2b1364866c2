"""The bundle of plotly.js that pages inline: it is npm's, unchanged, small, and can draw every chart."""

import hashlib
import re

from prefpipe.report.page import FOLDER, PLOTLY, SCRIPTS, STUDY_SCRIPTS

SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
"""Of the file in npm's plotly.js-basic-dist-min 4.1.1."""
TRACES = {"bar", "scatter"}
MOST_BYTES = 1_300_000


def test_the_bundle_is_npm_s_unchanged_and_its_licence_is_beside_it() -> None:
    script = (FOLDER / PLOTLY).read_bytes()
    assert hashlib.sha256(script).hexdigest() == SHA256
    assert len(script) < MOST_BYTES
    assert b"plotly.js (basic - minified) v4.1.1" in script[:200]
    folder = (FOLDER / PLOTLY).parent
    assert (folder / "LICENSE").read_text().startswith("MIT License")
    assert "plotly.js-basic-dist-min` 4.1.1" in (folder / "README.md").read_text()


def test_charts_use_no_trace_that_the_bundle_lacks() -> None:
    used: set[str] = set()
    for name in {*SCRIPTS, *STUDY_SCRIPTS}:
        script = (FOLDER / name).read_text()
        # shapes and error bars have types as well
        used |= set(re.findall(r'type: "(\w+)"', script)) - {"line", "rect", "data"}
    assert used == TRACES
