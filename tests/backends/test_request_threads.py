"""The slots of a server over the calls of several threads: who is next, who waits, how it ends."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from prefpipe.backends.open_calls import NONE_OPEN, Answered
from prefpipe.backends.request_threads import GivenUpError, RequestThreads, RunControl
from prefpipe.errors import ModelError, StoppedEarly


class Server:
    """Notes which requests are being asked, in the order in which they leave, and answers when told."""

    def __init__(self):
        self.lock = threading.Lock()
        self.asked, self.n_now, self.n_most = [], 0, 0
        self.may_answer = threading.Semaphore(0)

    def asking(self, call):
        def ask_one(place):
            with self.lock:
                self.asked.append((call, place))
                self.n_now += 1
                self.n_most = max(self.n_most, self.n_now)
            self.may_answer.acquire()
            with self.lock:
                self.n_now -= 1
            return call, place

        return ask_one

    def answer(self, n):
        self.may_answer.release(n)


def wait_until(condition):
    __tracebackhide__ = True
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def opened(concurrency, run=None):
    threads = RequestThreads(concurrency, run or RunControl())
    threads.open_all_slots()
    return threads


class Callers:
    """Calls, each in a thread that nobody waits for, so that a test that fails ends."""

    @staticmethod
    def submit(function, *arguments):
        future = Future()

        def call():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=call, daemon=True).start()
        return future


@pytest.fixture
def callers():
    return Callers()


def test_the_oldest_call_goes_first_and_a_call_that_drains_leaves_no_slot_empty(callers):
    server, threads = Server(), opened(4)
    first = callers.submit(threads.ask, server.asking("first"), 6)
    wait_until(lambda: len(server.asked) == 4)
    second = callers.submit(threads.ask, server.asking("second"), 6)
    time.sleep(0.05)
    assert len(server.asked) == 4, "no more than there are slots"

    for n_answered in range(1, 9):
        server.answer(1)
        wait_until(lambda n=n_answered: len(server.asked) == 4 + n)
    assert server.asked == [("first", i) for i in range(6)] + [("second", i) for i in range(6)]
    server.answer(4)
    assert first.result() == [("first", i) for i in range(6)]
    assert second.result() == [("second", i) for i in range(6)]
    assert server.n_most == 4
    threads.finish()


def test_until_the_server_has_shown_that_it_works_one_request_of_all_calls_is_on_its_way(callers):
    server, threads = Server(), RequestThreads(4, RunControl())
    calls = [callers.submit(threads.ask, server.asking(name), 3) for name in "abc"]
    wait_until(lambda: len(server.asked) == 1)
    server.answer(1)
    wait_until(lambda: len(server.asked) == 2)
    time.sleep(0.05)
    assert (len(server.asked), server.n_most) == (2, 1)

    threads.open_all_slots()
    wait_until(lambda: server.n_now == 4)
    server.answer(9)
    assert sorted(answer for call in calls for answer in call.result()) == [
        (name, i) for name in "abc" for i in range(3)
    ]
    threads.finish()


def test_there_is_room_while_fewer_wait_than_there_are_slots(callers):
    server, threads = Server(), opened(4)
    assert threads.has_room()
    call = callers.submit(threads.ask, server.asking("a"), 8)
    wait_until(lambda: len(server.asked) == 4)
    assert not threads.has_room(), "four wait"
    server.answer(1)
    wait_until(lambda: len(server.asked) == 5)
    assert threads.has_room(), "three wait"
    server.answer(7)
    call.result()
    threads.finish()


def test_a_slot_is_free_while_its_answer_is_being_kept():
    """Ten answers that take 0.1 s each to keep, one slot: they are kept at the same time, two by two."""
    threads = opened(1)
    on_the_way = []

    def ask_one(place):
        on_the_way.append(threads._n_taken)
        threads.free_slot()
        time.sleep(0.1)
        return place

    started = time.monotonic()
    assert threads.ask(ask_one, 10) == list(range(10))
    assert 0.45 < time.monotonic() - started < 0.9
    assert set(on_the_way) == {1}
    threads.finish()


def test_a_hopeless_failure_ends_all_calls_with_the_same_error_and_nothing_new_is_sent(callers):
    """One call is on its way, another is half sent, the third one's first request shows that there is no use."""
    server, threads = Server(), opened(4)
    may_fail = threading.Event()

    def refused(_place):
        server.asked.append(("fails", 0))
        may_fail.wait(60)
        raise ModelError("the key is refused")

    whole = callers.submit(threads.ask, server.asking("whole"), 1)
    wait_until(lambda: len(server.asked) == 1)
    half = callers.submit(threads.ask, server.asking("half"), 2)
    wait_until(lambda: len(server.asked) == 3)
    fails = callers.submit(threads.ask, refused, 2)
    wait_until(lambda: len(server.asked) == 4)
    waits = callers.submit(threads.ask, server.asking("waits"), 2)
    may_fail.set()

    error = fails.exception(timeout=60)
    assert isinstance(error, ModelError)
    assert waits.exception(timeout=60) is error
    assert not whole.done()
    assert not half.done(), "what is on its way is waited for"
    server.answer(3)
    assert whole.result(timeout=60) == [("whole", 0)], "a call that has its answers returns them"
    assert half.result(timeout=60) == [("half", 0), ("half", 1)]
    assert len(server.asked) == 4
    with pytest.raises(ModelError, match="the key is refused"):
        threads.ask(server.asking("late"), 1)


def test_at_a_stop_what_is_on_its_way_is_waited_for_and_a_call_that_becomes_whole_is_returned(
    callers,
):
    server = Server()
    stop = threading.Event()
    threads = opened(4, RunControl(should_stop=stop.is_set))
    whole = callers.submit(threads.ask, server.asking("whole"), 2)
    wait_until(lambda: len(server.asked) == 2)
    cut = callers.submit(threads.ask, server.asking("cut"), 4)
    wait_until(lambda: len(server.asked) == 4)
    not_begun = callers.submit(threads.ask, server.asking("not begun"), 1)

    stop.set()
    assert isinstance(not_begun.exception(timeout=60), StoppedEarly)
    assert not whole.done()
    assert not cut.done(), "its answers are on their way"
    server.answer(4)
    assert whole.result() == [("whole", 0), ("whole", 1)]
    assert isinstance(cut.exception(), StoppedEarly)
    assert len(server.asked) == 4, "nothing is sent after the stop"


@pytest.mark.parametrize("how", ["grace", "hurried"])
def test_the_wait_ends_with_the_grace_or_with_a_further_signal(callers, how):
    server, lines = Server(), []
    is_hurried = threading.Event()
    control = RunControl(
        lines.append,
        lambda: bool(server.asked),
        grace_s=0.5 if how == "grace" else 60.0,
        is_hurried=is_hurried.is_set,
    )
    threads = opened(2, control)

    def ask_one(place):
        with threads.on_the_way():
            return server.asking("a")(place)

    started = time.monotonic()
    call = callers.submit(threads.ask, ask_one, 2)
    if how == "hurried":
        time.sleep(0.5)
        is_hurried.set()
    assert isinstance(call.exception(timeout=60), StoppedEarly)
    assert 0.4 < time.monotonic() - started < 30
    threads.finish()
    assert time.monotonic() - started < 30, "nor does the end wait"
    assert "pending answers, which are paid for" in lines[0]
    assert len(lines) == 1
    server.answer(2)


def test_the_end_waits_for_what_an_interrupted_run_has_on_its_way(callers):
    server, threads = Server(), opened(2)

    def ask_one(place):
        with threads.on_the_way():
            return server.asking("a")(place)

    call = callers.submit(threads.ask, ask_one, 2)
    wait_until(lambda: server.n_now == 2)
    end = callers.submit(threads.finish)
    time.sleep(0.2)
    assert not end.done()
    server.answer(2)
    end.result(timeout=60)
    assert call.result() == [("a", 0), ("a", 1)]


def test_a_request_between_two_tries_is_given_up_and_is_no_answer(callers):
    stop = threading.Event()
    threads = opened(1, RunControl(should_stop=stop.is_set))

    def ask_one(_place):
        threads.stop.wait(60)
        raise GivenUpError

    call = callers.submit(threads.ask, ask_one, 1)
    time.sleep(0.05)
    stop.set()
    assert isinstance(call.exception(timeout=60), StoppedEarly)


def test_many_small_calls_are_all_answered():
    """No wake-up is lost: 200 calls of 1 to 7 requests from 20 threads, at once."""
    threads = opened(5)
    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(threads.ask, lambda place: place * 2, 1 + i % 7) for i in range(200)]
        for i, call in enumerate(calls):
            assert call.result(timeout=60) == [2 * place for place in range(1 + i % 7)]
    assert threads._n_taken == 0
    threads.finish()


@pytest.mark.parametrize("n_allowed", [0, 3])
def test_a_system_that_allows_few_threads_is_used_with_as_many(monkeypatch, n_allowed):
    threads, started = opened(8), []
    start = threading.Thread.start

    def start_or_refuse(thread):
        if len(started) == n_allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    if n_allowed:
        assert threads.ask(lambda place: place, 50) == list(range(50))
    else:
        with pytest.raises(ModelError, match="can't start new thread"):
            threads.ask(lambda place: place, 50)
    threads.finish()


def test_answers_of_open_calls_are_counted(callers):
    server, threads = Server(), opened(4)
    assert threads.answered() == NONE_OPEN
    first = callers.submit(threads.ask, server.asking("first"), 6)
    wait_until(lambda: len(server.asked) == 4)
    assert threads.answered() == Answered(0, 6)
    server.answer(2)
    wait_until(lambda: threads.answered() == Answered(2, 6))
    second = callers.submit(threads.ask, server.asking("second"), 10)
    wait_until(lambda: threads.answered() == Answered(2, 16))
    server.answer(14)
    first.result()
    second.result()
    assert threads.answered() == NONE_OPEN
    threads.finish()
