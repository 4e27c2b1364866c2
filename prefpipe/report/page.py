"""A story as one HTML file that asks the network for nothing: of a run, of two, or of a study.

The basic bundle of plotly.js, in ``html/plotly``, is inlined and draws the charts. Every text of
the run is escaped: in the page by Jinja, in the data as JSON in which ``<`` is an escape. If a text
still gets through, the page's content security policy runs only the scripts whose hashes it names,
and loads nothing from anywhere.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from prefpipe.artifacts.atomic import atomic_write, sweep_temporary_files
from prefpipe.errors import UsageError
from prefpipe.report.answer_words import (
    change_rows,
    cost_tiles,
    gain_rows,
    missing_costs,
    pair_cost_rows,
    pair_rows,
    states_of,
    verdict_of,
    worse_sentence,
)
from prefpipe.report.page_figures import (
    GAP_COLUMNS,
    coverage_rows,
    curve_panels,
    curve_rows,
    figure_or_dash,
    gap_rows,
    health_rows,
    histogram_rows,
    interval,
    percent,
    pool_round_rows,
    reliability_tables,
    round_rows,
    round_table,
    spelled_out,
    trend_rows,
)
from prefpipe.text.untrusted import visible

FOLDER = Path(__file__).parent / "html"
PLOTLY = "plotly/plotly-basic.min.js"
SCRIPTS = ("charts.js", "map.js", "savings.js", "theme.js", "page.js", "run.js")
PAIR_SCRIPTS = ("theme.js", "pair.js")
"""Two runs have tables and no charts."""
STUDY_SCRIPTS = ("charts.js", "study.js", "theme.js", "page.js")
MARK = '<meta name="generator" content="prefpipe'
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def render(story: Mapping[str, Any]) -> str:
    """Return the page of a run's story, of `prefpipe.report.story.tell`."""
    # Before all else: page and data hold the same signs.
    story = _visible(story)
    filters: dict[str, Callable[..., Any]] = {
        "interval": interval,
        "words": spelled_out,
        "gap_rows": gap_rows,
        "histogram_rows": histogram_rows,
        "trend_rows": trend_rows,
        "coverage_rows": coverage_rows,
        "curve_rows": curve_rows,
        "round_table": round_table,
        "round_rows": round_rows,
        "pool_round_rows": pool_round_rows,
    }
    return _page(
        "report.html.jinja",
        SCRIPTS,
        story,
        filters,
        panels=[curve_panels(training["curves"]) for training in story["trainings"]],
        health=[health_rows(entry) for entry in story["health"]],
        reliability=[reliability_tables(entry) for entry in story["calibrations"]],
        answers=_answers(story["answers"], states_of(story["not_done"])),
        gap_columns=GAP_COLUMNS,
        places={entry["name"]: place for place, entry in enumerate(story["lineage"])},
    )


def _answers(answers: Mapping[str, Any], states: Mapping[str, str]) -> dict[str, Any]:
    """Return what the first screen shows, as its template names it."""
    return {
        "verdict": verdict_of(answers),
        "gains": list(gain_rows(answers, states)),
        "changes": list(change_rows(answers, states)),
        "worse": worse_sentence(answers),
        "tiles": list(cost_tiles(answers, states)),
        "missing": missing_costs(answers),
    }


def render_pair(story: Mapping[str, Any]) -> str:
    """Return the page of two runs' story, of `prefpipe.report.pair.tell_pair`."""
    story = _visible(story)
    return _page(
        "pair.html.jinja",
        PAIR_SCRIPTS,
        story,
        {},
        verdicts=[verdict_of(run["answers"]) for run in story["runs"]],
        rows=list(pair_rows(story)),
        costs=pair_cost_rows(story),
    )


def render_study(story: Mapping[str, Any]) -> str:
    """Return the page of a study's story, of `prefpipe.report.study.tell_study`."""
    story = _visible(story)
    return _page("study.html.jinja", STUDY_SCRIPTS, story, {})


def _page(
    template: str,
    scripts: Sequence[str],
    story: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]],
    **values: Any,
) -> str:
    """Return a page.

    Args:
        template: a file of `FOLDER`.
        scripts: files of `FOLDER`, in order; plotly.js stands before those with charts.
        story: what the scripts draw, and the template's ``story``.
        filters: of the template, beside figures and shares.
        values: other names of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure_or_dash, "percent": percent, **filters}

    # prefpipe's own scripts share one scope that nothing else on the page can reach.
    own_script = "(() => {\n" + "\n".join(_asset(name) for name in scripts) + "\n})();\n"
    in_page = [own_script] if "charts.js" not in scripts else [_plotly(), own_script]
    return environment.get_template(template).render(
        story=story,
        policy=_security_policy(in_page),
        style=_asset("report.css"),
        scripts=in_page,
        data=json.dumps(story).translate(ESCAPES),
        **values,
    )


def refuse_other_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a name under which a report cannot be written; an earlier report is no hindrance.

    Raises:
        UsageError: the path is a folder, in a folder that does not exist, or a file that is no
            report.
    """
    if path.is_dir():
        raise UsageError(f"-o {path} is a folder", hint=f"name the file: -o {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"-o {path}: there is no folder {path.parent}",
            hint=f"make it first: mkdir -p {path.parent}",
        )
    if path.exists() and not overwrite and not is_report(path):
        raise UsageError(
            f"-o {path} exists and is not a prefpipe report",
            hint="choose another name, or replace it with --overwrite",
        )


def write_report(path: Path, page: str, *, overwrite: bool) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: see `refuse_other_file`.
        PrefpipeError: the disk is full, or the folder read-only; an earlier report is as it was.
    """
    # Asked before the work as well; since then a file may have appeared.
    refuse_other_file(path, overwrite=overwrite)
    # What a killed run left behind.
    sweep_temporary_files(path.parent, path.name)
    with atomic_write(path) as file:
        file.write(page.encode())


def is_report(path: Path) -> bool:
    """Return whether a file is a report that prefpipe wrote."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


def _security_policy(scripts: Sequence[str]) -> str:
    """Return the policy that runs these scripts and no other, and loads nothing."""
    hashes = []
    for script in scripts:
        digest = hashlib.sha256(script.encode()).digest()
        hashes.append(f"'sha256-{base64.b64encode(digest).decode()}'")
    rules = [
        "default-src 'none'",
        f"script-src {' '.join(hashes)}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(rules)


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Return plotly.js; it must not end the script element that it stands in."""
    script = _asset(PLOTLY)
    return script.replace("</script", "<\\/script")


def _visible(value: Any) -> Any:
    """Return the story with control and direction characters as signs that do nothing."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): _visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_visible(item) for item in value]
    return value
