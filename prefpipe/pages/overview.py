"""An overview as a page for the terminal, readable without colour."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefpipe.artifacts.schemas import PAIR_SCORES
from prefpipe.pages.curves import curves_table
from prefpipe.pages.distribution import distribution_plot
from prefpipe.stages.evaluate.comparison import comparison_table
from prefpipe.stages.inspect.overview import distributions_of
from prefpipe.stages.pairs.tables import pairs_page
from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible, visible_line

WIDE = 110
"""From this width on, the columns' meanings stand beside them."""
REASONS_SHOWN = 4
SETTING_LIMIT = 48


def overview_page(found: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the page of an ``overview``, section by section.

    Args:
        found: what ``overview`` returned.
        width: columns of the terminal.
    """
    yield _heading(found)
    yield _section("run", _run(found))
    if found["columns"]:
        yield _section(
            "columns", _columns(found["columns"], found["n_rows"], with_meaning=width >= WIDE)
        )
    if found["statuses"]:
        yield _section("rows by status", _statuses(found, width))
    if found["facts"]:
        yield _section("counts", _facts(found["facts"]))
    for item in distributions_of(dict(found)):
        yield Padding(distribution_plot(item), (1, 0, 0, 0), expand=False)
    if found["curves"]:
        yield _section("training", curves_table(found["curves"]))
    yield from _summary(found)


def _heading(found: Mapping[str, Any]) -> Text:
    parts = found["parts"]
    done = "all" if parts["n"] == parts["n_present"] else f"{parts['n_present']} of"
    text = Text()
    text.append(visible(found["path"]), style="bold")
    kind = f"{found['schema'].split('/')[0]} by prefpipe {found['stage']}"
    where = "1 part" if parts["n"] == parts["n_present"] == 1 else f"{done} {parts['n']} parts"
    rows = f": {found['n_rows']:,} rows in {where}, {_size(found['n_bytes'])}" if parts["n"] else ""
    text.append(f"\n{kind}{rows}")
    return text


def _size(n_bytes: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024  # type: ignore[assignment]
    return f"{n_bytes:.1f} GiB"


def _section(title: str, body: RenderableType) -> RenderableType:
    table = Table.grid()
    table.add_row(Text(title, style="bold"))
    table.add_row(Padding(body, (0, 0, 0, 2)))
    return Padding(table, (1, 0, 0, 0), expand=False)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    return table


def _run(found: Mapping[str, Any]) -> Table:
    run, table = found["run"], _grid()
    table.add_row("fingerprint", found["fingerprint"][:12])
    for name, path in found["parents"].items():
        table.add_row(Text(f"from {visible_line(name)}"), Text(visible_line(str(path), 200)))
    settings = run["settings"]
    shown = "  ".join(
        f"{key}={_value(value)}"
        for key, value in settings.items()
        if value not in (None, [], False)
    )
    table.add_row("settings", Text(shown))
    context = run["context"]
    versions = context.get("versions", {})
    if versions:
        table.add_row(
            "versions",
            Text(
                visible_line("  ".join(f"{name} {value}" for name, value in versions.items()), 400)
            ),
        )
    if context.get("host"):
        table.add_row(
            "made on",
            Text(visible_line(f"{context['host']}, in {context.get('folder', '?')}", 200)),
        )
    if context.get("command"):
        table.add_row("command", Text(visible_line(shlex.join(map(str, context["command"])), 600)))
    for step in run["history"]:
        table.add_row(
            "then",
            Text(
                visible_line(
                    ", ".join(f"{key} {_value(value)}" for key, value in step.items()), 200
                )
            ),
        )
    return table


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_value, value))
    if isinstance(
        value, dict
    ):  # a model or a scorer: its name, or the first hash that identifies it
        return _value(value.get("name") or next(iter(value.values()), ""))
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else visible_line(text, SETTING_LIMIT)


def _columns(columns: Mapping[str, Any], n_rows: int, *, with_meaning: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    table.add_column(justify="right", no_wrap=True)
    if with_meaning:
        table.add_column(style="dim")
    for name, entry in columns.items():
        n_null = entry["n_null"]
        nulls = "" if not n_null else "all null" if n_null == n_rows else f"{n_null:,} null"
        row = [Text(visible_line(name)), Text(entry["type"]), Text(nulls)]
        table.add_row(*row, *([Text(entry["meaning"])] if with_meaning else []))
    return table


def _statuses(found: Mapping[str, Any], width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    limit = max(24, width - 40)
    ranked = sorted(
        found["statuses"].items(), key=lambda item: (item[0] != "ok", -item[1], item[0])
    )
    for status, count in ranked:
        table.add_row(
            Text(visible_line(status)), f"{count:,}", f"{count / found['n_rows']:.1%}", ""
        )
        entry = found["reasons"].get(status)
        if entry is None:
            continue
        listed = list(entry["reasons"].items())
        for reason, n in listed[:REASONS_SHOWN]:
            table.add_row("", "", f"{n:,}", Text(visible_line(reason, limit)))
        n_other = sum(n for _, n in listed[REASONS_SHOWN:]) + entry["n_rows_of_other_reasons"]
        if n_other:
            table.add_row("", "", f"{n_other:,}", "for other reasons")
    return table


def _facts(facts: Mapping[str, Any]) -> Table:
    table = _grid()
    for name, value in facts.items():
        if name == "scorers":
            for scorer, entry in value.items():
                table.add_row(Text(visible_line(scorer)), Text(_scorer(entry)))
        elif isinstance(value, dict):
            told = "   ".join(
                f"{visible_line(str(key))}: {count:,}" for key, count in value.items()
            )
            table.add_row(_words(name), Text(told))
        else:
            table.add_row(
                _words(name), f"{value:.1%}" if name.endswith("_share") else figure(value)
            )
    return table


def _scorer(entry: Mapping[str, Any]) -> str:
    told = [f"{visible_line(status)}: {count:,}" for status, count in entry["statuses"].items()]
    if entry["mean_std_within_prompt"] is not None:
        told.append(f"std within a prompt {figure(entry['mean_std_within_prompt'])} on average")
        told.append(
            f"all equal in {entry['n_prompts_all_equal']:,} of {entry['n_prompts']:,} prompts"
        )
    return "   ".join(told)


def _words(name: str) -> str:
    return name.removeprefix("n_").replace("_", " ")


def _summary(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    summary = found["summary"]
    if summary is None:
        return
    if "win_rate" in summary:
        yield Padding(comparison_table(summary), (1, 0, 0, 0))
        return
    if summary.get("kind") == PAIR_SCORES.name:
        yield Padding(
            pairs_page(summary, shows=str(summary["command"]).removeprefix("eval ")), (1, 0, 0, 0)
        )
        return
    table = _grid()
    for name, value in summary.items():
        if isinstance(value, (str, int, float, bool)) or value is None:
            told = f"{value:.4g}" if isinstance(value, float) else visible_line(str(value), 200)
            table.add_row(Text(_words(visible_line(name))), Text(told))
    yield _section("summary", table)
