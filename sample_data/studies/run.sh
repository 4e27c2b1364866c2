#!/usr/bin/env bash
# Runs all studies of this folder one after another; by the plans' own estimates about a day on two
# cores. Stop it at any time and run it again: what is finished is kept.
#
#   nohup bash sample_data/studies/run.sh > study.log 2>&1 &
#
# First three seeds of every study, then the others. Study A comes first, as others take its pool, and
# tuning before B, whose knobs it decides; the rest from the longest on. After each study its figures
# are copied to docs/evidence. A study with failed runs stops nothing: the next call tries them again.
set -uo pipefail
cd "$(dirname "$0")/../.."

studies=runs/study
unfinished=()

# study NAME [SEEDS]: the study of NAME.yaml, of these seeds alone
study() {
    local name=$1 seeds=${2:-} code=0
    echo "== $name${seeds:+, seeds $seeds}: $(date '+%F %T')"
    prefpipe study "sample_data/studies/$name.yaml" -o "$studies/$name" ${seeds:+--seeds "$seeds"} || code=$?

    # a request to stop is one for all studies
    if [[ $code = 75 || $code -ge 128 ]]; then
        exit "$code"
    fi
    if [[ $code != 0 ]]; then
        unfinished+=("$name${seeds:+ seeds $seeds}: exit code $code")
    fi
    publish "$name"
}

# publish NAME: the figures that docs/evidence.md is made from
publish() {
    local name=$1 file
    for file in study.json results.parquet runs.parquet; do
        if [[ -e $studies/$name/$file ]]; then
            mkdir -p "docs/evidence/$name"
            cp "$studies/$name/$file" "docs/evidence/$name/$file"
        fi
    done
}

# objectives [SEEDS]: study B, when its knobs are those that tuning has chosen
objectives() {
    if grep -q 'KNOBS NOT CHOSEN YET' sample_data/studies/objectives.yaml; then
        unfinished+=("objectives: the knobs in objectives.yaml are not chosen yet; see tuning.yaml")
    else
        study objectives "${1:-}"
    fi
}

# take_pool NAME: study A's pool and held-out set, for a plan that has the same sections
take_pool() {
    local name=$1 folder copy
    mkdir -p "$studies/$name"
    for folder in pool heldout; do
        copy=$studies/$name/$folder
        if [[ -e $studies/selection/$folder && ! -e $copy ]]; then
            rm -rf "$copy.part"
            cp -r "$studies/selection/$folder" "$copy.part"
            mv "$copy.part" "$copy"
        fi
    done
}

# know_truth: the pairs and ratings of studies C and D, made of study A's pool
know_truth() {
    local code=0
    bash sample_data/studies/known_truth.sh "$studies/selection/pool" "$studies/truth" || code=$?
    if [[ $code = 75 || $code -ge 128 ]]; then
        exit "$code"
    fi
    if [[ $code != 0 ]]; then
        unfinished+=("known_truth.sh: exit code $code")
    fi
}

study selection 0,1,2
study tuning
objectives 0,1,2
know_truth
study granularity 0,1,2
take_pool one-or-three-rounds
study one-or-three-rounds 0,1,2
study known-truth-policies 0,1
study known-truth 0,1,2
study peer 0,1,2

objectives
study selection
study one-or-three-rounds
study known-truth
study peer

if [[ ${#unfinished[@]} -gt 0 ]]; then
    printf 'not finished: %s\n' "${unfinished[@]}" >&2
    exit 1
fi
