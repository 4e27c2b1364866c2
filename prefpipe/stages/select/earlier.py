"""``--earlier``: the artifacts of earlier rounds, found in their folders and checked.

Rewards are compared across rounds, so every round must be rated by the same scorers and embedded by
the same model. Sampling settings and policy may differ: that is the purpose of rounds.
"""

import hashlib
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

import numpy as np

from prefpipe.artifacts.fingerprint import canonical_json, field_differences
from prefpipe.artifacts.run_record import FILE_NAME
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.errors import InputError
from prefpipe.stages.shared.earlier_rounds import EarlierRound
from prefpipe.stages.shared.pool_index import flat

OF_THE_DAY = ("template_date", "ratings_sha256")
"""Of a scorer: fields that may differ by round.

A template that reads the clock writes another date, and a file of ratings holds those of other
responses; both are the same rater.
"""


def open_earlier(
    folders: Sequence[Location],
    inputs: Mapping[str, Artifact],
    scorers: Sequence[str],
    *,
    allow_partial: bool,
) -> list[EarlierRound]:
    """Return the earlier rounds in some folders.

    Args:
        folders: of ``--earlier``, one a round.
        inputs: this round's, by kind: each round has the same kinds.
        scorers: whose rewards are read.
        allow_partial: take the parts that are there.

    Raises:
        InputError: a folder that does not hold a round's artifacts, or several that could be meant;
            another rater or embedder; no prompt in common, or another text under one id.
        IncompleteInputError: parts are missing.
    """
    rounds = []
    seen = {inputs["candidates"].record.fingerprint: str(inputs["candidates"].path)}
    for number, folder in enumerate(folders, start=1):
        artifacts = _artifacts_in(folder, inputs, scorers)

        candidates = artifacts["candidates"]
        earlier = seen.setdefault(candidates.record.fingerprint, str(candidates.path))
        if earlier != str(candidates.path) or _is_same_folder(candidates, inputs["candidates"]):
            raise InputError(
                f"--earlier {folder}: its candidates are those of {earlier}, so every response "
                "would occur twice",
                hint="name each earlier round once, and not the round that you select from",
            )

        parts_of: _AlignedParts | _PartsByPrompt
        if _is_aligned(candidates, inputs["candidates"]):
            parts_of = _AlignedParts(artifacts, allow_partial=allow_partial)
        else:
            parts_of = _PartsByPrompt(
                artifacts, inputs["candidates"], folder, allow_partial=allow_partial
            )
        rounds.append(EarlierRound(number, artifacts, parts_of))
    return rounds


def _artifacts_in(
    folder: Location, inputs: Mapping[str, Artifact], scorers: Sequence[str]
) -> dict[str, Artifact]:
    """Return the candidates of a round's folder, with the scores and embeddings that fit.

    Only direct subfolders of ``folder`` are checked: ``eval/policy/candidates`` is not a pool.
    """
    by_kind: dict[str, list[Artifact]] = {}
    for path in _folders_in(folder):
        artifact = Artifact.open(path)
        by_kind.setdefault(artifact.record.kind, []).append(artifact)

    pools = by_kind.get("candidates", [])
    if not pools:
        raise InputError(
            f"--earlier {folder} holds no candidates",
            hint="pass the folder of a round, where `prefpipe generate ... -o "
            f"{quote(str(folder))}/candidates` wrote its own",
        )
    candidates = _the_only(pools, "candidates", folder)
    artifacts = {"candidates": candidates}

    for kind in inputs:
        if kind == "candidates":
            continue
        of_them = [
            artifact
            for artifact in by_kind.get(kind, [])
            if artifact.record.identity.get("candidates") == candidates.record.identity
        ]
        stage = inputs[kind].record.stage
        if not of_them:
            raise InputError(
                f"--earlier {folder} holds no {kind} of {candidates.path}",
                hint=f"make them with the settings of this round: prefpipe {stage} "
                f"{quote(str(candidates.path))} -o {quote(str(folder / kind))} ...",
            )

        differences = [_differences(artifact, inputs[kind], scorers) for artifact in of_them]
        fitting = [
            artifact for artifact, lines in zip(of_them, differences, strict=True) if not lines
        ]
        if not fitting:
            raise InputError(
                f"{of_them[0].path} was not made by the same {_MAKER[kind]} as "
                f"{inputs[kind].path}, {_WHY[kind]}:\n  " + "\n  ".join(differences[0]),
                hint=f"make both with the same {_MAKER[kind]}: prefpipe {stage} "
                f"{quote(str(candidates.path))} -o ...",
            )
        artifacts[kind] = _the_only(fitting, kind, folder)

    # once more by the reader that knows which releases' artifacts can be read
    return {
        kind: open_input(artifact.path, schema=kind, name=f"--earlier {folder}")
        for kind, artifact in artifacts.items()
    }


_MAKER = {"scores": "rater", "embeddings": "embedder"}
_WHY = {
    "scores": "and rewards from different raters are not comparable",
    "embeddings": "and distances between their embeddings mean nothing",
}


def _folders_in(folder: Location) -> list[Location]:
    """Return the artifacts in a folder.

    Raises:
        InputError: it is none, or an artifact itself.
    """
    if not files.is_folder(folder):
        is_there = files.exists(folder)
        raise InputError(
            f"{folder} is a file" if is_there else f"--earlier {folder} does not exist",
            hint="pass the folder of an earlier round, which holds its candidates and scores",
        )
    if files.is_file(folder / FILE_NAME):
        raise InputError(
            f"--earlier {folder} is one artifact, and --earlier takes the folder of a round, "
            "which holds several",
            hint=f"pass its parent folder, {folder.parent}",
        )
    folders = [folder / name for name in sorted(files.names_in(folder))]
    return [path for path in folders if files.is_file(path / FILE_NAME)]


def _the_only(artifacts: Sequence[Artifact], kind: str, folder: Location) -> Artifact:
    if len(artifacts) > 1:
        names = ", ".join(str(artifact.path) for artifact in artifacts)
        raise InputError(
            f"--earlier {folder} holds several {kind} that fit: {names}",
            hint="move all but one to another folder, or pass a folder with links to the "
            "artifacts of the round",
        )
    return artifacts[0]


def _differences(earlier: Artifact, now: Artifact, scorers: Sequence[str]) -> list[str]:
    """Return how the rater or embedder of an earlier round differs, one line each."""
    then = _maker(earlier.record.identity, scorers)
    lines = field_differences(then, _maker(now.record.identity, scorers))
    return [line.worded("in the earlier round", "in this one") for line in lines]


def _maker(identity: Mapping[str, Any], scorers: Sequence[str]) -> dict[str, Any]:
    """Return the part of an identity that makes numbers comparable: all but the responses.

    Of several scorers, only those whose rewards are read, by name.
    """
    maker = {name: value for name, value in identity.items() if name != "candidates"}
    if "scorers" in maker:
        by_name = {scorer["name"]: scorer for scorer in maker.pop("scorers")}
        for name in scorers:
            scorer = by_name.get(name, {})
            maker[name] = {key: each for key, each in scorer.items() if key not in OF_THE_DAY}
    return maker


def _is_same_folder(one: Artifact, other: Artifact) -> bool:
    return one.path.resolve() == other.path.resolve()


def _is_aligned(earlier: Artifact, candidates: Artifact) -> bool:
    """Return whether both were sampled from the same prompts in the same parts."""
    for name in ("prompts", "part_size"):
        then = earlier.record.identity.get(name)
        if then is None or then != candidates.record.identity.get(name):
            return False
    return earlier.n_parts == candidates.n_parts


class _AlignedParts:
    """Part i of an earlier round has the prompts of part i of this one."""

    def __init__(self, artifacts: Mapping[str, Artifact], *, allow_partial: bool) -> None:
        self._artifacts, self._allow_partial = artifacts, allow_partial

    def __call__(self, index: int) -> list[int]:
        return _present(self._artifacts, [index], allow_partial=self._allow_partial)


class _PartsByPrompt:
    """The parts of a differently divided earlier round that have the prompts of a part.

    Only ids and hashes of its prompts are held in memory.
    """

    def __init__(
        self,
        artifacts: Mapping[str, Artifact],
        candidates: Artifact,
        folder: Location,
        *,
        allow_partial: bool,
    ) -> None:
        """Read the prompts of both rounds.

        Raises:
            IncompleteInputError: parts are missing.
            InputError: the rounds have no prompt in common, or another text under one id.
        """
        earlier = artifacts["candidates"]
        present = _present(artifacts, range(earlier.n_parts), allow_partial=allow_partial)
        place_of: dict[str, tuple[int, bytes]] = {}
        for part in present:
            for prompt_id, text in _texts(earlier, part).items():
                place_of[prompt_id] = part, text

        self._parts: dict[int, list[int]] = {}
        here = candidates.present(range(candidates.n_parts), allow_partial=True)
        for index in here:
            parts = set()
            for prompt_id, text in _texts(candidates, index).items():
                known = place_of.get(prompt_id)
                if known is None:
                    continue
                part, text_then = known
                if text != text_then:
                    raise InputError(
                        f"--earlier {folder}: prompt {prompt_id} has a different text there than "
                        f"in {candidates.path}, so its responses answer something else",
                        hint="give different prompts different `prompt_id`s, and sample every "
                        "round with the same --system-prompt",
                    )
                parts.add(part)
            self._parts[index] = sorted(parts)

        is_whole = len(here) == candidates.n_parts and len(present) == earlier.n_parts
        if is_whole and not any(self._parts.values()):
            raise InputError(
                f"--earlier {folder}: none of its prompts is in {candidates.path}",
                hint="an earlier round adds responses to the same prompts: leave out --earlier "
                "when each round has its own prompts (--prompt-share)",
            )

    def __call__(self, index: int) -> list[int]:
        return self._parts.get(index, [])


def _present(
    artifacts: Mapping[str, Artifact], parts: Sequence[int], *, allow_partial: bool
) -> list[int]:
    """Return the parts that all artifacts of a round have.

    Raises:
        IncompleteInputError: some are missing, and all are needed.
    """
    present = list(parts)
    for artifact in artifacts.values():
        present = artifact.present(present, allow_partial=allow_partial)
    return present


def _texts(candidates: Artifact, index: int) -> dict[str, bytes]:
    """Return a hash of each prompt of a part: its turns, with tools and calls."""
    table, _ = candidates.read(index, ["prompt_id", "messages"])
    # the responses of a prompt stand together, and share its text
    encoded = flat(table, "prompt_id").dictionary_encode()
    _, firsts = np.unique(encoded.indices.to_numpy(), return_index=True)
    return {
        row["prompt_id"]: hashlib.sha256(canonical_json(row["messages"]).encode()).digest()
        for row in rows_of(table.take(firsts))
    }
