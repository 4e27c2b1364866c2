"""The likelihood of the positives, which goes beside any objective of a policy."""

from torch import Tensor

from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.masked import Targets, clean


def sft_loss(responses: ResponseLogps, targets: Targets) -> Tensor:
    r"""Return the mean negative log-likelihood of the positives, (P,), in nats a token.

    ::

        loss = mean over S+ of ( -log pi(y | x) / |y| )

    ``--sft-weight a`` adds a times this to an objective's loss. S+ are the roles, also under
    objectives that read rewards alone. Each positive counts alike, whatever its length: RPO of
    reasoning (arXiv 2404.19733) writes it so for one pair, where TRL's ``sft`` is a mean over all
    tokens of the batch's positives, which is the same where they are equally long. A prompt
    without a positive has loss 0.

    Args:
        responses: ``logps`` and ``n_tokens``, each (P, R); gradients flow through ``logps``.
        targets: of which ``positives`` and ``mask`` are read.

    Source: arXiv 2604.15602, whose abstract calls it decisive for gains and stability of group
        DPO; the form of a term beside DPO: arXiv 2404.19733.
    """
    positives = targets.positives & targets.mask
    # 0 tokens only where there is no response.
    per_token = -responses.logps / responses.n_tokens.clamp(min=1)
    n_positives = positives.sum(-1)
    return clean(per_token, positives).sum(-1) / n_positives.clamp(min=1)
