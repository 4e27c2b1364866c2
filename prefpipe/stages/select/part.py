"""One part of ``select``: columns in, groups out, no loop over single rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, Output
from prefpipe.configs.select import SelectConfig
from prefpipe.execution.part_maker import Tally
from prefpipe.maths.selection.distances import pairwise_distances
from prefpipe.maths.selection.pools import Evidence
from prefpipe.maths.selection.prompt_filters import Thresholds
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.rewards import RewardExpression
from prefpipe.maths.selection.samplers import Samplers
from prefpipe.maths.selection.screening import is_none
from prefpipe.maths.selection.select_pools import Selection, select_pools
from prefpipe.maths.selection.validation import SelectOptions
from prefpipe.stages.select.group_table import group_table
from prefpipe.stages.select.prompt_filters import filter_part
from prefpipe.stages.select.screening import ScreenedPart, StrategyInputs, screen_part
from prefpipe.stages.select.tally import tally_of


class PoolReader(NamedTuple):
    """Reads and screens the parts of a run."""

    config: SelectConfig
    expression: RewardExpression
    inputs: Mapping[str, Artifact]
    asks: StrategyInputs

    def screen(self, index: int, *, needs_distances: bool = True) -> ScreenedPart:
        """Return one screened part."""
        return screen_part(
            self.inputs,
            self.expression,
            self.config,
            index,
            asks=self.asks,
            needs_distances=needs_distances,
        )


class GroupMaker:
    """Makes the parts of ``groups``, each only from its own inputs, in several threads."""

    def __init__(
        self,
        config: SelectConfig,
        pools: PoolReader,
        thresholds: Thresholds,
        output: Output,
        parents: Mapping[int, Mapping[str, str]],
        n_threads: int,
    ) -> None:
        self.config, self.pools, self.thresholds, self.output = config, pools, thresholds, output
        self.parents, self.n_threads = parents, n_threads

    def has_room(self, n_open: int) -> bool:
        """Return whether a thread has no part."""
        return n_open < self.n_threads

    def inputs_of(self, index: int) -> list[Location]:
        """Return the parts that a part is made from."""
        return [artifact.part_path(index) for artifact in self.pools.inputs.values()]

    def prepare(self, index: int) -> int:
        """Prepare nothing: threads read their parts concurrently."""
        return index

    def rehearse(self) -> None:
        """Select from one made-up prompt, so that all loops are loaded, or compiled.

        This does not run in the threads that make the parts: an interrupt would leave a compiling
        thread in its lock, and the process would wait for it.
        """
        rewards_PR = np.array([[3.0, 1.0, 0.0, 2.0]])
        distances_PRR = None
        if "embeddings" in self.pools.inputs:
            distances_PRR = pairwise_distances(np.eye(4, dtype=np.float32)[None])
        mask_PR = np.ones(rewards_PR.shape, dtype=bool)
        is_chosen_PR = np.array([[True, True, False, False]])
        evidence = Evidence(np.ones(rewards_PR.shape), Samplers(is_chosen_PR, ~is_chosen_PR))
        seeds_P = np.zeros(1, dtype=np.uint64)
        self._choose(rewards_PR, distances_PRR, mask_PR, seeds_P, evidence)

    def complete(self, index: int, prepared: int) -> Tally:  # noqa: ARG002
        """Select and write one part."""
        screened = self.pools.screen(index)
        screened = filter_part(screened, self.config.filters(), self.thresholds)
        selection = self._select(screened)
        groups, counts = group_table(screened, selection, self.config)
        tally = tally_of(screened, selection, groups)
        parents = self.parents[index]
        self.output.write(index, groups, counts=counts, parents=parents, tally=tally)
        return {}

    def _select(self, screened: ScreenedPart) -> Selection:
        has_group_P1 = is_none(screened.rejections)[:, None]
        # A prompt without a group takes no part; masked rewards, some of them NaN, become 0.
        mask_PR = screened.usable & has_group_P1
        rewards_PR = np.where(mask_PR, screened.rewards, 0.0)

        # Seeds depend on the prompt alone, so that no other prompt can change its group.
        seeds_P = np.zeros(len(rewards_PR), dtype=np.uint64)
        if STRATEGIES[self.config.strategy].draws:
            prompt_ids = screened.pools.prompt_ids.to_pylist()
            seeds = [seed_for(self.config.seed, prompt_id, 0) for prompt_id in prompt_ids]
            seeds_P = np.array(seeds, dtype=np.uint64)
        return self._choose(rewards_PR, screened.distances, mask_PR, seeds_P, screened.evidence)

    def _choose(
        self,
        rewards_PR: np.ndarray,
        distances_PRR: np.ndarray | None,
        mask_PR: np.ndarray,
        seeds_P: np.ndarray,
        evidence: Evidence,
    ) -> Selection:
        """Call the strategy with the settings of the config."""
        config = self.config
        cover: Any = config.cover
        temperature: Any = config.weight_temperature
        if temperature not in ("paper", "auto"):
            temperature = float(temperature)

        options = SelectOptions(
            positives=config.positives,
            weight_temperature=temperature,
            cover=cover,
            n_init=config.n_init,
            time_limit_s=config.time_limit,
            position=config.position,
            spread_weight=config.spread_weight,
            quantile=config.quantile,
        )
        return select_pools(
            rewards_PR,
            distances_PRR,
            mask_PR,
            k=config.k,
            strategy=config.strategy,
            seeds_P=seeds_P,
            options=options,
            evidence=evidence,
        )
