#!/usr/bin/env bash
# 3 rounds, printed by: prefpipe rounds sample_data/rounds.yaml -o runs/rounds --dry-run
# Run it again after a stop: each command keeps what is finished. After a change of a
# line, pass --overwrite=stale to each: only what depends on the change is made again.
set -euo pipefail
run=runs/rounds
model=bundled:smollm2-135m
prompts=sample_data/prompts.jsonl
heldout=sample_data/heldout.jsonl
seed=0

# round 1: samples from bundled:smollm2-135m
prefpipe generate "$prompts" -o "$run/round-01/candidates" --model "$model" --n 8 --temperature 0.8 \
    --max-tokens 48 --part-size 20 --seed "$seed"
prefpipe score "$run/round-01/candidates" -o "$run/round-01/scores" --scorer checks
prefpipe embed "$run/round-01/candidates" -o "$run/round-01/embeddings" --model bundled:minilm
prefpipe select "$run/round-01/candidates" --scores "$run/round-01/scores" \
    --embeddings "$run/round-01/embeddings" -o "$run/round-01/groups" --strategy opt-select --k 3 \
    --seed "$seed"
prefpipe train "$run/round-01/groups" -o "$run/round-01/policy" --model "$model" --objective ampo --beta 5 \
    --gamma 1 --learning-rate 5e-5 --num-train-epochs 1 --global-batch-size 4 --save-steps 5 --seed "$seed"
prefpipe eval --policy "$run/round-01/policy" --baseline "$model" -o "$run/round-01/eval" \
    --prompts "$heldout" --scorer checks --n 2 --temperature 0.8 --max-tokens 48 --part-size 20 \
    --seed "$((seed + 100))"

# round 2: samples from the policy of round 1
# from here on, select: min_margin 0.25
# from here on, train: learning_rate 3e-5
prefpipe generate "$prompts" -o "$run/round-02/candidates" --model "$run/round-01/policy" --n 8 \
    --temperature 0.8 --max-tokens 48 --part-size 20 --seed "$((seed + 1000))"
prefpipe score "$run/round-02/candidates" -o "$run/round-02/scores" --scorer checks
prefpipe embed "$run/round-02/candidates" -o "$run/round-02/embeddings" --model bundled:minilm
prefpipe select "$run/round-02/candidates" --scores "$run/round-02/scores" \
    --embeddings "$run/round-02/embeddings" -o "$run/round-02/groups" --strategy opt-select --k 3 \
    --min-margin 0.25 --seed "$((seed + 1000))"
prefpipe train "$run/round-02/groups" -o "$run/round-02/policy" --model "$run/round-01/policy" \
    --objective ampo --beta 5 --gamma 1 --learning-rate 3e-5 --num-train-epochs 1 --global-batch-size 4 \
    --save-steps 5 --seed "$((seed + 1000))"
prefpipe eval --policy "$run/round-02/policy" --baseline "$run/round-01/eval/baseline/candidates" \
    --baseline-scores "$run/round-01/eval/baseline/scores" --kl-reference "$model" -o "$run/round-02/eval" \
    --prompts "$heldout" --scorer checks --n 2 --temperature 0.8 --max-tokens 48 --part-size 20 \
    --seed "$((seed + 100))"

# round 3: samples from the policy of round 2
prefpipe generate "$prompts" -o "$run/round-03/candidates" --model "$run/round-02/policy" --n 8 \
    --temperature 0.8 --max-tokens 48 --part-size 20 --seed "$((seed + 2000))"
prefpipe score "$run/round-03/candidates" -o "$run/round-03/scores" --scorer checks
prefpipe embed "$run/round-03/candidates" -o "$run/round-03/embeddings" --model bundled:minilm
prefpipe select "$run/round-03/candidates" --scores "$run/round-03/scores" \
    --embeddings "$run/round-03/embeddings" -o "$run/round-03/groups" --strategy opt-select --k 3 \
    --min-margin 0.25 --seed "$((seed + 2000))"
prefpipe train "$run/round-03/groups" -o "$run/round-03/policy" --model "$run/round-02/policy" \
    --objective ampo --beta 5 --gamma 1 --learning-rate 3e-5 --num-train-epochs 1 --global-batch-size 4 \
    --save-steps 5 --seed "$((seed + 2000))"
prefpipe eval --policy "$run/round-03/policy" --baseline "$run/round-01/eval/baseline/candidates" \
    --baseline-scores "$run/round-01/eval/baseline/scores" --kl-reference "$model" -o "$run/round-03/eval" \
    --prompts "$heldout" --scorer checks --n 2 --temperature 0.8 --max-tokens 48 --part-size 20 \
    --seed "$((seed + 100))"
