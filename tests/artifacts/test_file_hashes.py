"""Big files are hashed once; a broken or unwritable cache costs time, never the answer."""

import os
import time
from hashlib import sha256

import pytest

from prefpipe.artifacts.file_hashes import hash_file, hash_files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes"


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    os.utime(path, (time.time() - 100,) * 2)
    return path


def digest(data):
    return sha256(data).hexdigest()


def test_the_second_hash_is_read_from_the_cache(cache, old_file):
    assert hash_file(old_file) == digest(b"weights")
    (entry,) = cache.iterdir()
    entry.write_text("f" * 64)
    assert hash_file(old_file) == "f" * 64


def test_a_changed_file_is_hashed_again(cache, old_file):
    hash_file(old_file)
    old_file.write_bytes(b"changed")
    assert hash_file(old_file) == digest(b"changed")


def test_a_file_changed_just_now_is_not_remembered(cache, tmp_path):
    (tmp_path / "new").write_bytes(b"new")
    hash_file(tmp_path / "new")
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"f" * 63, b"{}"])
def test_a_broken_entry_is_ignored_and_written_again(cache, old_file, content):
    hash_file(old_file)
    (entry,) = cache.iterdir()
    entry.write_bytes(content)
    assert hash_file(old_file) == digest(b"weights")
    assert entry.read_text() == digest(b"weights")


def test_a_cache_that_cannot_be_written_is_done_without(cache, old_file):
    cache.parent.write_text("a file where the cache should be")
    assert hash_file(old_file) == digest(b"weights")


def test_the_hash_of_files_covers_names_and_contents_in_any_order(cache, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("same")
    a, b, c = (tmp_path / name for name in "abc")
    assert hash_files(tmp_path, [a, b]) == hash_files(tmp_path, [b, a])
    assert hash_files(tmp_path, [a, b]) != hash_files(tmp_path, [a, c])
