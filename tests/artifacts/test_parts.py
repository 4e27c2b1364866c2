"""A part proves what it is: every byte, every type, and who made it from what."""

import datetime as dt
import json
import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.artifacts import parts
from prefpipe.artifacts.parts import part_name, read_footer, read_part, verify_part, write_part
from prefpipe.artifacts.schemas import CANDIDATES, GROUPS, SCORES, embeddings_schema
from prefpipe.errors import CorruptPartError, InputError, PrefpipeError

NAME = part_name(3, 16)
TABLE = pa.table(
    {
        "prompt_id": [f"prompt {i}" for i in range(60)],
        "text": [
            "0" * 64,
            "prefpipe.checksum",
            None,
            *(f"text {i} \0 \U0001f600" * (i % 5) for i in range(57)),
        ],
        "value": [i / 7 for i in range(60)],
        "ids": [list(range(i % 4)) for i in range(60)],
    }
)


def write(path: Path, table: pa.Table = TABLE) -> parts.PartFooter:
    return write_part(
        path,
        table,
        fingerprint="f" * 64,
        schema="candidates/1",
        counts={"ok": 58, "empty": 2},
        parents={"scores": "5", "candidates": "c"},
    ).footer


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    write(path)
    return path


def test_a_part_is_named_by_its_number_and_the_number_of_parts() -> None:
    assert NAME == "part-00003-of-00016.parquet"


@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64()])
def test_what_repeats_is_written_once_and_fractions_as_they_are(
    tmp_path: Path, number: pa.DataType
) -> None:
    """A dictionary of embeddings would make a part of them larger and slower."""
    rng = np.random.default_rng(0)
    vectors = pa.array(rng.standard_normal(512 * 64).astype("float32")).cast(number)
    turns = [{"role": "user", "content": "the same prompt", "weight": 0.5}]
    schema = pa.list_(pa.struct([("role", pa.string()), ("weight", number)]))
    table = pa.table(
        {
            "messages": pa.array([turns] * 512, schema),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors, 64),
            "response_token_ids": [[1, 2, 3]] * 512,
            "reward": vectors[:512],
        }
    )
    write(tmp_path / NAME, table)
    assert pq.read_table(tmp_path / NAME).equals(table)

    columns = pq.read_metadata(tmp_path / NAME).row_group(0)
    has_dictionary = {
        columns.column(i).path_in_schema: columns.column(i).has_dictionary_page
        for i in range(columns.num_columns)
    }
    assert has_dictionary == {
        "messages.list.element.role": True,
        "messages.list.element.weight": False,
        "embedding.list.element": False,
        "response_token_ids.list.element": True,
        "reward": False,
    }


def test_a_part_reads_back_as_it_was_written(part: Path) -> None:
    footer = read_footer(part)
    assert footer == verify_part(part)
    table, same = read_part(part)
    assert same == footer
    assert table.equals(TABLE)
    assert table.schema.metadata is None
    assert (footer.name, footer.fingerprint, footer.schema, footer.n_rows) == (
        NAME,
        "f" * 64,
        "candidates/1",
        60,
    )
    assert (footer.counts, footer.parents) == (
        {"ok": 58, "empty": 2},
        {"candidates": "c", "scores": "5"},
    )
    assert list(footer.counts) == ["empty", "ok"]


def test_the_same_table_gives_the_same_bytes(part: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    write(tmp_path / "again" / NAME)
    assert (tmp_path / "again" / NAME).read_bytes() == part.read_bytes()


def test_other_readers_of_parquet_read_a_part(part: Path) -> None:
    assert pq.read_table(part).equals(TABLE)
    assert pl.read_parquet(part)["text"].to_list() == TABLE["text"].to_pylist()
    with pq.ParquetFile(part) as file:
        assert file.metadata.num_row_groups == 1


def test_columns_can_be_chosen_and_a_missing_one_is_named(part: Path) -> None:
    table, _ = read_part(part, ["value", "prompt_id"])
    assert table.equals(TABLE.select(["value", "prompt_id"]))
    with pytest.raises(
        InputError, match=f"{NAME} has no column `reward`; it has: prompt_id, text, value, ids"
    ):
        read_part(part, ["prompt_id", "reward"])


@pytest.mark.parametrize("columns", [None, ["value", "new", "id"], ["old"], ["id"]])
def test_vectors_stand_where_their_columns_do(tmp_path: Path, columns: list[str] | None) -> None:
    """They are read apart from the other columns."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float32)), 4)
    with_null = pa.array([[0.5, None], None, [1.5, 2.5]], pa.list_(pa.float64(), 2))
    table = pa.table({"old": vectors, "id": ["a", "b", "c"], "new": with_null, "value": vectors})
    write(tmp_path / NAME, table)
    read, _ = read_part(tmp_path / NAME, columns)
    assert read.equals(table if columns is None else table.select(columns))
    assert read.schema == pq.read_table(tmp_path / NAME, columns=read.column_names).schema


def assert_detected(path: Path, *, footer_too: bool) -> None:
    with pytest.raises(CorruptPartError, match="corrupt") as caught:
        read_part(path)
    assert str(path) in caught.value.message
    assert caught.value.hint == "run the command that made it again: it rewrites only this part"
    with pytest.raises(CorruptPartError):
        verify_part(path)
    if footer_too:
        with pytest.raises(CorruptPartError):
            read_footer(path)


@pytest.mark.slow
def test_flipped_bits_are_detected_wherever_they_are(tmp_path: Path) -> None:
    """A bit of every third byte in turn, about 900. What changes in the footer is seen by reading the footer alone."""
    path = tmp_path / NAME
    data_bytes = write(path, TABLE.slice(0, 10)).data_bytes
    data, flips, unseen = path.read_bytes(), random.Random(0), []
    for place in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 1 << flips.randrange(8)
        path.write_bytes(damaged)
        for read in (read_part, read_footer) if place >= data_bytes else (read_part,):
            try:
                read(path)
            except CorruptPartError:
                continue
            unseen.append(place)
    assert unseen == []
    assert len(data) > 2000


def test_random_bytes_anywhere_are_detected(part: Path) -> None:
    data, damage = part.read_bytes(), random.Random(1)
    for _ in range(300):
        start = damage.randrange(len(data))
        replacement = damage.randbytes(min(damage.randrange(1, 200), len(data) - start))
        damaged = data[:start] + replacement + data[start + len(replacement) :]
        if damaged != data:
            part.write_bytes(damaged)
            assert_detected(part, footer_too=False)


def test_every_truncation_and_every_appendix_is_detected(part: Path) -> None:
    data = part.read_bytes()
    for length in [*range(0, len(data), 7), *range(len(data) - 20, len(data))]:
        part.write_bytes(data[:length])
        assert_detected(part, footer_too=True)
    for more in (b"\0", b"PAR1", data):
        part.write_bytes(data + more)
        assert_detected(part, footer_too=more != data)
    part.write_bytes(data[4:])
    assert_detected(part, footer_too=True)


def test_a_page_that_was_lost_in_the_middle_is_detected(part: Path) -> None:
    """As after a crash of the machine on a file system that fills holes with zeros."""
    data = part.read_bytes()
    for start in range(0, len(data) - 64, 64):
        part.write_bytes(data[:start] + bytes(64) + data[start + 64 :])
        assert_detected(part, footer_too=False)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    for read in (read_footer, verify_part, read_part):
        with pytest.raises(CorruptPartError, match=f"{NAME} is missing") as caught:
            read(tmp_path / NAME)
        assert caught.value.hint == "run the command that made it again"


def test_a_folder_in_the_place_of_a_part_is_no_damage(tmp_path: Path) -> None:
    """It cannot be mended by running a command again, so it is an error of its own."""
    (tmp_path / NAME).mkdir()
    for read in (read_footer, verify_part, read_part):
        with pytest.raises(InputError, match=f"{NAME} cannot be read: Is a directory"):
            read(tmp_path / NAME)


def test_parquet_that_somebody_else_wrote_is_told_apart(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / NAME)
    with pytest.raises(CorruptPartError, match="is corrupt, or not a part that prefpipe wrote"):
        read_footer(tmp_path / NAME)
    table = TABLE.replace_schema_metadata({"prefpipe": "{}", "prefpipe.checksum": "0" * 64})
    pq.write_table(table, tmp_path / NAME)
    with pytest.raises(CorruptPartError, match="the footer does not match its checksum"):
        read_footer(tmp_path / NAME)


def test_texts_that_look_like_the_checksum_entry_are_only_texts(tmp_path: Path) -> None:
    """They stand in the column statistics of the same footer."""
    entry = "prefpipe.checksum\x18\x40" + "0" * 64
    table = pa.table(
        {entry: [entry, "prefpipe.checksum\x18@" + "f" * 64], "x": [entry[:17], entry[17:]]}
    )
    write(tmp_path / NAME, table)
    assert read_part(tmp_path / NAME)[0].equals(table)


@pytest.mark.parametrize(
    "schema",
    [CANDIDATES, SCORES, GROUPS, embeddings_schema(4, half=False)],
    ids=lambda schema: schema.name,
)
def test_a_part_without_rows_keeps_its_schema(tmp_path: Path, schema: object) -> None:
    extra = pa.schema(
        [pa.field("mine", pa.list_(pa.struct([("a", pa.null())])), metadata={"k": "v"})]
    )
    empty = schema.arrow(extra).empty_table()  # type: ignore[attr-defined]
    footer = write_part(
        tmp_path / NAME, empty, fingerprint="f", schema=schema.tag, counts={}, parents={}
    ).footer  # type: ignore[attr-defined]
    table, _ = read_part(tmp_path / NAME)
    assert footer.n_rows == table.num_rows == 0
    assert [field.remove_metadata() for field in table.schema] == [
        field.remove_metadata() for field in empty.schema
    ]
    assert table.schema.field("mine").metadata[b"k"] == b"v"


@pytest.mark.parametrize(("half", "kind"), [(False, np.float32), (True, np.float16)])
def test_embeddings_are_read_by_numpy_without_a_copy(
    tmp_path: Path, half: bool, kind: type
) -> None:
    """One contiguous block: the array's memory is the column's buffer."""
    schema = embeddings_schema(8, half=half)
    vectors = np.arange(300 * 8, dtype=kind).reshape(300, 8)
    columns = {
        "prompt_id": ["p"] * 300,
        "sample_idx": list(range(300)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8),
        "n_tokens": [1] * 300,
        "truncated": [False] * 300,
        "status": ["ok"] * 300,
        "reason": [None] * 300,
    }
    table = pa.table(columns, schema=schema.arrow())
    write_part(tmp_path / NAME, table, fingerprint="f", schema=schema.tag, counts={}, parents={})
    column = read_part(tmp_path / NAME, ["embedding"])[0]["embedding"]
    assert column.num_chunks == 1
    chunk = column.chunk(0)
    array = chunk.values.to_numpy(zero_copy_only=True).reshape(len(chunk), -1)
    assert array.dtype == kind
    np.testing.assert_array_equal(array, vectors)
    assert array.__array_interface__["data"][0] == chunk.values.buffers()[1].address
    assert not array.flags.owndata


MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15, 123456)
COLUMNS = {
    "bool": pa.array([True, None]),
    "int8": pa.array([-128, None], pa.int8()),
    "uint64": pa.array([2**64 - 1, None], pa.uint64()),
    "float16": pa.array(np.array([1.5, 2.5], np.float16)),
    "float64 with NaN": pa.array([float("nan"), None]),
    "decimal128": pa.array([Decimal("1.10"), None], pa.decimal128(10, 2)),
    "decimal256": pa.array([Decimal("-1.10"), None], pa.decimal256(60, 2)),
    "large_string": pa.array(["a\0b\U0001f600", None], pa.large_string()),
    "binary": pa.array([b"\0\xff", None]),
    "fixed binary": pa.array([b"ab", None], pa.binary(2)),
    "date32": pa.array([MOMENT.date(), None]),
    "time64": pa.array([1, None], pa.time64("ns")),
    "timestamp ms": pa.array([1, None], pa.timestamp("ms")),
    "timestamp ns": pa.array([1, None], pa.timestamp("ns")),
    "timestamp with zone": pa.array([MOMENT, None], pa.timestamp("us", "Europe/Berlin")),
    "duration": pa.array([1, None], pa.duration("ns")),
    "dictionary": pa.array(["b", None]).dictionary_encode(),
    "small dictionary": pa.DictionaryArray.from_arrays(
        pa.array([1, None], pa.int8()), pa.array(["a", "b"])
    ),
    "list": pa.array([[1, None], None], pa.list_(pa.int16())),
    "empty lists": pa.array([[], None], pa.large_list(pa.string())),
    "fixed list": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b": {"c": [None, "x"]}}, None]),
    "list of structs": pa.array([[{"role": "user", "content": "q"}], []]),
    "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
    "null": pa.nulls(2),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))),
}


def claims_of(path: Path) -> dict[str, object]:
    return json.loads(pq.read_metadata(path).metadata[parts.FOOTER_KEY.encode()])


def test_engines_are_in_the_footer_and_a_part_without_is_as_it_was_before_them(
    tmp_path: Path, part: Path
) -> None:
    assert sorted(claims_of(part)) == [
        *("counts", "data_bytes", "data_sha256", "fingerprint", "n_rows", "name"),
        *("parents", "schema", "tally"),
    ]
    assert read_footer(part).engines == ()

    with_engines = tmp_path / "with" / NAME
    with_engines.parent.mkdir()
    written = write_part(
        with_engines,
        TABLE,
        fingerprint="f" * 64,
        schema="candidates/1",
        counts={"ok": 58, "empty": 2},
        parents={"scores": "5", "candidates": "c"},
        engines=["vllm 0.33.0", "vllm 0.32.0", "vllm 0.33.0"],
    ).footer
    assert claims_of(with_engines)["engines"] == ["vllm 0.32.0", "vllm 0.33.0"]
    assert verify_part(with_engines) == written
    # what parts of other stages are made from is the data alone
    assert written.data_sha256 == read_footer(part).data_sha256


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_user_columns_of_any_type_pass_through(tmp_path: Path, column: pa.Array) -> None:
    """Type, values and nulls; the column may carry metadata and any name."""
    field = pa.field("of the user's \u00fc.[0]", column.type, metadata={"note": "kept"})
    table = pa.table([column], schema=pa.schema([field]))
    write(tmp_path / NAME, table)
    read, _ = read_part(tmp_path / NAME)
    assert read.schema.field(0).type == column.type
    assert read.schema.field(0).metadata[b"note"] == b"kept"
    back = read.column(0).combine_chunks()
    assert back.equals(column) or (
        pa.types.is_float64(column.type) and str(back) == str(column)
    )  # NaN is not equal to itself


def test_a_table_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    class NotArrow:
        num_rows = 1
        schema = TABLE.schema

    with pytest.raises((TypeError, AttributeError)):
        write(tmp_path / NAME, NotArrow())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_in_the_middle_leaves_no_file_and_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error comes out of a callback inside pyarrow and must keep its number."""

    def full(self: parts._HashingSink, data: bytes) -> int:
        if self.n_bytes:
            raise OSError(28, "No space left on device")
        self.n_bytes += len(data)
        return len(data)

    monkeypatch.setattr(parts._HashingSink, "write", full)
    with pytest.raises(PrefpipeError, match="no space left on the disk"):
        write(tmp_path / NAME)
    assert list(tmp_path.iterdir()) == []
    assert "Exception ignored" not in capfd.readouterr().err
