"""The reproduction table of docs/evaluation.md: published figures of 12 models beside those of prefpipe.

python tests/benchmarks/win_rates.py            # the data: PREFPIPE_TEST_DATA, or ../shared/data beside the checkout
"""

import os
from pathlib import Path

import polars as pl

from prefpipe import Bootstrap, RegularisingRows, length_controlled_win_rate, win_rate

DATA = Path(os.environ.get("PREFPIPE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
QUICK = Bootstrap(n_draws=1)


def main() -> None:
    candidates, known = (
        pl.read_parquet(DATA / f"alpaca_{name}.parquet")
        for name in ("candidates", "leaderboard_known")
    )
    baseline = pl.read_parquet(DATA / "alpaca_baseline.parquet").sort("prompt_id")
    gamed = pl.read_parquet(DATA / "alpaca_lc_gamed_surrogate.parquet")
    rows = RegularisingRows(
        gamed["preference_surrogate"], gamed["std_delta_len"], gamed["instruction_difficulty"]
    )
    difficulty, theirs = baseline["instruction_difficulty"], baseline["response"].str.len_chars()
    worst = [0.0] * 4
    table, ablation = [], []
    for line in known.iter_rows(named=True):
        own = candidates.filter(pl.col("model") == line["model"]).sort("prompt_id")
        given = (own["preference"], own["response"].str.len_chars(), theirs)
        raw, published = (
            win_rate(own["preference"], bootstrap=QUICK),
            line["length_controlled_winrate"],
        )
        fixed = length_controlled_win_rate(
            *given, difficulty, regularising_rows=rows, penalty_c=line["glm_C"]
        )
        chosen = length_controlled_win_rate(
            *given, difficulty, regularising_rows=rows, bootstrap=QUICK
        )
        off = (100 * raw.mean - line["win_rate"], 100 * raw.se - line["standard_error"], 100 * fixed.mean - published,
               100 * chosen.mean - published)  # fmt: skip
        worst = [max(a, abs(b)) for a, b in zip(worst, off, strict=True)]
        table.append(
            f"| {line['model']} | {100 * raw.mean:.2f} ± {100 * raw.se:.2f} | {published:.3f} | {100 * fixed.mean:.3f} | {off[2]:+.4f} | "
            f"{100 * fixed.se:.2f} | {100 * fixed.low:.1f} to {100 * fixed.high:.1f} | {chosen.penalty_c:.4g} | {100 * chosen.mean:.3f} | {off[3]:+.4f} |"
        )
        without = [
            length_controlled_win_rate(*given, difficulty, bootstrap=QUICK),
            length_controlled_win_rate(*given, regularising_rows=rows, bootstrap=QUICK),
            length_controlled_win_rate(*given, bootstrap=QUICK),
        ]
        figures = " | ".join(f"{100 * item.mean:.1f}" for item in without)
        ablation.append(
            f"| {line['model']} | {100 * fixed.share_longer:.0f} % | {100 * raw.mean:.1f} | {published:.1f} | {figures} |"
        )
    print("\n".join(table), "\n", "\n".join(ablation), sep="\n")
    print(
        "largest differences in points: win rate {:.1e}, se {:.1e}, at the published C {:.4f}, own C {:.4f}".format(
            *worst
        )
    )


if __name__ == "__main__":
    main()
