"""What every command's dataclass can do: check what was given, all at once."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, Self

from prefpipe.configs.options import convert_fields, field_problems, flag_of
from prefpipe.errors import UsageError

OUTPUT_HEADING = "Input and output"
OTHER_HEADING = "Flags"
"""Heading of the flags that no panel names."""


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """What can be given to a command: a field is an argument or a flag."""

    command: ClassVar[str]
    """The words after ``prefpipe``."""
    panels: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Headings of ``--help`` with their fields; those of the parent classes are added."""
    examples: ClassVar[tuple[str, ...]] = ()
    """Command lines that ``--help`` shows; a test parses each."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used.

        Raises:
            UsageError: everything that is wrong; where types are wrong, these alone.
        """
        # a value of the wrong type can be held against no bound and no other value
        problems = convert_fields(self) or [*field_problems(self), *self.problems()]
        if problems:
            raise UsageError("; ".join(problems), hint=self.help_hint())

    def problems(self) -> list[str]:
        """Return what is wrong with values taken together, in sentences; subclasses add theirs."""
        return []

    @classmethod
    def from_values(cls, given: Mapping[str, Any]) -> Self:
        """Make the config of what was given, with defaults for the rest.

        Raises:
            UsageError: missing required values, or values that cannot be used; all at once.
        """
        missing = []
        for item in fields(cls):
            if item.default is MISSING and item.name not in given:
                is_argument = item.metadata["positional"]
                missing.append(item.name.upper() if is_argument else flag_of(item))
        if missing:
            raise UsageError(
                f"`prefpipe {cls.command_name()}` needs {', '.join(missing)}", hint=cls.help_hint()
            )
        return cls(**given)

    @classmethod
    def sections(cls) -> dict[str, list["Field[Any]"]]:
        """Return the headings of ``--help`` with the fields under each, arguments left out.

        A class that is nearer to the command decides first: which heading a field stands under,
        and in which order.
        """
        remaining = {item.name: item for item in fields(cls) if not item.metadata["positional"]}
        sections: dict[str, list[Field[Any]]] = {}
        for each in cls.__mro__:
            for heading, names in vars(each).get("panels", {}).items():
                section = sections.setdefault(heading, [])
                section += [remaining.pop(name) for name in names if name in remaining]

        sections.setdefault(OTHER_HEADING, []).extend(remaining.values())
        return {heading: section for heading, section in sections.items() if section}

    @classmethod
    def common_names(cls) -> frozenset[str]:
        """Return the fields that ``--help`` shows: those marked common, or all if none is.

        Arguments, required flags and ``--json`` are always among them.
        """
        of_all = fields(cls)
        if not any(item.metadata["common"] for item in of_all):
            return frozenset(item.name for item in of_all)
        return frozenset(
            item.name
            for item in of_all
            if item.metadata["common"]
            or item.metadata["positional"]
            or item.default is MISSING
            or item.name == "as_json"
        )

    @classmethod
    def command_name(cls) -> str:
        """Return the words after ``prefpipe``."""
        return cls.command

    @classmethod
    def help_hint(cls) -> str:
        """Return the hint that names the command's help."""
        return f"run `prefpipe {cls.command_name()} --help`"
