"""What a report is made of: the artifacts of a folder, and which of them belong together."""

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.maths.compute.training_compute import ModelShape
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.stages.inspect.one_prompt import PromptSources
from prefpipe.stages.shared.earlier_rounds import EARLIER, KINDS, earlier_rounds_of, joined
from prefpipe.stages.shared.pool_index import PoolIndex, flat, index_pools, pool_rewards

SIDES_OF_EVAL = ("policy_candidates", "baseline_candidates")


class ReportedArtifact(NamedTuple):
    """An artifact as a report names it.

    - ``name``: its path inside the folder;
    - ``parents``: what it was made from, to the name of an artifact of this report, or to the path
      of something outside;
    - ``state``, ``reasons`` and ``command``: what ``prefpipe status --quick`` says.
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
        return self.artifact.record.kind

    @property
    def identity(self) -> Mapping[str, Any]:
        """What was chosen for its run."""
        return self.artifact.record.identity


class TrainedShape(NamedTuple):
    """The model whose training compute is counted: its name, and what its FLOP depend on."""

    name: str
    shape: ModelShape


class ReportedPool(NamedTuple):
    """Candidates with what is known of them.

    ``name`` is that of the selection, or of the candidates where there is none. What a selection
    was made from and is not in the folder of the report is None, and named in ``elsewhere``. Where
    responses of earlier rounds were selected from as well, candidates, scores and embeddings are
    read with theirs, whose names are in ``earlier``.
    """

    name: str
    candidates: ReportedArtifact | None
    scores: ReportedArtifact | None
    embeddings: ReportedArtifact | None
    groups: ReportedArtifact | None
    elsewhere: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def prompt_sources(self) -> PromptSources:
        """The same for the pages about one prompt."""
        return PromptSources(
            candidates=self.candidates and self.candidates.artifact,
            groups=self.groups and self.groups.artifact,
            scores=self.scores and self.scores.artifact,
        )

    @property
    def selection(self) -> Mapping[str, Any]:
        """The identity of the selection; nothing where there is none."""
        return {} if self.groups is None else self.groups.identity

    @property
    def expression(self) -> str | None:
        """The reward that was selected by, or the first scorer's; None where that is not known."""
        selected_by = self.selection.get("reward")
        if isinstance(selected_by, str):
            return selected_by
        scorers = [] if self.scores is None else self.scores.identity.get("scorers", [])
        return str(scorers[0]["name"]) if scorers else None


class ReportedPart(NamedTuple):
    """One part: its candidates in pools, and the table they are rows of.

    ``rewards`` (P, R), NaN where there is none.
    """

    table: pa.Table
    pools: PoolIndex
    rewards: np.ndarray


def pools_of(artifacts: Sequence[ReportedArtifact]) -> list[ReportedPool]:
    """Return every selection with what it was made from, then the candidates without a selection.

    The two sides that an evaluation sampled are no pools: they stand under the evaluation.
    """
    by_name = {artifact.name: artifact for artifact in artifacts}
    pools = [
        _selected_pool(artifact, artifacts, by_name)
        for artifact in artifacts
        if artifact.kind == "groups"
    ]

    shown_elsewhere = {pool.candidates.name for pool in pools if pool.candidates is not None}
    for artifact in artifacts:
        if artifact.kind == "evaluation":
            shown_elsewhere |= {artifact.parents.get(side, "") for side in SIDES_OF_EVAL}

    for candidates in artifacts:
        if candidates.kind == "candidates" and candidates.name not in shown_elsewhere:
            scores = _first_child(artifacts, candidates, "scores")
            embeddings = _first_child(artifacts, candidates, "embeddings")
            pools.append(ReportedPool(candidates.name, candidates, scores, embeddings, None))
    return pools


def _selected_pool(
    groups: ReportedArtifact,
    artifacts: Sequence[ReportedArtifact],
    by_name: Mapping[str, ReportedArtifact],
) -> ReportedPool:
    """Return a selection with what it was made from, as far as the report has it."""
    parents: dict[str, ReportedArtifact | None] = {}
    elsewhere = []
    for kind in ("candidates", "scores", "embeddings"):
        parents[kind] = by_name.get(groups.parents.get(kind, ""))
        if kind in groups.parents and parents[kind] is None:
            elsewhere.append(kind)

    # bottom-k needs no embeddings, and any of its candidates show what it covers. Scores are its
    # own alone: others are not what it selected by.
    candidates, embeddings = parents["candidates"], parents["embeddings"]
    earlier = [name for name in groups.parents if name.startswith(f"{EARLIER}_")]
    if candidates is not None and "embeddings" not in groups.parents and not earlier:
        embeddings = _first_child(artifacts, candidates, "embeddings")
    pool = ReportedPool(
        groups.name, candidates, parents["scores"], embeddings, groups, tuple(elsewhere)
    )
    return _with_earlier_rounds(pool, earlier, by_name) if earlier else pool


def _with_earlier_rounds(
    pool: ReportedPool, earlier: Sequence[str], by_name: Mapping[str, ReportedArtifact]
) -> ReportedPool:
    """Return a selection so that its pool is read with the earlier rounds it was selected from.

    Args:
        pool: with groups.
        earlier: what these call the artifacts of earlier rounds.
        by_name: the artifacts of the report.
    """
    groups = pool.groups
    assert groups is not None
    names = {name: groups.parents[name] for name in earlier}
    missing = tuple(name for name, place in names.items() if place not in by_name)
    # A part of a pool is another pool: neither its rewards nor what it covers are those selected
    # from. What is left is what was counted.
    if missing:
        return pool._replace(scores=None, embeddings=None, elsewhere=(*pool.elsewhere, *missing))

    rounds = earlier_rounds_of(groups.artifact, lambda name: by_name[names[name]].artifact)
    reported = {kind: getattr(pool, kind) for kind in KINDS}
    here = {kind: each.artifact for kind, each in reported.items() if each is not None}
    together = {
        kind: reported[kind]._replace(artifact=artifact)
        for kind, artifact in joined(here, rounds).items()
    }
    return pool._replace(**together, earlier=tuple(names.values()))


def _first_child(
    artifacts: Sequence[ReportedArtifact], candidates: ReportedArtifact, kind: str
) -> ReportedArtifact | None:
    """Return the first artifact of a kind that was made from these candidates."""
    for artifact in artifacts:
        if artifact.kind == kind and artifact.parents.get("candidates") == candidates.name:
            return artifact
    return None


def parts_on_disk(pool: ReportedPool, *, needs: Sequence[str]) -> list[int]:
    """Return the parts that the candidates and all of ``needs`` have.

    None of them where the report has not all of these artifacts.

    Args:
        pool: the candidates.
        needs: of ``scores``, ``embeddings``, ``groups``.

    Raises:
        InputError: an artifact has another number of parts than its candidates.
    """
    if pool.candidates is None:
        return []
    needed = [pool.candidates.artifact]
    for name in needs:
        reported = getattr(pool, name)
        if reported is None:
            return []
        needed.append(reported.artifact)

    # Parts belong together by their number.
    n_parts = pool.candidates.artifact.n_parts
    for artifact in needed:
        if artifact.n_parts != n_parts:
            raise InputError(
                f"{artifact.path} has {artifact.n_parts} parts, but its candidates have {n_parts}",
                hint=f"run `prefpipe status {quote(str(artifact.path))}`",
            )
    missing: set[int] = set()
    for artifact in needed:
        missing |= set(artifact.missing())
    return [index for index in range(n_parts) if index not in missing]


def read_pool_part(pool: ReportedPool, index: int, columns: Sequence[str] = ()) -> ReportedPart:
    """Return one part's candidates and their rewards, prompt by prompt, joined by key.

    Args:
        pool: with scores, or every reward is NaN.
        index: of the part.
        columns: of the candidates, beside the key.

    Raises:
        CorruptPartError: a part is damaged.
        InputError: scores that were made from another version of the candidates, or two rows with
            one key.
    """
    assert pool.candidates is not None
    candidates = pool.candidates.artifact
    table, footer = candidates.read(index, ["prompt_id", "sample_idx", *columns])
    pools = index_pools(
        flat(table, "prompt_id"), flat(table, "sample_idx"), str(candidates.part_path(index))
    )
    if pool.scores is None or pool.expression is None:
        return ReportedPart(table, pools, np.full(pools.shape, np.nan))

    names = ["prompt_id", "sample_idx", "scorer", "reward"]
    scores, scores_footer = pool.scores.artifact.read(index, names)
    require_same_version(pool.scores, index, scores_footer.parents, footer.data_sha256)
    rewards = pool_rewards(scores, parse_reward(pool.expression), pools)
    return ReportedPart(table, pools, rewards)


def require_same_version(
    child: ReportedArtifact, index: int, parents: Mapping[str, Any], digest: str
) -> None:
    """Refuse a part that was made from another version of its candidates' part.

    Raises:
        InputError: naming the part and the command that makes it anew.
    """
    if parents.get("candidates") != digest:
        raise InputError(
            f"{child.artifact.part_path(index)} was made from a different version of its "
            "candidates",
            hint=f"run the same `prefpipe {child.artifact.record.stage}` command again",
        )
