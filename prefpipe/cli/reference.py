"""The reference pages of ``docs/reference``, written from the code and compared with it by a test."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.artifacts.overwriting import Overwrite

NOTE = "<!-- Written by `prefpipe reference` from the code; change the code, not this page. -->"
DEFAULT_FOLDER = Path("docs/reference")


def reference(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="where the pages are")
    ] = DEFAULT_FOLDER,
    check: Annotated[
        bool, typer.Option("--check", help="write nothing; fail when a page differs from the code")
    ] = False,
) -> None:
    """Write the reference pages, or compare them with the code."""
    from prefpipe.artifacts.atomic import atomic_write, make_folder
    from prefpipe.cli.console import pipe
    from prefpipe.errors import PrefpipeError

    wanted = pages()
    outdated = [name for name, text in wanted.items() if _read(folder / name) != text]
    if check and outdated:
        raise PrefpipeError(
            f"{folder} differs from the code: {', '.join(outdated)}",
            hint="run `prefpipe reference`",
        )
    if not check:
        make_folder(folder)
        for name in outdated:
            with atomic_write(folder / name) as file:
                file.write(wanted[name].encode())
    pipe(str(folder))


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def pages() -> dict[str, str]:
    """Return the text of each page by file name."""
    found = {"cli.md": _cli_page(), "config.md": _config_page(), "schemas.md": _schemas_page()}
    return {name: "\n".join(lines).rstrip() + "\n" for name, lines in found.items()}


def _cli_page() -> Iterator[str]:
    from prefpipe.cli.evaluation import EVALUATIONS
    from prefpipe.cli.main import STAGES
    from prefpipe.configs.options import resolved_types

    yield from ("# Commands", "", NOTE, "")
    yield from (
        "Every stage resumes by itself: the same command again makes the parts that are missing and nothing else.",
        "stdout carries what a script reads, the output path or JSON; tables, logs and progress go to stderr.",
        "`status`, `inspect`, `savings`, `check`, `models` and `launch-config` answer on stdout. `NO_COLOR` is obeyed.",
        "",
        "| exit code | meaning |",
        "|---|---|",
    )
    for code, meaning in EXIT_CODES.items():
        yield f"| {code} | {meaning} |"
    kinds = {
        f"prefpipe {config_class.stage}": resolved_types(config_class)
        for config_class in (*STAGES, *EVALUATIONS)
    }
    for path, command in commands():
        yield from (
            "",
            f"## {path}",
            "",
            f"`{usage(path, command)}`",
            "",
            _one_line(command.help or ""),
            "",
        )
        yield from ("| argument or flag | value | what it does |", "|---|---|---|")
        for parameter in command.params:
            yield f"| {_names(parameter)} | {_value(parameter, kinds.get(path, {}))} | {_cell(parameter.help or '')} |"


EXIT_CODES = {
    0: "done",
    1: "failed: unusable data, a model that cannot be used, a corrupt part",
    2: "bad usage or config, or the output folder holds another configuration",
    3: "finished and on disk, but the error rate is above `--max-error-rate`",
    4: "input incomplete (for `status`: something is partial or stale)",
    75: "stopped early on SIGTERM or SIGUSR1; run the same command again",
    130: "interrupted; run the same command again",
}


def commands() -> list[tuple[str, Any]]:
    """Return every command that is shown in ``--help``, ``prefpipe models list`` among them, with its full name."""
    from prefpipe.cli.main import app

    return list(_walk(typer.main.get_command(app), "prefpipe"))


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    if any(parameter.name != "help" for parameter in command.params) and path != "prefpipe":
        yield path, command  # eval runs a stage of its own, and has commands beside it
    for name in command.list_commands(None):
        if not children[name].hidden:
            yield from _walk(children[name], f"{path} {name}")


def usage(path: str, command: Any) -> str:
    """Return ``prefpipe score CANDIDATES --output DIR --scorer ... [OPTIONS]``: the required values stand first."""
    words = [path]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            words.append(_metavar(parameter))
        elif parameter.required or "[required]" in (parameter.help or ""):
            words += [
                parameter.opts[-1] if len(parameter.opts[-1]) == 2 else parameter.opts[0],
                _metavar(parameter),
            ]
    return " ".join([*words, "[OPTIONS]"])


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    return ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])


def _value(parameter: Any, kinds: Mapping[str, Any]) -> str:
    from prefpipe.configs.options import scalar_type

    if parameter.param_type_name == "argument" or getattr(parameter, "is_flag", False):
        return ""
    scalar = scalar_type(kinds[parameter.name]) if parameter.name in kinds else str
    metavar = parameter.metavar or {int: "N", float: "X", Path: "PATH"}.get(scalar, "TEXT")
    return ", ".join(f"`{word}`" for word in metavar.split("|"))


def _config_page() -> Iterator[str]:
    from prefpipe.cli.evaluation import EVALUATIONS
    from prefpipe.cli.main import STAGES

    yield from ("# Configuration", "", NOTE, "")
    yield from (
        "Each stage takes `--config FILE`, a YAML file of `key: value` lines with these keys (`max_tokens` is `--max-tokens`).",
        "A flag beats the file, the file beats the default; an unknown key is an error. Keys marked **rows** are part of the",
        "fingerprint: the output folder of a run with other values is refused. For models and inputs the content counts, not",
        "the name or path.",
    )
    for config_class in (*STAGES, *EVALUATIONS):
        yield from ("", f"## {config_class.stage}", "", _one_line(config_class.__doc__ or ""), "")
        yield f"Version {config_class.VERSION}; it grows when an unchanged configuration gives other rows."
        yield from ("", "| key | type | default | rows | what it does |", "|---|---|---|---|---|")
        yield from _config_rows(config_class)


def _config_rows(config_class: type) -> Iterator[str]:
    from prefpipe.configs.options import resolved_types

    kinds = resolved_types(config_class)
    for item in sorted(fields(config_class), key=lambda item: not item.metadata["positional"]):
        mark = "**rows**" if item.metadata["identity"] else ""
        kind, default = _type_words(item, kinds[item.name]), _default_words(item)
        yield f"| `{item.name}` | {kind} | {default} | {mark} | {_cell(item.metadata['help'])} |"


def _type_words(item: "Field[Any]", kind: Any) -> str:
    from prefpipe.configs.options import is_list, scalar_type

    if scalar_type(kind) is Overwrite:
        return "true, false, `stale`"
    if item.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in item.metadata["choices"])
    names = {int: "whole number", float: "number", bool: "true, false", str: "text", Path: "path"}
    return f"list of {names[scalar_type(kind)]}s" if is_list(kind) else names[scalar_type(kind)]


def _default_words(item: "Field[Any]") -> str:
    if item.default is MISSING:
        return "required"
    if item.default is Overwrite.NO:
        return "`false`"
    if item.default is None or item.default == ():
        return ""
    if isinstance(item.default, bool):
        return f"`{str(item.default).lower()}`"
    if isinstance(item.default, tuple):
        return f"`[{', '.join(map(str, item.default))}]`"
    return f"`{item.default}`"


def _schemas_page() -> Iterator[str]:
    from prefpipe.artifacts.parts import CHECKSUM_KEY, FOOTER_KEY
    from prefpipe.artifacts.schemas import ALIKE_EVERYWHERE, embeddings_schema
    from prefpipe.training.tables import METRICS, POLICY

    yield from ("# Artifacts on disk", "", NOTE, "")
    yield from (
        "An artifact is a folder with `run.json` and parts, `part-00003-of-00016.parquet`. Part i of every stage speaks of the",
        "same prompts. Rows are joined by `(prompt_id, sample_idx)`, never by position. Columns that the prompts file brings",
        "stand behind prefpipe's own, in `candidates` and in `groups`.",
        "",
        f"A part's Parquet footer has the key `{FOOTER_KEY}`: JSON with the part's name, the run's fingerprint, the schema, row",
        "counts by status, the digests of the parent parts and the sha256 of every byte before the footer; the key",
        f"`{CHECKSUM_KEY}` has the sha256 of the footer itself.",
    )
    for schema in (*ALIKE_EVERYWHERE, embeddings_schema(384, half=False), POLICY, METRICS):
        yield from (
            "",
            f"## {schema.tag}",
            "",
            "| column | type | null | what it holds |",
            "|---|---|---|---|",
        )
        for column in schema.columns:
            null = "yes" if column.nullable else "no"
            yield f"| `{column.name}` | `{_column_type(column.type)}` | {null} | {_cell(column.meaning)} |"


def _column_type(kind: Any) -> str:
    from prefpipe.stages.inspect.overview import type_words

    return type_words(kind).replace("[384]", "[D]")


def _cell(text: str) -> str:
    """Return a text that can stand in a Markdown table: no pipes that end the cell, no rich escapes."""
    return _one_line(text.replace("\\[", "[").replace(" [required]", " **required**")).replace(
        "|", "\\|"
    )


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
