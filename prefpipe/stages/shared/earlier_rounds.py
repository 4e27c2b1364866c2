"""Responses of earlier rounds to the same prompts, read as rows of this round's artifacts.

``select --earlier run/round-01`` selects from the pools of several rounds. Stages that read such
pools (select, inspect, report) read a `JoinedArtifact`: for each part, the rows of this round,
followed by those of the earlier rounds for the same prompts.

Two rounds use the same sample numbers, so a joined row gets a new one: that of its round, plus
`STRIDE` times the number of the round. This round is number 0 and keeps its own, the first
``--earlier`` is number 1: its sample 3 is 100003. So ``(prompt_id, sample_idx)`` is a key of the
joined pool, which does not change when a round is extended, and which no row of a single round has
by chance. Two columns of the joined candidates hold round and sample as plain numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.parts import PartFooter
from prefpipe.artifacts.schemas import CANDIDATES, EARLIER_COLUMNS
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.sampling import MOST_SAMPLES
from prefpipe.errors import InputError
from prefpipe.stages.shared.candidate_rows import OF_RESPONSES
from prefpipe.stages.shared.pool_index import flat

STRIDE = MOST_SAMPLES
"""From one round's sample numbers to the next one's: no round has more samples of a prompt."""
KINDS = ("candidates", "scores", "embeddings")
"""What of a round is joined."""
KEY = ("prompt_id", "sample_idx")
EARLIER, EARLIER_SAMPLE = (column.name for column in EARLIER_COLUMNS)


class EarlierRound(NamedTuple):
    """The artifacts of an earlier round.

    - ``number``: from 1, in the order of ``--earlier``;
    - ``artifacts``: by kind: ``candidates``, ``scores`` and, where they are used, ``embeddings``;
    - ``parts_of``: which of their parts have prompts of a part of this round.
    """

    number: int
    artifacts: Mapping[str, Artifact]
    parts_of: Callable[[int], Sequence[int]]

    def digests(self, index: int) -> dict[str, str]:
        """Return the digests of the parts that belong to a part of this round, by `part_key`.

        Raises:
            CorruptPartError: a part is missing or damaged.
            InputError: scores or embeddings of candidates that were made again since.
        """
        digests = {}
        for part in self.parts_of(index):
            for kind in self.artifacts:
                digests[part_key(self.number, kind, part)] = self.footer(kind, part).data_sha256
        return digests

    def footer(self, kind: str, part: int) -> PartFooter:
        """Return the footer of a part made from the candidates on disk.

        Raises:
            CorruptPartError: it is missing or damaged.
            InputError: it was made from another version of them.
        """
        artifact, candidates = self.artifacts[kind], self.artifacts["candidates"]
        footer = candidates.footer(part)
        if kind == "candidates":
            return footer
        return artifact.footer_made_from(part, candidates, footer.data_sha256)


def parent_name(number: int, kind: str) -> str:
    """Return the name of an earlier round's artifact in a run record: ``earlier_1_scores``."""
    return f"{EARLIER}_{number}_{kind}"


def part_key(number: int, kind: str, part: int) -> str:
    """Return the name of a parent part in the footer of a part of ``groups``.

    Rounds may be divided differently, so the name includes the part: ``earlier_1_scores:3``.
    """
    return f"{parent_name(number, kind)}:{part}"


def earlier_rounds_of(
    groups: Artifact, locate: Callable[[str], Artifact | None]
) -> list[EarlierRound]:
    """Return the earlier rounds that groups were selected from; [] for most.

    Args:
        groups: whose footers say which parts were joined.
        locate: opens a parent by its name in the record, None if it is not to be found.

    Raises:
        InputError: a parent is not to be found: a part of the pool would be missing.
    """
    rounds: list[EarlierRound] = []
    while parent_name(len(rounds) + 1, "candidates") in groups.record.parents:
        number = len(rounds) + 1
        artifacts = {}
        for kind in KINDS:
            name = parent_name(number, kind)
            if name not in groups.record.parents:
                continue
            artifact = locate(name)
            if artifact is None:
                raise InputError(
                    f"{groups.path} was also selected from an earlier round, whose {kind} are "
                    f"not at {groups.record.parents[name]}",
                    hint=f"restore them, or inspect the {kind} of this round without its groups",
                )
            artifacts[kind] = artifact
        rounds.append(EarlierRound(number, artifacts, _PartsInFooters(groups, number)))
    return rounds


@dataclass(frozen=True)
class _PartsInFooters:
    """Which parts of an earlier round the footers of groups name."""

    groups: Artifact
    number: int

    def __call__(self, index: int) -> list[int]:
        if self.groups.missing([index]):
            return []
        beginning = parent_name(self.number, "candidates") + ":"
        names = self.groups.footer(index).parents
        return sorted(
            int(name.removeprefix(beginning)) for name in names if name.startswith(beginning)
        )


def joined(
    artifacts: Mapping[str, Artifact], rounds: Sequence[EarlierRound]
) -> dict[str, Artifact]:
    """Return artifacts of this round that read each part together with those of earlier rounds.

    A kind that selection did not use, such as embeddings under ``bottom-k``, is not joined.

    Args:
        artifacts: of this round, by kind.
        rounds: the earlier ones; none for the artifacts as they are.
    """
    together = dict(artifacts)
    for kind, artifact in artifacts.items():
        if rounds and all(kind in each.artifacts for each in rounds):
            together[kind] = JoinedArtifact(
                artifact.path,
                artifact.record,
                read_footer=artifact.read_footer,
                kind=kind,
                rounds=tuple(rounds),
            )
    return together


@dataclass(frozen=True)
class JoinedArtifact(Artifact):
    """An artifact of this round, read together with those of earlier rounds of the same kind.

    Everything but rows (record, footers, number of parts) is this round's.
    """

    kind: str = "candidates"
    rounds: tuple[EarlierRound, ...] = ()

    def read(self, index: int, columns: Sequence[str] | None = None) -> tuple[pa.Table, PartFooter]:
        """Return a part's rows followed by those of the earlier rounds, and this round's footer.

        Candidates also have `EARLIER_COLUMNS`; rows of prompts outside this part are left out.

        Raises:
            CorruptPartError: as `Artifact.read`.
            InputError: scores or embeddings of candidates that were made again since, or too many
                samples of a prompt.
        """
        # by the key rows are joined, whether or not it was requested
        beside = [name for name in KEY if columns is not None and name not in columns]
        if columns is not None:
            columns = [*columns, *beside]
        table, footer = super().read(index, columns)
        tables = [_numbered(table, 0, self)]
        for each in self.rounds:
            artifact = each.artifacts[self.kind]
            for part in each.parts_of(index):
                each.footer(self.kind, part)
                rows, _ = artifact.read(part, columns)
                rows = rows.filter(pc.is_in(rows["prompt_id"], pc.unique(table["prompt_id"])))
                if self.kind == "candidates":
                    rows = _with_columns_of(table, rows)
                tables.append(_numbered(rows, each.number, artifact))
        return _concatenated(tables, self).drop_columns(beside), footer


def _numbered(rows: pa.Table, number: int, artifact: Artifact) -> pa.Table:
    """Return rows with the sample numbers of the joined pool; candidates also keep their own.

    Raises:
        InputError: a sample number that would be one of another round's.
    """
    samples = rows["sample_idx"]
    largest = pc.max(samples).as_py()
    if largest is not None and largest >= STRIDE:
        raise InputError(
            f"{artifact.path} has a sample {largest}: a pool of several rounds allows only "
            f"sample numbers below {STRIDE:,}",
            hint="number the samples of each prompt from 0 in the imported file",
        )

    numbered = rows
    for name in ("sample_idx", "duplicate_of"):
        if name in rows.column_names:
            place = rows.schema.get_field_index(name)
            shifted = pc.add(rows[name], pa.scalar(number * STRIDE, pa.int32()))
            numbered = numbered.set_column(place, rows.schema.field(place), shifted)
    if artifact.record.kind != CANDIDATES.name:
        return numbered

    for column, values in (
        (EARLIER, pa.array([number] * len(rows), pa.int32())),
        (EARLIER_SAMPLE, samples),
    ):
        if column in rows.column_names:
            raise InputError(
                f"{artifact.path} has a column `{column}`, a name reserved for pools of several "
                "rounds",
                hint="rename it in the prompts file, or leave it out with --columns",
            )
        numbered = numbered.append_column(pa.field(column, pa.int32()), values)
    return numbered


def _with_columns_of(table: pa.Table, rows: pa.Table) -> pa.Table:
    """Return candidates of an earlier round with the columns of this round's.

    A response keeps its own columns. Columns of its prompt, mainly the user's, come from the prompt
    in this round, whatever they were in the earlier one.

    Args:
        table: of this round.
        rows: of an earlier one, to prompts that are in ``table``.
    """
    of_prompt = pc.index_in(rows["prompt_id"], flat(table, "prompt_id"))
    columns = {}
    for name in table.column_names:
        if name in CANDIDATES.column_names:
            columns[name] = rows[name]
        elif name not in OF_RESPONSES:
            columns[name] = table[name].take(of_prompt)
    for name in OF_RESPONSES:
        if name in rows.column_names:
            columns[name] = rows[name]
    return pa.table(columns)


def _concatenated(tables: Sequence[pa.Table], artifact: Artifact) -> pa.Table:
    """Concatenate tables: the columns of the first, and response columns that any has."""
    types = {field.name: field.type for table in reversed(tables) for field in table.schema}
    names = list(tables[0].column_names)
    names += [name for name in OF_RESPONSES if name in types and name not in names]

    columns = {}
    for name in names:
        chunks = []
        for table in tables:
            if name not in table.column_names:
                chunks.append(pa.nulls(len(table), types[name]))
                continue
            column = table[name]
            if column.type != types[name]:
                raise InputError(
                    f"column `{name}` is {column.type} in an earlier round and {types[name]} in "
                    f"{artifact.path}",
                    hint="make both rounds with the same settings",
                )
            chunks += column.chunks
        columns[name] = pa.chunked_array(chunks, types[name])
    return pa.table(columns)
