"""From what the user wrote after ``--model`` to a folder on this disk."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from prefpipe.errors import ModelError
from prefpipe.models.bundled import PREFIX, find_bundled
from prefpipe.models.files import (
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    AdapterBase,
    ModelFiles,
    find_adapter_base,
    inspect_model,
    is_adapter,
    merge_hint,
    require_whole,
)
from prefpipe.models.gguf_conversion import convert_cached, require_gguf
from prefpipe.models.tokenizer import find_tokenizer_files

HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")
DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
NOT_DOWNLOADED = ["original/*", "onnx/*", "openvino/*", "consolidated*.safetensors"]

SIZE_HINT = "or pass its size, for example --model 8B"
"""For commands that estimate, and take a size in place of a model."""


def locate_model(
    reference: str, *, trust_remote_code: bool = False, base: str | None = None
) -> ModelFiles:
    """Return the checked files of a model, fetching or converting them first if needed.

    ``HF_HUB_OFFLINE`` and the other variables of the hub are honoured.

    Args:
        reference: a folder, a ``.gguf`` file, ``bundled:<name>`` or ``org/name[@revision]``; a
            folder of that name wins over the hub.
        trust_remote_code: fetch Python files, too.
        base: replaces the base that an adapter names; it is located in the same way.

    Raises:
        ModelError: nothing is there, the hub says no, or the folder fails ``inspect_model``.
    """
    folder, revision = _find_or_download(reference, trust_remote_code=trust_remote_code)
    if base is not None and is_adapter(folder):
        # whatever it names itself, if anything
        given = locate_model(base, trust_remote_code=trust_remote_code)
        return inspect_model(folder, reference, revision=revision, base=given)

    named = find_adapter_base(folder)
    if named is None:
        return inspect_model(folder, reference, revision=revision)

    beside = _beside(folder, named)
    if beside is not None:
        located = locate_model(str(beside), trust_remote_code=trust_remote_code)
    else:
        located = _locate_named_base(folder, named, trust_remote_code=trust_remote_code)
    return inspect_model(folder, reference, revision=revision, base=located)


def require_model(reference: str) -> None:
    """Refuse a model that no command could load, before the work that comes first.

    Weights are looked at, but not fetched, converted or hashed. Of a hub name that is not in the
    cache, the configuration is fetched.

    Args:
        reference: as in `locate_model`.

    Raises:
        ModelError: nothing is there, the hub says no, or the weights of a folder are incomplete.
    """
    if reference.startswith(PREFIX):
        find_bundled(reference)
        return
    path = Path(reference).expanduser()
    if reference and path.is_dir():
        require_whole(path)
        named = find_adapter_base(path)
        if named is not None:
            _require_named_base(path, named)
        return
    if path.suffix == ".gguf":
        require_gguf(path)
        return

    name = _require_hub_name(reference)
    try:
        _cached_snapshot(name["repo"], name["revision"])
    except ModelError:
        _download(name["repo"], name["revision"], [MODEL_CONFIG, ADAPTER_CONFIG])


def _require_named_base(adapter: Path, named: AdapterBase) -> None:
    beside = _beside(adapter, named)
    try:
        require_model(named.pinned if beside is None else str(beside))
    except ModelError as error:
        raise _base_error(adapter, named, error) from error


def _locate_named_base(adapter: Path, named: AdapterBase, *, trust_remote_code: bool) -> ModelFiles:
    try:
        return locate_model(named.pinned, trust_remote_code=trust_remote_code)
    except ModelError as error:
        raise _base_error(adapter, named, error) from error


def _base_error(adapter: Path, named: AdapterBase, error: ModelError) -> ModelError:
    """Return the error of an adapter whose base cannot be used."""
    hint = merge_hint(adapter)
    # a name of the hub may be fetched; a folder that is gone can only be named again
    if error.hint and HUB_NAME.fullmatch(named.reference):
        hint = f"{error.hint}; or {hint}"
    return ModelError(
        f"the adapter in {adapter} needs its base model {named.pinned!r}: {error.message}",
        hint=hint,
    )


def _beside(adapter: Path, named: AdapterBase) -> Path | None:
    """Return the base's folder where its path is relative to the adapter's, not to this process."""
    beside = adapter / named.reference
    is_here = Path(named.reference).is_dir()
    return beside if not is_here and beside.is_dir() else None


def _find_local(reference: str) -> Path | None:
    """Return a bundled model, a folder, or a GGUF file's converted folder; None for other names."""
    if reference.startswith(PREFIX):
        bundled = find_bundled(reference)
        return convert_cached(bundled) if bundled.suffix == ".gguf" else bundled

    path = Path(reference).expanduser()
    # An empty reference would be the present folder.
    if reference and path.is_dir():
        return path
    if path.suffix == ".gguf":
        return convert_cached(path)
    return None


def _hub_name(reference: str) -> re.Match[str] | None:
    """Return the parts of a hub name; None for a path."""
    return None if reference.startswith((".", "~")) else HUB_NAME.fullmatch(reference)


def _find_or_download(reference: str, *, trust_remote_code: bool) -> tuple[Path, str | None]:
    """Return the folder and, for a hub name, the commit."""
    folder = _find_local(reference)
    if folder is not None:
        return folder, None

    name = _require_hub_name(reference)
    patterns = [*DOWNLOADED, "*.py"] if trust_remote_code else DOWNLOADED
    return _download(name["repo"], name["revision"], patterns)


def _require_hub_name(reference: str) -> re.Match[str]:
    """Return the parts of a hub name.

    Raises:
        ModelError: it is no hub name.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        raise ModelError(
            f"{path} is a file, not a model folder", hint=f"pass its folder, {path.parent}"
        )
    name = _hub_name(reference)
    if name is None:
        raise ModelError(
            f"no model at {reference!r}: it is not a folder here and not a hub name",
            hint="pass a folder, a .gguf file, bundled:smollm2-135m, bundled:minilm or "
            "org/name[@revision]",
        )
    return name


def _download(repo: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str]:
    """Return the hub snapshot's folder, which is named after the commit, and the commit.

    Args:
        repo: ``org/name``.
        revision: a branch, a tag or a commit; None for the default branch.
        patterns: which files to fetch.
    """
    place = f"{repo}@{revision}" if revision else repo
    try:
        snapshot = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=NOT_DOWNLOADED
        )
    except GatedRepoError as error:
        # Caught before RepositoryNotFoundError, of which it is a kind.
        raise ModelError(
            f"the model {place} is gated: its owner grants access to each account",
            hint=f"request access at https://huggingface.co/{repo}, then run: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"the model {repo} has no revision {revision!r}",
            hint=f"choose a revision from https://huggingface.co/{repo}/commits",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model folder {repo!r} here and no such model on the hub",
            hint="check the spelling; for a private model run: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        command = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
        raise ModelError(
            f"the model {place} is not in the hub cache of this machine, "
            "and the hub cannot be reached",
            hint=f"run `{command}` on a machine with network access, then copy the folder or the "
            "cache here",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"the model {place} could not be downloaded: {error}",
            hint="try again, or pass a folder on this disk",
        ) from error

    folder = Path(snapshot)
    return folder, folder.name


class FoldersOnDisk(NamedTuple):
    """Where a model's configuration is, and its tokenizer.

    An adapter's configuration is its base's; its tokenizer is its own if it brings one.
    """

    config: Path
    tokenizer: Path


def folders_on_disk(reference: str) -> FoldersOnDisk:
    """Return where a model's configuration and tokenizer are; weights are neither needed nor read.

    Raises:
        ModelError: nothing is there, or not on this machine.
    """
    try:
        named = _find_on_disk(reference, sizes_count=False)
        whole = find_whole_on_disk(reference, sizes_count=False)
    except ModelError as error:
        hint = "pass a folder, bundled:NAME, or an org/name[@revision] that is in the hub cache"
        raise ModelError(error.message, hint=hint) from error
    return FoldersOnDisk(whole, named if find_tokenizer_files(named) else whole)


def find_whole_on_disk(reference: str, *, sizes_count: bool) -> Path:
    """Return the folder with a model's configuration, of an adapter its base's; nothing is fetched.

    Args:
        reference: as in `locate_model`.
        sizes_count: whether the user could have given a size, which errors then say.

    Raises:
        ModelError: nothing is there, or not on this machine.
    """
    folder = _find_on_disk(reference, sizes_count=sizes_count)
    named = find_adapter_base(folder)
    if named is None:
        return folder
    beside = _beside(folder, named)
    return _find_on_disk(str(beside or named.pinned), sizes_count=sizes_count)


def _find_on_disk(reference: str, *, sizes_count: bool) -> Path:
    """Return the folder that a reference names, of a hub name the cached snapshot's."""
    folder = _find_local(reference)
    if folder is not None:
        return folder

    name = _hub_name(reference)
    if name is None:
        not_either = "not a hub name and not a size" if sizes_count else "not a hub name"
        raise ModelError(
            f"no model at {reference!r}: it is not a folder here, {not_either}",
            hint="pass a folder, bundled:smollm2-135m, org/name[@revision], or a size such as 8B "
            "or 135M",
        )
    return _cached_snapshot(name["repo"], name["revision"])


def _cached_snapshot(repo: str, revision: str | None) -> Path:
    """Return the folder of the cached snapshot that holds a configuration."""
    for file in (MODEL_CONFIG, ADAPTER_CONFIG):
        try:
            cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
        except ValueError as error:  # a name that no repository can have
            raise ModelError(
                f"{repo!r} is not a hub name: {error}", hint=f"correct the name, {SIZE_HINT}"
            ) from error
        if isinstance(cached, str):
            return Path(cached).parent

    place = f"{repo}@{revision}" if revision else repo
    command = f"hf download {repo} {MODEL_CONFIG}" + (f" --revision {revision}" if revision else "")
    raise ModelError(
        f"the model {place} is not in the hub cache of this machine, "
        "and nothing is downloaded for an estimate",
        hint=f"run: {command}; {SIZE_HINT}",
    )
