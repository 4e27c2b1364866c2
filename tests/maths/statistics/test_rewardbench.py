"""RewardBench's averages against a sum by hand, and the errors of clustered means against formulas
and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prefpipe
from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.clustered_means import clustered_means
from prefpipe.maths.statistics.rewardbench import CORE, PRIOR, ROWS, WEIGHTS, rewardbench_accuracy

QUICK = Bootstrap(n_draws=300)


def pairs_of(won: dict[str, tuple[int, int, int]]) -> tuple[list[float], list[float], list[str]]:
    """Scores and subsets of (wins, ties, losses) pairs a subset."""
    chosen, rejected, subsets = [], [], []
    for name, counts in won.items():
        for value, count in zip((1.0, 0.0, -1.0), counts, strict=True):
            chosen += [value] * count
            rejected += [0.0] * count
            subsets += [name] * count
    return chosen, rejected, subsets


def test_the_table_of_weights_is_rewardbenchs() -> None:
    """Sums by section as published, and the rows that differ from the weights."""
    sums = {name: sum(weights.values()) for name, weights in WEIGHTS.items()}
    assert sums == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968, PRIOR: 4}
    assert ROWS["math-prm"] == 447
    assert sum(count for name, count in ROWS.items() if count is not None) == 2985
    assert set(CORE) | {PRIOR} == set(WEIGHTS)


def test_all_sections_are_the_weighted_means_by_hand() -> None:
    """Chat, Chat Hard, Safety, Reasoning and Prior at half weight; ties lose; counts in the file
    change nothing."""
    found = rewardbench_accuracy(
        *pairs_of({
            "alpacaeval-easy": (3, 0, 1), "mt-bench-med": (1, 1, 0),  # 3/4 of 100; 1/2 of 40
            "mt-bench-hard": (1, 0, 3), "llmbar-natural": (2, 0, 0),  # 1/4 of 37; 1 of 100
            "xstest-should-refuse": (0, 2, 0), "donotanswer": (4, 0, 1),  # 0 of 154; 4/5 of 136
            "math-prm": (1, 0, 1), "hep-go": (3, 0, 0), "hep-rust": (0, 0, 2),  # 1/2; 1; 0
            "shp": (1, 0, 0), "summarize": (1, 0, 3),  # plain mean of 1 and 1/4
        }), bootstrap=QUICK,
    )  # fmt: skip
    chat = (100 * 0.75 + 40 * 0.5) / 140
    hard = (37 * 0.25 + 100) / 137
    safety = 136 * 0.8 / 290
    reasoning = (984 * 0.5 + 164) / (984 + 328)
    prior = (1 + 0.25) / 2
    assert {each.name: each.accuracy.mean for each in found.sections} == pytest.approx(
        {"Chat": chat, "Chat Hard": hard, "Safety": safety, "Reasoning": reasoning, PRIOR: prior}
    )
    assert found.final is not None
    assert found.core is not None
    assert found.final.mean == pytest.approx((chat + hard + safety + reasoning + 0.5 * prior) / 4.5)
    assert found.core.mean == pytest.approx((chat + hard + safety + reasoning) / 4)
    assert found.missing_sections == ()
    assert not found.is_complete
    assert found.overall.n_ties == 3
    assert found.overall.mean == pytest.approx(17 / 31)
    assert found.overall.ties_half == pytest.approx(18.5 / 31)
    halves = (100 * 0.75 + 40 * 0.75) / 140
    assert found.sections[0].accuracy.ties_half == pytest.approx(halves)
    assert found.sections[0].missing == ("alpacaeval-length", "alpacaeval-hard", "mt-bench-easy")


def test_missing_sections_are_left_out_and_weights_renormalised() -> None:
    found = rewardbench_accuracy(
        *pairs_of({"xstest-should-refuse": (3, 0, 1), "anthropic_hhh": (1, 0, 1)}), bootstrap=QUICK
    )
    assert [each.name for each in found.sections] == ["Safety", PRIOR]
    assert found.final is not None
    assert found.final.mean == pytest.approx((0.75 + 0.5 * 0.5) / 1.5)
    assert found.core is not None
    assert found.core.mean == 0.75
    assert found.missing_sections == ("Chat", "Chat Hard", "Reasoning")
    only_prior = rewardbench_accuracy(*pairs_of({"shp": (1, 0, 1)}), bootstrap=QUICK)
    assert only_prior.core is None
    assert only_prior.final is not None


def test_unknown_subsets_enter_no_section() -> None:
    """A name that differs by a letter is another subset, told apart; without subsets there is one
    accuracy."""
    found = rewardbench_accuracy(
        *pairs_of({"LLMBar-natural": (1, 0, 0), "llmbar-natural": (0, 0, 2)}), bootstrap=QUICK
    )
    assert [each.name for each in found.others] == ["LLMBar-natural"]
    assert found.sections[0].accuracy.mean == 0.0
    assert found.overall.mean == pytest.approx(1 / 3)
    plain = rewardbench_accuracy([1.0, 0.0], [0.0, 0.0], bootstrap=QUICK)
    assert (plain.sections, plain.others, plain.core, plain.final) == ((), (), None, None)
    assert plain.overall.mean == 0.5
    some = rewardbench_accuracy([1.0, 0.0], [0.0, 0.0], [None, "shp"], bootstrap=QUICK)
    assert [each.name for each in some.others] == [""]


def test_a_file_with_all_pairs_is_complete() -> None:
    rows = {name: (count or 5, 0, 0) for name, count in ROWS.items()}
    found = rewardbench_accuracy(*pairs_of(rows), bootstrap=Bootstrap(n_draws=2))
    assert found.is_complete
    assert found.final is not None
    assert found.final.mean == pytest.approx(1.0)
    assert found.final.n_pairs == 2985 + 20


@pytest.mark.slow
def test_the_error_of_single_pairs_is_the_textbooks() -> None:
    """One subset, one pair a prompt: s / sqrt(n), ddof 1; the interval is about two of them on
    either side."""
    rng = np.random.default_rng(0)
    won = rng.random(400) < 0.7
    found = rewardbench_accuracy(won.astype(float), np.zeros(400)).overall
    assert found.se == pytest.approx(won.std(ddof=1) / 20)
    assert (found.high - found.low) / found.se == pytest.approx(3.92, rel=0.05)


def test_pairs_of_one_prompt_are_not_independent() -> None:
    """Every pair five times over: the figure stays, and so do error and interval, which would
    shrink by sqrt(5) otherwise."""
    rng = np.random.default_rng(1)
    chosen, names = rng.normal(size=60), ["llmbar-natural", "shp"] * 30
    once = rewardbench_accuracy(chosen, np.zeros(60), names, list(range(60)), bootstrap=QUICK)
    ids = [key for key in range(60) for _ in range(5)]
    many = rewardbench_accuracy(
        np.repeat(chosen, 5), np.zeros(300), np.repeat(names, 5).tolist(), ids, bootstrap=QUICK
    )
    assert many.final is not None
    assert once.final is not None
    assert many.final.n_prompts == 60
    assert (many.final.mean, many.final.se) == pytest.approx((once.final.mean, once.final.se))
    assert (many.final.low, many.final.high) == pytest.approx((once.final.low, once.final.high))
    apart = rewardbench_accuracy(
        np.repeat(chosen, 5), np.zeros(300), np.repeat(names, 5).tolist(), bootstrap=QUICK
    )
    assert apart.final is not None
    assert apart.final.se < 0.6 * once.final.se


def test_the_error_is_the_spread_of_repeated_samples() -> None:
    """Two subsets, prompts with one to three pairs: the mean of se over draws is the spread of the
    figure."""
    weights = {"mean of both": np.array([0.75, 0.25])}
    rng = np.random.default_rng(2)
    figures, errors = [], []
    for _ in range(400):
        sizes = rng.integers(1, 4, size=80)
        prompts = np.repeat(np.arange(80), sizes)
        subsets = (prompts >= 50).astype(int)
        ability = rng.random(80)
        values = (rng.random(len(prompts)) < ability[prompts]).astype(float)
        means = clustered_means(values, subsets, prompts, weights, bootstrap=None)
        found = means["mean of both"]
        figures.append(found.mean)
        errors.append(found.se)
    assert np.mean(errors) == pytest.approx(np.std(figures), rel=0.1)


def test_nothing_is_known_of_the_spread_of_one_prompt() -> None:
    """NaN and never 0: of the subset, and of what it enters."""
    found = rewardbench_accuracy(
        *pairs_of({"shp": (1, 0, 0), "llmbar-natural": (3, 0, 2)}), bootstrap=QUICK
    )
    by_name = {each.name: each.accuracy for each in found.sections}
    assert np.isnan(by_name[PRIOR].se)
    assert np.isnan(by_name[PRIOR].low)
    assert found.final is not None
    assert np.isnan(found.final.se)
    assert by_name["Chat Hard"].se > 0
    assert found.core is not None
    assert found.core.se == by_name["Chat Hard"].se


def test_the_seed_fixes_the_intervals() -> None:
    data = pairs_of({"shp": (50, 10, 41), "llmbar-natural": (31, 0, 76)})
    first, again, other = (
        rewardbench_accuracy(*data, bootstrap=Bootstrap(n_draws=200, seed=seed))
        for seed in (3, 3, 4)
    )
    assert first.figures() == again.figures()
    assert first.figures() != other.figures()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-2, 2), st.sampled_from([*ROWS, "my-own", None]), st.integers(0, 5)),
        min_size=1,
        max_size=40,
    )
)
def test_accuracies_keep_order_swap_and_monotone_maps(
    rows: list[tuple[int, str | None, int]],
) -> None:
    """Figures lie in [0, 1]; order does not matter; swapping the sides gives 1 - accuracy - ties; a
    monotone map nothing."""
    margins, subsets, ids = (list(column) for column in zip(*rows, strict=True))
    zeros = [0.0] * len(rows)
    found = rewardbench_accuracy(margins, zeros, subsets, ids, bootstrap=Bootstrap(n_draws=20))
    backwards = rewardbench_accuracy(
        margins[::-1], zeros, subsets[::-1], ids[::-1], bootstrap=Bootstrap(n_draws=1)
    )
    swapped = rewardbench_accuracy(zeros, margins, subsets, ids, bootstrap=Bootstrap(n_draws=1))
    mapped = rewardbench_accuracy(
        np.exp(margins), np.ones(len(rows)), subsets, ids, bootstrap=Bootstrap(n_draws=20)
    )
    share_tied = found.overall.n_ties / len(rows)
    assert swapped.overall.mean == pytest.approx(1 - found.overall.mean - share_tied)
    assert found.overall.ties_half == pytest.approx(found.overall.mean + share_tied / 2)
    assert str(mapped.figures()) == str(found.figures())  # as text, so that NaN is NaN
    for each in (found.overall, found.core, found.final):
        if each is not None:
            assert 0 <= each.mean <= each.ties_half <= 1 + 1e-12
    means = {each.name: each.accuracy.mean for each in found.sections}
    assert means == pytest.approx({each.name: each.accuracy.mean for each in backwards.sections})
    assert sum(each.accuracy.n_pairs for each in found.sections) + sum(
        each.accuracy.n_pairs for each in found.others
    ) in (
        len(rows),
        0,
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "subsets", "words"),
    [
        ([], [], None, "one of each per pair"),
        ([1.0], [1.0, 2.0], None, "one of each per pair"),
        ([1.0, float("nan")], [0.0, 0.0], None, "the chosen score of pair 1 is nan"),
        ([1.0], [float("inf")], None, "the rejected score of pair 0 is inf"),
        ([1.0], [0.0], ["a", "b"], "2 subsets for 1 pairs"),
    ],
)
def test_scores_and_subsets_that_do_not_fit_are_refused(
    chosen: list[float], rejected: list[float], subsets: list[str] | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        rewardbench_accuracy(chosen, rejected, subsets)


def test_rewardbench_accuracy_is_public() -> None:
    assert prefpipe.rewardbench_accuracy is rewardbench_accuracy
