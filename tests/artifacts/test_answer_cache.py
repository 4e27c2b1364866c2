"""Paid answers on disk: found by content, whole or not there."""

import json
import os

import pytest

from prefpipe.artifacts.answer_cache import AnswerCache, request_key
from prefpipe.errors import UsageError

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Ωhé? 🙂"}], "temperature": 0.0}
ANSWER = {
    "choices": [{"message": {"content": "half of a pair: \ud83d"}}],
    "usage": {"prompt_tokens": 3},
}


def test_an_answer_comes_back_as_it_was(tmp_path):
    cache = AnswerCache(tmp_path)
    assert cache.get(REQUEST) is None
    cache.put(REQUEST, ANSWER)
    assert cache.get(REQUEST) == ANSWER
    assert AnswerCache(tmp_path).get(dict(reversed(REQUEST.items()))) == ANSWER
    cache.put(REQUEST, {"choices": []})
    assert cache.get(REQUEST) == {"choices": []}


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"temperature": 0.5}, {"messages": []}, {"top_logprobs": 20}]
)
def test_another_request_is_another_key(tmp_path, change):
    AnswerCache(tmp_path).put(REQUEST, ANSWER)
    assert AnswerCache(tmp_path).get(REQUEST | change) is None


def test_a_person_can_read_what_was_asked(tmp_path):
    AnswerCache(tmp_path).put(REQUEST, ANSWER)
    (path,) = tmp_path.rglob("*.json")
    assert path == tmp_path / request_key(REQUEST)[:2] / f"{request_key(REQUEST)}.json"
    assert "Ωhé? 🙂" in path.read_text(errors="replace")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda _data: b"",
        lambda data: data.replace(b"half", b"hald"),
        lambda data: data.replace(b'"temperature": 0.0', b'"temperature": 1.0'),
        lambda _data: b"[]",
    ],
)
def test_a_damaged_file_is_no_answer(tmp_path, damage):
    cache = AnswerCache(tmp_path)
    cache.put(REQUEST, ANSWER)
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get(REQUEST) is None


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    from prefpipe.artifacts.atomic import MACHINE

    cache = AnswerCache(tmp_path)
    cache.put(REQUEST, ANSWER)
    (path,) = tmp_path.rglob("*.json")
    dead, alive = (
        path.with_name(f".x.json.{MACHINE}.{pid}.tmp") for pid in (2**22 + 1, os.getpid())
    )
    for left in (dead, alive):
        left.write_text(json.dumps({}))
    cache.sweep()
    assert (dead.exists(), alive.exists(), path.exists()) == (False, True, True)


def test_a_folder_that_takes_no_file_is_refused_and_one_that_does_is_left_as_it_was(tmp_path):
    AnswerCache(tmp_path / "new" / "folder").require_writable()
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="answers cannot be cached in") as caught:
            AnswerCache(place).require_writable()
        assert caught.value.hint == "choose another folder with --cache"
