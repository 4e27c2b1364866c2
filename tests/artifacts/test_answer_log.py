"""Answers of a part in one file: what was put is read, whatever happened to the file and whoever else wrote."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from prefpipe.artifacts.answer_cache import request_key
from prefpipe.artifacts.answer_log import AnswerLog
from prefpipe.errors import PrefpipeError


def question(number):
    return {"model": "m", "seed": number}


def answer(number):
    return {"text": f"אבג \ud83d {number}\n", "token_ids": [number], "logp": -0.5, "error": None}


def keep(folder, numbers):
    log = AnswerLog(folder)
    for number in numbers:
        log.put(question(number), answer(number))
    log.close()
    (path,) = folder.glob("*.jsonl")
    return path


def expected(numbers):
    return {request_key(question(number)): answer(number) for number in numbers}


def test_what_was_put_is_read_again_and_nothing_is_there_before_and_after(tmp_path):
    log = AnswerLog(tmp_path / "part")
    assert log.read() == {}
    keep(tmp_path / "part", range(3))
    assert log.read() == expected(range(3))
    log.remove()
    assert not (tmp_path / "part").exists()
    log.remove()


def test_wherever_a_kill_cuts_the_file_the_answers_before_are_read_and_later_ones_are_kept(
    tmp_path,
):
    path = keep(tmp_path, range(3))
    whole = path.read_bytes()
    ends = [place for place in range(len(whole)) if whole[place : place + 1] == b"\n"][1:]
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        n_whole = sum(end <= length for end in ends)
        assert AnswerLog(tmp_path).read() == expected(range(n_whole))
        keep(tmp_path, [7])
        assert AnswerLog(tmp_path).read() == expected([*range(n_whole), 7])


def test_a_changed_byte_loses_its_own_answer_alone(tmp_path):
    path = keep(tmp_path, range(3))
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"logp":-0.5', b'"logp":-0.6')
    path.write_bytes(b"\n".join(lines))
    assert AnswerLog(tmp_path).read() == expected([0, 2])


def test_the_latest_answer_counts_in_a_file_and_among_files(tmp_path):
    log = AnswerLog(tmp_path)
    log.put(question(1), {"text": "first"})
    log.put(question(1), {"text": "second"})
    log.close()
    assert AnswerLog(tmp_path).read() == {request_key(question(1)): {"text": "second"}}
    (path,) = tmp_path.glob("*.jsonl")
    path.rename(tmp_path / "another_machine.1.jsonl")
    later = AnswerLog(tmp_path)
    later.put(question(1), {"text": "third"})
    later.close()
    assert AnswerLog(tmp_path).read() == {request_key(question(1)): {"text": "third"}}


def test_threads_put_their_answers_side_by_side(tmp_path):
    log = AnswerLog(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: log.put(question(number), answer(number)), range(200)))
    log.close()
    assert AnswerLog(tmp_path).read() == expected(range(200))


def test_a_folder_that_takes_no_file_is_a_clear_error(tmp_path):
    (tmp_path / "part").write_text("in the way")
    with pytest.raises(PrefpipeError, match="part"):
        AnswerLog(tmp_path / "part").put(question(1), answer(1))
