#!/usr/bin/env bash
# Studies A, B, E and F of a 1B policy on a GPU, one after another, on one pool: docs/guides/studies.md.
# Never run: no GPU was at hand. Stop it at any time and run it again: what is finished is kept.
set -uo pipefail
cd "$(dirname "$0")/../.."

studies=runs/study
unfinished=()

# study NAME: a failed run stops no other study, and is tried again by the next call
study() {
    local name=$1 code=0
    prefpipe study "sample_data/studies/$name.yaml" -o "$studies/$name" || code=$?
    if [[ $code = 75 || $code -ge 128 ]]; then
        exit "$code"
    fi
    if [[ $code != 0 ]]; then
        unfinished+=("$name: exit code $code")
    fi
}

study llama-1b

# the same sections, and so the same pool: nothing of it is sampled again
mkdir -p "$studies/llama-1b-rounds"
for folder in pool heldout; do
    copy=$studies/llama-1b-rounds/$folder
    if [[ -e $studies/llama-1b/$folder && ! -e $copy ]]; then
        rm -rf "$copy.part"
        cp -r "$studies/llama-1b/$folder" "$copy.part"
        mv "$copy.part" "$copy"
    fi
done
study llama-1b-rounds
study llama-1b-peer

if [[ ${#unfinished[@]} -gt 0 ]]; then
    printf 'not finished: %s\n' "${unfinished[@]}" >&2
    exit 1
fi
