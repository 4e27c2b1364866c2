"""The guess that stands behind an unknown word."""

import pytest

from prefpipe.spelling import did_you_mean, nearest


def test_the_nearest_word_is_guessed_and_a_far_one_is_not() -> None:
    assert nearest("tempature", ["temperature", "top_p"]) == "temperature"
    assert nearest("zzz", ["temperature", "top_p"]) is None
    assert nearest("temprature", ["temperature"], cutoff=0.99) is None


@pytest.mark.slow
def test_a_guess_stands_in_brackets_and_nothing_where_there_is_none() -> None:
    assert did_you_mean("vlm", ["vllm"]) == " (did you mean `vllm`?)"
    assert did_you_mean("vlm", ["vllm"], quote="'") == " (did you mean 'vllm'?)"
    assert did_you_mean("zzz", ["vllm"]) == ""
    assert did_you_mean(3, ["vllm"]) == ""
