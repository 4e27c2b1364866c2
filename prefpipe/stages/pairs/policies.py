"""Pairs rated by a policy: log-ratios to its reference, or mean log-probabilities a token.

The tokens are those that ``train`` and ``logprobs`` would take of the same texts: the policy's own chat template, the response
with the end of its turn. A prompt is computed once for both responses where the model allows.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from prefpipe.artifacts.interchange.pair_rows import ScoredTexts
from prefpipe.backends.device import find_device
from prefpipe.configs.pairs import BASE, PairsConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.stages.pairs.rating import SAME_TOKENS, SIDES, PairRater, Rated
from prefpipe.stages.shared.training_groups import encoder_of
from prefpipe.training.forward import measure_responses, share_prompts
from prefpipe.training.groups import Group, Response, fit_length
from prefpipe.training.policy import computes_in_bfloat16, load_reference
from prefpipe.training.reward_model import longest_conversation

CLASSIFIER = "sequence-classification"
SAME_MODEL = "the reference is the model itself: every log-ratio is 0, so every pair ties"
Logps = dict[tuple[str, int], tuple[float, int]]


def policy_rater(
    config: PairsConfig,
    policy: ModelFiles,
    reference: ModelFiles | None,
    log: Callable[[str], None],
) -> PairRater:
    """Return the rater of ``--model`` and ``--reference``, checked before anything is loaded.

    Args:
        config: the knobs.
        policy: a causal language model, or an adapter of one.
        reference: the files of ``--reference`` where it names a model.
        log: where to say what is loaded.

    Raises:
        ModelError: no chat template.
        UsageError: a reward model without ``--reward-model``, a reference of another tokenizer, or ``base`` of no adapter.
    """
    if policy.kind == CLASSIFIER:
        raise UsageError(
            f"--model {policy.requested} is a sequence classifier, and no policy",
            hint="add --reward-model",
        )
    require_chat_template(policy)
    if config.reference == BASE:
        if policy.base is None:
            raise UsageError(
                f"--reference base: {policy.requested} is no adapter",
                hint="name the model that it was trained from; a folder of that name is ./base",
            )
        reference = policy.base
    found = [policy] if reference is None else [policy, reference]
    if reference is not None and reference.tokenizer_hash != policy.tokenizer_hash:
        raise UsageError(
            f"the reference {reference.requested} has another tokenizer than {policy.requested}: the same ids are other texts "
            "to it",
            hint="pass a --reference with the policy's tokenizer, such as the model that it was trained from",
        )
    return PairRater(
        "mean_logp" if reference is None else "log_ratio",
        [each.identity() for each in found],
        [each.requested for each in found],
        lambda: PolicyRater(config, policy, reference, log),
        [SAME_MODEL] if reference is not None and is_same(policy, reference) else [],
    )


class PolicyRater:
    """A policy, and its reference where it has one.

    A reference with the policy's own weights is not computed: every log-ratio is exactly 0.
    """

    def __init__(
        self,
        config: PairsConfig,
        policy: ModelFiles,
        reference: ModelFiles | None,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.log = config, log
        self.encoder = encoder_of(policy, trust_remote_code=config.trust_remote_code)
        whole = policy.base if policy.base is not None else policy
        own = longest_conversation(
            whole, self.encoder.tokenizer, trust_remote_code=config.trust_remote_code
        )
        self.max_length = own if config.max_length is None else min(own, config.max_length)
        self.policy = self._load(policy)
        self.has_reference = reference is not None
        self.reference = (
            self._load(reference)
            if reference is not None and not is_same(policy, reference)
            else None
        )

    def rate(self, pairs: Sequence[ScoredTexts]) -> list[Rated]:
        """Return the scores of each pair; both of its responses, or neither."""
        found: dict[int, Rated] = {}
        groups: list[Group] = []
        for pair in pairs:
            try:
                group = self._group(pair)
            except InputError as error:
                found[pair.pair_idx] = Rated(status="template_error", reason=error.message)
                continue
            fitting, fates = fit_length(group, max_length=self.max_length, on_too_long="drop")
            if len(fitting) == len(SIDES):
                groups.append(group)
                continue
            number = next(key[1] for key, fate in fates.items() if fate.status != "ok")
            fate = fates[group.prompt_id, number]
            status = "too_long" if fate.status == "prompt_too_long" else fate.status
            found[pair.pair_idx] = Rated(status=status, reason=f"{SIDES[number]}: {fate.reason}")
        logps = self._measure(self.policy, groups)
        ref_logps = self._measure(self.reference, groups) if self.reference is not None else logps
        for group in groups:
            found[int(group.prompt_id)] = self._rated(group, logps, ref_logps)
        return [found[pair.pair_idx] for pair in pairs]

    def notes(self) -> list[str]:
        """Return what a reader should know of how the texts were tokenised, in sentences."""
        return self.encoder.notes()

    def close(self) -> None:
        """Release the models."""
        del self.policy, self.reference

    def _load(self, files: ModelFiles) -> Any:
        self.log(f"loading {files.requested}")
        model = load_reference(
            files, dtype=self.config.dtype, trust_remote_code=self.config.trust_remote_code
        )
        model.to(find_device(self.config.device))
        problem = share_prompts(model)
        if problem is not None:
            self.log(f"each prompt is computed once a response: {problem}")
        return model

    def _group(self, pair: ScoredTexts) -> Group:
        key = str(pair.pair_idx)
        encoded = [self._encode(pair, text) for text in (pair.chosen, pair.rejected)]
        roles = ("positive", "negative")
        responses = [
            Response(i, ids, 0.0, role)
            for i, ((_, ids), role) in enumerate(zip(encoded, roles, strict=True))
        ]
        return Group(key, encoded[0][0], responses)

    def _encode(self, pair: ScoredTexts, text: str) -> tuple[list[int], list[int]]:
        encoded = self.encoder.encode(
            f"of pair {pair.pair_idx}", pair.messages, text, finished=True
        )
        return encoded.prompt, encoded.response

    def _measure(self, model: Any, groups: Sequence[Group]) -> Logps:
        found = measure_responses(
            model,
            groups,
            pad_token_id=0,
            bf16=computes_in_bfloat16(self.config.dtype),
            max_batch_tokens=self.config.max_batch_tokens,
        )
        return {each.key: (each.logp, each.n_tokens) for each in found}

    def _rated(self, group: Group, logps: Logps, ref_logps: Logps) -> Rated:
        first, second = ((group.prompt_id, number) for number in range(len(SIDES)))
        is_identical = list(group.responses[0].token_ids) == list(group.responses[1].token_ids)
        keys = (
            (first, first) if is_identical else (first, second)
        )  # the same tokens may differ in their last digits in a batch
        own, theirs = ([found[key][0] for key in keys] for found in (logps, ref_logps))
        counts = [logps[key][1] for key in keys]
        scores = [
            logp - ref if self.has_reference else logp / count
            for logp, ref, count in zip(own, theirs, counts, strict=True)
        ]
        rated = Rated(
            (scores[0], scores[1]),
            (counts[0], counts[1]),
            (own[0], own[1]),
            (theirs[0], theirs[1]) if self.has_reference else (None, None),
        )
        for side, logp, ref in zip(SIDES, own, theirs, strict=True):
            if not isfinite(logp) or not isfinite(ref):
                who = "the model" if not isfinite(logp) else "the reference"
                reason = (
                    f"{side}: {who} gives it a log-probability of {ref if isfinite(logp) else logp}"
                )
                return rated._replace(status="not_finite", reason=reason)
        return rated._replace(status="identical", reason=SAME_TOKENS) if is_identical else rated


def is_same(policy: ModelFiles, reference: ModelFiles) -> bool:
    """Return whether two models have the same weights."""
    names = ("content_hash", "base_content_hash")
    return all(policy.identity()[name] == reference.identity()[name] for name in names)
