"""What a report is made of: the artifacts of a folder, and which of them belong together."""

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.stages.inspect.one_prompt import PromptSources
from prefpipe.stages.shared.pool_index import PoolIndex, flat, index_pools, pool_rewards

KINDS = ("scores", "embeddings")
SIDES_OF_EVAL = ("policy_candidates", "baseline_candidates")


class ReportedArtifact(NamedTuple):
    """An artifact as a report names it.

    ``name`` is its path inside the folder. ``parents`` maps what it was made from to the name of an artifact of this report, or
    to the path of something outside. ``state`` and ``reasons`` are what ``prefpipe status --quick`` says.
    """

    name: str
    artifact: Artifact
    parents: Mapping[str, str]
    state: str
    reasons: tuple[str, ...] = ()
    command: str = ""

    @property
    def kind(self) -> str:
        """The schema's name: ``candidates``, ``groups``."""
        return self.artifact.record.schema.partition("/")[0]


class ReportedPool(NamedTuple):
    """Candidates with what is known of them; ``name`` is that of the selection, or of the candidates where there is none.

    What a selection was made from and is not in the folder of the report is None, and named in ``elsewhere``.
    """

    name: str
    candidates: ReportedArtifact | None
    scores: ReportedArtifact | None
    embeddings: ReportedArtifact | None
    groups: ReportedArtifact | None
    elsewhere: tuple[str, ...] = ()

    @property
    def sources(self) -> PromptSources:
        """The same for the pages about one prompt."""
        return PromptSources(
            *(item and item.artifact for item in (self.candidates, self.groups, self.scores))
        )

    @property
    def expression(self) -> str | None:
        """The reward that was selected by, or the only scorer's; None where that is not known."""
        if self.groups is not None and isinstance(
            self.groups.artifact.record.identity.get("reward"), str
        ):
            return str(self.groups.artifact.record.identity["reward"])
        if self.scores is None:
            return None
        names = [
            str(scorer["name"])
            for scorer in self.scores.artifact.record.identity.get("scorers", [])
        ]
        return names[0] if names else None


class ReportedPart(NamedTuple):
    """One part: its candidates in pools, rewards (P, R) with NaN where there is none, and the table they are rows of."""

    table: pa.Table
    pools: PoolIndex
    rewards: np.ndarray


def pools_of(found: Sequence[ReportedArtifact]) -> list[ReportedPool]:
    """Return every selection with what it was made from, then the candidates that nothing was selected from.

    The two sides that an evaluation sampled are no pools: they are told under the evaluation.
    """
    named = {item.name: item for item in found}
    evaluated = {
        item.parents.get(side)
        for item in found
        if item.kind == "evaluation"
        for side in SIDES_OF_EVAL
    }
    pools: list[ReportedPool] = []
    selected: set[str | None] = set()
    for groups in (item for item in found if item.kind == "groups"):
        candidates, scores, embeddings = (
            named.get(groups.parents.get(kind, "")) for kind in ("candidates", *KINDS)
        )
        if candidates is not None:
            selected.add(candidates.name)
            if (
                "embeddings" not in groups.parents
            ):  # bottom-k needs none; scores of another kind are not what it selected by
                embeddings = _child(found, candidates, "embeddings")
        elsewhere = tuple(
            kind
            for kind in ("candidates", *KINDS)
            if kind in groups.parents and groups.parents[kind] not in named
        )
        pools.append(ReportedPool(groups.name, candidates, scores, embeddings, groups, elsewhere))
    alone = (
        item
        for item in found
        if item.kind == "candidates" and item.name not in selected | evaluated
    )
    return pools + [_pool(found, item) for item in alone]


def _pool(found: Sequence[ReportedArtifact], candidates: ReportedArtifact) -> ReportedPool:
    """Return candidates that nothing was selected from, with the first scores and embeddings of them."""
    scores, embeddings = (_child(found, candidates, kind) for kind in KINDS)
    return ReportedPool(candidates.name, candidates, scores, embeddings, None)


def _child(
    found: Sequence[ReportedArtifact], candidates: ReportedArtifact, kind: str
) -> ReportedArtifact | None:
    return next(
        (
            item
            for item in found
            if item.kind == kind and item.parents.get("candidates") == candidates.name
        ),
        None,
    )


def parts_on_disk(pool: ReportedPool, *, needs: Sequence[str]) -> list[int]:
    """Return the parts that the candidates and all of ``needs`` (``scores``, ``embeddings``, ``groups``) have."""
    if pool.candidates is None:
        return []
    wanted = [pool.candidates, *(getattr(pool, name) for name in needs)]
    if any(item is None for item in wanted):
        return []
    present = range(pool.candidates.artifact.n_parts)
    for item in wanted:
        if item.artifact.n_parts != len(present):
            raise InputError(
                f"{item.artifact.path} has {item.artifact.n_parts} parts and its candidates {len(present)}",
                hint=f"run `prefpipe status {quote(str(item.artifact.path))}`",
            )
    return [
        index for index in present if not any(item.artifact.missing([index]) for item in wanted)
    ]


def read_pool_part(pool: ReportedPool, index: int, columns: Sequence[str] = ()) -> ReportedPart:
    """Return one part's candidates and their rewards, prompt by prompt, joined by key.

    Args:
        pool: with scores, or every reward is NaN.
        index: of the part.
        columns: of the candidates, beside the key.

    Raises:
        CorruptPartError: a part is damaged.
        InputError: scores that were made from another version of the candidates, two rows with one key.
    """
    assert pool.candidates is not None
    candidates = pool.candidates.artifact
    table, footer = candidates.read(index, ["prompt_id", "sample_idx", *columns])
    pools = index_pools(
        flat(table, "prompt_id"), flat(table, "sample_idx"), str(candidates.part_path(index))
    )
    if pool.scores is None or pool.expression is None:
        return ReportedPart(table, pools, np.full(pools.shape, np.nan))
    scores, scores_footer = pool.scores.artifact.read(
        index, ["prompt_id", "sample_idx", "scorer", "reward"]
    )
    require_same_version(pool.scores, index, scores_footer.parents, footer.data_sha256)
    return ReportedPart(table, pools, pool_rewards(scores, parse_reward(pool.expression), pools))


def require_same_version(
    child: ReportedArtifact, index: int, parents: Mapping[str, Any], digest: str
) -> None:
    """Refuse a part that was made from another version of its candidates' part.

    Raises:
        InputError: naming the part and the command that makes it anew.
    """
    if parents.get("candidates") != digest:
        raise InputError(
            f"{child.artifact.part_path(index)} was made from another version of its candidates",
            hint=f"run the `prefpipe {child.artifact.record.stage}` command again",
        )
