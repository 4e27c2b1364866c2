"""What a field's declaration says of its values: types, choices, bounds, and in which words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import Bounds, option
from prefpipe.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ExampleConfig(CommandConfig):
    """A command with a field of each kind."""

    command: ClassVar[str] = "example"

    source: Path = option(positional=True, help="where from")
    count: int = option(1, minimum=1, help="how many")
    share: float | None = option(None, above=0, maximum=1, help="how much of it")
    rates: tuple[float, ...] = option((), minimum=0, below=2, help="how fast, repeat for several")
    colour: str = option("red", choices=("red", "green"), help="which")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"minimum": 1}, "1 or more"),
        ({"maximum": 0.5}, "at most 0.5"),
        ({"minimum": 1, "maximum": 10_000_000}, "within 1 and 10000000"),
        ({"minimum": 0, "below": 1}, "at least 0 and below 1"),
        ({"above": 0}, "above 0"),
        ({"above": 0, "maximum": 1e6}, "above 0 and at most 1e+06"),
        ({"above": 0, "below": 1}, "above 0 and below 1"),
    ],
)
def test_bounds_say_what_they_allow(limits: dict[str, float], words: str) -> None:
    assert str(Bounds(**limits)) == words


@pytest.mark.parametrize(
    ("limits", "allowed", "refused"),
    [
        ({"minimum": 1}, [1, 1.5], [0, 0.99]),
        ({"maximum": 1}, [-3, 1], [1.01]),
        ({"above": 0}, [1e-9], [0, -1]),
        ({"below": 1}, [0, 0.999], [1, 2]),
        ({"minimum": 0, "maximum": 2}, [0, 1, 2], [-0.1, 2.1]),
    ],
)
def test_limits_that_are_allowed_hold_and_those_that_are_not_do_not(
    limits: dict[str, float], allowed: list[float], refused: list[float]
) -> None:
    assert all(Bounds(**limits).hold(value) for value in allowed)
    assert not any(Bounds(**limits).hold(value) for value in refused)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"count": 0}, "--count must be 1 or more, not 0"),
        ({"share": 1.5}, "--share must be above 0 and at most 1, not 1.5"),
        ({"rates": (1.0, 2.0, -1.0)}, "--rates must be at least 0 and below 2, not 2.0"),
        ({"colour": "grene"}, "--colour must be one of red, green, not 'grene' (did you mean"),
        ({"count": 1.5}, "--count takes a whole number, not 1.5"),
        ({"share": "nan"}, "--share takes a finite number, not 'nan'"),
        ({"count": True}, "--count takes a whole number, not True"),
        (
            {"source": "s3://b/x"},
            "SOURCE s3://b/x: example reads this from a disk: copy it with `prefpipe pull",
        ),
    ],
)
def test_a_value_outside_its_declaration_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        ExampleConfig(**{"source": "here", **values})
    assert caught.value.message.startswith(complaint)
    assert caught.value.hint == "run `prefpipe example --help`"


def test_all_values_outside_their_bounds_are_named_at_once() -> None:
    with pytest.raises(UsageError, match=r"--count must be 1 or more.*; --share must be above 0"):
        ExampleConfig(source=Path("here"), count=0, share=0.0)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="`prefpipe example` needs SOURCE"):
        ExampleConfig.from_values({})


def test_none_is_within_any_bounds() -> None:
    assert ExampleConfig(source=Path("here"), share=None).share is None
