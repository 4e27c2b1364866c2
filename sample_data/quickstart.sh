#!/usr/bin/env bash
# The whole pipeline on sample_data/ with real models on a CPU. Run it again: what is finished is kept.
#   SEED=1 bash sample_data/quickstart.sh runs/seed-1
set -euo pipefail
run=${1:-runs/quickstart}
seed=${SEED:-0}
here=$(cd "$(dirname "$0")" && pwd)
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
started=$SECONDS

step() {
    printf '\n$ %s\n' "$*"
    "$@" >/dev/null
}

step prefpipe generate "$here/prompts.jsonl" -o "$run/candidates" --model bundled:smollm2-135m \
    --n 8 --temperature 0.8 --max-tokens 48 --part-size 20 --seed "$seed"
step prefpipe score "$run/candidates" -o "$run/scores" --scorer checks
step prefpipe embed "$run/candidates" -o "$run/embeddings" --model bundled:minilm
step prefpipe select "$run/candidates" --scores "$run/scores" --embeddings "$run/embeddings" -o "$run/groups" \
    --strategy opt-select --k 3 --seed "$seed"
step prefpipe train "$run/groups" -o "$run/policy" --model bundled:smollm2-135m \
    --objective ampo --beta 5 --gamma 1 --learning-rate 5e-5 --num-train-epochs 1 --global-batch-size 4 --save-steps 5 --seed "$seed"
step prefpipe eval --policy "$run/policy" --baseline bundled:smollm2-135m --prompts "$here/heldout.jsonl" -o "$run/eval" \
    --scorer checks --n 2 --temperature 0.8 --max-tokens 48 --part-size 20 --seed "$((seed + 100))"

# Does the policy's own score, AMPO's beta times the mean log-probability, know which of two held-out responses is better?
step prefpipe select "$run/eval/baseline/candidates" --scores "$run/eval/baseline/scores" -o "$run/heldout-groups" --strategy best-worst
step prefpipe export "$run/heldout-groups" -o "$run/heldout-pairs.jsonl" --format trl --overwrite
step prefpipe eval calibration --pairs "$run/heldout-pairs.jsonl" --model "$run/policy" --beta 5 --n-bins 4 -o "$run/calibration"
step prefpipe report "$run" -o "$run/report.html"

printf '\nthe artifacts are in %s (%s s); open %s/report.html, or look at them with: prefpipe inspect %s/groups\n' "$run" "$((SECONDS - started))" "$run" "$run"
