#!/usr/bin/env bash
# Make what studies C and D read, of study A's pool (its candidates and scores):
#   bash sample_data/studies/known_truth.sh runs/study/selection/pool runs/study/truth
# pairs: 3 pairs a prompt, with q and the drawn labels; few: the first of them of 60 prompts, for
# policies; ratings: the same 6 responses, rated in few levels and with noise; heldout: the base's
# responses, 4 a prompt.
# Run it again after a stop: what is finished is kept.
set -euo pipefail
pool=$1
out=$2
here=$(dirname "$0")
mkdir -p "$out"

draw() {
  python "$here/known_truth.py" "$pool" -o "$out/$1.jsonl" "${@:2}"
}
draw pairs --pairs 3 --gamma 6 --seed 0
draw few --pairs 1 --prompts 60 --gamma 6 --seed 0
draw ratings --responses 6 --seed 0

for name in pairs few; do
  prefpipe import "$out/$name.jsonl" -o "$out/$name" --format rows \
    --reward-column quality=quality --reward-column label=label
done

columns=(--reward-column quality=quality)
for noise in 10 20 40; do
  for levels in 2 3 5 7 10 all; do
    name=levels_${levels}_noise_$noise
    columns+=(--reward-column "$name=$name")
  done
done
prefpipe import "$out/ratings.jsonl" -o "$out/ratings" --format rows "${columns[@]}"

prefpipe generate "$here/heldout.jsonl" -o "$out/heldout/candidates" --model bundled:smollm2-135m \
  --n 4 --temperature 0.8 --max-tokens 40 --part-size 30
prefpipe score "$out/heldout/candidates" -o "$out/heldout/scores" --scorer checks
