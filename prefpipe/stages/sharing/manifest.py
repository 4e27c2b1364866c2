"""``prefpipe-manifest.json``: what a push has put into a bucket or a repository.

It is written last. Whoever finds it complete finds every file that it lists; a push that has not
ended has left one that says so.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

from prefpipe import __version__
from prefpipe.errors import InputError
from prefpipe.stages.sharing.belongings import is_safe_name

FORMAT = "prefpipe-manifest/1"
HINT = "push again with --overwrite, or remove the file"


class ManifestEntry(NamedTuple):
    """A file: its size, the digest of its bytes, and the store's own mark of that version."""

    n_bytes: int
    sha256: str
    stamp: str = ""


@dataclass(frozen=True)
class Manifest:
    """The files of a push.

    ``contents``: what they are, see `contents_of`.
    """

    contents: Mapping[str, str]
    files: Mapping[str, ManifestEntry]
    is_complete: bool
    prefpipe: str = field(default=__version__, compare=False)

    @property
    def n_bytes(self) -> int:
        """The sizes of all files."""
        return sum(entry.n_bytes for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """Return the file's content: JSON that people read."""
        values = asdict(self)
        values["files"] = {
            name: {"size": entry.n_bytes, "sha256": entry.sha256, "stamp": entry.stamp}
            for name, entry in sorted(self.files.items())
        }
        values = {"format": FORMAT, **values}
        return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> Self:
        """Read the file.

        Raises:
            InputError: it is damaged, of a newer release, or names files outside its folder.
        """
        try:
            values = json.loads(data)
            found = str(values["format"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{place} cannot be read as a manifest", hint=HINT) from error
        if found != FORMAT:
            raise InputError(
                f"{place} has the format {found!r}, and this release reads {FORMAT}",
                hint="use the release of prefpipe that wrote it",
            )
        try:
            manifest = cls(
                contents={str(name): str(each) for name, each in values["contents"].items()},
                files={
                    str(name): ManifestEntry(
                        int(each["size"]), str(each["sha256"]), str(each["stamp"])
                    )
                    for name, each in values["files"].items()
                },
                is_complete=values["is_complete"] is True,
                prefpipe=str(values["prefpipe"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{place} cannot be read as a manifest", hint=HINT) from error
        require_safe_names(manifest.files, place)
        return manifest


def require_safe_names(names: Mapping[str, Any], place: str) -> None:
    """Refuse files that would be written outside the folder that they are copied to.

    Raises:
        InputError: naming the first.
    """
    for name in names:
        if not is_safe_name(name):
            raise InputError(
                f"{place} holds a file called {name!r}, which no folder can hold",
                hint="do not trust its other files either",
            )
