"""The reproduction table of docs/guides/win-rates.md: published figures of 12 models beside prefpipe's.

Run ``python tests/benchmarks/win_rates.py``. The data are in PREFPIPE_TEST_DATA, or in
``../shared/data`` beside the checkout.
"""

import os
from pathlib import Path

import polars as pl

from prefpipe import Bootstrap, RegularisingRows, length_controlled_win_rate, win_rate

DATA = Path(os.environ.get("PREFPIPE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
QUICK = Bootstrap(n_draws=1)


def main() -> None:
    candidates = pl.read_parquet(DATA / "alpaca_candidates.parquet")
    known = pl.read_parquet(DATA / "alpaca_leaderboard_known.parquet")
    baseline = pl.read_parquet(DATA / "alpaca_baseline.parquet").sort("prompt_id")
    gamed = pl.read_parquet(DATA / "alpaca_lc_gamed_surrogate.parquet")
    rows = RegularisingRows(
        gamed["preference_surrogate"], gamed["std_delta_len"], gamed["instruction_difficulty"]
    )
    difficulty = baseline["instruction_difficulty"]
    baseline_lengths = baseline["response"].str.len_chars()

    worst = [0.0] * 4
    table, ablation = [], []
    for line in known.iter_rows(named=True):
        responses = candidates.filter(pl.col("model") == line["model"]).sort("prompt_id")
        preferences, lengths = responses["preference"], responses["response"].str.len_chars()
        given = (preferences, lengths, baseline_lengths)

        raw = win_rate(preferences, bootstrap=QUICK)
        published = line["length_controlled_winrate"]
        fixed = length_controlled_win_rate(
            *given, difficulty, regularising_rows=rows, penalty_c=line["glm_C"]
        )
        chosen = length_controlled_win_rate(
            *given, difficulty, regularising_rows=rows, bootstrap=QUICK
        )
        off = (
            100 * raw.mean - line["win_rate"],
            100 * raw.se - line["standard_error"],
            100 * fixed.mean - published,
            100 * chosen.mean - published,
        )
        worst = [max(a, abs(b)) for a, b in zip(worst, off, strict=True)]
        cells = (
            line["model"],
            f"{100 * raw.mean:.2f} ± {100 * raw.se:.2f}",
            f"{published:.3f}",
            f"{100 * fixed.mean:.3f}",
            f"{off[2]:+.4f}",
            f"{100 * fixed.se:.2f}",
            f"{100 * fixed.low:.1f} to {100 * fixed.high:.1f}",
            f"{chosen.penalty_c:.4g}",
            f"{100 * chosen.mean:.3f}",
            f"{off[3]:+.4f}",
        )
        table.append(f"| {' | '.join(cells)} |")

        without = (
            length_controlled_win_rate(*given, difficulty, bootstrap=QUICK),
            length_controlled_win_rate(*given, regularising_rows=rows, bootstrap=QUICK),
            length_controlled_win_rate(*given, bootstrap=QUICK),
        )
        cells = (
            line["model"],
            f"{100 * fixed.share_longer:.0f} %",
            f"{100 * raw.mean:.1f}",
            f"{published:.1f}",
            *(f"{100 * rate.mean:.1f}" for rate in without),
        )
        ablation.append(f"| {' | '.join(cells)} |")

    print("\n".join(table), "\n", "\n".join(ablation), sep="\n")
    print(
        f"largest differences in points: win rate {worst[0]:.1e}, se {worst[1]:.1e}, "
        f"at the published C {worst[2]:.4f}, own C {worst[3]:.4f}"
    )


if __name__ == "__main__":
    main()
