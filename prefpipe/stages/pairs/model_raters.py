"""Pairs rated by ``--model``: a reward model, or a policy.

A reward model rates each response in its own chat template, as ``score`` does. A policy gives
log-ratios to its reference, or mean log-probabilities a token. Its tokens are those that ``train``
and ``logprobs`` use for the same texts: the policy's own chat template, the response with the end
of its turn. A prompt is computed once for both responses if the model allows it.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from prefpipe.artifacts.interchange.pair_rows import ScoredTexts
from prefpipe.backends.device import find_device, turns_on
from prefpipe.backends.scorers.reward_model import RewardModelScorer
from prefpipe.configs.pairs import BASE, PairsConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.stages.pairs.rating import RESPONSES, SAME_TOKENS, PairRater, Rated, scorer_rater
from prefpipe.stages.shared.training_groups import encoder_of
from prefpipe.training.encoding import Encoder
from prefpipe.training.forward import measure_batches, response_batches, share_prompts
from prefpipe.training.groups import Group, Response, fit_length
from prefpipe.training.policy import computes_in_bfloat16, load_reference
from prefpipe.training.reward_model import longest_conversation

CLASSIFIER = "sequence-classification"
SAME_MODEL = "the reference is the model itself: every log-ratio is 0, so every pair ties"
Logps = dict[tuple[str, int], tuple[float, int]]
"""Summed log-probability and number of tokens of each response, by the key of its group."""


def reward_rater(config: PairsConfig, model: ModelFiles) -> PairRater:
    """Return the rater of ``--model`` with ``--reward-model``.

    Raises:
        ModelError: no chat template. What else is wrong with a reward model is found when it is
            opened.
    """
    require_chat_template(model)

    def open_scorer() -> RewardModelScorer:
        scorer = RewardModelScorer(
            model,
            dtype=config.dtype,
            device=config.device,
            batch_size=config.batch_size,
            trust_remote_code=config.trust_remote_code,
        )
        if config.max_length is not None:  # beyond its own limit it cannot read
            scorer.max_length = min(scorer.max_length, config.max_length)
        return scorer

    return scorer_rater(model.identity(), model.requested, open_scorer)


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
        UsageError: a reward model without ``--reward-model``, a reference of another tokenizer, or
            ``base`` of no adapter.
    """
    if policy.kind == CLASSIFIER:
        raise UsageError(
            f"--model {policy.requested} is a sequence classifier, not a policy",
            hint="add --reward-model to read it as a reward model",
        )
    require_chat_template(policy)

    if config.reference == BASE:
        if policy.base is None:
            raise UsageError(
                f"--reference base: {policy.requested} is not an adapter",
                hint="name the model that it was trained from; for a folder named base, pass "
                "./base",
            )
        reference = policy.base

    kind = "mean_logp"
    models = [policy]
    notes = []
    if reference is not None:
        kind = "log_ratio"
        if reference.tokenizer_hash != policy.tokenizer_hash:
            raise UsageError(
                f"the reference {reference.requested} does not have the tokenizer of "
                f"{policy.requested}: the same ids mean different texts",
                hint="pass a --reference with the policy's tokenizer, such as the model that it "
                "was trained from",
            )
        models.append(reference)
        if is_same(policy, reference):
            notes.append(SAME_MODEL)

    return PairRater(
        kind,
        [model.identity() for model in models],
        [model.requested for model in models],
        lambda: PolicyRater(config, policy, reference, log),
        notes,
    )


class PolicyRater:
    """A policy, and its reference if it has one.

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
        self.device = find_device(config.device)
        self.encoder = encoder_of(policy, trust_remote_code=config.trust_remote_code)

        whole = policy.base if policy.base is not None else policy
        self.max_length = longest_conversation(
            whole, self.encoder.tokenizer, trust_remote_code=config.trust_remote_code
        )
        if config.max_length is not None:
            self.max_length = min(self.max_length, config.max_length)

        self.policy = self._load(policy)
        self.has_reference = reference is not None
        self.reference = None
        if reference is not None and not is_same(policy, reference):
            self.reference = self._load(reference)

    def rate(self, pairs: Sequence[ScoredTexts]) -> list[Rated]:
        """Return the scores of each pair; both of its responses, or neither."""
        encoder = self.encoder.anew()
        rated: dict[int, Rated] = {}
        groups: list[Group] = []
        for pair in pairs:
            try:
                group = _group(pair, encoder)
            except InputError as error:
                rated[pair.pair_idx] = Rated(status="template_error", reason=error.message)
                continue
            too_long = self._too_long(group)
            if too_long is not None:
                rated[pair.pair_idx] = too_long
                continue
            groups.append(group)

        logps = self._measure(self.policy, groups)
        ref_logps = logps if self.reference is None else self._measure(self.reference, groups)
        for group in groups:
            rated[int(group.prompt_id)] = self._rated(group, logps, ref_logps)
        in_order = [rated[pair.pair_idx] for pair in pairs]
        return [in_order[0]._replace(tally=encoder.tally()), *in_order[1:]]

    def close(self) -> None:
        """Release the models."""
        del self.policy, self.reference

    def _load(self, files: ModelFiles) -> Any:
        self.log(f"loading {files.requested}")
        model = load_reference(
            files, dtype=self.config.dtype, trust_remote_code=self.config.trust_remote_code
        )
        model.to(self.device)

        problem = share_prompts(model)
        if problem is not None:
            self.log(f"each prompt is computed once per response: {problem}")
        return model

    def _too_long(self, group: Group) -> Rated | None:
        """Return why a pair is too long for the model, None if both responses fit."""
        fitting, statuses = fit_length(group, max_length=self.max_length, on_too_long="drop")
        if len(fitting) == len(RESPONSES):
            return None
        number = next(key[1] for key, status in statuses.items() if status.status != "ok")
        status, reason = statuses[group.prompt_id, number]
        if status == "prompt_too_long":
            status = "too_long"
        return Rated(status=status, reason=f"{RESPONSES[number]}: {reason}")

    def _measure(self, model: Any, groups: Sequence[Group]) -> Logps:
        batches = response_batches(
            model, groups, pad_token_id=0, max_batch_tokens=self.config.max_batch_tokens
        )
        packed = list(batches)
        with turns_on(self.device).turn():
            bf16 = computes_in_bfloat16(self.config.dtype)
            measured = list(measure_batches(model, packed, bf16=bf16))
        return {each.key: (each.logp, each.n_tokens) for each in measured}

    def _rated(self, group: Group, logps: Logps, ref_logps: Logps) -> Rated:
        keys = [(group.prompt_id, number) for number in range(len(RESPONSES))]
        is_identical = list(group.responses[0].token_ids) == list(group.responses[1].token_ids)
        if is_identical:  # the same tokens may differ in their last digits in a batch
            keys[1] = keys[0]

        scores, counts, of_policy, of_reference = [], [], [], []
        for key in keys:
            logp, n_tokens = logps[key]
            ref_logp, _ = ref_logps[key]
            if self.has_reference:
                scores.append(logp - ref_logp)
            else:
                scores.append(logp / n_tokens)
            counts.append(n_tokens)
            of_policy.append(logp)
            of_reference.append(ref_logp)

        rated = Rated(
            (scores[0], scores[1]),
            (counts[0], counts[1]),
            (of_policy[0], of_policy[1]),
            (of_reference[0], of_reference[1]) if self.has_reference else (None, None),
        )
        for name, logp, ref_logp in zip(RESPONSES, of_policy, of_reference, strict=True):
            for who, value in (("the model", logp), ("the reference", ref_logp)):
                if not isfinite(value):
                    reason = f"{name}: {who} gives it a log-probability of {value}"
                    return rated._replace(status="not_finite", reason=reason)
        if is_identical:
            return rated._replace(status="identical", reason=SAME_TOKENS)
        return rated


def is_same(policy: ModelFiles, reference: ModelFiles) -> bool:
    """Return whether two models have the same weights."""
    names = ("content_hash", "base_content_hash")
    return all(policy.identity()[name] == reference.identity()[name] for name in names)


def _group(pair: ScoredTexts, encoder: Encoder) -> Group:
    """Return a pair as a group of two, with its number as the prompt's id.

    Raises:
        InputError: the chat template refuses the conversation.
    """
    name = f"of pair {pair.pair_idx}"
    chosen = encoder.encode(name, pair.messages, pair.chosen, finished=True)
    rejected = encoder.encode(name, pair.messages, pair.rejected, finished=True)
    responses = [
        Response(0, chosen.response, 0.0, "positive"),
        Response(1, rejected.response, 0.0, "negative"),
    ]
    return Group(str(pair.pair_idx), chosen.prompt, responses)
