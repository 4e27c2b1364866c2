"""A commented YAML file of a stage's settings, for ``--config``."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.stage import StageConfig

WIDTH = 92
RARE = "Rare settings"


def stage_yaml(
    config_class: type[StageConfig], values: Mapping[str, Any], *, passed_by: str = ""
) -> str:
    """Return a file with every setting of a stage, and its help as a comment.

    Values that are given stand as lines; all others are comments that show the default. The common
    settings stand first.

    Args:
        config_class: the stage's config.
        values: by field, what the file sets.
        passed_by: the script that passes required values which the file does not set.
    """
    stage = config_class.stage
    lines = [
        f"# Settings of `prefpipe {stage}`. Use them with: prefpipe {stage} --config FILE",
        "# To change a setting, remove the # before its key. A flag overrides this file.",
    ]
    common = config_class.common_names() | values.keys()
    arguments = [
        item for item in fields(config_class) if item.metadata["positional"] and item.name in values
    ]
    for item in arguments:
        lines += ["", *_setting(item, values, passed_by)]
    for heading, items in config_class.sections().items():
        shown = [item for item in items if item.name in common]
        if shown:
            lines += ["", f"# --- {heading} ---"]
        for item in shown:
            lines += ["", *_setting(item, values, passed_by)]

    rare = [
        item
        for items in config_class.sections().values()
        for item in items
        if item.name not in common
    ]
    if rare:
        lines += ["", f"# --- {RARE} ---"]
    for item in rare:
        lines += ["", *_setting(item, values, passed_by)]
    return "\n".join(lines) + "\n"


def written(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, Overwrite):
        return "false" if value is Overwrite.NO else str(value)
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    # as an item of a list, so that no line `...` ends it
    text = yaml.dump(
        [value],
        Dumper=_OneLineDumper,
        default_flow_style=True,
        sort_keys=False,
        width=10**6,
        allow_unicode=True,
    )
    return text.strip()[1:-1]


class _OneLineDumper(yaml.SafeDumper):
    """Writes a text with line ends between double quotes, on one line."""


def _written_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_OneLineDumper.add_representer(str, _written_text)


def _setting(item: "Field[Any]", values: Mapping[str, Any], passed_by: str) -> Iterator[str]:
    """Yield a setting's help as comments, then its line."""
    meaning = str(item.metadata["help"])
    choices = item.metadata["choices"]
    if choices and choices != tuple(Overwrite):
        meaning += f"; one of {', '.join(choices)}"
    for line in meaning.split("\n"):
        yield from textwrap.wrap(
            line,
            WIDTH,
            initial_indent="# ",
            subsequent_indent="# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    if item.name in values:
        yield f"{item.name}: {written(values[item.name])}"
    elif item.default is MISSING:
        note = f"required, {passed_by} passes it" if passed_by else "required"
        yield f"#{item.name}:  ({note})"
    else:
        yield f"#{item.name}: {written(item.default)}"
