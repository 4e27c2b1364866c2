"""Refusals by their opening: phrases, what is none, and how often the rule agrees with people."""

import hashlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.refusals import OPENING_CHARS, is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "  Sorry, but I can't do that.",
        "SORRY, BUT NO.",
        "I apologize, but it's not something I can discuss.",
        "As an AI language model, I cannot provide medical advice.",
        "I cannot fulfill your request.",
        "**I'm not able to** share that.",
        "I am unable to assist with this.",
        "I must respectfully decline.",
        "I won't be able to write that.",
        "I'm not comfortable with this.",
        "It is not appropriate or ethical to ask this.",
        "I do not condone violence.",
        "> I can\u00b4t provide instructions",
    ],
)
def test_openings_that_refuse_are_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "\U0001f642",
        "\u5bf9\u4e0d\u8d77\uff0c\u6211\u4e0d\u80fd\u3002",  # a refusal in Chinese: the rule is English
        "Sure, here is how.",
        "I can't wait to share this!",
        "I cannot help but smile at that.",
        "It is appropriate to bow.",
        "I'm sorry to hear that. Here is a plan:",
        "I am sorry for your loss.",
        "Sorry about the delay: the answer is 4.",
        "There are several ways to kill a Python process.",
        "Tell him: you cannot provide what you do not have.",
        "x" * OPENING_CHARS + " I cannot help with that.",
    ],
)
def test_other_openings_are_no_refusals(text):
    assert not is_refusal(text)


@given(st.text())
def test_any_text_has_an_answer(text):
    assert is_refusal(text) in (True, False)


def test_a_long_opening_is_read_in_a_moment():
    assert not is_refusal("i just really " * 100_000)


def test_refusals_of_xstest_agree_with_people(data_dir):
    """1,156 responses of five models that people called full refusals or full compliance.

    The rule was written on the prompts whose id hashes to an even number; the other half measures it.
    """
    if not (data_dir / "xstest_pairs.parquet").exists():
        pytest.skip(f"no xstest_pairs.parquet in {data_dir}")
    labels = {}
    for row in pl.read_parquet(data_dir / "xstest_pairs.parquet").iter_rows(named=True):
        chosen_refuses = row["subset"] == "xstest-should-refuse"
        for side, refuses in (("chosen", chosen_refuses), ("rejected", not chosen_refuses)):
            labels[row["id"], row[f"{side}_model"], row[side]] = refuses
    assert len(labels) == 1156

    def rates(keys):
        told = [(is_refusal(key[2]), labels[key]) for key in keys]
        both = sum(found and refuses for found, refuses in told)
        return both / sum(found for found, _ in told), both / sum(refuses for _, refuses in told)

    unseen = [key for key in labels if int(hashlib.sha256(key[0].encode()).hexdigest(), 16) % 2]
    assert rates(labels) == (pytest.approx(588 / 595), pytest.approx(588 / 675))
    assert rates(unseen) == (pytest.approx(260 / 264), pytest.approx(260 / 306))
