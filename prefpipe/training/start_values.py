"""Default training settings by objective."""

from typing import NamedTuple


class StartValues(NamedTuple):
    """Settings from an objective's authors, for full training of 7B to 9B models."""

    learning_rate: float
    global_batch_size: int
    num_train_epochs: float
    warmup_ratio: float


START_VALUES = {
    "ampo": StartValues(4e-7, 128, 1.0, 0.1),
    "refa": StartValues(4e-7, 128, 1.0, 0.1),
    "swepo": StartValues(5e-7, 128, 1.0, 0.1),
    "infonca": StartValues(5e-7, 128, 1.0, 0.1),
    "nca": StartValues(5e-7, 32, 1.0, 0.1),
    "plackett-luce": StartValues(5e-7, 128, 1.0, 0.1),
    "ddo": StartValues(5e-6, 32, 3.0, 0.1),
    "mmpo": StartValues(5e-7, 64, 3.0, 0.3),
    "odpo": StartValues(5e-7, 32, 1.0, 0.1),
    "rpo": StartValues(5e-7, 128, 1.0, 0.1),
    "dpo": StartValues(5e-7, 128, 1.0, 0.1),
    "cdpo": StartValues(5e-7, 128, 1.0, 0.1),
    "rdpo": StartValues(5e-7, 128, 1.0, 0.1),
    "ipo": StartValues(5e-7, 128, 1.0, 0.1),
    "hinge": StartValues(5e-7, 128, 1.0, 0.1),
    "simpo": StartValues(1e-6, 128, 1.0, 0.1),
    "orpo": StartValues(5e-6, 32, 5.0, 0.1),
    "sft": StartValues(2e-5, 128, 1.0, 0.1),
    "bt": StartValues(9e-6, 64, 1.0, 0.1),
    "bt-margin": StartValues(1e-5, 512, 1.0, 0.03),
    "mmpo-reward": StartValues(3e-6, 32, 2.0, 0.0),
}
"""ampo, refa: Llama-3-8B-Instruct (Mistral-7B: 3e-7). simpo: Llama-3-8B-Instruct (Gemma-2-9B:
8e-7). mmpo: 7B (2B: 1e-5). nca: the authors' batch, epochs and warm-up, and a tenth of their
learning rate for QLoRA, so that with LoRA it is theirs. ddo: the configuration in the authors'
repository, for Pythia-410M. odpo: learning rate and batch of the authors' configuration; warm-up
(ours), where theirs is 150 steps. orpo: the authors' script for Mistral-7B, which starts from a
base model; warm-up (ours), where theirs is 200 steps. bt: a 6B model (arXiv 2203.02155, appendix
C.2), warm-up (ours). bt-margin: 7B to 34B (arXiv 2307.09288, section 3.2.2), batches of 512 pairs,
one a prompt. sft: the learning rate of TRL's SFTConfig, the rest (ours). mmpo-reward: the authors'
recipe for Gemma-7B (2B: 1.41e-5, batch 64). The others have no own recipe here: the batch of most
and DPO's customary learning rate (ours).
"""

LORA_LEARNING_RATE_FACTOR = 10.0
"""Adapters need about ten times the learning rate of full training **(ours)**."""
