"""Parts whose digests are right and whose content is not: a footer of another shape or release, edited records, strangers' files.

A bit flip never gets this far: it breaks a checksum. What is tested here was written on purpose, by a newer prefpipe, another
tool, or a person with an editor; every command that reads it says so in one error, and none ends in a traceback.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.finished_run import copy_to
from support.stage_server import StageServer

from prefpipe.artifacts import parts
from prefpipe.artifacts.fingerprint import canonical_json, fingerprint_of

pytestmark = pytest.mark.slow

PART = "part-00001-of-00003.parquet"


def forge(path: Path, entry: str | None, *, table: pa.Table | None = None) -> None:
    """Write a part again, with ``entry`` where prefpipe keeps its JSON and every checksum right."""
    if table is None:
        table = pq.read_table(path, partitioning=None).replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True)
    writer.write_table(table, row_group_size=max(1, table.num_rows))
    entries = {parts.CHECKSUM_KEY: parts.BLANK.decode()}
    if entry is not None:
        entries = {parts.FOOTER_KEY: entry} | entries
    writer.add_key_value_metadata(entries)
    writer.close()

    data = bytearray(sink.getvalue().to_pybytes())
    start = len(data) - int.from_bytes(data[-8:-4], "little") - parts.TAIL_BYTES
    if entry is not None and "DATA_BYTES" in entry:
        # Both words have the length of what takes their place, so that nothing moves.
        digest = hashlib.sha256(data[:start]).hexdigest()
        data = data.replace(b"DATA_SHA256".ljust(64, b"_"), digest.encode())
        data = data.replace(b'"DATA_BYTES"', str(start).rjust(12).encode())
    footer = bytes(data[start:])
    place = parts._checksum_place(footer)
    assert place is not None
    checksum = hashlib.sha256(footer).hexdigest().encode()
    data[start + place : start + place + 64] = checksum
    path.write_bytes(data)


def footer_json(path: Path, **changes: Any) -> str:
    """Return the JSON of a part's footer with some fields changed; what is changed to ``...`` is left out."""
    values = asdict(parts.read_footer(path)) | {
        "data_sha256": "DATA_SHA256".ljust(64, "_"),
        "data_bytes": "DATA_BYTES",
    }
    values |= changes
    return canonical_json({name: value for name, value in values.items() if value is not ...})


def forged(**changes: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        forge(path, footer_json(path, **changes))

    return damage


def without_entry(path: Path) -> None:
    forge(path, None)


def with_entry(entry: str) -> Callable[[Path], None]:
    return lambda path: forge(path, entry)


def with_column_of_another_type(path: Path) -> None:
    table = pq.read_table(path, partitioning=None).replace_schema_metadata(None)
    place = table.schema.get_field_index("status")
    texts = pa.array([7] * table.num_rows, pa.int64())
    forge(path, footer_json(path), table=table.set_column(place, "status", texts))


def with_a_row_less(path: Path) -> None:
    table = pq.read_table(path, partitioning=None).replace_schema_metadata(None)
    forge(path, footer_json(path), table=table.slice(1))


def plain_parquet(path: Path) -> None:
    """Another tool's file under a part's name."""
    pq.write_table(pa.table({"prompt_id": ["a"], "sample_idx": [0]}), path)


FOOTERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no entry": (without_entry, "its footer has no `prefpipe`"),
    "no JSON": (with_entry("{"), "in its footer is not JSON"),
    "deep JSON": (with_entry("[" * 100_000), "in its footer is not JSON"),
    "a list": (with_entry("[1, 2]"), "which is not an object"),
    "null": (with_entry("null"), "which is not an object"),
    "a field less": (forged(counts=...), "`counts` in its footer is None"),
    "counts a list": (forged(counts=[1]), "`counts` in its footer is [1]"),
    "counts by text": (forged(counts={"ok": "8"}), "`counts` in its footer"),
    "parents a number": (forged(parents=3), "`parents` in its footer is 3"),
    "negative rows": (forged(n_rows=-1), "`n_rows` in its footer is -1"),
    "rows a truth": (forged(n_rows=True), "`n_rows` in its footer is True"),
    "tally null": (forged(tally=None), "`tally` in its footer is None"),
    "engines a text": (forged(engines="vllm 1"), "`engines` in its footer is 'vllm 1'"),
    "fingerprint null": (forged(fingerprint=None), "`fingerprint` in its footer is None"),
    "a newer release": (forged(compression_level=3), "was written by a newer release of prefpipe"),
    "another run": (forged(fingerprint="0" * 64), "was not made by the run that its run.json"),
    "another name": (forged(name="part-00000-of-00003.parquet"), "under a different name"),
    "plain Parquet": (plain_parquet, "not a part that prefpipe wrote"),
}
CONTENTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a column of another type": (with_column_of_another_type, "its column `status` is int64"),
    "a row less than the footer says": (with_a_row_less, "its footer says"),
}

READERS: dict[str, list[str]] = {
    "status": ["status", "run"],
    "status --json": ["status", "run", "--json"],
    "inspect": ["inspect", "run/{stage}"],
    "inspect --json": ["inspect", "run/{stage}", "--json"],
    "inspect a prompt": ["inspect", "run/{stage}", "--prompt-id", "p2"],
    "score": ["score", "run/candidates", "--scorer", "fake", "-o", "again"],
    "embed": ["embed", "run/candidates", "--model", "fake", "-o", "again"],
    "select": [
        *("select", "run/candidates", "--scores", "run/scores", "--embeddings", "run/embeddings"),
        *("--k", "2", "--reward", "checks + fake", "-o", "again"),
    ],
    "export": ["export", "run/groups", "--format", "trl", "-o", "again.parquet"],
    "savings": ["savings", "run/groups", "--model", "8B", "--gpu", "h100"],
    "report": ["report", "run", "-o", "again.html"],
    "judge": ["judge", "run/candidates", "run/candidates", "--judge", "fake", "-o", "again"],
}
READS = {
    "score": ("candidates",),
    "embed": ("candidates",),
    "judge": ("candidates",),
    "select": ("candidates", "scores", "embeddings"),
    "export": ("groups",),
}
"""What each stage reads whole; the others are for looking and may say it and go on."""
CODES = {0, 1, 2, 4}


def run_in(stages: StageServer, folder: Path, reader: str, stage: str) -> Any:
    words = [word.format(stage=stage) for word in READERS[reader]]
    outcome = stages.run(*words, cwd=str(folder))
    assert "Traceback" not in outcome.stderr, outcome.stderr[-2000:]
    assert outcome.code in CODES, outcome.stderr
    return outcome


def spread(kinds: Sequence[str], stages: Sequence[str]) -> list[tuple[str, str]]:
    """Return each kind of damage with one stage, the stages in turn: what is damaged is read by the same code in all."""
    return [(kind, stages[number % len(stages)]) for number, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kind", "stage"),
    spread([*FOOTERS, *CONTENTS], ["candidates", "scores", "embeddings", "groups"]),
)
def test_every_reader_says_in_one_error_what_is_wrong_with_a_forged_part(
    stages: StageServer, folder: Path, kind: str, stage: str
) -> None:
    copy_to(folder)
    damage, sentence = (FOOTERS | CONTENTS)[kind]
    damage(folder / "run" / stage / PART)

    for reader in READERS:
        outcome = run_in(stages, folder, reader, stage)
        if stage in READS.get(reader, ()):
            assert outcome.code in {1, 4}, f"{reader} took a part that is {kind}"
            assert sentence in outcome.stderr, outcome.stderr
            assert "hint:" in outcome.stderr
        if reader == "status" and kind in FOOTERS:
            assert "done" not in outcome.stdout.split(stage)[1].splitlines()[0], outcome.stdout
        shutil.rmtree(folder / "again", ignore_errors=True)
        (folder / "again.parquet").unlink(missing_ok=True)


def edited(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: {
        name: value for name, value in (values | changes).items() if value is not ...
    }


def of_context(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values | {"context": values["context"] | changes}


def of_identity(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """An identity that was changed together with its fingerprint."""

    def change(values: dict[str, Any]) -> Any:
        identity = values["identity"] | changes
        return values | {"identity": identity, "fingerprint": fingerprint_of(identity)}

    return change


RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda values: [values],
    "null": lambda _values: None,
    "no identity": edited(identity=...),
    "identity a list": edited(identity=[1]),
    "no fingerprint": edited(fingerprint=...),
    "parts a text": edited(n_parts="3"),
    "parts a truth": edited(n_parts=True),
    "negative parts": edited(n_parts=-1),
    "endless parts": edited(n_parts=10**15),
    "parents a number": edited(parents=3),
    "parents of numbers": edited(parents={"candidates": 4, "prompts": 4}),
    "history of texts": edited(history=["extend"]),
    "history an object": edited(history={}),
    "context a text": edited(context="x"),
    "command a number": of_context(command=7),
    "folder a list": of_context(folder=["/"]),
    "versions a list": of_context(versions=[1]),
    "models a number": of_context(models=1),
    "made_with without hashes": of_context(made_with=[{"role": "model", "reference": "x"}]),
    "a newer release": edited(lineage={}),
    "stage a number": edited(stage=1),
    "schema of a newer release": edited(schema="candidates/99"),
    "another identity": of_identity(seed=99),
}


@pytest.mark.parametrize(
    ("kind", "stage"), spread(list(RECORDS), ["candidates", "scores", "groups"])
)
def test_every_reader_says_in_one_error_what_is_wrong_with_an_edited_record(
    stages: StageServer, folder: Path, kind: str, stage: str
) -> None:
    copy_to(folder)
    path = folder / "run" / stage / "run.json"
    path.write_text(json.dumps(RECORDS[kind](json.loads(path.read_text()))))

    for reader in READERS:
        outcome = run_in(stages, folder, reader, stage)
        if stage in READS.get(reader, ()) and kind != "schema of a newer release":
            assert outcome.code in {1, 2, 4}, f"{reader} took a record that is {kind}"
            assert "hint:" in outcome.stderr
        shutil.rmtree(folder / "again", ignore_errors=True)
        (folder / "again.parquet").unlink(missing_ok=True)


def test_a_part_of_a_newer_release_is_refused_and_not_made_again(
    stages: StageServer, folder: Path
) -> None:
    """It is no damage: an older release that made it again would throw away what it cannot read."""
    copy_to(folder)
    path = folder / "run" / "candidates" / PART
    forge(path, footer_json(path, lineage={}))
    before = path.read_bytes()

    words = [
        "generate",
        "prompts.jsonl",
        "-o",
        "run/candidates",
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        "4",
    ]
    outcome = stages.run(*words, "--part-size", "2", "--max-tokens", "64", cwd=str(folder))

    assert outcome.code == 1
    assert "was written by a newer release of prefpipe" in outcome.stderr
    assert path.read_bytes() == before
