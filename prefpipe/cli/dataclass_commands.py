"""From a command's dataclass to a typer command: the only code that knows both."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import Url, url_in
from prefpipe.cli.completion import completions_of
from prefpipe.cli.help_commands import documented_command, help_all_parameter
from prefpipe.cli.launched_processes import speaks_for_the_run
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import (
    flag_of,
    is_list,
    problem_of_url,
    resolved_types,
    scalar_type,
    short_flag_of,
    shown_name,
)
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.trust import trust_warnings_of_config
from prefpipe.errors import UsageError

Config = TypeVar("Config", bound=CommandConfig)
Stage = TypeVar("Stage", bound=StageConfig)


def add_command(
    app: typer.Typer, config_class: type[Config], handler: Callable[[Config], None], **settings: Any
) -> None:
    """Register a command under its last word: ``show`` of ``models show``.

    Args:
        app: the application, or a group of it.
        config_class: what can be given to the command.
        handler: called with what was given.
        settings: further arguments of `typer.Typer.command`.
    """
    name = config_class.command_name().rpartition(" ")[2]
    command = command_of(config_class, handler)
    app.command(name, cls=documented_command(config_class), **settings)(command)


def add_stage(
    app: typer.Typer, config_class: type[Stage], handler: Callable[[Stage, bool], None]
) -> None:
    """Register a stage's command; its handler is that of `stage_command_of`."""
    name = config_class.command_name().rpartition(" ")[2]
    command = stage_command_of(config_class, handler)
    app.command(name, cls=documented_command(config_class))(command)


def command_of(
    config_class: type[Config], handler: Callable[[Config], None]
) -> Callable[..., None]:
    """Return a function that typer can register: a parameter for each field.

    Args:
        config_class: what can be given to the command; its docstring is the command's help.
        handler: called with what was given.
    """

    def command(**values: Any) -> None:
        _refuse_addresses(config_class, values)
        config = config_class.from_values(_given(config_class, values))
        with _libraries_heard(config_class.command):
            handler(config)

    return _with_signature(command, config_class, _parameters(config_class))


def stage_command_of(
    config_class: type[Stage], handler: Callable[[Stage, bool], None]
) -> Callable[..., None]:
    """Return a function that typer can register: a parameter for each field, and two more.

    Args:
        config_class: the stage's config; its docstring is the command's help.
        handler: called with the config, of flags and the file of ``--config``, and whether stdout
            is to carry JSON, ``--json``.
    """

    def command(**values: Any) -> None:
        _refuse_addresses(config_class, values)
        as_json, yaml_path = bool(values.pop("json")), values.pop("config")
        flags = _given(config_class, values)
        config = config_class.from_sources(flags, yaml_path)
        if yaml_path is not None and speaks_for_the_run(config_class.stage):
            _warn_of_trust(yaml_path, config, flags)
        with _libraries_heard(config_class.stage):
            handler(config, as_json)

    config_option = typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file with these flags as keys; a flag overrides it",
    )
    json_option = typer.Option("--json", help="print the summary as JSON to stdout")
    parameters = [
        *_parameters(config_class),
        _keyword("config", Annotated[Path | None, config_option], None),
        _keyword("json", Annotated[bool, json_option], False),
    ]
    return _with_signature(command, config_class, parameters)


def _warn_of_trust(yaml_path: Path, config: StageConfig, flags: Mapping[str, Any]) -> None:
    """Name the code that the file of ``--config`` lets run, and that no flag does."""
    lines = trust_warnings_of_config(yaml_path, config, flags)
    if lines:
        from prefpipe.cli import stderr  # which loads more than some commands need

        for line in lines:
            stderr.log(line)


def _libraries_heard(command: str) -> AbstractContextManager[None]:
    """Return a section in which libraries print through the log of the command.

    Of several processes that a launcher started, one prints the warnings that all have.
    """
    from prefpipe.execution.library_output import library_output

    def log(line: str) -> None:
        from prefpipe.cli import stderr  # which loads more than some commands need

        stderr.log(line)

    return library_output(log, only_errors=not speaks_for_the_run(command))


def help_text(item: "Field[Any]") -> str:
    """Return a field's help sentence with its default."""
    sentence, default = str(item.metadata["help"]), item.default
    # by identity: 0 equals False, and is worth showing
    if any(default is each for each in (MISSING, None, False, (), Overwrite.NO)):
        return sentence

    if isinstance(default, tuple):
        shown = ",".join(map(str, default))
    elif isinstance(default, bool):
        shown = str(default).lower()
    else:
        shown = str(default)
    return f"{sentence} [default: {shown}]"


def _with_signature(
    command: Callable[..., None],
    config_class: type[CommandConfig],
    parameters: list[inspect.Parameter],
) -> Callable[..., None]:
    """Give a function the parameters and the docstring that typer reads."""
    # arguments stand before options in the help, whatever class declares them
    in_order = sorted(parameters, key=lambda parameter: not _is_argument(parameter))
    in_order.append(help_all_parameter())
    command.__signature__ = inspect.Signature(in_order)  # type: ignore[attr-defined]
    command.__doc__ = config_class.__doc__
    return command


def _parameters(config_class: type[CommandConfig]) -> list[inspect.Parameter]:
    kinds = resolved_types(config_class)
    return [_parameter(item, kinds[item.name], config_class) for item in fields(config_class)]


def _parameter(
    item: "Field[Any]", kind: Any, config_class: type[CommandConfig]
) -> inspect.Parameter:
    """Return a field as typer's parameter: None stands for what was not given."""
    is_required = item.default is MISSING
    # what a stage needs may stand in the file of --config, so typer must not ask for it
    may_be_in_yaml = issubclass(config_class, StageConfig)

    help_words = help_text(item)
    if is_required and may_be_in_yaml and not item.metadata["positional"]:
        help_words += " [required]"
    settings: dict[str, Any] = {
        "help": help_words.replace("[", "\\["),  # rich reads [word] as markup
        "metavar": _metavar(item, kind),
        "show_default": False,
    }
    if item.metadata["choices"]:
        settings["autocompletion"] = completions_of(item.metadata["choices"])

    annotation = _annotation(kind)
    default: Any = inspect.Parameter.empty
    if not is_required or may_be_in_yaml:
        annotation, default = annotation | None, None

    if item.metadata["positional"]:
        return _keyword(item.name, Annotated[annotation, typer.Argument(**settings)], default)
    names = _names(item, kind)
    return _keyword(item.name, Annotated[annotation, typer.Option(*names, **settings)], default)


def _annotation(kind: Any) -> Any:
    """Return the type that typer reads a value as."""
    scalar: Any = scalar_type(kind)
    if scalar is Overwrite:
        return str  # bare or with a value: `spelled_out` gives it one before the flags are read
    if scalar is Url:
        scalar = str  # `Path("s3://bucket")` is `s3:/bucket`
    if is_list(kind):
        # `0.7,1.0` is split before it is read
        return list[str] if scalar is float else list[scalar]
    return scalar


def _names(item: "Field[Any]", kind: Any) -> list[str]:
    """Return a flag's names, with ``--no-`` for switches that are on or come without a default."""
    flag, short = flag_of(item), short_flag_of(item)
    if scalar_type(kind) is bool and item.default is not False:
        flag = f"{flag}/--no-{flag[2:]}"
    return [flag] if short is None else [flag, short]


def _metavar(item: "Field[Any]", kind: Any) -> str | None:
    if item.metadata["metavar"]:
        return str(item.metadata["metavar"])
    if scalar_type(kind) is Overwrite:
        return "[=stale]"
    if scalar_type(kind) is Url:
        return "PATH"
    return "|".join(item.metadata["choices"]) or None


def _given(config_class: type[CommandConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given, by field; ``0.7,1.0`` of a list of numbers as two."""
    kinds = resolved_types(config_class)
    given = {}
    for name, value in values.items():
        # `--help-all` has no field; typer passes every parameter of the signature
        if name not in kinds or value is None or value == []:
            continue
        given[name] = value
        if is_list(kinds[name]) and scalar_type(kinds[name]) is float:
            pieces: list[str] = []
            for text in value:
                pieces += str(text).split(",")
            given[name] = [piece for piece in pieces if piece]
    return given


def _refuse_addresses(config_class: type[CommandConfig], values: Mapping[str, Any]) -> None:
    """Refuse ``s3://bucket/x`` where only a path is taken, before anything else is said.

    pathlib reads it as ``s3:/bucket/x``, a folder ``s3:`` in the current one.

    Raises:
        UsageError: an address, under the name that the user gave it by.
    """
    items = {item.name: item for item in fields(config_class)}
    for name, value in values.items():
        for path in value if isinstance(value, list) else [value]:
            url = url_in(path) if isinstance(path, Path) else None
            if url is None:
                continue
            if name not in items:
                raise UsageError(
                    f"--{name} {url}: this file is read from a disk",
                    hint="copy it here, and pass its path",
                )
            problem, advice = problem_of_url(config_class, items[name], url)
            raise UsageError(f"{shown_name(items[name])} {problem}", hint=advice)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _is_argument(parameter: inspect.Parameter) -> bool:
    (info,) = parameter.annotation.__metadata__
    return type(info).__name__ == "ArgumentInfo"
