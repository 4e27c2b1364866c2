"""A table in a bucket reads as the same file on this disk: rows, hashes and errors, at every entrance."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.entrances import ENTRANCES, WRITERS, Write, as_dataset, as_json_lines
from support.s3_servers import BUCKET, reach, running_moto, running_rclone

from prefpipe.artifacts.interchange.formats import content_hash
from prefpipe.artifacts.prompts import load_prompts
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Url
from prefpipe.artifacts.tables.bad_rows import read_without_bad_rows
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.backends.scorers.ratings import RatingsScorer
from prefpipe.errors import InputError, PrefpipeError

pytest.importorskip("s3fs")

NUMBERS = itertools.count()
each_entrance = pytest.mark.parametrize("entrance", ENTRANCES)


@pytest.fixture(scope="module", params=["memory", "moto", "rclone"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server that this process reaches, the same for all tests of the file: clients are slow to make."""
    if request.param == "memory":
        yield "memory"
        return
    folder = tmp_path_factory.mktemp("rclone")
    running = running_moto() if request.param == "moto" else running_rclone(folder)
    with running as url, pytest.MonkeyPatch.context() as patch:
        reach(url, patch)
        yield "s3"


@pytest.fixture
def bucket(store: str) -> Url:
    """A folder of a bucket with nothing in it."""
    return in_memory() if store == "memory" else Url("s3", f"{BUCKET}/tables-{next(NUMBERS)}")


def in_memory() -> Url:
    return Url("memory", f"tables-{next(NUMBERS)}/folder")


def uploaded(source: str, bucket: Url) -> str:
    """Copy a file or a folder into a bucket, and return its URL."""
    path = Path(source)
    members = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    for member in members:
        key = member.relative_to(path.parent).as_posix()
        files.write(Url(bucket.scheme, f"{bucket.key}/{key}"), member.read_bytes())
    return str(bucket / path.name)


def rows_of(entrance: str) -> list[dict[str, Any]]:
    """Return nine rows with keys of their own, one of them with letters of all kinds."""
    _, row, _ = ENTRANCES[entrance]
    key = next(iter(row))
    rows = [row | {key: f"{entrance} {number}"} for number in range(9)]
    rows[4][key] = 'naïve 😀, "quoted"'
    return rows


def shown(content: Any, source: str) -> str:
    """Return everything that was read as text, without the place."""
    if isinstance(content, RatingsScorer):
        content = content.identity(), content._ratings, content.notes_of_reading
    prompts = getattr(content, "prompts", content)
    if hasattr(prompts, "sha256") and callable(prompts.sha256):
        content = content, prompts.sha256(), prompts.columns.to_pylist()
    return repr(content).replace(source, "SOURCE")


@each_entrance
@pytest.mark.parametrize("write", WRITERS)
def test_the_same_rows_and_hashes(tmp_path: Path, bucket: Url, entrance: str, write: Write) -> None:
    if entrance == "annotations" and write is as_dataset:
        pytest.skip("annotations take no folder of datasets")
    read, _, _ = ENTRANCES[entrance]
    here = write(tmp_path, rows_of(entrance))
    there = uploaded(here, bucket)
    assert shown(read(there), there) == shown(read(here), here)
    assert content_hash(there) == content_hash(here)


@each_entrance
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.csv", "{header}\n{row}\nx\n"),
        ("open.csv", '{header}\n{row}\n"{row}\n'),
        ("twice.csv", "{header},{name}\n{row},1\n"),
        ("latin.csv", "{header}\n{row}\n\udce9{row}\n"),
        ("sep.csv", "sep=,\n{header}\n"),
        ("mac.csv", "{header}\r{row}\r"),
        ("broken.jsonl", "{json}\n{json}\n{json}\n{json}\n{json}\n{json}\n{{\n"),
        ("latin.json", "[{json},\n\udce9]"),
        ("broken.json", "[{json},\n{{]"),
        ("cut.parquet", "PAR1 and no footer"),
        ("empty.parquet", ""),
        ("empty.csv", ""),
        ("utf-16.csv", "\udcff\udcfea"),
        ("t.jsonl.gz", "x"),
        ("t.xlsx", "x"),
    ],
)
def test_a_damaged_file_reads_as_one_of_this_disk(
    tmp_path: Path, entrance: str, name: str, content: str
) -> None:
    """The same words, with the URL in place of the path; a hint's command is for the download."""
    read, row, column = ENTRANCES[entrance]
    text = content.format(
        header=",".join(row),
        row=",".join(map(str, row.values())),
        json=json.dumps(row),
        name=column,
    )
    here = tmp_path / name
    here.write_bytes(text.encode(errors="surrogateescape"))
    there = uploaded(str(here), in_memory())
    with pytest.raises(PrefpipeError) as of_disk:
        read(str(here))
    with pytest.raises(PrefpipeError) as of_bucket:
        read(there)
    assert of_bucket.value.message == of_disk.value.message.replace(str(here), there)
    assert type(of_bucket.value) is type(of_disk.value)
    hint = str(of_disk.value.hint)
    if str(here) in hint:
        command = f"download it, then {hint.rpartition(': ')[2].replace(str(here), name)}"
        hint = hint.rpartition(": ")[0] + (": " if ": " in hint else "") + command
    assert of_bucket.value.hint == hint


def test_line_seven_of_a_url(bucket: Url) -> None:
    files.write(bucket / "x.jsonl", b'{"prompt": "q"}\n' * 6 + b"{\n")
    with pytest.raises(InputError, match=f"^{bucket}/x.jsonl, line 7: broken JSON"):
        load_prompts(str(bucket / "x.jsonl"))


@pytest.mark.parametrize("place", ["bucket", "disk"])
def test_bad_rows_are_left_out_under_any_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """They are known by the source, which may be spelled in several ways."""
    source = str(in_memory() / "x.jsonl").replace("memory", "MEMORY")
    if place == "disk":
        monkeypatch.chdir(tmp_path)
        source = "./x.jsonl"
        Path(source).write_bytes(b'{"prompt": "q"}\n{\n')
    else:
        files.write(Url("memory", source.partition("//")[2]), b'{"prompt": "q"}\n{\n')
    prompts, left_out = read_without_bad_rows(lambda: load_prompts(source))
    assert len(prompts) == 1
    assert [(row.source, row.place) for row in left_out] == [(source, "line 2")]


def test_folders_of_a_bucket(tmp_path: Path, bucket: Url) -> None:
    """One of datasets is a table, and no other one is downloaded."""
    both = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"x": [name]}) for name in ("train", "test")}
    )
    both.save_to_disk(str(tmp_path / "both"))
    there = uploaded(str(tmp_path / "both"), bucket)
    assert read_table(f"{there}/test").columns.to_pylist() == [{"x": "test"}]
    with pytest.raises(InputError, match=f"{there} holds several splits: test, train") as raised:
        read_table(there)
    assert raised.value.hint == f"pass one of them, {there}/test"

    files.write(bucket / "any" / "x.jsonl", b"{}\n")
    with pytest.raises(InputError, match=f"{bucket}/any is a folder, and not one written by"):
        read_table(str(bucket / "any"))
    with pytest.raises(InputError, match=f"{bucket}/none.jsonl does not exist"):
        read_table(str(bucket / "none.jsonl"))

    (tmp_path / "both" / "train" / "state.json").unlink()
    with pytest.raises(InputError, match="cannot be read as a folder of datasets") as raised:
        read_table(uploaded(str(tmp_path / "both" / "train"), bucket / "damaged"))
    assert "prefpipe-copies" not in raised.value.message


def test_a_split_alone_in_its_folder(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict({"x": [1, 2]})
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "set"))
    there = uploaded(str(tmp_path / "set"), in_memory())
    assert read_table(there).columns.to_pylist() == [{"x": 1}, {"x": 2}]


def test_the_suffix_counts_and_its_case_does_not(tmp_path: Path, bucket: Url) -> None:
    here = as_json_lines(tmp_path, [{"x": 1}])
    there = bucket / "with spaces, ä and %.JSONL"
    files.write(there, Path(here).read_bytes())
    assert read_table(str(there)).columns.to_pylist() == [{"x": 1}]
