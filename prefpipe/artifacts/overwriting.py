"""What happens to files that the output folder already holds."""

from enum import StrEnum


class Overwrite(StrEnum):
    """Which runs ``--overwrite`` deletes.

    ``NO``: none; a folder that holds another configuration is refused. ``STALE``: those of another
    configuration, and finished parts of this one are kept. ``ALL``: any.
    """

    NO = "no"
    STALE = "stale"
    ALL = "all"

    def __bool__(self) -> bool:
        """Return whether the flag was given at all.

        Then a folder of another configuration is started again, not refused.
        """
        return self is not Overwrite.NO

    @classmethod
    def of(cls, value: "Overwrite | bool") -> "Overwrite":
        """Return ``ALL`` for True, ``NO`` for False: as YAML and Python callers may write."""
        if isinstance(value, cls):
            return value
        return cls.ALL if value else cls.NO

    @property
    def replaces_this_run(self) -> bool:
        """Whether finished parts of the very same configuration are made again, too."""
        return self is Overwrite.ALL
