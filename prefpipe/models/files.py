"""A model folder on disk: its kind, whether it is complete, and the hashes that identify it.

Nothing here loads a model. A folder is described by hashes of what decides its answers, so that a
fingerprint follows the content and not the name: the same weights under another path are the same
model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from prefpipe.artifacts.file_hashes import hash_files
from prefpipe.artifacts.template_args import FIELD as TEMPLATE_ARGS
from prefpipe.artifacts.template_dates import CLOCK, FIELD
from prefpipe.errors import ModelError
from prefpipe.models.json_files import load_json, read_json
from prefpipe.models.tokenizer import (
    TOKENIZER_FILES,
    find_tokenizer_files,
    hash_tokenizer,
    read_chat_template,
)
from prefpipe.models.weights import (
    ADAPTER_WEIGHTS,
    MODEL_WEIGHTS,
    check_safetensors,
    find_weights,
    has_model_weights,
)
from prefpipe.text.thoughts import ThoughtMarkers

ModelKind = Literal["causal-lm", "sequence-classification", "adapter", "sentence-transformers"]

MODEL_CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
CONFIG_FILES = (MODEL_CONFIG, ADAPTER_CONFIG)
"""What makes a folder a model, or an adapter; written last of its files."""
SENTENCE_TRANSFORMERS_CONFIGS = (
    "config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


@dataclass(frozen=True)
class ModelFiles:
    """A checked model folder.

    ``requested`` is what the user wrote, and ``revision`` the commit that a hub name resolved to.
    Neither is part of the identity.

    ``content_hash`` covers weights and configuration. ``tokenizer_hash`` covers what turns text
    into ids; None when the folder has no tokenizer. ``chat_template_hash`` covers the template's
    text. ``base`` is the model under an adapter.

    ``reads_clock``: the template asks for the date. ``template_date`` is the date that it gets;
    None if it does not ask, or where nobody has settled it yet. ``template_args`` are the
    arguments that the template is given beside the conversation. ``thoughts`` are the markers
    around what the model thinks, where the two are to be kept apart.
    """

    requested: str
    path: Path
    kind: ModelKind
    revision: str | None
    content_hash: str
    tokenizer_hash: str | None
    chat_template_hash: str | None
    base: "ModelFiles | None" = None
    reads_clock: bool = False
    template_date: str | None = None
    template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    thoughts: ThoughtMarkers | None = None

    def dated(self, day: str) -> "ModelFiles":
        """Return the model with the date of its template; the same model if it does not ask."""
        return replace(self, template_date=day) if self.reads_clock else self

    def given(self, template_args: Mapping[str, Any]) -> "ModelFiles":
        """Return the model with the arguments of its template."""
        return replace(self, template_args=dict(template_args))

    def thinking(self, markers: ThoughtMarkers | None) -> "ModelFiles":
        """Return the model with the markers of its thoughts."""
        return replace(self, thoughts=markers)

    def identity(self) -> dict[str, Any]:
        """Return the entry in a fingerprint: hashes of content, never names or paths."""
        identity: dict[str, Any] = {
            "content_hash": self.content_hash,
            "tokenizer_hash": self.tokenizer_hash,
            "chat_template_hash": self.chat_template_hash,
            "base_content_hash": self.base.content_hash if self.base else None,
        }
        if self.template_date is not None:
            identity[FIELD] = self.template_date
        if self.template_args:
            identity[TEMPLATE_ARGS] = dict(self.template_args)
        return identity

    @property
    def tokenizer_path(self) -> Path:
        """The folder to load the tokenizer from: the base's when an adapter brings none."""
        return _tokenizer_owner(self.path, self.base)


@dataclass(frozen=True)
class AdapterBase:
    """The base that an adapter names: a path or a hub name, and its revision if it says one."""

    reference: str
    revision: str | None

    @property
    def pinned(self) -> str:
        """The reference with its revision, as ``--model`` takes it."""
        return f"{self.reference}@{self.revision}" if self.revision else self.reference


def inspect_model(
    path: Path | str, requested: str, *, revision: str | None = None, base: ModelFiles | None = None
) -> ModelFiles:
    """Check a local model folder and describe it.

    Args:
        path: the folder.
        requested: what the user wrote.
        revision: the commit that a hub name resolved to.
        base: the model under an adapter; without it, an adapter's base is looked for on this disk.

    Raises:
        ModelError: the folder is missing, has no config.json, no safetensors (pickle checkpoints
            are refused), a missing or truncated shard, or is an adapter whose base cannot be found.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(
            f"no model folder at {folder} (asked for as {requested!r})",
            hint="pass a folder, a .gguf file, bundled:smollm2-135m, bundled:minilm or "
            "org/name[@revision]",
        )
    kind = _find_kind(folder)
    if kind == "adapter" and base is None:
        base = _inspect_local_base(folder)

    # Weights are checked before they are hashed: hashing takes the longest.
    content_files = _content_files(folder, kind)
    owner = _tokenizer_owner(folder, base)
    template = read_chat_template(owner)
    return ModelFiles(
        requested=requested,
        path=folder,
        kind=kind,
        revision=revision,
        content_hash=hash_files(folder, content_files),
        tokenizer_hash=hash_tokenizer(_tokenizer_folder(owner)),
        chat_template_hash=None if template is None else sha256(template.encode()).hexdigest(),
        base=base,
        reads_clock=template is not None and CLOCK in template,
    )


def content_hash_of(folder: Path) -> str:
    """Return ``ModelFiles.content_hash`` of a folder; of an adapter without checking its base.

    Raises:
        ModelError: the folder is no whole model or adapter.
    """
    return hash_files(folder, _content_files(folder, _find_kind(folder)))


def require_whole(folder: Path) -> None:
    """Check the weights of a model or adapter folder, without hashing them.

    Raises:
        ModelError: the folder is no whole model or adapter.
    """
    _content_files(folder, _find_kind(folder))


def require_tokenizer(model: ModelFiles) -> None:
    """Raise a ModelError when the model has no tokenizer."""
    if model.tokenizer_hash is None:
        raise ModelError(
            f"no tokenizer in the model folder {model.tokenizer_path}: "
            f"none of {', '.join(TOKENIZER_FILES)}",
            hint="copy tokenizer.json and tokenizer_config.json from the model that this one was "
            "trained from",
        )


def require_chat_template(model: ModelFiles) -> None:
    """Raise a ModelError when the model has no tokenizer or no chat template."""
    require_tokenizer(model)
    if model.chat_template_hash is None:
        raise ModelError(
            f"no chat template in the model folder {model.tokenizer_path}: "
            "neither chat_template.jinja nor chat_template in tokenizer_config.json",
            hint="use the instruct version of the model, or put a chat_template.jinja into the "
            "folder",
        )


def holds_config(folder: Path) -> bool:
    """Return whether a folder is a model or an adapter, whose configuration is written last."""
    return any((folder / name).is_file() for name in CONFIG_FILES)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and not a full model."""
    return (folder / ADAPTER_CONFIG).is_file() and not has_model_weights(folder)


def find_adapter_base(folder: Path) -> AdapterBase | None:
    """Return the base that ``adapter_config.json`` names; None when the folder is no adapter.

    Raises:
        ModelError: it is an adapter and names no base.
    """
    if not is_adapter(folder):
        return None

    config = read_json(folder / ADAPTER_CONFIG)
    reference = config.get("base_model_name_or_path")
    if not isinstance(reference, str) or not reference:
        raise ModelError(
            f"the adapter in {folder} does not name its base model",
            hint=f"name it and merge both into one model: {merge_command(folder)}",
        )
    return AdapterBase(reference, config.get("revision"))


def merge_command(folder: Path) -> str:
    """Return the command that merges an adapter into a full model, with ``BASE`` for its base.

    Paths are quoted for a shell.
    """
    return f"prefpipe merge {quote(str(folder))} --model BASE -o {quote(f'{folder}-merged')}"


def merge_hint(folder: Path) -> str:
    """Return the hint for an adapter whose base is elsewhere; no file needs to be edited."""
    return (
        "move the base model to where the adapter looks for it, or merge the two and use the "
        f"merged model: `{merge_command(folder)}`"
    )


def _find_kind(folder: Path) -> ModelKind:
    if is_adapter(folder):
        return "adapter"

    # An adapter's configuration alone may lie beside a whole model; two sets of weights may not.
    has_adapter_config = (folder / ADAPTER_CONFIG).is_file()
    if has_adapter_config and (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"the model folder {folder} holds both an adapter and a full model, and prefpipe "
            "does not choose between them",
            hint="move the adapter_*.* files, or the full model, to another folder",
        )
    if (folder / "modules.json").is_file():
        return "sentence-transformers"
    if not (folder / MODEL_CONFIG).is_file():
        raise ModelError(
            f"no config.json in the model folder {folder}",
            hint="pass the folder that directly contains config.json and *.safetensors, not its "
            "parent",
        )

    architectures = read_json(folder / MODEL_CONFIG).get("architectures") or [""]
    name = str(architectures[0])
    if "SequenceClassification" in name or "Reward" in name:
        return "sequence-classification"
    if not name or "CausalLM" in name or "LMHead" in name or "ConditionalGeneration" in name:
        return "causal-lm"
    # a bare encoder, which sentence-transformers loads with mean pooling
    return "sentence-transformers"


def _inspect_local_base(folder: Path) -> ModelFiles:
    named = find_adapter_base(folder)
    if named is not None:
        for candidate in (Path(named.reference).expanduser(), folder / named.reference):
            if candidate.is_dir():
                return inspect_model(candidate, named.reference)

    reference = named.reference if named else None
    raise ModelError(
        f"the adapter in {folder} needs its base model {reference!r}, which is not on this disk",
        hint=merge_hint(folder),
    )


def _content_files(folder: Path, kind: ModelKind) -> list[Path]:
    """Return the files that decide what the model computes, after checking its weights."""
    if kind == "adapter":
        return [*find_weights(folder, ADAPTER_WEIGHTS), folder / ADAPTER_CONFIG]
    if kind == "sentence-transformers":
        return _sentence_transformers_files(folder)

    files = find_weights(folder, MODEL_WEIGHTS)
    # generation_config.json counts because it decides where answers end
    for name in (MODEL_CONFIG, "generation_config.json"):
        if (folder / name).is_file():
            files.append(folder / name)
    # Code that comes with the model has a say in what it computes.
    if "auto_map" in read_json(folder / MODEL_CONFIG):
        files += sorted(folder.glob("*.py"))
    return files


def _sentence_transformers_files(folder: Path) -> list[Path]:
    """Return the files of all modules; the first is the transformer, which must have weights."""
    files: list[Path] = []
    modules = []
    listing = folder / "modules.json"
    if listing.is_file():
        modules = load_json(listing)
        files.append(listing)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(
            f"{listing} is not a list of modules", hint="download or copy the model again"
        )

    subfolders = [folder / str(module.get("path", "")) for module in modules] or [folder]
    transformer = subfolders[0]
    files += find_weights(transformer, MODEL_WEIGHTS)
    for subfolder in sorted({folder, *subfolders}):
        if subfolder != transformer:
            for path in sorted(subfolder.glob("*.safetensors")):
                files.append(check_safetensors(path))
        for name in SENTENCE_TRANSFORMERS_CONFIGS:
            if (subfolder / name).is_file():
                files.append(subfolder / name)
    return files


def _tokenizer_owner(folder: Path, base: ModelFiles | None) -> Path:
    """Return the folder whose tokenizer and template count: an adapter's own, else its base's."""
    if base is not None and not find_tokenizer_files(folder):
        return base.path
    return folder


def _tokenizer_folder(owner: Path) -> Path:
    """Return where the tokenizer files are.

    Old sentence-transformers have them beside the first module.
    """
    first_module = owner / "0_Transformer"
    return first_module if not find_tokenizer_files(owner) and first_module.is_dir() else owner
