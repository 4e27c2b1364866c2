"""From a config's dataclass to a typer command: the only code that knows both."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.options import StageConfig, flag_of, is_list, resolved_types, scalar_type

PLACES_PANEL = "Inputs and output (their content counts, not their place)"
ROWS_PANEL = "What else the rows depend on"
RUN_PANEL = "How it runs (the rows stay the same)"


def command_of(
    config_class: type[StageConfig], handler: Callable[[Any, bool], None]
) -> Callable[..., None]:
    """Return a function that typer can register: a parameter for each field, plus ``--config`` and ``--json``.

    Args:
        config_class: the stage's config.
        handler: called with the config and whether stdout is to carry JSON.
    """

    def command(**values: Any) -> None:
        as_json = bool(values.pop("json"))
        yaml_path = values.pop("config")
        given = {name: value for name, value in values.items() if value is not None and value != []}
        handler(config_class.from_sources(_split_commas(config_class, given), yaml_path), as_json)

    kinds = resolved_types(config_class)
    parameters = [_parameter(item, kinds[item.name]) for item in fields(config_class)]
    parameters += [
        _keyword(
            "config",
            Annotated[
                Path | None,
                typer.Option(
                    "--config",
                    help="YAML file with the same keys; flags beat it",
                    metavar="FILE",
                    rich_help_panel=RUN_PANEL,
                ),
            ],
            None,
        ),
        _keyword(
            "json",
            Annotated[
                bool,
                typer.Option(
                    "--json", help="print the summary as JSON to stdout", rich_help_panel=RUN_PANEL
                ),
            ],
            False,
        ),
    ]
    # arguments stand before options in the help, whatever class declares them
    parameters.sort(key=lambda parameter: not _is_argument(parameter))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = config_class.__doc__
    return command


def _parameter(item: "Field[Any]", kind: Any) -> inspect.Parameter:
    scalar, meta = scalar_type(kind), item.metadata
    extra: dict[str, Any] = {"help": _help(item), "metavar": meta["metavar"], "show_default": False}
    if meta["choices"] and not meta["metavar"]:
        extra["metavar"] = "|".join(meta["choices"])
    if (
        scalar is Overwrite
    ):  # bare or with a value: `spelled_out` gives it one before the flags are read
        scalar, extra["metavar"] = str, "[=stale]"
    annotation: Any = list[scalar] | None if is_list(kind) else scalar | None  # type: ignore[valid-type]
    if meta["positional"]:
        return _keyword(item.name, Annotated[annotation, typer.Argument(**extra)], None)
    names = [flag_of(item)]
    if scalar is bool:
        names = [
            flag_of(item) + (f"/--no-{flag_of(item)[2:]}" if item.default is not False else "")
        ]
    if meta["short"]:
        names.append(f"-{meta['short']}")
    if is_list(kind) and scalar is float:
        annotation = list[str] | None  # `0.7,1.0` is split before it is read
    names_something = (
        bool(meta["metavar"]) and not meta["identity"]
    )  # a folder, a model, a scorer: its content counts
    extra["rich_help_panel"] = (
        PLACES_PANEL if names_something else ROWS_PANEL if meta["identity"] else RUN_PANEL
    )
    return _keyword(item.name, Annotated[annotation, typer.Option(*names, **extra)], None)


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Return a command's words with a bare ``--overwrite`` as ``--overwrite=all``.

    The flag may stand alone or have a value; left to the parser, ``--overwrite run/candidates`` would take the input for it.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    for place in range(end):
        if words[place] != "--overwrite":
            continue
        following = words[place + 1] if place + 1 < end else ""
        if (
            following in tuple(Overwrite) and not Path(following).exists()
        ):  # `--overwrite stale`, as other flags take values
            return [*words[:place], f"--overwrite={following}", *spelled_out(words[place + 2 :])]
        words[place] = f"--overwrite={Overwrite.ALL}"
    return words


WITHOUT_RECORD: dict[str, list[str]] = {"merge": ["--overwrite"], "report": []}
"""What ``--overwrite=stale`` is to commands that keep no record of what they wrote from: a merged model is made again, and a
report is in any case. So a script may have the flag on every line."""


def without_stale(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command with plain flags, ``--overwrite=stale`` as what it comes to there."""
    plain = WITHOUT_RECORD.get(arguments[0]) if arguments else None
    if plain is None:
        return list(arguments)
    stale = f"--overwrite={Overwrite.STALE}"
    return [each for word in arguments for each in (plain if word == stale else [word])]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _is_argument(parameter: inspect.Parameter) -> bool:
    return type(parameter.annotation.__metadata__[0]).__name__ == "ArgumentInfo"


def _help(item: "Field[Any]") -> str:
    return help_text(item).replace("[", "\\[")  # rich reads [word] as markup


def help_text(item: "Field[Any]") -> str:
    """Return a field's help sentence with its default."""
    default = item.default
    if default is MISSING:
        return str(item.metadata["help"]) + (
            " [required]" if not item.metadata["positional"] else ""
        )
    if default is None or default == () or default is False or default is Overwrite.NO:
        return str(item.metadata["help"])
    shown = (
        ",".join(map(str, default))
        if isinstance(default, tuple)
        else str(default).lower()
        if isinstance(default, bool)
        else default
    )
    return f"{item.metadata['help']} [default: {shown}]"


def _split_commas(config_class: type[StageConfig], values: dict[str, Any]) -> dict[str, Any]:
    kinds = resolved_types(config_class)
    return {
        name: [piece for text in value for piece in str(text).split(",") if piece]
        if is_list(kinds[name]) and scalar_type(kinds[name]) is float
        else value
        for name, value in values.items()
    }
