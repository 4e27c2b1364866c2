"""Names of places: what is a path, what is a URL, and what is refused before it is written down."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prefpipe.artifacts.storage.location import Url, parse_location, url_in
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run/candidates", Path("run/candidates")),
        ("/data/run", Path("/data/run")),
        ("a:b/c", Path("a:b/c")),
        ("file:///data/run", Path("/data/run")),
        ("s3://bucket", Url("s3", "bucket")),
        ("s3://bucket/", Url("s3", "bucket")),
        ("s3://bucket/run/a b", Url("s3", "bucket/run/a b")),
        ("S3://Bucket/Run/", Url("s3", "Bucket/Run")),
        ("gs://bucket/run=3,x", Url("gs", "bucket/run=3,x")),
        ("s3://bucket/50%/ä", Url("s3", "bucket/50%/ä")),
        ("s3://bucket/a@b", Url("s3", "bucket/a@b")),
    ],
)
def test_paths_and_urls(text: str, expected: Path | Url) -> None:
    assert parse_location(text) == expected
    assert parse_location(str(parse_location(text))) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3:/bucket/run", "a slash is missing"),
        ("s3://", "names no place"),
        ("s3:///run", "names no place"),
        ("s3://bucket//run", "names no place"),
        ("s3://bucket/../other", "names no place"),
        ("s3://bucket/./run", "names no place"),
        ("https://example.org/run", "no artifact can lie there"),
        ("hf://datasets/a/b", "no artifact can lie there"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_location(text)


def test_pathlib_has_eaten_a_slash() -> None:
    with pytest.raises(UsageError) as raised:
        parse_location(str(Path("s3://bucket/run")))
    assert "s3://bucket/run" in str(raised.value.hint)


@pytest.mark.parametrize("text", ["s3://AKIA1:canary@bucket/run", "s3://canary@bucket"])
def test_credentials_are_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_location(text)
    shown = f"{raised.value.message} {raised.value.hint}"
    assert "canary" not in shown
    assert "AKIA1" not in shown
    assert "AWS_ACCESS_KEY_ID" in shown


@pytest.mark.parametrize("read", [parse_location, place_of, url_in])
@pytest.mark.parametrize("text", ["https://u:canary@example.org/p.jsonl", "hf://u:canary@h/x"])
def test_a_password_of_a_web_server_is_not_repeated(text: str, read: Callable) -> None:
    try:
        shown = read(text)
    except UsageError as error:
        shown = f"{error.message} {error.hint}"
    assert "canary" not in shown
    assert "://***@" in shown


def test_names_and_parents() -> None:
    place = Url("s3", "bucket/run") / "claims" / "part-1"
    assert str(place) == "s3://bucket/run/claims/part-1"
    assert (place.name, place.parent.name, place.bucket) == ("part-1", "claims", "bucket")
    assert place.is_relative_to(Url("s3", "bucket/run"))
    assert not place.is_relative_to(Url("s3", "bucket/ru"))
    assert not place.is_relative_to(Url("gs", "bucket/run"))
    assert not place.is_relative_to(Path("bucket"))
    assert Url("s3", "bucket").parent == Url("s3", "bucket")
