"""What ``prefpipe push`` and ``pull`` are given: a source that may be copied, a place, a card."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prefpipe.configs.push import HubName, PullConfig, PushConfig
from prefpipe.errors import (
    CorruptPartError,
    IncompleteInputError,
    InputError,
    PrefpipeError,
    UsageError,
)

if TYPE_CHECKING:
    from prefpipe.artifacts.storage.location import Location
    from prefpipe.execution.runtime import Runtime
    from prefpipe.stages.sharing.card import CardRequest
    from prefpipe.stages.sharing.hub_repository import HubRepository
    from prefpipe.stages.sharing.places import SharedPlace, Stored
    from prefpipe.stages.sharing.push import Source
    from prefpipe.status.artifact_status import ArtifactStatus

SHOWN = 5
CARD_BESIDE = "prefpipe-card.md"
"""Where the card goes when the README is the user's."""


def push_folder(config: PushConfig, runtime: "Runtime") -> dict[str, Any]:
    """Push, and return what was done.

    Raises:
        PrefpipeError: as `prefpipe.stages.sharing.push.push` and `open_source`.
    """
    from prefpipe.stages.sharing.push import push
    from prefpipe.text.numbers import counted

    target = config.place
    if isinstance(target, Path):
        _refuse_nesting(config.folder, target)
    source = open_source(config, runtime.log)
    if isinstance(target, HubName):
        _refuse_other_kind(source, target)
    place = _opened(target, is_private=config.private)
    with _card_maker(config, source, target, place, runtime.log) as card:
        result = push(
            source,
            place,
            runtime,
            overwrite=config.overwrite,
            verify=config.verify,
            card=card,
        )
    if result.kept:
        runtime.log(
            f"{counted(len(result.kept), 'file')} no longer in {source.folder} stay there "
            f"(--overwrite removes them): {_shown(result.kept)}"
        )
    return {"folder": str(config.folder), "url": str(place), **result.to_json()}


def pull_folder(config: PullConfig, runtime: "Runtime") -> dict[str, Any]:
    """Pull, and return what was done.

    Raises:
        PrefpipeError: as `prefpipe.stages.sharing.pull.pull`.
    """
    from prefpipe.stages.sharing.pull import pull

    source = config.place
    if isinstance(source, Path):
        _refuse_nesting(source, config.folder)
    place = _opened(source, is_private=False)
    result = pull(
        place,
        config.folder,
        runtime,
        overwrite=config.overwrite,
        allow_partial=config.allow_partial,
    )
    if not result.has_digests:
        runtime.log(
            f"{place} has no manifest of a push: files were compared by size and by what the store "
            "says of them, parts by their own digests"
        )
    return {"url": str(place), "folder": str(config.folder), **result.to_json()}


def _refuse_nesting(source: Path, target: Path) -> None:
    """Refuse to copy a folder into itself.

    Raises:
        UsageError: naming both.
    """
    one, other = source.resolve(), target.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(
            f"{source} and {target} lie inside each other", hint="choose a place outside"
        )


def _opened(place: "Location | HubName", *, is_private: bool) -> "SharedPlace":
    if isinstance(place, HubName):
        from prefpipe.stages.sharing.hub_repository import HubRepository

        return HubRepository(place, is_private=is_private)
    from prefpipe.stages.sharing.bucket_folder import BucketFolder

    return BucketFolder(place)


def open_source(config: PushConfig, log: Callable[[str], None]) -> "Source":
    """Return what of a folder is pushed, after saying what stays behind.

    Raises:
        InputError: nothing in it belongs to an artifact, a model or a report.
        IncompleteInputError: parts are missing.
        CorruptPartError: bytes were changed.
        UsageError: a worker writes to it.
    """
    from prefpipe.report.page import is_report
    from prefpipe.stages.sharing.belongings import belongings_of, contents_of
    from prefpipe.stages.sharing.push import Source
    from prefpipe.status.folders import find_artifacts
    from prefpipe.text.numbers import counted

    folder = config.folder
    # says what is wrong with a path
    artifacts = [path for path in find_artifacts(folder) if isinstance(path, Path)]
    belongings = belongings_of(
        folder,
        is_report=is_report,
        checkpoints=config.checkpoints,
        all_files=config.all_files,
    )
    if belongings.strangers:
        log(
            f"not copied: {counted(len(belongings.strangers), 'file')} of no artifact, model or "
            f"report (--all-files copies them): {_shown(belongings.strangers)}"
        )
    if belongings.secrets:
        log(f"not copied, for they may hold secrets: {_shown(belongings.secrets)}")
    if belongings.n_working:
        log(
            f"not copied: {counted(belongings.n_working, 'file')} that commands write for "
            "themselves: claims, locks, logs, temporary files"
        )
    if belongings.links:
        log(f"copied as what they point to: the links {_shown(belongings.links)}")
    if not belongings.files:
        raise InputError(
            f"{folder} holds no artifact, no model and no report",
            hint="pass the folder that a prefpipe command wrote, or --all-files",
        )

    _check_artifacts(artifacts, config, log)
    contents = contents_of(folder, belongings.files)
    if not artifacts and "." not in contents:
        _require_whole_model(config)
    return Source(folder, belongings.files, contents)


def _check_artifacts(artifacts: list[Path], config: PushConfig, log: Callable[[str], None]) -> None:
    """Verify every byte of every part; say or refuse what is unfinished."""
    from prefpipe.status.checker import StatusChecker

    checker = StatusChecker()
    for path in artifacts:
        status = checker.check(path)
        _refuse_live_workers(path, status, config, log)
        see = f"see `prefpipe status {quote(str(path))}`"
        reason = status.reasons[0].strip().rstrip(":") if status.reasons else ""
        if status.state == "corrupt":
            raise CorruptPartError(f"{path} is corrupt: {reason or _parts(status)}", hint=see)
        if status.state == "partial" or status.missing:
            unfinished = f"{path} is not finished: {reason or _parts(status)}"
            if not config.allow_partial:
                raise IncompleteInputError(
                    unfinished, hint=f"{see}; --allow-partial pushes what is there"
                )
            log(f"warning: {unfinished}")
        elif status.state == "stale":
            log(f"warning: {path} is stale: {reason or _parts(status)}; {see}")


def _parts(status: "ArtifactStatus") -> str:
    return f"{len(status.to_make):,} of {status.n_parts:,} parts are to be made"


def _refuse_live_workers(
    path: Path, status: "ArtifactStatus", config: PushConfig, log: Callable[[str], None]
) -> None:
    workers = [
        f"{claim.worker} makes part {claim.part}"
        for claim in status.claims
        if not claim.is_left_behind
    ]
    workers += [f"process {pid} writes {name}" for pid, name in _writers(path)]
    if not workers:
        return
    line = f"a worker writes to {path}: {'; '.join(workers[:SHOWN])}"
    if not config.force:
        raise UsageError(
            line,
            hint="wait until it has ended, or pass --force (with --allow-partial) to push what is "
            "there now",
        )
    log(f"warning: {line}")


def _writers(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield living processes of this machine that have a temporary file in a folder."""
    from prefpipe.artifacts import atomic

    for path in folder.iterdir():
        match = atomic.TEMPORARY_NAME.fullmatch(path.name)
        if match is None or match["machine"] != atomic.MACHINE:
            continue
        pid = int(match["pid"])
        if pid != os.getpid() and atomic.is_alive(pid):
            yield pid, path.name.removeprefix(".").partition(".")[0]


def _require_whole_model(config: PushConfig) -> None:
    """Refuse half a model; a folder of reports alone has none."""
    from prefpipe.models.files import content_hash_of, holds_config

    if not holds_config(config.folder) or config.allow_partial:
        return
    try:
        content_hash_of(config.folder)
    except PrefpipeError as error:
        raise IncompleteInputError(
            f"{config.folder} is no whole model: {error.message}",
            hint=f"{error.hint}; --allow-partial pushes what is there",
        ) from error


def _refuse_other_kind(source: "Source", target: HubName) -> None:
    """Refuse a model as a dataset, and data as a model.

    Raises:
        UsageError: naming the URL that fits.
    """
    from prefpipe.models.files import holds_config

    is_model = holds_config(source.folder)
    if is_model and target.is_dataset:
        raise UsageError(
            f"{source.folder} is a model, and {target} a dataset",
            hint=f"push it to {target._replace(is_dataset=False)}",
        )
    if not is_model and not target.is_dataset:
        raise UsageError(
            f"{source.folder} is no model, and {target} would be one",
            hint=f"push it to {target._replace(is_dataset=True)}, or push the model in it",
        )


@contextmanager
def _card_maker(
    config: PushConfig,
    source: "Source",
    target: "Location | HubName",
    place: "SharedPlace",
    log: Callable[[str], None],
) -> "Iterator[Callable[[Stored], Mapping[str, Path | None]] | None]":
    """Give what writes the card once the repository is known; None for a bucket."""
    if not isinstance(target, HubName):
        yield None
        return
    from prefpipe.stages.sharing.hub_repository import HubRepository

    assert isinstance(place, HubRepository)
    text = card_of(config, source, target)
    with TemporaryDirectory(prefix="prefpipe-card-") as folder:
        path = Path(folder) / "README.md"
        path.write_text(text, encoding="utf-8")

        def card(stored: "Stored") -> Mapping[str, Path | None]:
            return _readmes(source, place, stored, path, config, log)

        yield card


def _readmes(
    source: "Source",
    place: "HubRepository",
    stored: "Stored",
    card: Path,
    config: PushConfig,
    log: Callable[[str], None],
) -> dict[str, Path | None]:
    """Return what is pushed as README and beside it: a README of the user's stays."""
    from prefpipe.stages.sharing.card import is_ours

    local = next((file.path for file in source.files if file.name == "README.md"), None)
    if local is not None and is_ours(local.read_text(encoding="utf-8", errors="replace")):
        local = None
    there = place.digest_of("README.md")
    pushed = set()
    if stored.manifest is not None and "README.md" in stored.manifest.files:
        pushed.add(stored.manifest.files["README.md"].sha256)
    if there is not None and there not in pushed and not config.overwrite:
        log(
            f"the README.md of {place} is not the one that was pushed and stays (--overwrite "
            f"replaces it); recipe and lineage are in {CARD_BESIDE}"
        )
        return {CARD_BESIDE: card, "README.md": None}
    if local is not None:
        log(f"{local} is yours and is pushed as it is; recipe and lineage are in {CARD_BESIDE}")
        return {CARD_BESIDE: card}
    return {"README.md": card}


def card_of(config: PushConfig, source: "Source", target: HubName) -> str:
    """Return the card of what is pushed to the hub.

    Raises:
        UsageError: an evaluation that is not of this policy.
        InputError: a record that cannot be read.
    """
    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.store import Artifact
    from prefpipe.stages.sharing.card import CardRequest, dataset_card
    from prefpipe.status.folders import find_artifacts
    from prefpipe.status.recipe import recipe_of

    request = CardRequest(target.repo_id, config.license, config.base_model, config.dataset)
    if not target.is_dataset:
        return _card_of_model(config, request)
    artifacts = {
        path.relative_to(source.folder).as_posix(): Artifact(path, read_run_record(path))
        for path in find_artifacts(source.folder)
        if isinstance(path, Path)
    }
    return dataset_card(artifacts, recipe_of(list(artifacts.values())), request)


def _card_of_model(config: PushConfig, request: "CardRequest") -> str:
    from prefpipe.artifacts.run_record import FILE_NAME, read_run_record
    from prefpipe.artifacts.store import Artifact
    from prefpipe.models.files import content_hash_of
    from prefpipe.models.merge_record import read_merge_record
    from prefpipe.stages.sharing.card import CardModel, model_card
    from prefpipe.status.origins import locate_merged_part
    from prefpipe.status.recipe import recipe_of, short_reference

    folder = config.folder
    made_by = [folder] if (folder / FILE_NAME).exists() else []
    merged = read_merge_record(folder)
    merged_from = []
    for part in [] if merged is None else merged.made_of:
        assert merged is not None
        merged_from.append((part.role, short_reference(part.reference), part.content_hash))
        place = locate_merged_part(merged, part, folder)
        if place is not None and (place / FILE_NAME).exists():
            made_by.append(place)
    # a checkpoint or an intermediate step is of the training around it
    if not made_by and (folder.absolute().parent / FILE_NAME).exists():
        made_by = [folder.absolute().parent]

    trainings = [Artifact(path, read_run_record(path)) for path in made_by]
    steps = recipe_of(trainings)
    objectives = [str(each.record.identity.get("objective") or "") for each in trainings]
    bases = []
    for step in reversed(steps):
        bases += [each.reference for each in step.models if each.role == "model"]
    content_hash = content_hash_of(folder)
    of_policy = {content_hash, *(each[2] for each in merged_from)}
    model = CardModel(
        folder,
        content_hash,
        objective=objectives[0] if objectives else "",
        bases=[
            each.reference
            for step in reversed(steps)
            for each in step.models
            if each.role == "model"
        ],
        merged_from=merged_from,
    )
    return model_card(model, steps, _evaluations_of(config, of_policy), request)


def _evaluations_of(config: PushConfig, hashes: set[str]) -> list[dict[str, Any]]:
    """Return the summaries of evaluations of a policy, given or beside its folder.

    Raises:
        UsageError: the one that was given is of another policy.
    """
    from prefpipe.status.recipe import short_reference

    beside = config.folder.absolute().parent
    folders = [config.evaluation] if config.evaluation else sorted(beside.iterdir())
    summaries = []
    for folder in folders:
        summary = _summary_in(folder)
        evaluated = () if summary is None else _policies_of(summary)
        if summary is not None and not hashes.isdisjoint(evaluated):
            name = short_reference(str(summary.get("baseline_name", "?")))
            summaries.append({**summary, "baseline_name": name})
        elif config.evaluation:
            raise UsageError(
                f"{folder} is no evaluation of {config.folder}",
                hint="pass the folder that `prefpipe eval --policy` wrote for this policy",
            )
    return summaries


def _summary_in(folder: Path) -> dict[str, Any] | None:
    """Return the summary of an evaluation, None where a folder holds none."""
    import json

    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.summary_file import SUMMARY_FILE

    try:
        if not folder.is_dir() or read_run_record(folder).stage != "eval":
            return None
        summary = json.loads((folder / SUMMARY_FILE).read_bytes())
    except (PrefpipeError, OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def _policies_of(summary: Mapping[str, Any]) -> set[str]:
    try:
        models = summary["recipe"]["models"]["policy"]
        return {str(model["content_hash"]) for model in models}
    except (KeyError, TypeError):
        return set()


def _shown(names: "list[str] | tuple[str, ...] | Any") -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
