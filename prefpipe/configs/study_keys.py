"""What a plan of ``prefpipe study`` can say: its sections, and the flags that stand in none."""

import re
from collections.abc import Mapping

from prefpipe.configs.plan_sections import (
    BY_HAND,
    BY_PLAN,
    REFUSED_OF_THE_POOL,
    SECTIONS,
    SectionRules,
)

PAGE = "docs/guides/studies.md"
"""Of the documentation, with the keys of a plan."""
OF_POOL = ("generate", "score", "embed")
"""Sections that stand in the pool."""
OF_ARMS = ("select", "train")
"""Sections in which arms differ."""
PROMPTS, RESPONSE_TOKENS = "prompts", "response_tokens"
"""Budgets at which arms are compared."""
POLICY, REWARD = "policy", "reward"
BASE = "base"
"""What the model before any training is called where arms are."""
EPOCH = "epoch-"
"""Begins the name of a place at which arms are judged after so many epochs."""
AT_EPOCH = re.compile(r"(\S+)@([1-9]\d*)")
"""An arm of a contrast at one epoch, ``bt@6``; without it a contrast is at every epoch."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""What a study and an arm may be called: a folder is."""
NAME_WORDS = "letters, digits and . _ + - (64 at most, a letter or a digit first)"
LIKE = re.compile(r"like\s+(\S+)")
"""A budget of tokens that is another arm's."""
TOP_LEVEL = (
    "study",
    "model",
    "target",
    "seeds",
    "pool",
    "heldout",
    "eval",
    "select",
    "train",
    "budgets",
    "epochs",
    "truth",
    "arms",
    "measure",
    "worst_below",
    "contrasts",
    "equivalence",
    "allow_different_prompts",
)
POOL_FOLDERS = ("candidates", "scores", "embeddings")
HELDOUT_FOLDERS = ("candidates", "scores")
ARM_KEYS = ("like", *OF_ARMS, "rounds", "trainer")
ROUNDS_KEYS = ("rounds", "prompt_use", "reference", "pools", "changes")
"""Of a plan of rounds, those that an arm sets itself; the study sets the others."""
TRAINER_PLACES = ("groups", "policy", "model", "steps", "seed")
"""What stands in braces in the command of another trainer."""

_SEEDS = "the plan's `seeds` set it"
_BY_BUDGETS = "the plan's `budgets` or `epochs` set it"
_ALL_PARTS = "a step makes all parts; to share the work, start the command several times"
_OTHER_BY_ARM = "a file that would have to be another one for each arm"
REFUSED: dict[str, Mapping[str, str]] = {
    "generate": {
        "prompts": "the pool's own key `prompts` sets it",
        "model": "the plan's own key `model` sets it; responses of others are a pool that is "
        "there, `pool: {candidates: DIR, scores: DIR}`",
        "prompt_share": "all arms select for all prompts of the pool",
        "seed": "a pool is sampled once, with seed 0",
        "extend": BY_HAND,
        "retry_errors": BY_HAND,
    },
    **REFUSED_OF_THE_POOL,
    "select": {
        "candidates": BY_PLAN,
        "scores": BY_PLAN,
        "embeddings": "the pool sets it",
        "earlier": "all arms select from one pool",
        "seed": _SEEDS,
    },
    "train": {
        "groups": BY_PLAN,
        "model": "all arms train the plan's own key `model`",
        "target": "the plan's own key `target` sets it",
        "reference": _OTHER_BY_ARM,
        "eval_reference": _OTHER_BY_ARM,
        "resume_from": _OTHER_BY_ARM,
        "eval_fraction": "arms are judged on prompts that no arm trains on",
        "early_stopping_patience": _BY_BUDGETS,
        "max_steps": _BY_BUDGETS,
        "num_train_epochs": _BY_BUDGETS,
        "keep_step": _BY_BUDGETS,
        "seed": _SEEDS,
    },
    "eval": {
        "policy": BY_PLAN,
        "baseline": "it is the plan's `model`",
        "prompts": "the key `prompts` of `heldout` sets it",
        "policy_scores": BY_PLAN,
        "baseline_scores": BY_PLAN,
        "policy_embeddings": BY_PLAN,
        "baseline_embeddings": BY_PLAN,
        "kl_reference": "it is the plan's `model`",
        "force": "all arms and the model are sampled and rated by one recipe",
        "seed": _SEEDS,
    },
}
"""Flags that no section has, with the reason; beside them those of `REFUSED_EVERYWHERE`."""
REFUSED_EVERYWHERE = {
    "output": BY_PLAN,
    "overwrite": "pass --overwrite=stale to `prefpipe study`",
    "shard_index": _ALL_PARTS,
    "num_shards": _ALL_PARTS,
    "shards": _ALL_PARTS,
    "claim": _ALL_PARTS,
}
RULES = SectionRules(
    SECTIONS,
    REFUSED,
    REFUSED_EVERYWHERE,
    places={stage: f"{stage}` in `pool" for stage in OF_POOL},
)
