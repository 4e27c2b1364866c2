"""What an artifact was made from, as a report names it."""

from collections.abc import Mapping
from pathlib import Path

from prefpipe.artifacts.store import Artifact


def twin_in_report(
    artifact: Artifact, name: str, kind: str, by_name: Mapping[str, Artifact]
) -> str | None:
    """Return the artifact of the report that is the same as a parent elsewhere, None for none.

    Of a copied run the original may still be there; the copy's parents are those in the copy.

    Args:
        artifact: whose parent it is.
        name: of the artifact in the report.
        kind: of the parent, ``candidates``.
        by_name: the artifacts of the report.
    """
    identity = artifact.record.identity.get(kind)
    same = [
        other_name
        for other_name, other in by_name.items()
        if other.record.identity == identity and other_name != name
    ]
    if not same:
        return None

    # of several, the one that lies to this one as the parent lay to the original
    sibling = str(Path(name).parent / Path(artifact.record.parents[kind]).name)
    return sibling if sibling in same else same[0]


def recorded_place(
    artifact: Artifact, kind: str, by_name: Mapping[str, Artifact], *, is_file: bool
) -> str:
    """Return where a parent outside the folder was when the artifact was made.

    Where it is now depends on where one stands.

    Args:
        artifact: whose parent it is.
        kind: of the parent, ``candidates`` or ``prompts``.
        by_name: the artifacts of the report.
        is_file: whether it is a file of the user's, which is named as it was given.
    """
    recorded = artifact.record.parents[kind]
    folder = artifact.record.context.get("folder")
    place = recorded if is_file or not isinstance(folder, str) else str(Path(folder, recorded))
    return f"{place}, elsewhere" if place in by_name else place
