"""The flags of ``prefpipe push`` and ``prefpipe pull``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from prefpipe.artifacts.storage.location import Location, parse_location
from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import flag_named, option
from prefpipe.errors import UsageError

HUB_SCHEME = "hf://"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
OF_THE_HUB = ("revision", "license", "base_model", "dataset", "evaluation")
"""Flags that say something to a repository or its card."""


class HubName(NamedTuple):
    """``hf://org/name`` of a model, ``hf://datasets/org/name`` of a dataset."""

    repo_id: str
    is_dataset: bool
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB_SCHEME}{'datasets/' if self.is_dataset else ''}{self.repo_id}{revision}"


def parse_place(text: str, revision: str | None = None) -> Location | HubName:
    """Return where something is pushed to or pulled from.

    Raises:
        UsageError: it names no place.
    """
    if not text.startswith(HUB_SCHEME):
        return parse_location(text)

    rest, _, of_text = text.removeprefix(HUB_SCHEME).partition("@")
    if revision and of_text and revision != of_text:
        raise UsageError(
            f"{text} names another revision than --revision {revision}", hint="give it once"
        )
    kind, _, of_kind = rest.rstrip("/").partition("/")
    is_dataset = kind == "datasets"
    repo_id = of_kind if kind in {"datasets", "models"} else rest.rstrip("/")
    if kind == "spaces" or HUB_NAME.fullmatch(repo_id) is None:
        raise UsageError(
            f"{text} names no repository of the hub",
            hint="write hf://ORG/NAME for a model, hf://datasets/ORG/NAME for a dataset",
        )
    return HubName(repo_id, is_dataset, revision or of_text or None)


@dataclass(frozen=True, kw_only=True)
class PushConfig(CommandConfig):
    """Copy an artifact, a model or a whole run to a bucket or the hub.

    Copies what belongs to artifacts, models and reports, and names the rest. A second call copies
    only what is missing or differs. On the hub it writes a card with recipe and lineage.
    """

    command: ClassVar[str] = "push"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe push run s3://bucket/runs/a",
        "prefpipe push run/policy hf://org/my-policy --license apache-2.0",
        "prefpipe push run/candidates hf://datasets/org/my-candidates",
    )
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "What is copied": ("all_files", "checkpoints", "allow_partial", "force"),
        "How": ("overwrite", "verify", "as_json"),
        "On the hub": (
            "private",
            "revision",
            "license",
            "base_model",
            "dataset",
            "evaluation",
        ),
    }

    folder: Path = option(
        positional=True,
        metavar="FOLDER",
        help="an artifact, a model, a checkpoint, a run with all of them, or a report's folder",
    )
    url: str = option(
        positional=True,
        metavar="URL",
        help="s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or another URL of fsspec's, or the path of "
        "another disk; hf://ORG/NAME for a model, hf://datasets/ORG/NAME for a dataset",
    )
    all_files: bool = option(
        False,
        help="copy files that belong to no artifact or model, too; hidden files and names that "
        "look like secrets never",
    )
    checkpoints: bool = option(True, help="copy the checkpoints of trainings")
    allow_partial: bool = option(False, help="push artifacts with missing parts")
    force: bool = option(False, help="push while a worker writes to the folder")
    overwrite: bool = option(
        False,
        help="replace something else in URL, and remove there what is no longer in FOLDER",
    )
    verify: bool = option(False, help="read every file back and compare its sha256")
    private: bool = option(True, help="make a new repository private")
    revision: str | None = option(
        None, metavar="BRANCH", help="branch to push to; made if it is not there"
    )
    license: str | None = option(
        None, metavar="NAME", help="license for the card, as the hub spells it: apache-2.0"
    )
    base_model: str | None = option(
        None,
        metavar="ORG/NAME",
        help="base model for the card, where the recipe does not name one of the hub",
    )
    dataset: tuple[str, ...] = option(
        (), metavar="ORG/NAME", help="dataset of the hub for the card; may be repeated"
    )
    evaluation: Path | None = option(
        None,
        metavar="DIR",
        help="evaluation of this policy for the card [default: those beside FOLDER]",
    )
    as_json: bool = json_option("print what was copied as JSON to stdout")

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.url.startswith(HUB_SCHEME):
            names = [
                ("--base-model", self.base_model),
                *(("--dataset", each) for each in self.dataset),
            ]
            for flag, name in names:
                if name is not None and HUB_NAME.fullmatch(name) is None:
                    problems.append(f"{flag} takes a name of the hub, ORG/NAME, not {name!r}")
            return problems
        given = [flag_named(name) for name in OF_THE_HUB if getattr(self, name)]
        if not self.private:
            given.append("--no-private")
        if given:
            problems.append(f"{', '.join(given)} go with hf:// alone")
        return problems

    @property
    def place(self) -> Location | HubName:
        """Where to.

        Raises:
            UsageError: the URL names no place.
        """
        return parse_place(self.url, self.revision)


@dataclass(frozen=True, kw_only=True)
class PullConfig(CommandConfig):
    """Copy what was pushed to a bucket or the hub into a folder.

    Compares the sha256 of every file, and every part with its own digest. A second call copies only
    what is missing.
    """

    command: ClassVar[str] = "pull"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe pull s3://bucket/runs/a run",
        "prefpipe pull hf://org/my-policy policy",
        "prefpipe pull hf://datasets/org/my-candidates candidates --revision main",
    )

    url: str = option(positional=True, metavar="URL", help="where `prefpipe push` put it")
    folder: Path = option(positional=True, metavar="FOLDER", help="folder to copy to")
    overwrite: bool = option(False, help="replace files of the same names that differ")
    allow_partial: bool = option(False, help="copy what is there of a push that has not ended")
    revision: str | None = option(
        None, metavar="NAME", help="branch, tag or commit of a repository of the hub"
    )
    as_json: bool = json_option("print what was copied as JSON to stdout")

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.revision and not self.url.startswith(HUB_SCHEME):
            problems.append("--revision goes with hf:// alone")
        return problems

    @property
    def place(self) -> Location | HubName:
        """Where from.

        Raises:
            UsageError: the URL names no place.
        """
        return parse_place(self.url, self.revision)
