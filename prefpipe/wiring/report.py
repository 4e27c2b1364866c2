"""The inputs of ``prefpipe report``: the artifacts of a folder, and the calculator's model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefpipe.artifacts.storage.location import Location, pieces_below
from prefpipe.configs.report import DEFAULT_SIZE
from prefpipe.wiring.extras import TRAIN, is_installed

if TYPE_CHECKING:
    from prefpipe.configs.study_record import StudyRecord
    from prefpipe.report.sources import ReportedArtifact, TrainedShape


class ReportedFolder(NamedTuple):
    """The artifacts of a folder.

    ``unreadable``: those whose ``run.json`` cannot be read, about which nothing is known, each as
    ``{"name", "state", "reasons"}``.
    """

    artifacts: "list[ReportedArtifact]"
    unreadable: list[dict[str, Any]]


class ReportedStudy(NamedTuple):
    """A study's record, its figures, and the rows of its ``runs.parquet``."""

    record: "StudyRecord"
    figures: dict[str, Any]
    runs: list[dict[str, Any]]


def open_study(workdir: Path, record: "StudyRecord") -> ReportedStudy:
    """Return the study of a folder, or of a copy of its record and results.

    Raises:
        InputError: a table that is not there or cannot be read.
    """
    from prefpipe.artifacts.study_tables import RUNS, RUNS_FILE, read_study_table
    from prefpipe.stages.study.figures import figures_of

    runs = read_study_table(workdir / RUNS_FILE, [RUNS]).to_pylist()
    return ReportedStudy(record, figures_of(workdir), runs)


def open_folder(workdir: Location, *, strict: bool) -> ReportedFolder:
    """Return the artifacts of a folder by their names in it, with their states and parents.

    Args:
        workdir: the folder.
        strict: verify every byte of every part, and not the footers alone.
    """
    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.seen_footers import SeenFooters
    from prefpipe.artifacts.store import Artifact
    from prefpipe.errors import PrefpipeError
    from prefpipe.report.parent_names import recorded_place, twin_in_report
    from prefpipe.report.sources import ReportedArtifact
    from prefpipe.status.checker import StatusChecker, standing_of
    from prefpipe.status.folders import find_artifacts
    from prefpipe.status.origins import FILES, locate_parent

    opened: list[tuple[str, Artifact]] = []
    unreadable = []
    footers = SeenFooters()
    for path in find_artifacts(workdir):
        name = "/".join(pieces_below(path, workdir)) or workdir.resolve().name
        try:
            artifact = Artifact(path, read_run_record(path), read_footer=footers.read)
            opened.append((name, artifact))
        except PrefpipeError:
            standing = standing_of(path)
            reasons = list(standing.reasons)
            unreadable.append({"name": name, "state": standing.state, "reasons": reasons})

    by_name = dict(opened)
    names = {artifact.path.resolve(): name for name, artifact in opened}
    checker = StatusChecker(footers)
    artifacts = []
    for name, artifact in opened:
        status = checker.check(artifact.path, quick=not strict)
        parents = {}
        for kind in artifact.record.parents:
            place = locate_parent(artifact, kind)
            inside = None if place is None else names.get(place.resolve())
            # the original of a copied run may be found: then what is the same in the copy counts
            parents[kind] = (
                inside
                or twin_in_report(artifact, name, kind, by_name)
                or recorded_place(artifact, kind, by_name, is_file=kind in FILES)
            )
        artifacts.append(
            ReportedArtifact(
                name, artifact, parents, status.state, tuple(status.reasons), status.command
            )
        )
    return ReportedFolder(artifacts, unreadable)


def calculator_model(named: str | None, artifacts: "list[ReportedArtifact]") -> "TrainedShape":
    """Return the named model, else the first policy of the folder, else one of a common size."""
    from prefpipe.errors import PrefpipeError
    from prefpipe.maths.compute.training_compute import ModelShape, parse_size
    from prefpipe.report.sources import TrainedShape

    if named is not None:
        # a folder may be called 8B
        size = None if Path(named).is_dir() else parse_size(named)
        if size is not None:
            return TrainedShape(named, ModelShape(size))

    policies = [item for item in artifacts if item.kind == "policy"]
    if named is not None or policies:
        # of policies alone it is a default, which a machine without PyTorch can do without
        if named is None and not all(is_installed(module) for module in TRAIN.modules):
            return _default_shape()
        from prefpipe.models.shape import named_shape  # brings in transformers: seconds

        if named is not None:
            return TrainedShape(named, named_shape(named).shape)
        for item in policies:
            try:
                return TrainedShape(item.name, named_shape(str(item.artifact.path)).shape)
            except PrefpipeError:
                continue  # not finished, a reward model, or its base is not on this machine

    return _default_shape()


def _default_shape() -> "TrainedShape":
    from prefpipe.maths.compute.training_compute import ModelShape, parse_size
    from prefpipe.report.sources import TrainedShape

    default = parse_size(DEFAULT_SIZE)
    assert default is not None
    return TrainedShape(DEFAULT_SIZE, ModelShape(default))
