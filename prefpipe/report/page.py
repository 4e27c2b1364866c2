"""A story (`prefpipe.report.story.tell`) as one HTML file that asks the network for nothing.

The charts are plotly.js's, inlined. Every text of the run is escaped: in the page by Jinja, in the data as JSON in which ``<`` is
written as an escape. Should a text get through all the same, the page's content security policy runs the scripts whose
hashes it names and no other, and loads nothing from anywhere.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from prefpipe.artifacts.atomic import atomic_write, sweep_temporary_files
from prefpipe.errors import UsageError
from prefpipe.report.page_figures import (
    GAP_COLUMNS,
    NONE,
    curve_panels,
    gap_rows,
    health_rows,
    interval,
    percent,
    reliability_tables,
    tiles,
    words,
)
from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible

FOLDER = Path(__file__).parent / "html"
SCRIPTS = ("charts.js", "map.js", "savings.js", "page.js")
MARK = '<meta name="generator" content="prefpipe'
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def render(story: Mapping[str, Any]) -> str:
    """Return the page of a story."""
    told = _visible(story)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "percent": percent,
        "interval": interval,
        "words": words,
        "gap_rows": gap_rows,
    }
    scripts = [_plotly(), "(() => {\n" + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();\n"]
    policy = "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return environment.get_template("report.html.jinja").render(
        story=told,
        policy=policy,
        style=_asset("report.css"),
        scripts=scripts,
        data=json.dumps(told).translate(ESCAPES),
        panels=[curve_panels(training["curves"]) for training in told["trainings"]],
        health=[health_rows(entry) for entry in told["health"]],
        reliability=[reliability_tables(entry) for entry in told["calibrations"]],
        tiles=tiles,
        gap_columns=GAP_COLUMNS,
        places={entry["name"]: place for place, entry in enumerate(told["lineage"])},
    )


def refuse_other_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a name under which a report cannot be written; an earlier report is no hindrance.

    Raises:
        UsageError: the path is a folder, in a folder that does not exist, or a file that is no report.
    """
    if path.is_dir():
        raise UsageError(f"-o {path} is a folder", hint=f"name the file: -o {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"-o {path}: there is no folder {path.parent}",
            hint=f"make it first: mkdir -p {path.parent}",
        )
    if path.exists() and not overwrite and not _is_report(path):
        raise UsageError(
            f"-o {path} exists and is no report of prefpipe",
            hint="choose another name, or replace it with --overwrite",
        )


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


def write_report(path: Path, page: str, *, overwrite: bool) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: see `refuse_other_file`.
        PrefpipeError: the disk is full, the folder is read-only; an earlier report is as it was.
    """
    refuse_other_file(path, overwrite=overwrite)
    sweep_temporary_files(path.parent, path.name)
    with atomic_write(path) as file:
        file.write(page.encode())


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Return plotly.js; it must not end the script element that it stands in."""
    script: str = get_plotlyjs()
    return script.replace("</script", "<\\/script")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _visible(value: Any) -> Any:
    """Return the story with every control and direction character as a sign that does nothing."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): _visible(item) for key, item in value.items()}
    return [_visible(item) for item in value] if isinstance(value, list) else value


def _figure(value: float | None) -> str:
    return NONE if value is None else figure(value)
