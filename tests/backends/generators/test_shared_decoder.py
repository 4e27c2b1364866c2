"""Many threads, one batch: slots that stay full, the oldest call first, and every way in which it ends."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny_models import END_ID, FIRST_BYTE_ID, make_tiny_causal_lm
from transformers import AutoModelForCausalLM

from prefpipe.backends.generators.decoding import Decoder, Row
from prefpipe.backends.generators.shared_decoder import Sample, SharedDecoder
from prefpipe.backends.open_calls import NONE_OPEN
from prefpipe.backends.protocol import SamplingParams
from prefpipe.errors import EngineDeadError

PARAMS = SamplingParams(max_tokens=20)
LONG = SamplingParams(max_tokens=400)
WAIT_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


class Gated:
    """The model, which waits before each call until it is let through, or fails."""

    def __init__(self, model):
        self.model, self.device = model, model.device
        self.open, self.entered = threading.Event(), threading.Event()
        self.error = None
        self.n_rows = []

    def __call__(self, **inputs):
        self.entered.set()
        assert self.open.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        if inputs["input_ids"].shape[1] == 1:
            self.n_rows.append(len(inputs["input_ids"]))
        return self.model(**inputs)


def samples_of(number, n=4):
    """The samples of a call: two prompts of its own, of different lengths."""
    prompts = [
        tuple(FIRST_BYTE_ID + (7 * number + 3 * place) % 200 for place in range(length))
        for length in (3 + number % 5, 11)
    ]
    return [Sample(prompt, 100 * number + i, 1.0) for prompt in prompts for i in range(n // 2)]


def rows_of(call, samples, params):
    return [Row(call, place, *sample, params) for place, sample in enumerate(samples)]


def ids_of(sampled):
    return [each.token_ids for each in sampled]


def decode(ids):
    """A text in which a token is a digit."""
    return "".join(str(token % 10) for token in ids)


def in_thread(work):
    """Run in a daemon thread, which a test that fails does not wait for; return where its end is put."""
    outcome = SimpleNamespace(value=None, error=None)

    def target():
        try:
            outcome.value = work()
        except BaseException as error:
            outcome.error = error

    outcome.thread = threading.Thread(target=target, daemon=True)
    outcome.thread.start()
    return outcome


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rows_are_the_same_from_one_thread_and_from_many_in_any_order(model, batch_size):
    calls = [samples_of(number) for number in range(12)]
    alone = SharedDecoder(model, [END_ID], 5)
    expected = [alone.sample(samples, PARAMS) for samples in calls]

    shared = SharedDecoder(model, [END_ID], batch_size)
    order = torch.randperm(len(calls), generator=torch.Generator().manual_seed(batch_size)).tolist()
    with ThreadPoolExecutor(6) as threads:
        futures = {number: threads.submit(shared.sample, calls[number], PARAMS) for number in order}
    for number, samples in enumerate(expected):
        found = futures[number].result()
        assert ids_of(found) == ids_of(samples)
        for one, other in zip(found, samples, strict=True):
            assert one.logp == pytest.approx(other.logp, abs=1e-3)
            assert one.is_stopped == other.is_stopped
    assert any(each.is_stopped for samples in expected for each in samples)


class EndsAtOnce:
    """The model, which finds the end of sequence the likeliest token everywhere."""

    def __init__(self, model):
        self.model, self.device = model, model.device

    def __call__(self, **inputs):
        output = self.model(**inputs)
        output.logits[..., END_ID] += 100.0
        return output


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("min_tokens", [0, 1, 5, 19, 20])
def test_the_end_of_sequence_may_come_right_behind_min_tokens(model, min_tokens, temperature):
    samples = [each._replace(temperature=temperature) for each in samples_of(0)]
    decoder = SharedDecoder(EndsAtOnce(model), [END_ID], 3)
    for each in decoder.sample(samples, SamplingParams(20, min_tokens=min_tokens)):
        assert END_ID not in each.token_ids[:min_tokens]
        if min_tokens == 20:
            assert (len(each.token_ids), each.is_stopped) == (20, False)
        else:
            assert (len(each.token_ids), each.token_ids[-1]) == (min_tokens + 1, END_ID)
            assert each.is_stopped


def test_calls_with_other_settings_share_the_decoder(model):
    settings = [
        SamplingParams(7),
        SamplingParams(30, top_k=3),
        SamplingParams(20, top_p=0.5),
        SamplingParams(30),
        SamplingParams(1),
        SamplingParams(30, repetition_penalty=1.5),
        SamplingParams(12, presence_penalty=1.0, min_tokens=6),
        SamplingParams(40, frequency_penalty=0.5, min_p=0.2, ignore_eos=True),
        SamplingParams(60, repetition_penalty=0.7, stop=("7",)),
        SamplingParams(60, stop=("1", "23")),
    ]
    expected = [
        SharedDecoder(model, [END_ID], 4, decode).sample(samples_of(number), params)
        for number, params in enumerate(settings)
    ]
    assert any(
        each.is_stopped and each.token_ids[-1] != END_ID for each in [*expected[-2], *expected[-1]]
    ), "one ended at a stop text"
    shared = SharedDecoder(model, [END_ID], 4, decode)
    with ThreadPoolExecutor(len(settings)) as threads:
        found = list(threads.map(shared.sample, map(samples_of, range(len(settings))), settings))
    assert [ids_of(each) for each in found] == [ids_of(each) for each in expected]


def test_a_freed_slot_is_a_filled_slot(model):
    """Rows of many lengths: no step is computed with fewer rows than there are slots while rows wait."""
    gated = Gated(model)
    gated.open.set()
    decoder = Decoder(gated, [], 4)
    for call in range(10):
        params = SamplingParams(2 + 5 * (call % 4))
        decoder.add(rows_of(call, samples_of(call, n=2), params))
    n_waited, finished = [], []
    while not decoder.is_idle:
        finished += decoder.step()
        n_waited.append(decoder.n_waiting)
    assert len(finished) == 20
    full = [n for n, n_waiting in zip(gated.n_rows, n_waited, strict=False) if n_waiting]
    assert full == [4] * len(full)
    assert len(full) > 20


def test_the_oldest_call_goes_first_and_its_prompts_shortest_first(model):
    decoder = Decoder(model, [], 2)
    for call in range(5):
        decoder.add(rows_of(call, samples_of(call)[::-1], SamplingParams(3)))
    finished = []
    while not decoder.is_idle:
        finished += decoder.step()
    assert [each.row.call for each in finished] == sorted(each.row.call for each in finished)
    for call in range(5):
        lengths = [len(each.row.prompt) for each in finished if each.row.call == call]
        assert lengths == sorted(lengths)
        assert len(set(lengths)) == 2


def test_there_is_room_until_a_quarter_of_the_slots_waits(model):
    gated = Gated(model)
    shared = SharedDecoder(gated, [], 8)
    assert shared.has_room()
    first = in_thread(lambda: shared.sample(samples_of(0, n=8), LONG))
    assert gated.entered.wait(WAIT_S)
    second = in_thread(lambda: shared.sample(samples_of(1, n=2), LONG))
    wait_until(lambda: not shared.has_room())
    gated.open.set()
    for each in (first, second):
        each.thread.join(WAIT_S)
        assert each.error is None
    assert shared.has_room()
    shared.close()


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (RuntimeError("the device is lost"), None),
        (torch.OutOfMemoryError("CUDA out of memory"), "pass a smaller --batch-size"),
    ],
)
def test_a_failure_ends_every_call_that_waits_and_every_later_one(model, error, hint):
    gated = Gated(model)
    shared = SharedDecoder(gated, [END_ID], 4)
    waiting = [in_thread(lambda n=n: shared.sample(samples_of(n), LONG)) for n in range(3)]
    wait_until(lambda: len(shared._calls) == 3)
    gated.error = error
    gated.open.set()
    for each in waiting:
        each.thread.join(WAIT_S)
        assert isinstance(each.error, EngineDeadError)
        assert str(error) in each.error.message
        assert each.error.__cause__ is error
        assert each.error.hint == hint
    with pytest.raises(EngineDeadError, match=type(error).__name__):
        shared.sample(samples_of(9), PARAMS)
    shared.close()


def test_closing_in_the_middle_ends_the_calls_and_the_thread(model):
    shared = SharedDecoder(model, [], 4)
    waiting = [in_thread(lambda n=n: shared.sample(samples_of(n), LONG)) for n in range(5)]
    wait_until(lambda: len(shared._calls) == 5)
    thread = shared._thread
    shared.close()
    assert not thread.is_alive()
    for each in waiting:
        each.thread.join(WAIT_S)
        assert isinstance(each.error, EngineDeadError)
        assert "closed" in each.error.message
    with pytest.raises(EngineDeadError, match="the engine was closed"):
        shared.sample(samples_of(1), PARAMS)
    shared.close()


class Stop(Exception):  # noqa: N818 - as a handler of ours raises
    """What a signal's handler raises."""


def test_a_call_that_a_signal_ends_is_given_up_and_the_others_go_on(model):
    def stop(_number, _frame):
        raise Stop

    gated = Gated(model)
    shared = SharedDecoder(gated, [END_ID], 4)
    other = in_thread(lambda: shared.sample(samples_of(1), PARAMS))
    before = signal.signal(signal.SIGUSR2, stop)
    main = threading.main_thread().ident

    def send():
        wait_until(lambda: len(shared._calls) == 2)
        signal.pthread_kill(main, signal.SIGUSR2)

    threading.Thread(target=send, daemon=True).start()
    try:
        with pytest.raises(Stop):
            shared.sample(samples_of(2, n=40), LONG)
    finally:
        signal.signal(signal.SIGUSR2, before)
    gated.open.set()
    other.thread.join(WAIT_S)
    expected = SharedDecoder(model, [END_ID], 4).sample(samples_of(1), PARAMS)
    assert ids_of(other.value) == ids_of(expected)
    wait_until(lambda: not shared._is_running)
    assert sum(gated.n_rows) < 40 * 5, "the rows that were given up were not sampled"
    shared.close()


def interrupted_at(line, work):
    """Call `work` and raise `Stop` at its line-th line in the decoder, as a signal would; return whether it came so far.

    A line that comes again in the same frame does not count: it is the end of a `with` block, where
    Python handles no signal. A call that waits is ended by an alarm.
    """
    seen = set()
    was_reached = is_over = False

    def trace(frame, event, _argument):
        nonlocal was_reached, is_over
        if is_over or Path(frame.f_code.co_filename).name != "shared_decoder.py":
            return None
        if event == "line" and (frame, frame.f_lineno) not in seen:
            seen.add((frame, frame.f_lineno))
            if len(seen) == line:
                was_reached = is_over = True
                raise Stop
        return trace

    def stop(_number, _frame):
        nonlocal is_over
        is_over = True
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        sys.settrace(trace)
        with pytest.raises(Stop):
            work()
    finally:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return was_reached


@pytest.mark.slow
def test_a_signal_at_any_line_of_a_call_leaves_the_decoder_sound(model):
    """Whatever the call was about to do: other calls are answered, and its own rows are not sampled."""
    expected = ids_of(SharedDecoder(model, [END_ID], 4).sample(samples_of(1), PARAMS))
    for line in range(1, 100):
        gated = Gated(model)
        shared = SharedDecoder(gated, [END_ID], 4)
        was_reached = interrupted_at(line, lambda s=shared: s.sample(samples_of(2, n=40), LONG))
        gated.open.set()
        other = in_thread(lambda s=shared: s.sample(samples_of(1), PARAMS))
        other.thread.join(WAIT_S)
        assert other.error is None, line
        assert other.value is not None, line
        assert ids_of(other.value) == expected
        wait_until(lambda s=shared: not s._is_running)
        assert not shared._calls
        assert sum(gated.n_rows) < 40 * 5, line
        shared.close()
        if not was_reached:
            break
    assert line > 15


@pytest.mark.slow
def test_a_process_that_ends_while_rows_are_sampled_ends_in_order(folder):
    """A thread inside of torch would abort the interpreter's end."""
    code = f"""
import threading, time
from transformers import AutoModelForCausalLM
from prefpipe.backends.generators.shared_decoder import Sample, SharedDecoder
from prefpipe.backends.protocol import SamplingParams
shared = SharedDecoder(AutoModelForCausalLM.from_pretrained({str(folder)!r}).eval(), [], 4)
work = [Sample((5, 6, 7), seed, 1.0) for seed in range(4000)]
threading.Thread(target=shared.sample, args=(work, SamplingParams(400)), daemon=True).start()
time.sleep(1)
print(shared._is_running)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr[-2000:]


def test_rows_of_waiting_calls_are_counted_between_two_steps(model):
    seen = []

    def step(**inputs):
        seen.append(decoder.answered())
        return model(**inputs)

    step.device = model.device
    decoder = SharedDecoder(step, [END_ID], 2)
    assert decoder.answered() == NONE_OPEN
    decoder.sample(samples_of(0, n=6), PARAMS)
    assert {each.n_asked for each in seen} == {6}
    n_done = [each.n_done for each in seen]
    assert n_done[0] == 0
    assert n_done == sorted(n_done)
    # two rows at a time: the last step has one or two left
    assert n_done[-1] in (4, 5)
    assert decoder.answered() == NONE_OPEN
