"""From what the user wrote after ``--model`` to a checked folder on this disk."""

import re
from pathlib import Path

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
    ModelFiles,
    find_adapter_base,
    inspect_model,
    is_adapter,
    merge_hint,
)
from prefpipe.models.gguf_conversion import convert_cached

HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")
DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
NOT_DOWNLOADED = ["original/*", "onnx/*", "openvino/*", "consolidated*.safetensors"]


def locate_model(
    reference: str, *, trust_remote_code: bool = False, base: str | None = None
) -> ModelFiles:
    """Return the checked files of a model, fetching or converting them first where needed.

    ``reference`` is a folder, a ``.gguf`` file, ``bundled:<name>`` or ``org/name[@revision]``; a folder of that
    name wins over the hub. ``HF_HUB_OFFLINE`` and the other variables of the hub are honoured. The base of
    an adapter is located in the same way; ``base`` stands in for the one that it names. Python files are fetched only with
    ``trust_remote_code``.

    Raises:
        ModelError: nothing is there, the hub says no, or the folder fails ``inspect_model``.
    """
    folder, revision = _find_folder(reference, trust_remote_code=trust_remote_code)
    if base is not None and is_adapter(folder):  # whatever it names itself, if anything
        given = locate_model(base, trust_remote_code=trust_remote_code)
        return inspect_model(folder, reference, revision=revision, base=given)
    named = find_adapter_base(folder)
    if named is None:
        return inspect_model(folder, reference, revision=revision)
    beside = folder / named.reference
    if not Path(named.reference).is_dir() and beside.is_dir():
        found = locate_model(str(beside), trust_remote_code=trust_remote_code)
    else:
        pinned = f"{named.reference}@{named.revision}" if named.revision else named.reference
        is_hub_name = HUB_NAME.fullmatch(named.reference) is not None
        try:
            found = locate_model(pinned, trust_remote_code=trust_remote_code)
        except ModelError as error:
            raise ModelError(
                f"the adapter in {folder} needs its base model {pinned!r}: {error.message}",
                # a name of the hub may be fetched; a folder that is gone can only be named anew
                hint=f"{error.hint}; or {merge_hint(folder)}"
                if error.hint and is_hub_name
                else merge_hint(folder),
            ) from error
    return inspect_model(folder, reference, revision=revision, base=found)


def _find_folder(reference: str, *, trust_remote_code: bool) -> tuple[Path, str | None]:
    """Return the folder and, for a hub name, the commit."""
    if reference.startswith(PREFIX):
        bundled = find_bundled(reference)
        return (convert_cached(bundled) if bundled.suffix == ".gguf" else bundled), None
    path = Path(reference).expanduser()
    if reference and path.is_dir():
        return path, None
    if path.suffix == ".gguf":
        return convert_cached(path), None
    if path.is_file():
        raise ModelError(
            f"{path} is a file, not a model folder", hint=f"give its folder, {path.parent}"
        )
    name = HUB_NAME.fullmatch(reference)
    if name is None or reference.startswith((".", "~")):
        raise ModelError(
            f"no model at {reference!r}: it is not a folder here and not a hub name",
            hint="give a folder, a .gguf file, bundled:smollm2-135m, bundled:minilm or org/name[@revision]",
        )
    return _download(name["repo"], name["revision"], trust_remote_code=trust_remote_code)


def _download(repo: str, revision: str | None, *, trust_remote_code: bool) -> tuple[Path, str]:
    """Return the hub snapshot's folder, which is named after the commit, and the commit."""
    patterns = [*DOWNLOADED, "*.py"] if trust_remote_code else DOWNLOADED
    place = f"{repo}@{revision}" if revision else repo
    try:
        snapshot = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=patterns, ignore_patterns=NOT_DOWNLOADED
        )
    except GatedRepoError as error:
        raise ModelError(
            f"the model {place} is gated: its owner grants access to each account",
            hint=f"ask for access at https://huggingface.co/{repo}, then run: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"the model {repo} has no revision {revision!r}",
            hint=f"see https://huggingface.co/{repo}/commits",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model folder {repo!r} here and no such model on the hub",
            hint="check the spelling; a private model needs: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"the model {place} is not in the hub cache of this machine, and the hub cannot be reached",
            hint=f"on a machine with a network run: hf download {repo}"
            + (f" --revision {revision}" if revision else "")
            + "; then copy the folder or the cache here",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"the model {place} could not be downloaded: {error}",
            hint="try again, or give a folder on this disk",
        ) from error
    folder = Path(snapshot)
    return folder, folder.name
