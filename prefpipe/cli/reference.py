"""The pages of ``docs/reference``, written from the code and compared with it by a test."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import Url
from prefpipe.cli.help_page import ALL_FLAGS, usage
from prefpipe.configs.options import is_list, resolved_types, scalar_type
from prefpipe.configs.reference import ReferenceConfig
from prefpipe.configs.stages import EVALUATIONS, STAGES

NOTE = "<!-- Written by `prefpipe reference` from the code; change the code, not this page. -->"
CLI_TEXT = """\
Every stage resumes automatically: run the same command again and it makes the missing parts.
stdout carries the output path, or JSON; tables, logs and progress go to stderr. `status`, `slurm`,
`inspect`, `savings`, `check`, `models` and `launch-config` answer on stdout. `NO_COLOR` is obeyed.
`--help` shows the common flags of a command, `--help-all` all of them."""
CONFIG_TEXT = """\
Each stage takes `--config FILE`, a YAML file of `key: value` lines with these keys (`max_tokens` is
`--max-tokens`). A flag overrides the file, and the file overrides the default; an unknown key is an
error. `prefpipe init STAGE` writes such a file. Keys marked **rows** are part of the fingerprint:
the output folder of a run with other values is refused. For models and inputs the content counts,
not the name or path."""
SCHEMAS_TEXT = """\
An artifact is a folder with `run.json` and parts, `part-00003-of-00016.parquet`. Part i of every
stage covers the same prompts. Rows are joined by `(prompt_id, sample_idx)`, never by position.
Columns of the prompts file follow prefpipe's own, in `candidates` and in `groups`.

A part's Parquet footer has the key `{FOOTER_KEY}`: JSON with the part's name, the run's
fingerprint, the schema, row counts by status, the digests of the parent parts and the sha256 of
every byte before the footer; the key `{CHECKSUM_KEY}` has the sha256 of the footer itself."""
EXIT_CODES = {
    0: "done",
    1: "failed: unusable data, a model that cannot be used, a corrupt part",
    2: "bad usage or config, or the output folder holds another configuration",
    3: "finished and on disk, but the error rate is above `--max-error-rate`",
    4: "input incomplete (for `status`: something is partial or stale)",
    75: "stopped early on SIGTERM or SIGUSR1; run the same command again",
    130: "interrupted; run the same command again",
}


def reference(config: ReferenceConfig, root: Any) -> None:
    """Write the pages of a command and all under it, or compare them with the code."""
    from prefpipe.artifacts.atomic import atomic_write, make_folder
    from prefpipe.cli.stdout import pipe
    from prefpipe.errors import PrefpipeError

    wanted = pages(root)
    outdated = []
    for name, text in wanted.items():
        path = config.folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            outdated.append(name)

    if config.check and outdated:
        raise PrefpipeError(
            f"{config.folder} differs from the code: {', '.join(outdated)}",
            hint="run `prefpipe reference`",
        )
    if not config.check:
        make_folder(config.folder)
        for name in outdated:
            with atomic_write(config.folder / name) as file:
                file.write(wanted[name].encode())
    pipe(str(config.folder))


def pages(root: Any) -> dict[str, str]:
    """Return the text of each page by file name.

    Args:
        root: the command ``prefpipe`` with all others, as click has it.
    """
    lines_by_page = {
        "cli.md": _cli_page(root),
        "config.md": _config_page(),
        "schemas.md": _schemas_page(),
    }
    return {name: "\n".join(lines).rstrip() + "\n" for name, lines in lines_by_page.items()}


def commands(root: Any) -> list[tuple[str, Any]]:
    """Return every command that ``--help`` shows, ``prefpipe models list`` among them, by name."""
    return list(_walk(root, "prefpipe"))


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return

    # eval runs a stage of its own, and has commands beside it
    has_flags = any(ALL_FLAGS not in parameter.opts for parameter in command.params)
    if has_flags and path != "prefpipe":
        yield path, command
    for name in command.list_commands(None):
        if not children[name].hidden:
            yield from _walk(children[name], f"{path} {name}")


def _cli_page(root: Any) -> Iterator[str]:
    yield from ("# Commands", "", NOTE, "", CLI_TEXT, "")
    yield from ("| exit code | meaning |", "|---|---|")
    for code, meaning in EXIT_CODES.items():
        yield f"| {code} | {meaning} |"

    kinds = {}
    for config_class in (*STAGES, *EVALUATIONS):
        kinds[f"prefpipe {config_class.stage}"] = resolved_types(config_class)
    for path, command in commands(root):
        yield from ("", f"## {path}", "", f"`{usage(path, command)}`", "")
        yield from (_one_line(command.help or ""), "")
        yield from ("| argument or flag | value | what it does |", "|---|---|---|")
        for parameter in command.params:
            names = _names(parameter)
            value = _value(parameter, kinds.get(path, {}))
            yield f"| {names} | {value} | {_cell(parameter.help or '')} |"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    return ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])


def _value(parameter: Any, kinds: Mapping[str, Any]) -> str:
    """Return what a flag takes, in the second column."""
    if parameter.param_type_name == "argument" or getattr(parameter, "is_flag", False):
        return ""
    scalar = scalar_type(kinds[parameter.name]) if parameter.name in kinds else str
    metavar = parameter.metavar or {int: "N", float: "X", Path: "PATH", Url: "PATH"}.get(
        scalar, "TEXT"
    )
    return ", ".join(f"`{word}`" for word in metavar.split("|"))


def _config_page() -> Iterator[str]:
    yield from ("# Configuration", "", NOTE, "", CONFIG_TEXT)
    for config_class in (*STAGES, *EVALUATIONS):
        yield from ("", f"## {config_class.stage}", "", _one_line(config_class.__doc__ or ""), "")
        yield (
            f"Version {config_class.VERSION}; it grows when an unchanged configuration gives "
            "other rows."
        )
        yield from ("", "| key | type | default | rows | what it does |", "|---|---|---|---|---|")
        yield from _config_rows(config_class)


def _config_rows(config_class: type) -> Iterator[str]:
    kinds = resolved_types(config_class)
    arguments_first = sorted(fields(config_class), key=lambda item: not item.metadata["positional"])
    for item in arguments_first:
        kind, default = _type_words(item, kinds[item.name]), _default_words(item)
        mark = "**rows**" if item.metadata["identity"] else ""
        yield f"| `{item.name}` | {kind} | {default} | {mark} | {_cell(item.metadata['help'])} |"


def _type_words(item: "Field[Any]", kind: Any) -> str:
    scalar = scalar_type(kind)
    if scalar is Overwrite:
        return "true, false, `stale`"
    if item.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in item.metadata["choices"])
    names = {int: "whole number", float: "number", bool: "true, false", str: "text", Path: "path"}
    names[Url] = "path or URL"
    if not is_list(kind):
        return names[scalar]
    return f"list of {names[scalar].replace('path or', 'paths or')}s"


def _default_words(item: "Field[Any]") -> str:
    default = item.default
    if default is MISSING:
        return "required"
    if default is None or default == ():
        return ""
    if default is Overwrite.NO:
        return "`false`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`"


def _schemas_page() -> Iterator[str]:
    from prefpipe.artifacts.parts import CHECKSUM_KEY, FOOTER_KEY
    from prefpipe.artifacts.schemas import ALIKE_EVERYWHERE, embeddings_schema
    from prefpipe.artifacts.study_tables import PAIR_RESULTS, RESULTS, RUNS
    from prefpipe.training.tables import METRICS, POLICY

    of_studies = (RESULTS, PAIR_RESULTS, RUNS)
    text = SCHEMAS_TEXT.format(FOOTER_KEY=FOOTER_KEY, CHECKSUM_KEY=CHECKSUM_KEY)
    yield from ("# Artifacts on disk", "", NOTE, "", text)
    of_stages = (*ALIKE_EVERYWHERE, embeddings_schema(384, half=False), POLICY, METRICS)
    for schema in (*of_stages, *of_studies):
        yield from ("", f"## {schema.tag}", "")
        yield from ("| column | type | null | what it holds |", "|---|---|---|---|")
        for column in schema.columns:
            kind = _column_type(column.type)
            null = "yes" if column.nullable else "no"
            yield f"| `{column.name}` | `{kind}` | {null} | {_cell(column.meaning)} |"


def _column_type(kind: Any) -> str:
    from prefpipe.stages.inspect.overview import type_words

    return type_words(kind).replace("[384]", "[D]")


def _cell(text: str) -> str:
    """Return a text that can stand in a Markdown table: no pipes that end the cell, no escapes."""
    plain = text.replace("\\[", "[").replace(" [required]", " **required**")
    return _one_line(plain).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
