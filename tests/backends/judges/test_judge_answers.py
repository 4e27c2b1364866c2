"""Several parts ask a judge at once: one question is asked once, and what each call took adds up."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from support.judge_server import running_judge

from prefpipe.artifacts.answer_cache import AnswerCache
from prefpipe.backends.chat_answers import ChatAnswer, read_completion
from prefpipe.backends.chat_client import ChatClient, ServerSettings
from prefpipe.backends.judges.answers import N_ASKED, N_FROM_CACHE, N_PROMPT_TOKENS, JudgeAnswers
from prefpipe.errors import ModelError


def body(text):
    messages = [{"role": "user", "content": text}]
    return {"model": "m", "messages": messages, "temperature": 0.0, "max_tokens": 8}


def is_usable(answer):
    return answer.status == "ok" and answer.text != "unclear"


class Source:
    """Answers all questions of a call after a while, in the calling thread."""

    def __init__(self, delay_s=0.05, error=None):
        self.delay_s, self.error = delay_s, error
        self.asked = Counter()
        self.n_opened = 0

    def open(self):
        self.n_opened += 1
        time.sleep(0.02)
        return self

    def complete(self, bodies, keep):
        answers = []
        for place, asked in enumerate(bodies):
            text = asked["messages"][0]["content"]
            self.asked[text] += 1
            completion = {
                "choices": [{"message": {"content": "unclear" if "?" in text else text}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1},
            }
            keep(place, completion)
            answers.append(read_completion(completion))
        time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return answers

    def has_room(self):
        return True

    def close(self):
        pass


def obtain_at_once(answers, calls):
    gate = threading.Barrier(len(calls))

    def obtain(texts):
        gate.wait()
        return answers.obtain([body(text) for text in texts], [is_usable] * len(texts))

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(obtain, calls))


CALLS = [["a", "b", "a"], ["b", "c"], ["c", "a", "d"], ["what?", "b"], ["what?", "e"]]


def test_a_question_of_several_calls_is_asked_once_and_figures_add_up(tmp_path):
    source = Source()
    answers = JudgeAnswers(source.open, AnswerCache(tmp_path))
    found = obtain_at_once(answers, CALLS)
    assert source.asked == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "what?": 1}
    assert source.n_opened == 1
    for texts, obtained in zip(CALLS, found, strict=True):
        assert [answer.text for answer in obtained.answers] == [
            "unclear" if "?" in text else text for text in texts
        ]
    total = Counter()
    for obtained in found:
        total.update(obtained.tally)

    one_by_one = JudgeAnswers(Source().open, AnswerCache(tmp_path / "one by one"))
    in_turn = Counter()
    for texts in CALLS:
        in_turn.update(one_by_one.obtain([body(t) for t in texts], [is_usable] * len(texts)).tally)
    assert total == in_turn
    assert (total[N_ASKED], total[N_PROMPT_TOKENS], total[N_FROM_CACHE]) == (6, 18, 4)


def test_an_error_ends_all_calls_that_ask_and_frees_what_they_had_claimed(tmp_path):
    source = Source(error=ModelError("the key is refused"))
    answers = JudgeAnswers(source.open, AnswerCache(tmp_path))
    errors = []

    def obtain(texts):
        try:
            answers.obtain([body(text) for text in texts], [is_usable] * len(texts))
        except ModelError as error:
            errors.append(error)

    threads = [threading.Thread(target=obtain, args=(["a?", "b?"],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert len(errors) == 3
    source.error = None
    assert isinstance(answers.obtain([body("a?")], [is_usable]).answers[0], ChatAnswer)


def test_until_a_question_had_to_be_asked_one_call_at_a_time_is_enough(tmp_path):
    source = Source(delay_s=0.3)
    answers = JudgeAnswers(source.open, AnswerCache(tmp_path))
    assert answers.has_room()
    cached = AnswerCache(tmp_path)
    cached.put(body("kept"), {"choices": [{"message": {"content": "A"}}]})
    assert answers.obtain([body("kept")], [is_usable]).answers[0].text == "A"
    assert source.n_opened == 0
    assert answers.has_room()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(answers.obtain, [body("a")], [is_usable])
        time.sleep(0.1)
        assert answers.has_room(), "the source is open, and says so itself"
        call.result()


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["pace", "patience"])
def test_what_a_server_asks_for_holds_over_all_calls(tmp_path, limit):
    """600 requests a minute are one every 0.1 s, and after a Retry-After nobody sends, whichever part asks."""
    faults = (
        {} if limit == "pace" else {"question 3": [("status", 429, "slow", {"Retry-After": "1"})]}
    )
    with running_judge(answer=lambda _prompt: "A", faults=faults, delay_s=0.01) as server:
        settings = ServerSettings(
            server.url, concurrency=8, requests_per_minute=600 if limit == "pace" else None
        )
        client = ChatClient(settings)
        answers = JudgeAnswers(lambda: client, AnswerCache(tmp_path))
        obtain_at_once(answers, [[f"question {3 * n + i}" for i in range(3)] for n in range(5)])
        client.close()
        arrivals = sorted(server.arrivals)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    if limit == "pace":
        assert len(arrivals) == 15
        assert arrivals[-1] - arrivals[0] > 14 * 0.1 - 0.05
    else:
        assert len(arrivals) == 16
        assert max(gaps) > 0.8, "what was on its way arrives, and then nothing for a second"
