"""Push and pull by their functions, on stores that say little of their files: a disk, memory, and a second S3 server."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.s3_servers import BUCKET, environment_for, running_rclone
from support.shared_run import tree_of, write_model, write_run

from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.errors import IncompleteInputError, InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.sharing.belongings import MANIFEST_FILE, belongings_of, contents_of
from prefpipe.stages.sharing.bucket_folder import BucketFolder
from prefpipe.stages.sharing.manifest import Manifest
from prefpipe.stages.sharing.pull import pull
from prefpipe.stages.sharing.push import PushResult, Source, push

pytest.importorskip("s3fs")

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_rclone(tmp_path_factory.mktemp("rclone")) as url:
        yield url


@pytest.fixture(params=["disk", "memory", "rclone"])
def place(
    request: pytest.FixtureRequest, rclone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Location:
    number = next(NUMBERS)
    if request.param == "disk":
        return tmp_path / "disk" / "runs"
    if request.param == "memory":
        return Url("memory", f"shared-{number}/runs")
    for name, value in environment_for(rclone).items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files._opened.cache_clear()
    return Url("s3", f"{BUCKET}/shared-{number}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "home")


def source_of(folder: Path) -> Source:
    found = belongings_of(folder, is_report=lambda _path: False)
    return Source(folder, found.files, contents_of(folder, found.files))


def pushed(folder: Path, place: Location, **settings: bool) -> PushResult:
    return push(source_of(folder), BucketFolder(place), Runtime(), **settings)


def stored(place: Location) -> dict[str, bytes]:
    return {name: files.read(place / name) for name in files.list_tree(place)}


def test_there_and_back(place: Location, run: Path, tmp_path: Path) -> None:
    result = pushed(run, place, verify=True)
    assert result.n_copied == result.n_files == len(tree_of(run))
    there = stored(place)
    assert {name: data for name, data in there.items() if name != MANIFEST_FILE} == tree_of(run)
    # by the stamps of the manifest, where the store tells no digest
    assert pushed(run, place).n_copied == 0
    assert stored(place) == there

    assert pull(BucketFolder(place), tmp_path / "back", Runtime()).n_parts == 12
    assert tree_of(tmp_path / "back") == tree_of(run)
    assert pull(BucketFolder(place), tmp_path / "back", Runtime()).n_copied == 0


def test_a_push_that_has_not_ended(place: Location, run: Path, tmp_path: Path) -> None:
    """Its manifest says so; what is there of it comes on request, and the next push goes on."""
    pushed(run, place)
    manifest = Manifest.from_bytes(files.read(place / MANIFEST_FILE), "it")
    whole = files.read(place / MANIFEST_FILE)
    begun = whole.replace(b'"is_complete": true', b'"is_complete": false')
    assert begun != whole
    files.write(place / MANIFEST_FILE, begun)
    lost = "groups/part-00001-of-00003.parquet"
    files.delete(place / lost)
    with pytest.raises(IncompleteInputError, match=r"a push to .* has not ended"):
        pull(BucketFolder(place), tmp_path / "back", Runtime())
    result = pull(BucketFolder(place), tmp_path / "back", Runtime(), allow_partial=True)
    assert result.n_files == len(manifest.files) - 1
    expected = tree_of(run)
    del expected[lost]
    assert tree_of(tmp_path / "back") == expected
    assert pushed(run, place).n_copied == 1
    assert pull(BucketFolder(place), tmp_path / "back", Runtime()).n_copied == 1
    assert tree_of(tmp_path / "back") == tree_of(run)


def test_a_file_of_before_is_left_out_while_a_push_is_under_way(
    place: Location, tmp_path: Path
) -> None:
    """Of the same size: only its digest says that it is not the new one."""
    model = write_model(tmp_path / "m", 1000)
    pushed(model, place)
    whole = Manifest.from_bytes(files.read(place / MANIFEST_FILE), "it")
    entry = whole.files["tokenizer.json"]._replace(sha256="0" * 64)
    begun = Manifest(whole.contents, {**whole.files, "tokenizer.json": entry}, is_complete=False)
    files.write(place / MANIFEST_FILE, begun.to_bytes())
    logged: list[str] = []
    runtime = Runtime(log=logged.append)
    pull(BucketFolder(place), tmp_path / "back", runtime, allow_partial=True)
    assert (tmp_path / "back" / "model.safetensors").exists()
    assert not (tmp_path / "back" / "tokenizer.json").exists()
    assert any("left out 1 file" in line for line in logged)


def test_a_file_that_changes_between_hash_and_copy(
    place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "m", 1000)
    upload = files.upload

    def change_and_upload(source: Path, *arguments: object) -> object:
        if source.name == "tokenizer.json":
            source.write_text('{"other": 1}', encoding="utf-8")
        return upload(source, *arguments)

    monkeypatch.setattr(files, "upload", change_and_upload)
    with pytest.raises(InputError, match=r"tokenizer.json was written to while it was copied"):
        pushed(model, place)
    monkeypatch.undo()
    assert not Manifest.from_bytes(files.read(place / MANIFEST_FILE), "it").is_complete


def test_somebody_else_writes_there_meanwhile(
    place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "m", 1000)
    list_tree = files.list_tree
    looks = []

    def list_and_change(folder: Location) -> object:
        looks.append(folder)
        if len(looks) == 2:
            files.write(folder / "config.json", b"theirs")
        return list_tree(folder)

    monkeypatch.setattr(files, "list_tree", list_and_change)
    with pytest.raises(
        InputError, match=r"config.json has 6 bytes instead of \d+ after it was sent"
    ):
        pushed(model, place)


def test_another_model_needs_the_flag(place: Location, tmp_path: Path) -> None:
    pushed(write_model(tmp_path / "m", 1000), place)
    other = write_model(tmp_path / "other", 1000, seed=1)
    with pytest.raises(UsageError, match="holds something else: it is "):
        pushed(other, place)
    assert pushed(other, place, overwrite=True).n_copied == 1
    shutil.rmtree(tmp_path / "m")
    assert pull(BucketFolder(place), tmp_path / "m", Runtime()).n_copied == 3
    assert tree_of(tmp_path / "m") == tree_of(other)
