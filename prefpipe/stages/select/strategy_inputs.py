"""What a strategy needs of candidates besides rewards, and whether the inputs have it."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.template_dates import FIELD as TEMPLATE_DATE
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import UsageError
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.rewards import RewardExpression
from prefpipe.spelling import did_you_mean
from prefpipe.stages.select.screening import ChosenSampler, StrategyInputs
from prefpipe.stages.shared.earlier_rounds import EarlierRound
from prefpipe.stages.shared.pool_index import flat


def strategy_inputs(
    config: SelectConfig,
    expression: RewardExpression,
    scores: Artifact,
    candidates: Artifact,
    rounds: Sequence[EarlierRound] = (),
) -> StrategyInputs:
    """Return the strategy's inputs, after checking that they exist.

    Args:
        config: the stage's knobs.
        expression: the reward.
        scores: of this round.
        candidates: of this round.
        rounds: earlier ones whose responses join the pools.

    Raises:
        UsageError: fewer than two scorers for a spread, an unknown scorer, or a model that gave no
            response, or stands for two different ones.
    """
    rule = STRATEGIES[config.strategy]
    spread_of: tuple[str, ...] = ()
    if rule.needs == "uncertainty":
        spread_of = _spread_scorers(config, expression, scores)
    chosen_from, rejected_from = None, None
    if config.chosen_from is not None and config.rejected_from is not None:
        chosen_from, rejected_from = _samplers(config, candidates, rounds)
    return StrategyInputs(
        n_spared=rule.n_spared,
        accepts_ties=rule.accepts_ties,
        spread_of=spread_of,
        chosen_from=chosen_from,
        rejected_from=rejected_from,
    )


def _spread_scorers(
    config: SelectConfig, expression: RewardExpression, scores: Artifact
) -> tuple[str, ...]:
    """Return the scorers whose disagreement is the uncertainty, two or more, by name."""
    scorers = [scorer["name"] for scorer in scores.record.identity["scorers"]]
    for name in config.spread_of:
        if name not in scorers:
            raise UsageError(
                f"--spread-of {name}: {scores.path} has no such "
                f"scorer{did_you_mean(name, scorers)}",
                hint=f"scorers: {', '.join(scorers)}",
            )

    # One order, so that naming them in another is no other configuration.
    names = tuple(sorted(set(config.spread_of or expression.names)))
    if len(names) < 2:
        hint = "name them: " + " ".join(f"--spread-of {name}" for name in scorers)
        if len(scorers) < 2:
            hint = (
                "rate the candidates with another scorer too (`prefpipe score`, with one "
                "--scorer for each), or use --strategy best-worst"
            )
        raise UsageError(
            f"--strategy {config.strategy} needs the spread of at least two scorers, and has "
            f"one: {', '.join(names)}",
            hint=hint,
        )
    return names


def _samplers(
    config: SelectConfig, candidates: Artifact, rounds: Sequence[EarlierRound]
) -> tuple[ChosenSampler, ChosenSampler]:
    """Return the samplers of ``delta``'s positives and of its negatives."""
    assert config.chosen_from is not None
    assert config.rejected_from is not None
    if not rounds:
        _require_models(config, candidates)
        return ChosenSampler(config.chosen_from), ChosenSampler(config.rejected_from)

    pools = [candidates, *(each.artifacts["candidates"] for each in rounds)]
    models = [_models_of(pool) for pool in pools]
    chosen = _sampler(config.chosen_from, "--chosen-from", models)
    rejected = _sampler(config.rejected_from, "--rejected-from", models)
    numbers = {chosen.earlier, rejected.earlier}
    # one response on both sides is no pair
    if chosen.model == rejected.model and (None in numbers or len(numbers) == 1):
        raise UsageError(
            f"--chosen-from {config.chosen_from} and --rejected-from {config.rejected_from} "
            "select the same responses",
            hint=f"name the round: {_numbered(chosen.model, models)}",
        )
    return chosen, rejected


def _models_of(candidates: Artifact) -> dict[str, Any]:
    """Return the models that sampled candidates, with their identities; None if not known."""
    record = candidates.record
    names, identities = record.context.get("models"), record.identity.get("models")
    if names and identities and len(names) == len(identities):
        # another template date does not make another model
        return {
            name: {key: each for key, each in identity.items() if key != TEMPLATE_DATE}
            for name, identity in zip(names, identities, strict=True)
        }

    models: dict[str, Any] = {}
    present = candidates.present(range(candidates.n_parts), allow_partial=True)
    for index in candidates.in_turn(present):
        table, _ = candidates.read(index, ["model"])
        models |= dict.fromkeys(flat(table, "model").unique().to_pylist())
    return models


def _sampler(text: str, flag: str, models: Sequence[Mapping[str, Any]]) -> ChosenSampler:
    """Return the sampler that a flag names, ``MODEL`` or ``NUMBER:MODEL``.

    Args:
        text: the flag's value.
        flag: for messages.
        models: of each round, by name.
    """
    having = [of_round[text] for of_round in models if text in of_round]
    if having:
        if any(identity != having[0] for identity in having):
            raise UsageError(
                f"{flag} {text}: different rounds have different models with that name",
                hint=f"name the round: {_numbered(text, models)}",
            )
        return ChosenSampler(text)

    head, _, name = text.partition(":")
    number = int(head) if head.isdecimal() else len(models)
    if number < len(models) and name in models[number]:
        return ChosenSampler(name, number)
    known = [f"{n}:{model}" for n, of_round in enumerate(models) for model in of_round]
    raise UsageError(
        f"{flag} {text}: no candidate comes from that model{did_you_mean(text, known)}",
        hint=f"models, numbered 0 for those of CANDIDATES: {', '.join(known)}",
    )


def _numbered(name: str, models: Sequence[Mapping[str, Any]]) -> str:
    """Return a model's name with the number of each round that has it."""
    numbers = [number for number, of_round in enumerate(models) if name in of_round]
    return " or ".join(f"{number}:{name}" for number in numbers)


def _require_models(config: SelectConfig, candidates: Artifact) -> None:
    """Refuse models of ``delta`` without any response, after reading all existing parts."""
    wanted = {"--chosen-from": config.chosen_from, "--rejected-from": config.rejected_from}
    models: set[str] = set()
    present = candidates.present(range(candidates.n_parts), allow_partial=True)
    for index in candidates.in_turn(present):
        table, _ = candidates.read(index, ["model"])
        models |= set(flat(table, "model").unique().to_pylist())
        if models.issuperset(wanted.values()):
            return

    known = sorted(model for model in models if model is not None)
    for flag, name in wanted.items():
        if name not in models:
            raise UsageError(
                f"{flag} {name}: no candidate comes from that "
                f"model{did_you_mean(str(name), known)}",
                hint=f"models of {candidates.path}: {', '.join(known)}",
            )
