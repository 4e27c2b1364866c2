"""An overview as a page for the terminal, readable without colour."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefpipe.artifacts.rounds import ROUND, SAMPLER_ROUND, describe_sampler
from prefpipe.artifacts.schemas import PAIR_SCORES
from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.pages.curves import curves_table
from prefpipe.pages.distribution import distribution_plot
from prefpipe.stages.evaluate.comparison import comparison_table
from prefpipe.stages.pairs.tables import pairs_page
from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible, visible_line

WIDE = 110
"""From this width on, the columns' meanings stand beside them."""
REASONS_SHOWN = 4
REASON_LIMIT = 200
SETTING_LIMIT = 48


def overview_page(overview: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the page of an overview, section by section.

    Args:
        overview: what `prefpipe.stages.inspect.overview.overview` returned.
        width: columns of the terminal.
    """
    yield _heading(overview)
    yield _section("run", _run(overview))
    if overview["columns"]:
        yield _section("columns", _columns(overview, with_meaning=width >= WIDE))
    if overview["statuses"]:
        yield _section("rows by status", _statuses(overview, width))
    if overview["facts"]:
        yield _section("counts", _facts(overview["facts"]))
    for fields in overview["distributions"]:
        yield Padding(distribution_plot(Distribution(**fields)), (1, 0, 0, 0), expand=False)
    if overview["curves"]:
        yield _section("training", curves_table(overview["curves"]))
    if overview["summary"] is not None:
        yield _summary(overview["summary"])


def _heading(overview: Mapping[str, Any]) -> Text:
    kind = overview["schema"].split("/")[0]
    text = Text()
    text.append(visible(overview["path"]), style="bold")
    text.append(f"\n{kind} by prefpipe {overview['stage']}")

    n_parts, n_present = overview["parts"]["n"], overview["parts"]["n_present"]
    if not n_parts:
        return text
    if n_present < n_parts:
        where = f"{n_present} of {n_parts} parts"
    elif n_parts == 1:
        where = "1 part"
    else:
        where = f"all {n_parts} parts"
    text.append(f": {overview['n_rows']:,} rows in {where}, {_size(overview['n_bytes'])}")
    return text


def _size(n_bytes: float) -> str:
    if n_bytes < 1024:
        return f"{n_bytes:,.0f} bytes"
    for unit in ("KiB", "MiB"):
        n_bytes /= 1024
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} GiB"


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


def _run(overview: Mapping[str, Any]) -> Table:
    """Return what made the artifact: parents, settings, versions, machine, command, operations."""
    run = overview["run"]
    table = _grid()
    table.add_row("fingerprint", overview["fingerprint"][:12])
    for name, path in overview["parents"].items():
        table.add_row(Text(f"from {visible_line(name)}"), Text(visible_line(str(path), 200)))

    settings = [
        f"{name}={_value(value)}"
        for name, value in run["settings"].items()
        if value not in (None, [], False)
    ]
    table.add_row("settings", Text("  ".join(settings)))

    context = run["context"]
    if ROUND in context:
        table.add_row("round", str(context[ROUND]))
    if SAMPLER_ROUND in context:
        table.add_row("sampler", describe_sampler(context[SAMPLER_ROUND]))
    if context.get("versions"):
        versions = [f"{name} {version}" for name, version in context["versions"].items()]
        table.add_row("versions", Text(visible_line("  ".join(versions), 400)))
    if overview["engines"]:
        table.add_row("sampled by", Text(visible_line(", ".join(overview["engines"]), 400)))
    if context.get("host"):
        host = f"{context['host']}, in {context.get('folder', '?')}"
        table.add_row("made on", Text(visible_line(host, 200)))
    if context.get("command"):
        command = " ".join(_shell_word(str(word)) for word in context["command"])
        table.add_row("command", Text(visible_line(command, 600)))

    for operation in run["history"]:
        fields = [f"{name} {_value(value)}" for name, value in operation.items()]
        table.add_row("then", Text(visible_line(", ".join(fields), 200)))
    return table


def _shell_word(word: str) -> str:
    """Return a word as a shell takes it, on one line: ``$'...'`` where it has newlines."""
    if "\n" not in word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


def _value(value: Any) -> str:
    """Return a setting in few characters: of a model or a scorer its name, or its first hash."""
    if isinstance(value, list):
        return ",".join(_value(each) for each in value)
    if isinstance(value, dict):
        return _value(value.get("name") or next(iter(value.values()), ""))

    # a stop text may be a newline, which a line does not show
    text = str(value).replace("\n", "\\n")
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else visible_line(text, SETTING_LIMIT)


def _columns(overview: Mapping[str, Any], *, with_meaning: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    table.add_column(justify="right", no_wrap=True)
    if with_meaning:
        table.add_column(style="dim")

    for name, column in overview["columns"].items():
        nulls = ""
        if column["n_null"]:
            is_empty = column["n_null"] == overview["n_rows"]
            nulls = "all null" if is_empty else f"{column['n_null']:,} null"

        row = [Text(visible_line(name)), Text(column["type"]), Text(nulls)]
        if with_meaning:
            row.append(Text(column["meaning"]))
        table.add_row(*row)
    return table


def _statuses(overview: Mapping[str, Any], width: int) -> Table:
    """Return a row for each status, ``ok`` first, and below it its most frequent reasons."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    # a reason begins with its prompt, and says why behind it: it goes on in the next line
    limit = max(REASON_LIMIT, width - 40)

    statuses = sorted(
        overview["statuses"].items(), key=lambda item: (item[0] != "ok", -item[1], item[0])
    )
    for status, count in statuses:
        share = f"{count / overview['n_rows']:.1%}"
        table.add_row(Text(visible_line(status)), f"{count:,}", share, "")

        entry = overview["reasons"].get(status)
        if entry is None:
            continue
        reasons = list(entry["reasons"].items())
        for reason, n in reasons[:REASONS_SHOWN]:
            table.add_row("", "", f"{n:,}", Text(visible_line(reason, limit)))
        n_other = entry["n_rows_of_other_reasons"]
        n_other += sum(n for _, n in reasons[REASONS_SHOWN:])
        if n_other:
            table.add_row("", "", f"{n_other:,}", "for other reasons")
    return table


def _facts(facts: Mapping[str, Any]) -> Table:
    """Return a row for each count, or for each scorer."""
    table = _grid()
    for name, value in facts.items():
        if name == "scorers":
            for scorer, entry in value.items():
                table.add_row(Text(visible_line(scorer)), Text(_scorer(entry)))
        elif isinstance(value, dict):
            counts = [f"{visible_line(str(key))}: {count:,}" for key, count in value.items()]
            table.add_row(_title(name), Text("   ".join(counts)))
        elif value is None:
            table.add_row(_title(name), "-")
        elif name.endswith("_share"):
            table.add_row(_title(name), f"{value:.1%}")
        else:
            table.add_row(_title(name), figure(value))
    return table


def _scorer(entry: Mapping[str, Any]) -> str:
    parts = [f"{visible_line(status)}: {count:,}" for status, count in entry["statuses"].items()]
    if entry["mean_std_within_prompt"] is not None:
        n_equal, n_prompts = entry["n_prompts_all_equal"], entry["n_prompts"]
        parts.append(f"std within a prompt {figure(entry['mean_std_within_prompt'])} on average")
        parts.append(f"all equal in {n_equal:,} of {n_prompts:,} prompts")
    return "   ".join(parts)


def _title(name: str) -> str:
    return name.removeprefix("n_").replace("_", " ")


def _summary(summary: Mapping[str, Any]) -> RenderableType:
    """Return what ``summary.json`` says: the stage's own table, or its plain values."""
    if "win_rate" in summary:
        return Padding(comparison_table(summary), (1, 0, 0, 0))
    if summary.get("kind") == PAIR_SCORES.name:
        page = pairs_page(summary, shows=str(summary["command"]).removeprefix("eval "))
        return Padding(page, (1, 0, 0, 0))

    table = _grid()
    for name, value in summary.items():
        if isinstance(value, float):
            shown = f"{value:.4g}"
        elif isinstance(value, (str, int, bool)) or value is None:
            shown = visible_line(str(value), 200)
        else:
            continue
        table.add_row(Text(_title(visible_line(name))), Text(shown))
    return _section("summary", table)
