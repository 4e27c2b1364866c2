"""The thread between many callers and one vLLM engine; these tests need no vLLM.

The engine here is a script with vLLM's two methods: what it does in which step is in the test's
hand. `test_vllm_threads.py` has the real one.
"""

import threading
import time
from types import SimpleNamespace

import pytest

from prefpipe.backends.generators.vllm_stream import EngineRequest, Refused, VllmStream
from prefpipe.backends.open_calls import NONE_OPEN, Answered
from prefpipe.errors import EngineDeadError


class ScriptedEngine:
    """Ends the oldest ``n_slots`` requests in each step, when the test lets it step."""

    def __init__(self, n_slots):
        self.n_slots, self.steps = n_slots, threading.Semaphore(0)
        self.inside, self.added, self.most_inside = [], [], 0
        self.dies_with, self.ends_with = None, "stop"

    def add_request(self, request_id, prompt, params, *, lora_request):
        if prompt == "refused":
            raise ValueError("not that one")
        if prompt == "deadly":
            raise KeyError("a bug")
        self.inside.append((request_id, prompt))
        self.added.append(prompt)
        self.most_inside = max(self.most_inside, len(self.inside))

    def step(self):
        self.steps.acquire()
        if self.dies_with is not None:
            raise self.dies_with
        done, self.inside = self.inside[: self.n_slots], self.inside[self.n_slots :]
        outputs = []
        for request_id, prompt in reversed(done):
            completion = SimpleNamespace(finish_reason=self.ends_with, prompt=prompt)
            outputs.append(
                SimpleNamespace(request_id=request_id, finished=True, outputs=[completion])
            )
        unfinished = SimpleNamespace(request_id="none", finished=False, outputs=[])
        return [unfinished, *outputs]


@pytest.fixture
def engine():
    return ScriptedEngine(n_slots=4)


@pytest.fixture
def stream(engine):
    stream = VllmStream(engine, n_slots=4, refusals=(ValueError,), lora=None)
    yield stream
    engine.steps.release(10_000)
    stream.close()
    stream._thread.join(60)
    assert not stream._thread.is_alive()


def requests(*prompts):
    return [EngineRequest(prompt, None) for prompt in prompts]


def numbered(letter, n):
    return requests(*(f"{letter}{number}" for number in range(n)))


class Caller(threading.Thread):
    """Asks in a thread, and keeps what came of it."""

    def __init__(self, stream, asked):
        super().__init__(daemon=True)
        self.stream, self.asked, self.answers, self.error = stream, asked, None, None
        self.start()

    def run(self):
        try:
            self.answers = self.stream.answer(self.asked)
        except EngineDeadError as error:
            self.error = error

    def ended(self):
        self.join(60)
        assert not self.is_alive()
        return self


def n_offered(stream, engine):
    """Requests that have come this far. How many of them vLLM has depends on who was first."""
    return len(stream._line) + len(engine.added)


def eventually(holds):
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError("not within 5 s")


def test_every_caller_gets_its_own_answers_in_its_order(stream, engine):
    engine.steps.release(10_000)
    callers = [Caller(stream, numbered(letter, n)) for n, letter in enumerate("abcdefgh", 1)]
    for caller in callers:
        answers = caller.ended().answers
        assert [answer.prompt for answer in answers] == [asked.prompt for asked in caller.asked]


def test_no_request_is_no_wait(stream):
    assert stream.answer([]) == []


def test_requests_of_earlier_calls_go_first_and_vllm_holds_twice_its_slots(stream, engine):
    first = Caller(stream, numbered("a", 10))
    eventually(lambda: len(engine.added) == 8)
    second = Caller(stream, numbered("b", 5))
    eventually(lambda: len(stream._line) == 7)

    engine.steps.release(10_000)

    first.ended(), second.ended()
    assert engine.added == [request.prompt for request in first.asked + second.asked]
    assert engine.most_inside == 8


def test_a_call_is_answered_while_a_later_one_still_runs(stream, engine):
    first, second = Caller(stream, numbered("a", 4)), None
    eventually(lambda: len(engine.added) == 4)
    second = Caller(stream, numbered("b", 4))
    eventually(lambda: len(stream._line) == 4)
    engine.steps.release()
    assert [answer.prompt for answer in first.ended().answers] == ["a0", "a1", "a2", "a3"]
    eventually(lambda: len(engine.added) == 8)
    assert second.is_alive()


def test_a_refused_request_is_an_answer_and_its_neighbours_are_sampled(stream, engine):
    engine.steps.release(10_000)
    answers = stream.answer(requests("a", "refused", "b"))
    assert [answers[0].prompt, answers[2].prompt] == ["a", "b"]
    assert answers[1] == Refused("not that one")


def test_a_call_of_refused_requests_alone_does_not_wait_for_a_step(stream, engine):
    assert stream.answer(requests("refused", "refused")) == [Refused("not that one")] * 2
    engine.steps.release(10_000)
    assert stream.answer(requests("a"))[0].prompt == "a"


def test_room_is_there_while_less_than_a_quarter_of_the_slots_waits(stream, engine):
    assert stream.has_room()
    Caller(stream, numbered("a", 4))
    eventually(lambda: len(engine.added) == 4)
    assert stream.has_room(), "none waits"
    Caller(stream, numbered("b", 1))
    eventually(lambda: not stream.has_room())
    engine.steps.release()
    eventually(stream.has_room)


@pytest.mark.parametrize("prompt", ["deadly", "a"])
def test_an_engine_that_fails_ends_all_calls_and_all_later_ones(stream, engine, prompt):
    waiting = [Caller(stream, numbered("a", 6)), Caller(stream, numbered("b", 6))]
    eventually(lambda: n_offered(stream, engine) == 12)
    if prompt == "deadly":
        waiting.append(Caller(stream, requests(prompt)))
        eventually(lambda: n_offered(stream, engine) == 13)
    else:
        engine.dies_with = RuntimeError("out of memory")
    engine.steps.release(3)

    said = {"deadly": "KeyError: 'a bug'", "a": "RuntimeError: out of memory"}[prompt]
    errors = [caller.ended().error for caller in waiting]
    # What was sampled before is an answer.
    errors = [error for error in errors if error is not None]
    assert errors
    assert {error.message for error in errors} == {f"the vLLM engine failed: {said}"}
    assert len({id(error) for error in errors}) == len(errors), "each thread has its own"
    with pytest.raises(EngineDeadError, match="the vLLM engine failed") as caught:
        stream.answer(requests("a"))
    assert "run the same command again" in caught.value.hint
    assert stream.has_room(), "the next part must learn of it"


def test_what_an_engine_aborts_because_it_was_told_to_stop_is_no_answer(stream, engine):
    """A signal to the whole job reaches vLLM's process as well: its rows would be errors."""
    engine.ends_with = "abort"
    caller = Caller(stream, numbered("a", 2))
    engine.steps.release()
    assert "stopped from outside" in caller.ended().error.message


def test_a_death_that_is_noticed_elsewhere_ends_calls_whose_step_never_returns(stream, engine):
    waiting = [Caller(stream, numbered("a", 6)), Caller(stream, numbered("b", 6))]
    eventually(lambda: n_offered(stream, engine) == 12)
    stream.end("the vLLM engine died: killed by signal 9")
    for caller in waiting:
        assert "killed by signal 9" in caller.ended().error.message
    # its thread still waits for the step
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 1


def test_close_ends_the_calls_that_wait(stream, engine):
    waiting = [Caller(stream, numbered("a", 6)), Caller(stream, numbered("b", 6))]
    eventually(lambda: n_offered(stream, engine) == 12)
    closer = threading.Thread(target=stream.close, daemon=True)
    closer.start()
    for caller in waiting:
        assert caller.ended().error.message == "the vLLM engine was closed"
    engine.steps.release()
    closer.join(60)
    assert not stream._thread.is_alive()
    with pytest.raises(EngineDeadError, match="was closed"):
        stream.answer(requests("a"))


def test_many_threads_with_many_calls_lose_nothing(stream, engine):
    engine.steps.release(100_000)
    wrong = []

    def ask(letter):
        for number in range(40):
            asked = numbered(f"{letter}{number}-", number % 7)
            answers = stream.answer(asked)
            if [answer.prompt for answer in answers] != [request.prompt for request in asked]:
                wrong.append(letter)

    threads = [threading.Thread(target=ask, args=(letter,), daemon=True) for letter in "abcdefghij"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    assert len(engine.added) == 10 * sum(number % 7 for number in range(40))


def test_answers_of_waiting_calls_are_counted(stream, engine):
    assert stream.answered() == NONE_OPEN
    caller = Caller(stream, numbered("a", 10))
    eventually(lambda: stream.answered() == Answered(0, 10))
    engine.steps.release(1)
    # how many requests were inside in that step depends on who was first
    eventually(lambda: 1 <= stream.answered().n_done <= 4)
    assert stream.answered().n_asked == 10
    engine.steps.release(10_000)
    assert len(caller.ended().answers) == 10
    assert stream.answered() == NONE_OPEN
