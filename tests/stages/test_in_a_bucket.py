"""Stages over a bucket: the same parts, the same reruns and the same errors as in a folder.

The chain runs once on a disk and once in each storage; everything else compares them.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.pipelines import write_json_lines
from support.s3_servers import (
    BUCKET,
    SECRET,
    environment_for,
    running_moto,
    running_rclone,
)

import prefpipe
from prefpipe.artifacts import bucket_footers, run_record
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.cli.main import run
from prefpipe.errors import PrefpipeWarning

pytest.importorskip("s3fs")

STORAGES = ["memory", "moto", pytest.param("rclone", marks=pytest.mark.slow)]
STAGES = ["candidates", "scores", "embeddings", "groups", "verdicts", "eval", "imported/candidates"]
N_PARTS = 3


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that all commands run in."""
    folder = tmp_path_factory.mktemp("work")
    write_json_lines(folder / "p.jsonl", [{"prompt": f"question {i}"} for i in range(6)])
    rows = [
        {"prompt": f"q{i}", "response": text, "reward": float(len(text))}
        for i in range(4)
        for text in ("a", "bb")
    ]
    write_json_lines(folder / "pool.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PREFPIPE_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running_moto() as moto, running_rclone(tmp_path_factory.mktemp("rclone")) as rclone:
        yield {"moto": moto, "rclone": rclone}


@pytest.fixture(scope="module")
def local(work: Path) -> Path:
    """What the chain makes on a disk."""
    make_chain(work / "local")
    return work / "local"


@pytest.fixture(scope="module", params=STORAGES)
def bucket(
    request: pytest.FixtureRequest, work: Path, local: Path, servers: dict[str, str]
) -> Iterator[Url]:
    """What the chain makes in a bucket."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", PrefpipeWarning)
        if request.param == "memory":
            root = Url("memory", "runs/chain")
        else:
            root = Url("s3", f"{BUCKET}/chain")
            reach(servers[request.param], patch)
        make_chain(root)
        yield root


def reach(server: str, patch: pytest.MonkeyPatch) -> None:
    """Let this process find a server, as a user does: by the environment."""
    for name, value in environment_for(server).items():
        patch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files._opened.cache_clear()


def do(*words: object) -> int:
    """Run a command, recorded as if it had been typed."""
    argv, sys.argv = sys.argv, ["prefpipe", *map(str, words)]
    try:
        return run(list(map(str, words)))
    finally:
        sys.argv = argv


def generate(root: Location, *more: object) -> int:
    words = ["generate", "p.jsonl", "-o", root / "candidates", "--model", "fake"]
    return do(*words, "--backend", "fake", "--n", 3, "--part-size", 2, "--max-tokens", 8, *more)


def score(root: Location, *more: object) -> int:
    return do("score", root / "candidates", "-o", root / "scores", "--scorer", "fake", *more)


def embed(root: Location, *more: object) -> int:
    return do("embed", root / "candidates", "-o", root / "embeddings", "--model", "fake", *more)


def select(root: Location, *more: object) -> int:
    words = ["select", root / "candidates", "--scores", root / "scores"]
    words += ["--embeddings", root / "embeddings", "-o", root / "groups"]
    return do(*words, "--strategy", "bottom-k", "--k", 1, *more)


def judge(root: Location, *more: object) -> int:
    words = ["judge", root / "candidates", root / "candidates", "-o", root / "verdicts"]
    return do(*words, "--judge", "fake", "--max-error-rate", 1, *more)


def evaluate(root: Location, *more: object) -> int:
    words = ["eval", "--policy", root / "candidates", "--baseline", root / "candidates"]
    words += ["--policy-scores", root / "scores", "--baseline-scores", root / "scores"]
    return do(*words, "-o", root / "eval", "--no-kl", *more)


def import_(root: Location, *more: object) -> int:
    words = ["import", "pool.jsonl", "-o", root / "imported", "--format", "rows"]
    return do(*words, "--part-size", 2, *more)


CHAIN: list[Callable[..., int]] = [generate, score, embed, select, judge, evaluate, import_]


def make_chain(root: Location) -> None:
    for stage in CHAIN:
        assert stage(root) == 0, stage


def parts_in(folder: Location) -> dict[str, bytes]:
    """What the parts of an artifact hold, by name."""
    names = files.names_in(folder)
    return {name: files.read(folder / name) for name in names if name.startswith("part-")}


def copied(source: Location, target: Location) -> Location:
    """A copy of an artifact's files."""
    for name, version in files.list_folder(source).items():
        if version is not None:
            files.write(target / name, files.read(source / name))
    return target


@pytest.mark.parametrize("name", STAGES)
def test_parts_in_a_bucket_are_those_of_a_disk_byte_for_byte(
    bucket: Url, local: Path, name: str
) -> None:
    of_bucket = parts_in(bucket / name)
    assert of_bucket
    assert of_bucket == parts_in(local / name)


@pytest.mark.parametrize("name", STAGES)
def test_the_record_has_the_same_identity_and_urls_for_parents(
    bucket: Url, local: Path, name: str
) -> None:
    of_bucket = run_record.read_run_record(bucket / name)
    of_disk = run_record.read_run_record(local / name)
    assert of_bucket.fingerprint == of_disk.fingerprint
    for parent, place in of_disk.parents.items():
        assert of_bucket.parents[parent] == place.replace(str(local), str(bucket))


def test_a_second_run_makes_nothing(bucket: Url, capsys: pytest.CaptureFixture[str]) -> None:
    def versions() -> dict[str, object]:
        return {
            f"{name}/{file}": version
            for name in STAGES
            for file, version in files.list_folder(bucket / name).items()
            # the figures of the whole are written by every run
            if file != SUMMARY_FILE
        }

    before = versions()
    capsys.readouterr()
    for stage in CHAIN:
        assert stage(bucket, "--json") == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["n_parts_made"] == 0, stage
        assert summary["n_parts_kept"] > 0, stage
    assert versions() == before


def test_a_part_that_is_gone_is_made_again_alone(bucket: Url, work: Path) -> None:
    root = bucket / "gone"
    copied(bucket / "candidates", root / "candidates")
    place = root / "candidates" / "part-00001-of-00003.parquet"
    data = files.read(place)
    files.delete(place)
    before = files.list_folder(root / "candidates")
    assert generate(root) == 0
    after = files.list_folder(root / "candidates")
    assert files.read(place) == data
    assert {name: after[name] for name in before if name[0] != "."} == {
        name: version for name, version in before.items() if name[0] != "."
    }


def test_overwrite_makes_all_again(bucket: Url, capsys: pytest.CaptureFixture[str]) -> None:
    root = bucket / "overwritten"
    copied(bucket / "candidates", root / "candidates")
    files.write(root / "candidates" / "part-00007-of-00009.parquet", b"of another run")
    capsys.readouterr()
    assert generate(root, "--json", "--overwrite") == 0
    assert json.loads(capsys.readouterr().out)["n_parts_made"] == N_PARTS
    assert parts_in(root / "candidates") == parts_in(bucket / "candidates")
    # another configuration is refused, and replaced on request
    assert generate(root, "--seed", 5) == 2
    assert parts_in(root / "candidates") == parts_in(bucket / "candidates")
    assert generate(root, "--seed", 5, "--overwrite=stale") == 0
    assert parts_in(root / "candidates") != parts_in(bucket / "candidates")


def test_claims_and_shards_make_the_same_parts(bucket: Url) -> None:
    root = bucket / "claimed"
    assert generate(root, "--claim") == 0
    assert parts_in(root / "candidates") == parts_in(bucket / "candidates")
    assert files.names_in(root / "candidates" / "claims") == set()
    for index in (1, 0):
        shard = ("--shard-index", index, "--num-shards", 2)
        assert score(root, *shard) == 0
        assert len(parts_in(root / "scores")) == (3 if index == 0 else 1)
    assert parts_in(root / "scores") == parts_in(bucket / "scores")


def test_an_extension_is_recorded_and_keeps_its_rows(bucket: Url, work: Path) -> None:
    root, twin = bucket / "extended", work / f"extended-{bucket.scheme}-{id(bucket)}"
    for each in (root, twin):
        assert generate(each) == 0
        assert generate(each, "--n", 5, "--extend") == 0
    assert parts_in(root / "candidates") == parts_in(twin / "candidates")
    of_bucket = run_record.read_run_record(root / "candidates")
    assert of_bucket.history == run_record.read_run_record(twin / "candidates").history
    assert of_bucket.history


def test_footers_that_are_listed_are_those_of_the_parts(bucket: Url) -> None:
    """And without the list, or with a damaged one, the same is read from the parts."""
    artifact = Artifact.open(bucket / "candidates")
    expected = [artifact.read(index)[1] for index in range(N_PARTS)]
    assert artifact.footers(range(N_PARTS)) == expected

    place = bucket / "unlisted"
    copied(bucket / "candidates", place)
    for content in (b"", b"{", b'{"format": 1, "parts": {}}'):
        files.write(place / bucket_footers.FILE_NAME, content)
        assert Artifact.open(place).footers(range(N_PARTS)) == expected
    files.delete(place / bucket_footers.FILE_NAME)
    assert Artifact.open(place).footers(range(N_PARTS)) == expected


def test_a_listed_footer_is_not_believed_of_another_file(bucket: Url) -> None:
    """A part that took the place of the one that is listed: another ETag, so its own footer."""
    place = copied(bucket / "candidates", bucket / "replaced")
    copied(bucket / "candidates", place)
    others = bucket / "other"
    assert generate(others, "--seed", 9) == 0
    name = "part-00001-of-00003.parquet"
    files.write(place / name, files.read(others / "candidates" / name))
    read = bucket_footers.BucketFooters(place).read
    assert read(place / name).fingerprint == Artifact.open(others / "candidates").record.fingerprint
    assert (
        bucket_footers.BucketFooters(place).verify(place / name).fingerprint
        == read(place / name).fingerprint
    )


def flip_a_byte(place: Location) -> None:
    data = bytearray(files.read(place))
    data[len(data) // 3] ^= 1
    files.write(place, bytes(data))


def lose_a_part(root: Location) -> int:
    files.delete(root / "candidates" / "part-00001-of-00003.parquet")
    return score(root)


def read_a_damaged_part(root: Location) -> int:
    flip_a_byte(root / "candidates" / "part-00001-of-00003.parquet")
    return score(root)


def read_a_truncated_part(root: Location) -> int:
    place = root / "candidates" / "part-00001-of-00003.parquet"
    files.write(place, files.read(place)[:-20])
    return score(root)


def lose_the_record(root: Location) -> int:
    files.delete(root / "candidates" / "run.json")
    return score(root)


def lose_the_record_of_an_output(root: Location) -> int:
    files.delete(root / "candidates" / "run.json")
    assert generate(root, "--seed", 4) == 2
    return generate(root)


def edit_the_record(root: Location) -> int:
    place = root / "candidates" / "run.json"
    files.write(place, files.read(place).replace(b'"max_tokens": 8', b'"max_tokens": 9'))
    return score(root)


def damage_the_record(root: Location) -> int:
    files.write(root / "candidates" / "run.json", b"{")
    return generate(root)


def write_into_the_users_folder(root: Location) -> int:
    files.write(root / "candidates" / "thesis.txt", b"mine")
    files.delete(root / "candidates" / "run.json")
    for index in range(N_PARTS):
        files.delete(root / "candidates" / f"part-0000{index}-of-00003.parquet")
    return generate(root)


def write_onto_a_file(root: Location) -> int:
    files.write(root / "scores", b"mine")
    return score(root)


def write_into_an_input(root: Location) -> int:
    return do("score", root / "candidates", "-o", root / "candidates" / "s", "--scorer", "fake")


def read_nothing(root: Location) -> int:
    return embed(root / "nowhere")


def read_another_kind(root: Location) -> int:
    return do("select", root / "candidates", "--scores", root / "candidates", "-o", root / "groups")


def other_configuration(root: Location) -> int:
    return generate(root, "--seed", 4)


CASES = [
    lose_a_part,
    read_a_damaged_part,
    read_a_truncated_part,
    lose_the_record,
    lose_the_record_of_an_output,
    edit_the_record,
    damage_the_record,
    write_into_the_users_folder,
    write_onto_a_file,
    write_into_an_input,
    read_nothing,
    read_another_kind,
    other_configuration,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_errors_are_those_of_a_folder_with_the_url_in_them(
    bucket: Url,
    local: Path,
    work: Path,
    case: Callable[[Location], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = []
    left: list[set[str]] = []
    local_root = work / "errors" / case.__name__ / bucket.scheme
    shutil.rmtree(local_root, ignore_errors=True)
    for source, root in ((local, local_root), (bucket, bucket / case.__name__)):
        copied(source / "candidates", root / "candidates")
        capsys.readouterr()
        code = case(root)
        error = capsys.readouterr().err.replace(str(root), "ROOT")
        lines = [line for line in error.splitlines() if "conditional writes" not in line]
        said.append((code, lines))
        left.append({name for name in files.names_in(root / "candidates") if name[0] != "."})
    assert said[0] == said[1]
    assert left[0] == left[1]


def test_no_secret_is_written_or_said(bucket: Url, capsys: pytest.CaptureFixture[str]) -> None:
    root = bucket / "canary"
    assert generate(root) == 0
    assert do("status", root) == 0
    assert do("inspect", root / "candidates") == 0
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    for name in files.names_in(root / "candidates"):
        if files.is_file(root / "candidates" / name):
            assert SECRET.encode() not in files.read(root / "candidates" / name)


def test_what_is_read_of_a_bucket_is_what_is_read_of_a_folder(
    bucket: Url, local: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands that read: the same pages, with the URL for the path."""
    assert prefpipe.read(str(bucket / "scores")).equals(prefpipe.read(local / "scores"))
    prompt_id = prefpipe.read(local / "groups")["prompt_id"][0]
    said: list[list[str]] = []
    for root in (local, bucket):
        pages = []
        for words in (
            ["status", root / "groups", "--json"],
            ["inspect", root / "groups", "--json"],
            ["inspect", root / "groups", "--prompt-id", prompt_id, "--json"],
            ["inspect", root / "eval", "--json"],
            ["export", root / "groups", "-o", work / "pairs.jsonl", "--format", "jsonl"],
            ["savings", root / "groups", "--model", "1B", "--json"],
        ):
            more = ["--overwrite"] if words[0] == "export" else []
            capsys.readouterr()
            code = do(*words, *more)
            out = capsys.readouterr().out.replace(str(root), "ROOT")
            pages.append(f"{code} {words[0]} {out}")
        pages.append((work / "pairs.jsonl").read_text())
        said.append(pages)
    assert said[0] == said[1]


def test_a_report_of_a_bucket_has_the_same_figures(
    bucket: Url, local: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for root in (local, bucket):
        # without what other tests have made there
        run_alone = root.parent / "reported"
        for name in STAGES:
            copied(root / name, run_alone / name)
        page = work / "report.html"
        capsys.readouterr()
        assert do("report", run_alone, "-o", page, "--json") == 0
        story = capsys.readouterr().out.replace(str(root), "ROOT")
        answers.append(json.loads(story)["answers"])
        assert page.stat().st_size > 0
    assert answers[0] == answers[1]
    # the page is a file of a disk
    assert do("report", bucket) == 2
    assert "-o FILE is needed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--workers", 2], ["--workers", 2, "--claim"]], ids=len)
def test_workers_in_processes_of_their_own(
    bucket: Url, words: list[object], request: pytest.FixtureRequest
) -> None:
    if bucket.scheme == "memory":
        pytest.skip("the memory of one process is not that of another")
    root = bucket / f"workers-{len(words)}"
    assert generate(root, *words) == 0
    assert parts_in(root / "candidates") == parts_in(bucket / "candidates")
    # each worker lists the footers of its own parts
    known = bucket_footers._read_known(root / "candidates")
    assert known.keys() == parts_in(root / "candidates").keys() or "rclone" in request.node.name


def test_a_bucket_that_is_not_there_is_named_by_every_command(
    work: Path,
    servers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reach(servers["moto"], monkeypatch)
    nowhere, somewhere = Url("s3", "nowhere/run"), Url("s3", f"{BUCKET}/somewhere")
    commands: list[tuple[object, ...]] = [
        ("score", somewhere / "candidates", "-o", nowhere / "scores", "--scorer", "fake"),
        ("score", nowhere / "candidates", "-o", somewhere / "scores", "--scorer", "fake"),
        ("status", nowhere),
        ("inspect", nowhere / "candidates"),
    ]
    assert generate(somewhere) == 0
    capsys.readouterr()
    for words in (*commands, None):
        assert (do(*words) if words else generate(nowhere)) == 1, words
        error = capsys.readouterr().err
        assert error.startswith("error: s3://nowhere/run"), error
        assert "the bucket does not exist" in error
        assert "hint: check the bucket's name" in error
        assert "disk" not in error


def test_python_raises_the_error_of_the_command(
    work: Path, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefpipe
    from prefpipe.errors import InputError

    reach(servers["moto"], monkeypatch)
    values = {"output": "s3://nowhere/run/candidates", "model": "fake", "backend": "fake"}
    with pytest.raises(InputError, match="the bucket does not exist"):
        prefpipe.run("generate", "p.jsonl", quiet=True, **values)


@pytest.mark.slow
def test_a_store_without_conditions_is_named_once_however_many_workers(
    work: Path, servers: dict[str, str], local: Path
) -> None:
    words = ["score", local / "candidates", "-o", f"s3://{BUCKET}/workers/scores"]
    words += ["--scorer", "fake", "--workers", 2]
    done = subprocess.run(
        [sys.executable, "-m", "prefpipe", *map(str, words)],
        env={**os.environ, **environment_for(servers["rclone"])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("does not support conditional writes") == 1
