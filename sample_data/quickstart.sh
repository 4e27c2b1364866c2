#!/usr/bin/env bash
# Two rounds of the pipeline on sample_data/ with real models on a CPU. Run it again: what is finished is kept.
#   SEED=1 bash sample_data/quickstart.sh runs/seed-1
set -euo pipefail
run=${1:-runs/quickstart}
seed=${SEED:-0}
here=$(cd "$(dirname "$0")/.." && pwd)
[ "$PWD" -ef "$here" ] || case $run in /*) ;; *) run=$PWD/$run ;; esac
cd "$here"  # the plan's paths begin here
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
started=$SECONDS

step() {
    printf '\n$ %s\n' "$*"
    "$@" >/dev/null
}

# generate, score, embed, select, train and eval, twice: `prefpipe rounds ... --dry-run` prints them
step prefpipe rounds sample_data/quickstart.yaml -o "$run" --seed "$seed"

# Does the policy's own score, AMPO's beta times the mean log-probability, know which of two held-out responses is better?
baseline=$run/round-01/eval/baseline
step prefpipe select "$baseline/candidates" --scores "$baseline/scores" -o "$run/heldout-groups" --strategy best-worst
step prefpipe export "$run/heldout-groups" -o "$run/heldout-pairs.jsonl" --format trl --overwrite
step prefpipe eval calibration --pairs "$run/heldout-pairs.jsonl" --model "$run/round-02/policy" --beta 5 --n-bins 4 -o "$run/calibration"
step prefpipe report "$run" -o "$run/report.html"

printf '\nthe artifacts are in %s (%s s); open %s/report.html, or look at them with: prefpipe inspect %s/round-02/groups\n' "$run" "$((SECONDS - started))" "$run" "$run"
