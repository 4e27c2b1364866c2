"""run.json is the truth about a run's configuration, and says when it is not."""

import json
from pathlib import Path

import pytest

from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.artifacts.run_record import FILE_NAME, RunRecord, read_run_record
from prefpipe.errors import InputError

RECORD = RunRecord(
    stage="generate",
    schema="candidates/1",
    n_parts=3,
    identity={"n": 8, "temperature": [0.8], "note": "Grüße \U0001f600"},
    parents={"prompts": "p.jsonl"},
    context={"host": "here"},
    history=[{"operation": "extend", "n": 8}],
)


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    assert RECORD.write_if_absent(tmp_path)
    assert read_run_record(tmp_path) == RECORD


def test_the_fingerprint_is_of_the_identity_alone(tmp_path: Path) -> None:
    other = RunRecord(
        stage="generate",
        schema="candidates/1",
        n_parts=3,
        identity=RECORD.identity,
        context={"host": "there"},
    )
    assert other.fingerprint == RECORD.fingerprint == fingerprint_of(RECORD.identity)
    RECORD.write_if_absent(tmp_path)
    assert json.loads((tmp_path / FILE_NAME).read_text())["fingerprint"] == RECORD.fingerprint


def test_the_file_is_readable_json_in_utf_8() -> None:
    text = RECORD.to_bytes().decode()
    assert '\n  "stage": "generate",\n' in text
    assert "Grüße \U0001f600" in text
    assert text.endswith("}\n")


def test_the_first_record_stays_and_replacing_is_explicit(tmp_path: Path) -> None:
    other = RunRecord(stage="generate", schema="candidates/1", n_parts=9, identity={"n": 9})
    assert RECORD.write_if_absent(tmp_path)
    assert not other.write_if_absent(tmp_path)
    assert read_run_record(tmp_path) == RECORD
    other.replace_in(tmp_path)
    assert read_run_record(tmp_path) == other
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_folder_that_is_no_artifact_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_run_record(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not a prefpipe artifact: it has no run\.json"):
        read_run_record(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b"\xff\xfe",
        b'{"fingerprint": "0"}',
        b'{"fingerprint": "0", "stage": "s", "surprise": 1}',
    ],
)
def test_a_broken_record_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(InputError, match=rf"{tmp_path / FILE_NAME} cannot be read: ") as caught:
        read_run_record(tmp_path)
    assert caught.value.hint == "rerun the stage with --overwrite, or restore the file"


def test_an_edited_identity_is_noticed(tmp_path: Path) -> None:
    text = RECORD.to_bytes().decode()
    (tmp_path / FILE_NAME).write_text(
        text.replace('"n": 8,\n    "temperature"', '"n": 9,\n    "temperature"')
    )
    with pytest.raises(
        InputError,
        match=f"was edited: its identity does not match its fingerprint {RECORD.fingerprint[:12]}",
    ):
        read_run_record(tmp_path)
