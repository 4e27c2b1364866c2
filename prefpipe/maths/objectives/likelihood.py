"""The likelihood of the positives: an objective, and a term beside the others of a policy."""

from torch import Tensor

from prefpipe.maths.objectives.masked import Targets, clean


def sft_loss(scores: Tensor, targets: Targets) -> Tensor:
    r"""Return the mean negative log-likelihood of the positives, (P,).

    ::

        loss = mean over S+ of -s_i,     s_i = log pi(y_i | x) / |y_i|

    Fine-tuning on the selected positives: on groups of ``best-of-n`` it is rejection sampling
    fine-tuning (RAFT). Each positive counts equally, whatever its length, in nats per token. With
    ``--no-length-normalise`` s is the sum over tokens and each token counts equally, as in TRL's
    SFTTrainer, whose mean over the batch's tokens is this loss divided by the positives' mean
    length.

    ``--sft-weight a`` adds a times the first form to another objective. RPO of reasoning (arXiv
    2404.19733) writes it so for one pair; TRL's ``sft`` beside DPO is a mean over all tokens of the
    batch's positives, which is the same if they are equally long.

    S+ are the roles. A prompt without a positive has loss 0; negatives are not read.

    Args:
        scores: (P, R), log-probabilities per token.
        targets: only ``positives`` and ``mask`` are read.

    Source: the objective: RAFT, arXiv 2304.06767, and rejection sampling fine-tuning in arXiv
        2307.09288, section 3.2.3; the mean over responses rather than tokens (ours). The term:
        arXiv 2604.15602, whose abstract calls it decisive for gains and stability of group DPO.
    """
    positives = targets.positives & targets.mask
    return -clean(scores, positives).sum(-1) / positives.sum(-1).clamp(min=1)
