"""A part's column of vectors, copied directly from its pages.

Parquet has no vectors of a fixed length, only lists, and stores for each number whether it begins a
list and whether it is present. pyarrow decodes all of that, two thirds of the time to read a part
of embeddings. If the sizes of the pages show that no number is missing, it can be skipped.

This is our own code because no Parquet library gives access to pages. Anything that
`prefpipe.artifacts.parts` did not write in this layout is left to pyarrow.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LIST_LEVELS = 2
"""What a page has before its numbers: where lists begin, then what is there."""
LEVELS_SIZE_BYTES = 4

# parquet.thrift: the fields of a page's header, and what they hold in a page as we write it
PAGE_TYPE, DECOMPRESSED_BYTES, COMPRESSED_BYTES, DATA_PAGE_HEADER = 1, 2, 3, 5
N_VALUES, ENCODING = 1, 2
DATA_PAGE, PLAIN = 0, 0

# Thrift's compact encoding: the types of fields
TRUE, FALSE, BYTE, INT16, INT32, INT64, BINARY, STRUCT = 1, 2, 3, 4, 5, 6, 8, 12


def read_plain_vectors(
    data: bytes, file: pq.ParquetFile, names: Iterable[str]
) -> dict[str, pa.Array]:
    """Return the plain ones of some columns, by name; pyarrow has to read the others.

    Plain columns hold vectors of fractions without nulls, in pages compressed with zstd.

    Args:
        data: the file's bytes.
        file: the same file, opened.
        names: the columns.
    """
    vectors = {}
    for name in names:
        kind = file.schema_arrow.field(name).type
        if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
            continue
        chunk = _only_chunk(file.metadata, name)
        if chunk is None or chunk.compression != "ZSTD" or chunk.has_dictionary_page:
            continue

        n_numbers = file.metadata.num_rows * kind.list_size
        width_bytes = kind.value_type.bit_width // 8
        numbers = pa.allocate_buffer(n_numbers * width_bytes)
        if _copy_numbers(data, chunk, width_bytes, numbers):
            values = pa.Array.from_buffers(kind.value_type, n_numbers, [None, numbers])
            vectors[name] = pa.FixedSizeListArray.from_arrays(values, type=kind)
    return vectors


def _only_chunk(metadata: pq.FileMetaData, name: str) -> pq.ColumnChunkMetaData | None:
    """Return where a column of lists lies; None if it is in several places, or in none."""
    if metadata.num_row_groups != 1:
        return None
    group = metadata.row_group(0)
    chunks = [group.column(number) for number in range(metadata.num_columns)]
    of_column = [chunk for chunk in chunks if chunk.path_in_schema == f"{name}.list.element"]
    return of_column[0] if len(of_column) == 1 else None


def _copy_numbers(
    data: bytes, chunk: pq.ColumnChunkMetaData, width_bytes: int, numbers: pa.Buffer
) -> bool:
    """Copy the numbers of all pages one after another; return whether they fill the buffer."""
    target = np.frombuffer(numbers, dtype=np.uint8)
    n_copied = 0
    try:
        for of_page in _pages(data, chunk, width_bytes):
            target[n_copied : n_copied + len(of_page)] = of_page
            n_copied += len(of_page)
    except (LookupError, TypeError, ValueError, OSError, pa.ArrowException):
        # no pages that we write: what is in them is pyarrow's to find out
        return False
    return n_copied == len(target)


def _pages(data: bytes, chunk: pq.ColumnChunkMetaData, width_bytes: int) -> Iterator[np.ndarray]:
    """Yield the bytes of each page's numbers.

    Raises:
        ValueError: a page is not plain.
        LookupError, TypeError, OSError, pa.ArrowException: it is none.
    """
    codec = pa.Codec("zstd")
    position = chunk.data_page_offset
    end = position + chunk.total_compressed_size
    while position < end:
        header, begin = _read_struct(data, position)
        position = begin + header[COMPRESSED_BYTES]
        about = header[DATA_PAGE_HEADER]
        if header[PAGE_TYPE] != DATA_PAGE or about[ENCODING] != PLAIN:
            raise ValueError("numbers in another encoding")
        page = codec.decompress(memoryview(data)[begin:position], header[DECOMPRESSED_BYTES])

        # A null has its levels and no number: then fewer bytes are left than numbers are counted.
        of_page = np.frombuffer(page, dtype=np.uint8)[_levels_bytes(page) :]
        if len(of_page) != about[N_VALUES] * width_bytes:
            raise ValueError("numbers are missing")
        yield of_page


def _levels_bytes(page: pa.Buffer) -> int:
    """Return how many bytes are before the numbers of a page: two blocks with their sizes."""
    position = 0
    for _ in range(LIST_LEVELS):
        size = page[position : position + LEVELS_SIZE_BYTES].to_pybytes()
        position += LEVELS_SIZE_BYTES + int.from_bytes(size, "little")
    return position


def _read_struct(data: bytes, position: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct in Thrift's compact encoding, by number, and where it ends.

    Raises:
        ValueError: it has a field of another type than headers of pages have.
    """
    fields: dict[int, Any] = {}
    number = 0
    while head := data[position]:
        position += 1
        # the difference to the previous number, or a full number
        if head >> 4:
            number += head >> 4
        else:
            number, position = _read_int(data, position)

        kind = head & 0x0F
        if kind in (TRUE, FALSE):
            fields[number] = kind == TRUE
        elif kind == BYTE:
            fields[number] = data[position]
            position += 1
        elif kind in (INT16, INT32, INT64):
            fields[number], position = _read_int(data, position)
        elif kind == BINARY:
            size, position = _read_varint(data, position)
            position += size
        elif kind == STRUCT:
            fields[number], position = _read_struct(data, position)
        else:
            raise ValueError(f"a field of type {kind} in the header of a page")
    return fields, position + 1


def _read_int(data: bytes, position: int) -> tuple[int, int]:
    """Return a number with a sign, whose lowest bit it is, and where it ends."""
    value, position = _read_varint(data, position)
    return (value >> 1) ^ -(value & 1), position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
