#!/usr/bin/env bash
# Studies A, B, F and E of a 1B policy on a GPU, one after another, on one pool: docs/studies.md.
# Never run: no GPU was at hand. Stop it at any time and run it again: what is finished is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."

first=runs/study/llama-1b
rounds=runs/study/llama-1b-rounds

failed=0
prefpipe study sample_data/studies/llama-1b.yaml -o "$first" || failed=$?
# a failed run is tried again by the next call; anything else stops here
[[ $failed = 0 || $failed = 1 ]] || exit "$failed"

mkdir -p "$rounds"
for folder in pool heldout; do
    if [[ -e $first/$folder && ! -e $rounds/$folder ]]; then
        rm -rf "$rounds/.copy-of-$folder"
        cp -r "$first/$folder" "$rounds/.copy-of-$folder"
        mv "$rounds/.copy-of-$folder" "$rounds/$folder"
    fi
done
prefpipe study sample_data/studies/llama-1b-rounds.yaml -o "$rounds"
exit "$failed"
