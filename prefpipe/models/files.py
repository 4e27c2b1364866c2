"""A model folder on disk: what kind it is, whether it is whole, and the hashes that identify it.

Nothing here loads a model. A folder is described by hashes of what decides its answers, so that a fingerprint
follows the content and not the name: the same weights under another path are the same model.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Literal

from prefpipe.artifacts.file_hashes import hash_files
from prefpipe.artifacts.template_dates import CLOCK, FIELD
from prefpipe.errors import ModelError
from prefpipe.models.json_files import load_json, read_json
from prefpipe.models.tokenizer import (
    TOKENIZER_FILES,
    find_tokenizer_files,
    hash_tokenizer,
    read_chat_template,
)
from prefpipe.models.weights import check_safetensors

ModelKind = Literal["causal-lm", "sequence-classification", "adapter", "sentence-transformers"]

SENTENCE_TRANSFORMERS_CONFIGS = (
    "config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
TRAINER_PICKLES = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONVERT_HINT = (
    "pickle files can run code when they are opened; if you trust this one, convert it to safetensors once: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
)


@dataclass(frozen=True)
class ModelFiles:
    """A checked model folder.

    ``requested`` is what the user wrote and ``revision`` the commit a hub name resolved to; neither is
    identity. ``content_hash`` covers weights and configuration, ``tokenizer_hash`` what turns text into ids
    (None when the folder has no tokenizer), ``chat_template_hash`` the template's text. ``base`` is the model
    under an adapter. ``reads_clock``: the template asks for the date; ``template_date`` is what it is told, None where
    it does not ask, or nobody has settled it yet.
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

    def dated(self, day: str) -> "ModelFiles":
        """Return the model with the day that its template is told; the same model where the template does not ask."""
        return replace(self, template_date=day) if self.reads_clock else self

    def identity(self) -> dict[str, str | None]:
        """Return what goes into a fingerprint: hashes of content, never names or paths."""
        dated = {} if self.template_date is None else {FIELD: self.template_date}
        return {
            "content_hash": self.content_hash,
            "tokenizer_hash": self.tokenizer_hash,
            "chat_template_hash": self.chat_template_hash,
            "base_content_hash": self.base.content_hash if self.base else None,
            **dated,
        }

    @property
    def tokenizer_path(self) -> Path:
        """The folder to load the tokenizer from: the base's when an adapter brings none."""
        return _tokenizer_owner(self.path, self.base)


@dataclass(frozen=True)
class AdapterBase:
    """The base that an adapter names: a path or a hub name, and its revision if it says one."""

    reference: str
    revision: str | None


def inspect_model(
    path: Path | str, requested: str, *, revision: str | None = None, base: ModelFiles | None = None
) -> ModelFiles:
    """Check a local model folder and describe it.

    ``base`` is the model under an adapter; without it, an adapter's base is looked for on this disk.

    Raises:
        ModelError: the folder is missing, has no config.json, no safetensors (pickle checkpoints are refused),
            a missing or truncated shard, or is an adapter whose base cannot be found.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(
            f"no model folder at {folder} (asked for as {requested!r})",
            hint="give a folder, a .gguf file, bundled:smollm2-135m, bundled:minilm or org/name[@revision]",
        )
    kind = _find_kind(folder)
    if kind == "adapter" and base is None:
        base = _inspect_local_base(folder)
    files = _content_files(folder, kind)
    owner = _tokenizer_owner(folder, base)
    template = read_chat_template(owner)
    return ModelFiles(
        requested=requested,
        path=folder,
        kind=kind,
        revision=revision,
        content_hash=hash_files(folder, files),
        tokenizer_hash=hash_tokenizer(_tokenizer_folder(owner)),
        chat_template_hash=None if template is None else sha256(template.encode()).hexdigest(),
        base=base,
        reads_clock=template is not None and CLOCK in template,
    )


def content_hash_of(folder: Path) -> str:
    """Return ``ModelFiles.content_hash`` of a folder; of an adapter without a look at its base.

    Raises:
        ModelError: the folder is no whole model or adapter.
    """
    return hash_files(folder, _content_files(folder, _find_kind(folder)))


def require_tokenizer(model: ModelFiles) -> None:
    """Raise a ModelError when the model has no tokenizer."""
    if model.tokenizer_hash is None:
        raise ModelError(
            f"no tokenizer in the model folder {model.tokenizer_path}: none of {', '.join(TOKENIZER_FILES)}",
            hint="copy tokenizer.json and tokenizer_config.json from the model that this one was trained from",
        )


def require_chat_template(model: ModelFiles) -> None:
    """Raise a ModelError when the model has no tokenizer or no chat template."""
    require_tokenizer(model)
    if model.chat_template_hash is None:
        raise ModelError(
            f"no chat template in the model folder {model.tokenizer_path}: neither chat_template.jinja nor "
            "chat_template in tokenizer_config.json",
            hint="use the instruct version of the model, or put a chat_template.jinja into the folder",
        )


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and no whole model."""
    return (folder / "adapter_config.json").is_file() and not _has_model_weights(folder)


def find_adapter_base(folder: Path) -> AdapterBase | None:
    """Return the base that ``adapter_config.json`` names, or None when the folder is not an adapter."""
    if not is_adapter(folder):
        return None
    config = read_json(folder / "adapter_config.json")
    reference = config.get("base_model_name_or_path")
    if not isinstance(reference, str) or not reference:
        raise ModelError(
            f"the adapter in {folder} does not name its base model",
            hint=f"say which it is and make a whole model: {merge_command(folder)}",
        )
    return AdapterBase(reference, config.get("revision"))


def merge_command(folder: Path) -> str:
    """Return the command that makes a whole model of an adapter, with ``BASE`` for its base; paths are quoted for a shell."""
    return f"prefpipe merge {quote(str(folder))} --model BASE -o {quote(f'{folder}-merged')}"


def merge_hint(folder: Path) -> str:
    """Return the command that makes a whole model of an adapter whose base is elsewhere: no file needs to be edited."""
    return f"bring the base model to where the adapter looks for it, or name it: {merge_command(folder)}, and use that"


def _find_kind(folder: Path) -> ModelKind:
    if (folder / "adapter_config.json").is_file():
        if (folder / "adapter_model.safetensors").is_file() and _has_model_weights(folder):
            raise ModelError(
                f"the model folder {folder} holds both an adapter and a whole model; it is unclear which to use",
                hint="move the adapter_*.* files, or the whole model, to another folder",
            )
        if not _has_model_weights(folder):
            return "adapter"
    if (folder / "modules.json").is_file():
        return "sentence-transformers"
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"no config.json in the model folder {folder}",
            hint="give the folder that holds config.json and *.safetensors themselves, not its parent",
        )
    architectures = read_json(folder / "config.json").get("architectures") or []
    name = str(architectures[0]) if architectures else ""
    if "SequenceClassification" in name or "Reward" in name:
        return "sequence-classification"
    if not name or "CausalLM" in name or "LMHead" in name or "ConditionalGeneration" in name:
        return "causal-lm"
    return "sentence-transformers"  # a bare encoder, which sentence-transformers loads with mean pooling


def _has_model_weights(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() or (
        folder / "model.safetensors.index.json"
    ).is_file()


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
    """Return the files that decide what the model computes, after checking the weights among them."""
    if kind == "adapter":
        weights = _find_weights(folder, "adapter_model.safetensors")
        return [*weights, folder / "adapter_config.json"]
    if kind == "sentence-transformers":
        return _sentence_transformers_files(folder)
    weights = _find_weights(folder, "model.safetensors")
    # generation_config.json counts because it decides where answers end
    settings = [folder / "config.json", folder / "generation_config.json"]
    code = sorted(folder.glob("*.py")) if "auto_map" in read_json(folder / "config.json") else []
    return [*weights, *(path for path in settings if path.is_file()), *code]


def _sentence_transformers_files(folder: Path) -> list[Path]:
    listing = folder / "modules.json"
    modules = load_json(listing) if listing.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(
            f"{listing} is not a list of modules", hint="download or copy the model again"
        )
    subfolders = [folder / str(module.get("path", "")) for module in modules] or [folder]
    transformer = subfolders[0]
    files = [listing] if listing.is_file() else []
    files += _find_weights(transformer, "model.safetensors")
    for subfolder in sorted({folder, *subfolders}):
        if subfolder != transformer:
            files += [check_safetensors(path) for path in sorted(subfolder.glob("*.safetensors"))]
        files += [
            subfolder / name
            for name in SENTENCE_TRANSFORMERS_CONFIGS
            if (subfolder / name).is_file()
        ]
    return files


def _find_weights(folder: Path, name: str) -> list[Path]:
    """Return the checked weight files that transformers and peft would load from ``folder``."""
    if (folder / name).is_file():
        return [check_safetensors(folder / name)]
    index = folder / f"{name}.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise ModelError(
                f"the model folder {folder} lacks {len(missing)} of {len(shards)} weight files, "
                f"the first one {missing[0] if missing else name}",
                hint="download or copy the model again",
            )
        return [check_safetensors(folder / shard) for shard in shards]
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    pickles = [found for found in pickles if found not in TRAINER_PICKLES]
    if pickles:
        raise ModelError(
            f"the model folder {folder} has only pickle weights ({pickles[0]}), which prefpipe refuses",
            hint=CONVERT_HINT,
        )
    raise ModelError(
        f"no {name} in the model folder {folder}",
        hint="give the folder that holds the weights, or download the model again",
    )


def _tokenizer_owner(folder: Path, base: ModelFiles | None) -> Path:
    """Return the folder whose tokenizer and template count: an adapter's own, else its base's."""
    if base is not None and not find_tokenizer_files(folder):
        return base.path
    return folder


def _tokenizer_folder(owner: Path) -> Path:
    """Return where the tokenizer files are: old sentence-transformers have them beside the first module."""
    first_module = owner / "0_Transformer"
    return first_module if not find_tokenizer_files(owner) and first_module.is_dir() else owner
