"""Users' files in a bucket: what a command makes of them is what it makes of the same files on a disk."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.faulty_proxy import Request, running_proxy
from support.judge_server import longer_wins
from support.judged_sides import judge_command, two_sides
from support.pipelines import write_json_lines
from support.s3_servers import BUCKET, environment_for, reach, running_moto

from prefpipe.artifacts import run_record
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.cli.main import run
from prefpipe.configs.generate import GenerateConfig
from prefpipe.stages.study.progress import _version_in_bucket

pytest.importorskip("s3fs")

NUMBERS = itertools.count()
PROMPTS = [{"prompt_id": f"p{i}", "prompt": f"question {i}", "topic": f"ä {i}"} for i in range(5)]
FAKE = ["--model", "fake", "--backend", "fake", "--n", "2", "--part-size", "2", "--max-tokens", "8"]


@pytest.fixture(scope="module", params=["memory", "moto"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """The scheme of a store that this process reaches, for all tests of it: clients are slow to make."""
    if request.param == "memory":
        yield "memory"
        return
    with running_moto() as url, pytest.MonkeyPatch.context() as patch:
        reach(url, patch)
        yield "s3"


@pytest.fixture
def bucket(store: str) -> Url:
    """A folder of a bucket with nothing in it."""
    return Url(store, f"{BUCKET}/files-{next(NUMBERS)}")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in; at the end no copy of a file is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFPIPE_CACHE", str(tmp_path / "cache"))
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(here: Path) -> Iterator[None]:
    yield
    assert list((here / "copies").iterdir()) == []


def do(*words: object) -> int:
    return run(list(map(str, words)))


def uploaded(path: Path, bucket: Url) -> Url:
    """Copy a file or a folder into a bucket."""
    members = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    for member in members:
        key = member.relative_to(path.parent).as_posix()
        files.write(Url(bucket.scheme, f"{bucket.key}/{key}"), member.read_bytes())
    return bucket / path.name


def parts_in(folder: Location) -> dict[str, bytes]:
    names = files.names_in(folder)
    return {name: files.read(folder / name) for name in names if name.startswith("part-")}


def require_the_same(of_bucket: Path, of_disk: Path) -> run_record.RunRecord:
    """Compare two artifacts byte for byte, and return the record of the first."""
    assert parts_in(of_disk)
    assert parts_in(of_bucket) == parts_in(of_disk)
    record = run_record.read_run_record(of_bucket)
    assert record.fingerprint == run_record.read_run_record(of_disk).fingerprint
    return record


def prompts_as(kind: str, folder: Path) -> Path:
    """Write the prompts as a file of some kind."""
    if kind == "jsonl":
        return write_json_lines(folder / "p.jsonl", PROMPTS)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(PROMPTS), folder / "p.parquet")
        return folder / "p.parquet"
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(PROMPTS).save_to_disk(str(folder / "set"))
    return folder / "set"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset"])
def test_generate(bucket: Url, here: Path, kind: str) -> None:
    path = prompts_as(kind, here)
    place = uploaded(path, bucket)
    assert do("generate", path, "-o", "of-disk", *FAKE) == 0
    assert do("generate", place, "-o", "of-bucket", *FAKE) == 0
    record = require_the_same(here / "of-bucket", here / "of-disk")
    assert record.parents == {"prompts": str(place)}
    assert "prefpipe-copies" not in (here / "of-bucket" / "run.json").read_text()


def test_prompts_and_candidates_in_a_bucket(bucket: Url, here: Path) -> None:
    """And prompts of the disk, with candidates there."""
    path = prompts_as("jsonl", here)
    place = uploaded(path, bucket)
    assert do("generate", path, "-o", "of-disk", *FAKE) == 0
    for prompts, output in ((place, bucket / "both"), (path, bucket / "output")):
        assert do("generate", prompts, "-o", output, *FAKE) == 0
        assert parts_in(output) == parts_in(here / "of-disk")
        assert do("status", output, "--quick") == 0
    # a file that is where the output would be
    assert do("generate", place, "-o", place, *FAKE) == 2


def test_status_of_prompts_in_a_bucket(
    bucket: Url, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = uploaded(prompts_as("jsonl", here), bucket)
    assert do("generate", place, "-o", "out", *FAKE) == 0
    capsys.readouterr()

    def status() -> tuple[str, list[str], list[str]]:
        do("status", "out", "--json")
        (artifact,) = json.loads(capsys.readouterr().out)
        return artifact["state"], artifact["reasons"], artifact["notes"]

    assert status()[0] == "done"
    write_json_lines(here / "p.jsonl", PROMPTS[:3])
    uploaded(here / "p.jsonl", bucket)
    state, reasons, _ = status()
    assert state == "stale"
    assert f"its prompts, {place}, have changed since:" in reasons
    files.delete(place)
    state, _, notes = status()
    assert state == "done"
    assert f"its prompts were not checked: {place} does not exist" in notes


IMPORTED = [
    {"prompt": f"q{i}", "response": text, "reward": float(len(text))}
    for i in range(4)
    for text in ("a", "bb")
]


def test_import(bucket: Url, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_json_lines(here / "pool.jsonl", IMPORTED)
    place = uploaded(path, bucket)
    words = ["--format", "rows", "--reward-column", "reward", "--part-size", 2]
    assert do("import", path, "-o", "of-disk", *words) == 0
    assert do("import", place, "-o", "of-bucket", *words) == 0
    require_the_same(here / "of-bucket" / "candidates", here / "of-disk" / "candidates")
    require_the_same(here / "of-bucket" / "scores", here / "of-disk" / "scores")
    # the same import from anywhere
    assert do("import", place, "-o", "of-disk", *words) == 0
    assert do("status", "of-bucket/candidates") == 0
    uploaded(write_json_lines(here / "pool.jsonl", IMPORTED[:4]), bucket)
    capsys.readouterr()
    assert do("status", "of-bucket/candidates") == 4
    assert f"its source, {place}, has changed since" in capsys.readouterr().out


def test_import_of_a_batch_with_its_requests(bucket: Url, here: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
    requests = [{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}]
    message = {"role": "assistant", "content": "a"}
    answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "model": "m"}
    response = {"status_code": 200, "body": answer}
    paths = [
        write_json_lines(here / "answers.jsonl", [{"custom_id": "1", "response": response}]),
        write_json_lines(here / "requests.jsonl", requests),
    ]
    places = [uploaded(path, bucket) for path in paths]
    for (source, asked), output in ((paths, "of-disk"), (places, "of-bucket")):
        words = ["import", source, "-o", output, "--format", "openai-batch", "--requests", asked]
        assert do(*words) == 0
    record = require_the_same(here / "of-bucket" / "candidates", here / "of-disk" / "candidates")
    assert record.parents == {"source": str(places[0]), "requests": str(places[1])}


def test_ratings(bucket: Url, here: Path) -> None:
    assert do("generate", prompts_as("jsonl", here), "-o", "candidates", *FAKE) == 0
    rows = [
        f"p{prompt},{sample},{prompt - sample / 2}\n" for prompt in range(5) for sample in range(2)
    ]
    path = here / "ratings.csv"
    path.write_text("prompt_id,sample_idx,rating\n" + "".join(rows[:-1]))
    place = uploaded(path, bucket)
    words = ["--max-error-rate", 1, "--scorer"]
    for source, output in ((path, "of-disk"), (place, "of-bucket")):
        assert do("score", "candidates", "-o", output, *words, f"human=ratings:{source}") == 0
    require_the_same(here / "of-bucket", here / "of-disk")


def test_pairs_and_a_folder_of_them(bucket: Url, here: Path) -> None:
    pairs = [
        {
            "prompt": f"q{i}",
            "chosen": "a",
            "rejected": "b",
            "score_chosen": 1.0,
            "score_rejected": i,
        }
        for i in range(4)
    ]
    path = write_json_lines(here / "pairs.jsonl", pairs)
    place = uploaded(path, bucket)
    for source, output in ((path, "of-disk"), (place, "of-bucket"), (place, bucket / "scored")):
        assert do("eval", "rewardbench", "--pairs", source, "-o", output) == 0
    require_the_same(here / "of-bucket", here / "of-disk")
    assert do("eval", "calibration", "--pairs", "of-disk", "-o", "calibrated") == 0
    assert do("eval", "calibration", "--pairs", bucket / "scored", "-o", "there") == 0
    assert parts_in(here / "there") == parts_in(here / "calibrated")


def test_win_rate(bucket: Url, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"instruction": f"q{i}", "output_1": "a" * i, "output_2": "b" * (9 - i), "preference": 1.5}
        for i in range(9)
    ]
    hard = [{"instruction": f"q{i}", "instruction_difficulty": i / 9} for i in range(9)]
    base = [{"instruction": f"q{i}", "output": "c" * (i + 1)} for i in range(9)]
    for name, content in (("annotations", rows), ("difficulty", hard), ("baseline", base)):
        (here / f"{name}.json").write_text(json.dumps(content))

    def figures(folder: Location) -> Any:
        words = ["eval", "win-rate", folder / "annotations.json", "--json"]
        words += ["--difficulty", folder / "difficulty.json", "--bootstrap-fits", 5]
        assert do(*words, "--baseline-outputs", folder / "baseline.json") == 0
        return json.loads(capsys.readouterr().out.replace(str(folder), "FOLDER"))

    for name in ("annotations", "difficulty", "baseline"):
        uploaded(here / f"{name}.json", bucket)
    assert figures(bucket) == figures(here)


def test_win_rate_of_a_judgement_in_a_bucket(
    bucket: Url, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do("generate", prompts_as("jsonl", here), "-o", "c", *FAKE) == 0
    for output in (here / "v", bucket / "v"):
        words = ["judge", "c", "c", "-o", output, "--judge", "fake", "--max-error-rate", 1]
        assert do(*words) == 0
    capsys.readouterr()

    def figures(folder: Location) -> Any:
        assert do("eval", "win-rate", folder, "--json", "--allow-missing") == 0
        return json.loads(capsys.readouterr().out.replace(str(folder), "FOLDER"))

    assert figures(bucket / "v") == figures(here / "v")
    files.write(bucket / "any" / "x", b"1")
    assert do("eval", "win-rate", bucket / "any") == 1
    assert f"{bucket}/any is not a folder that a prefpipe stage" in capsys.readouterr().err


def test_a_batch_of_a_judge_goes_there_and_comes_from_there(bucket: Url, here: Path) -> None:
    a, b = two_sides(here)
    nowhere = "http://127.0.0.1:9/v1"
    of_disk = judge_command(a, b, here / "of-disk", nowhere)
    of_bucket = judge_command(a, b, here / "of-bucket", nowhere)
    assert do(*of_disk, "--emit-batch", here / "batch.jsonl") == 0
    assert do(*of_bucket, "--emit-batch", bucket / "batch.jsonl") == 0
    assert files.read(bucket / "batch.jsonl") == (here / "batch.jsonl").read_bytes()

    answers = []
    for line in (here / "batch.jsonl").read_text().splitlines():
        request = json.loads(line)
        text = longer_wins(request["body"]["messages"][0]["content"])
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": text}
        body = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
        response = {"status_code": 200, "body": body}
        answers.append({"custom_id": request["custom_id"], "response": response})
    path = write_json_lines(here / "answers.jsonl", answers)
    assert do(*of_disk, "--ingest-batch", path) == 0
    assert do(*of_bucket, "--ingest-batch", uploaded(path, bucket)) == 0
    require_the_same(here / "of-bucket", here / "of-disk")


def test_a_batch_that_is_broken_is_named_by_its_url(
    bucket: Url, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two_sides(here)
    command = judge_command(a, b, here / "out", "http://127.0.0.1:9/v1")
    files.write(bucket / "answers.jsonl", b"\n\n{\n")
    assert do(*command, "--ingest-batch", bucket / "answers.jsonl") == 1
    assert f"error: {bucket}/answers.jsonl, line 3: broken JSON" in capsys.readouterr().err
    assert do(*command, "--ingest-batch", bucket / "none.jsonl") == 1
    assert f"error: {bucket}/none.jsonl does not exist" in capsys.readouterr().err


def test_a_schema_and_a_judge_prompt(
    bucket: Url, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "schema.json"
    path.write_text(json.dumps({"type": "object", "properties": {"a": {"type": "string"}}}))
    given: dict[str, Any] = {"prompts": "p", "output": "o", "model": ("m",), "backend": "vllm"}
    of_disk = GenerateConfig.from_values({**given, "json_schema": str(path)})
    of_bucket = GenerateConfig.from_values({**given, "json_schema": str(uploaded(path, bucket))})
    assert of_bucket.schema == of_disk.schema
    assert of_bucket.identity() == of_disk.identity()

    files.write(bucket / "broken.json", b"{")
    words = ["generate", "p", "-o", "o", "--model", "m", "--backend", "vllm"]
    assert do(*words, "--json-schema", bucket / "broken.json") == 2
    assert f"--json-schema {bucket}/broken.json is no JSON" in capsys.readouterr().err

    a, b = two_sides(here)
    command = judge_command(a, b, here / "out", "http://127.0.0.1:9/v1")
    files.write(bucket / "mine.txt", b"no placeholder")
    assert do(*command, "--judge-prompt", bucket / "mine.txt") == 2
    assert f"--judge-prompt {bucket}/mine.txt: " in capsys.readouterr().err


@pytest.fixture
def groups(here: Path) -> Path:
    assert do("generate", prompts_as("jsonl", here), "-o", "c", *FAKE) == 0
    assert do("score", "c", "-o", "s", "--scorer", "fake") == 0
    words = ["select", "c", "--scores", "s", "-o", "groups", "--strategy", "bottom-k", "--k", 1]
    assert do(*words) == 0
    return here / "groups"


@pytest.mark.parametrize(
    ("format_", "name"),
    [("trl", "pairs.jsonl"), ("trl", "pairs.parquet"), ("alpaca-eval", "answers.json")],
)
def test_export(
    bucket: Url,
    here: Path,
    groups: Path,
    capsys: pytest.CaptureFixture[str],
    format_: str,
    name: str,
) -> None:
    source = here / "c" if format_ == "alpaca-eval" else groups
    place = bucket / "new" / name
    assert do("export", source, "-o", here / name, "--format", format_) == 0
    assert do("export", source, "-o", place, "--format", format_) == 0
    assert files.read(place) == (here / name).read_bytes()
    assert str(place) in capsys.readouterr().err

    files.write(place, b"somebody's")
    assert do("export", source, "-o", place, "--format", format_) == 2
    assert f"output {place} exists" in capsys.readouterr().err
    assert files.read(place) == b"somebody's"
    assert do("export", source, "-o", place, "--format", format_, "--overwrite") == 0
    assert files.read(place) == (here / name).read_bytes()

    files.write(bucket / f"folder-{name}" / "x", b"1")
    assert do("export", source, "-o", bucket / f"folder-{name}", "--format", format_) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["llama-factory", "axolotl"])
def test_export_of_a_folder(
    bucket: Url, here: Path, groups: Path, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    assert do("export", groups, "-o", here / "out", "--format", format_) == 0
    assert do("export", groups, "-o", bucket / "out", "--format", format_) == 0
    names = {path.name for path in (here / "out").iterdir()}
    assert files.names_in(bucket / "out") == names
    for name in names:
        of_disk = (here / "out" / name).read_bytes()
        expected = of_disk.replace(str(here / "out").encode(), str(bucket / "out").encode())
        assert files.read(bucket / "out" / name) == expected
    assert do("export", groups, "-o", bucket / "out", "--format", format_) == 2
    assert f"output {bucket}/out already holds an export" in capsys.readouterr().err
    assert do("export", groups, "-o", bucket / "out", "--format", format_, "--overwrite") == 0
    files.write(bucket / "out" / "x.txt", b"1")
    assert do("export", groups, "-o", bucket / "out", "--format", format_, "--overwrite") == 2
    assert "holds x.txt, which was not written by an export" in capsys.readouterr().err


def test_an_export_without_rows_leaves_what_was_there(
    bucket: Url, here: Path, groups: Path
) -> None:
    """A format that needs pairs, of groups that have none."""
    words = ["select", "c", "--scores", "s", "-o", "alone", "--strategy", "best-of-n"]
    assert do(*words) == 0
    files.write(bucket / "pairs.jsonl", b"before")
    command = ["export", "alone", "-o", bucket / "pairs.jsonl", "--format", "trl", "--overwrite"]
    assert do(*command) == 1
    assert files.read(bucket / "pairs.jsonl") == b"before"


def test_bad_rows_and_one_download_a_command(
    bucket: Url, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read again for each kind of bad row, and downloaded once."""
    path = here / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": ""}\n{\n{"prompt": "b"}\n')
    place = uploaded(path, bucket)
    reads = []
    reading = files.read_range

    def counted(place: Url, start: int, end: int) -> bytes:
        reads.append(place)
        return reading(place, start, end)

    monkeypatch.setattr(files, "read_range", counted)
    assert do("generate", place, "-o", "out", *FAKE, "--skip-bad-rows") == 0
    assert reads == [place]
    monkeypatch.setattr(files, "read_range", reading)
    assert do("generate", place, "-o", bucket / "out", *FAKE, "--skip-bad-rows") == 0
    there = files.read(bucket / "out.skipped-rows.jsonl")
    assert there == (here / "out.skipped-rows.jsonl").read_bytes()
    skipped = (here / "out.skipped-rows.jsonl").read_text().splitlines()
    assert {(json.loads(line)["file"], json.loads(line)["place"]) for line in skipped} == {
        (str(place), "line 2"),
        (str(place), "line 3"),
    }


def test_a_path_as_a_url(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = prompts_as("jsonl", here)
    assert do("generate", f"file://{path}", "-o", "out", *FAKE) == 0
    assert do("status", "out") == 0
    write_json_lines(path, PROMPTS[:2])
    assert do("status", "out") == 4
    assert "have changed since" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("{bucket}/none.jsonl", "{bucket}/none.jsonl does not exist", "check the bucket's name"),
        (
            "{bucket}",
            "{bucket} is a folder, and not one written by datasets",
            "prompts file itself",
        ),
        ("http://a.org/p.jsonl", "is no file and no place in a bucket", "curl -LO http://a.org"),
        ("hf://datasets/org/name", "is no file and no place in a bucket", "hf:org/name"),
        ("s3://key:canary@b/p.jsonl", "credentials in a URL", "AWS_PROFILE"),
        ("nope://b/p.jsonl", "nope:// is no storage that fsspec knows", "use s3://, gs://"),
    ],
)
def test_what_cannot_be_read(
    bucket: Url, capsys: pytest.CaptureFixture[str], source: str, message: str, hint: str
) -> None:
    files.write(bucket / "other.jsonl", b"{}")
    assert do("generate", source.format(bucket=bucket), "-o", "out", *FAKE) in (1, 2)
    shown = " ".join(capsys.readouterr().err.split())
    assert message.format(bucket=bucket) in shown
    assert hint in shown
    assert "canary" not in shown
    assert not Path("out").exists()


ROUNDS = """\
rounds: 1
prompts: {prompts}
model: bundled:smollm2-135m
generate: {{n: 2, backend: transformers}}
score: {{scorer: fake}}
select: {{strategy: bottom-k, k: 1}}
train: {{objective: dpo}}
"""


def test_a_plan_of_rounds_names_prompts_in_a_bucket(
    bucket: Url, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = uploaded(prompts_as("jsonl", here), bucket)
    (here / "plan.yaml").write_text(ROUNDS.format(prompts=place))
    assert do("rounds", "plan.yaml", "-o", "run", "--dry-run") == 0
    assert f"prompts={place}" in capsys.readouterr().out
    (here / "plan.yaml").write_text(ROUNDS.format(prompts=bucket / "none.jsonl"))
    assert do("rounds", "plan.yaml", "-o", "run") == 1
    assert f"no prompts file at {bucket}/none.jsonl" in capsys.readouterr().err


def test_a_step_of_a_study_has_another_key_for_another_object(bucket: Url, here: Path) -> None:
    first = uploaded(prompts_as("jsonl", here), bucket)
    before = _version_in_bucket(str(first))
    assert _version_in_bucket(str(first)) == before
    files.write(first, b"others")
    assert _version_in_bucket(str(first)) != before
    assert _version_in_bucket(str(bucket / "none")) == str(bucket / "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_command_that_is_ended_while_it_downloads(
    here: Path, number: signal.Signals, code: int
) -> None:
    """The signal comes when the store has been asked for the file, and before it answers."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer_late(request: Request) -> None:
        if request.method == "GET" and b"range" in request.head.lower():
            is_asked.set()
            may_answer.wait(300)

    with running_moto() as server, running_proxy(server) as proxy:
        environment = os.environ | environment_for(proxy.url) | {"TMPDIR": str(here / "copies")}
        put = urllib.request.Request(
            f"{server}/{BUCKET}/p.jsonl",
            data=b'{"prompt": "a"}\n',
            headers={"Content-Type": "application/octet-stream"},
            method="PUT",
        )
        urllib.request.urlopen(put).close()
        proxy.fault = answer_late
        words = [
            sys.executable,
            "-m",
            "prefpipe",
            "generate",
            f"s3://{BUCKET}/p.jsonl",
            "-o",
            "out",
        ]
        with subprocess.Popen([*words, *FAKE], env=environment, cwd=here) as process:
            assert is_asked.wait(300)
            (copies,) = (here / "copies").iterdir()
            process.send_signal(number)
            assert process.wait(300) == code
            assert copies.exists() == (number == signal.SIGKILL)
        may_answer.set()
        proxy.fault = lambda _request: None
        subprocess.run([*words, *FAKE], env=environment, cwd=here, check=True)
    assert parts_in(here / "out")
