"""Which parts of an artifact are missing, damaged, or not made from the parents on disk now."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prefpipe.artifacts.parts import require_own_name
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.seen_footers import SeenFooters
from prefpipe.artifacts.storage.unreadable import is_of_bucket
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import CorruptPartError, InputError, PrefpipeError
from prefpipe.status.artifact_status import ranges

WHOLE_PARENTS = {"train": None, "eval": None, "judge": ("b",)}
"""Parents of which each part needs all parts; None for all of a stage's parents."""


class PartStates(NamedTuple):
    """The numbers of an artifact's parts by state, with lines for the user."""

    n_rows: int
    missing: list[int]
    outdated: list[int]
    corrupt: list[int]
    reasons: list[str]
    notes: list[str]

    @property
    def to_make(self) -> set[int]:
        """The parts to make, or to make again."""
        return {*self.missing, *self.outdated, *self.corrupt}


def part_states(
    artifact: Artifact, parents: Mapping[str, Artifact], footers: SeenFooters, *, quick: bool
) -> PartStates:
    """Check every part.

    Args:
        artifact: whose parts they are.
        parents: those that are on disk and still the ones that it was made from.
        footers: what this look at the run has read.
        quick: read the footers alone, and not every byte.

    Raises:
        InputError: a bucket does not answer.
    """
    digests = _ParentDigests(artifact.record.stage, parents)
    n_rows = 0
    missing, of_other_run, outdated, corrupt = [], [], [], []
    reasons = []
    absent = set(footers.missing(artifact))
    for index in range(artifact.n_parts):
        part = artifact.part_path(index)
        if index in absent:
            missing.append(index)
            continue

        try:
            footer = footers.read(part) if quick else footers.verify(part)
            require_own_name(footer, part)
        except (CorruptPartError, InputError) as error:
            if is_of_bucket(error):
                raise
            # damaged, not to be read, or of a newer release
            corrupt.append(index)
            reasons.append(error.message)
            continue

        n_rows += footer.n_rows
        # of an earlier run under the same name, such as before --extend
        if footer.fingerprint != artifact.record.fingerprint:
            of_other_run.append(index)
            continue

        changed = []
        for name, digest in footer.parents.items():
            # what is not on disk any more cannot be compared, and is no reason to make a part again
            digest_now = digests.of(name, index)
            parent = name.partition(":")[0]
            if digest_now is not None and digest_now != digest and parent not in changed:
                changed.append(parent)
        if changed:
            outdated.append(index)
            names = " and ".join(changed)
            reasons.append(f"part {index} was made from another version of its {names}")

    if of_other_run:
        reasons.append(_of_other_run(artifact.record, of_other_run))
    if missing:
        reasons.append(f"missing: {_numbered(missing)}")
    outdated = sorted([*outdated, *of_other_run])
    return PartStates(n_rows, missing, outdated, corrupt, reasons, digests.notes())


class _ParentDigests:
    """The digests of the parents' parts on disk now; missing ones are counted, not compared."""

    def __init__(self, stage: str, parents: Mapping[str, Artifact]) -> None:
        self._whole_names = WHOLE_PARENTS.get(stage, ())
        self._parents = parents
        self._n_unknown: dict[str, int] = {}
        self._whole: dict[str, str | None] = {}

    def of(self, name: str, index: int) -> str | None:
        """Return the digest of what a part was made from, None if it cannot be known.

        A name may include the number of the parent part, ``earlier_1_scores:3``; else the part of
        the same number is meant.
        """
        name, colon, number = name.partition(":")
        index = int(number) if colon else index
        parent = self._parents.get(name)
        if parent is None:
            return None
        try:
            if self._whole_names is not None and name not in self._whole_names:
                return parent.footer(index).data_sha256
            if name not in self._whole:
                # once for all parts: it reads the footer of every part of the parent
                self._whole[name] = parent.digest()
            return self._whole[name]
        except PrefpipeError as error:
            if is_of_bucket(error):
                raise
            self._n_unknown[name] = self._n_unknown.get(name, 0) + 1
            self._whole[name] = None
            return None

    def notes(self) -> list[str]:
        """Return a line for each parent that lacks parts."""
        lines = []
        for name, count in self._n_unknown.items():
            noun, pronoun = ("part", "it") if count == 1 else ("parts", "them")
            lines.append(
                f"{count} {noun} could not be compared with its {name}, which lack {pronoun}"
            )
        return lines


def _of_other_run(record: RunRecord, indices: Sequence[int]) -> str:
    # What is only noted in the history leaves the fingerprint as it is.
    changes = [step for step in record.history if "from" in step]
    if changes:
        operation = changes[-1].get("operation", "change")
        return f"from before the last {operation}: {_numbered(indices)}"
    return f"not from the run that run.json describes: {_numbered(indices)}"


def _numbered(indices: Sequence[int]) -> str:
    if len(indices) == 1:
        return f"part {indices[0]}"
    return f"{len(indices)} parts, {ranges(indices)}"
