"""Which files of a folder are shared: those of artifacts and models, and nobody's secrets.

What is not known to belong to an artifact, a model, a run or a report stays behind and is named: a
folder of work also holds notes, prompts under a licence, and now and then a token.
"""

import os
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts import claims, run_record, step_ledger, study_tables
from prefpipe.artifacts.parts import PART_PATTERN
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.artifacts.training_folders import CHECKPOINT_PREFIX, KEPT_STEP_NAME
from prefpipe.configs import rounds_record, study_record
from prefpipe.errors import InputError, PrefpipeError
from prefpipe.models import merge_record
from prefpipe.models.files import CONFIG_FILES, content_hash_of
from prefpipe.models.json_files import read_json
from prefpipe.stages.inspect.curves import METRICS_FILE
from prefpipe.stages.train.earlier_run import INPUTS_FILE

MANIFEST_FILE = "prefpipe-manifest.json"
README = "README.md"
OF_RUNS = {
    run_record.FILE_NAME,
    SUMMARY_FILE,
    INPUTS_FILE,
    METRICS_FILE,
    rounds_record.FILE_NAME,
    study_record.FILE_NAME,
    step_ledger.FILE_NAME,
    study_tables.RESULTS_FILE,
    study_tables.RUNS_FILE,
    merge_record.FILE_NAME,
    README,
}
"""Files that prefpipe writes, wherever they lie."""
OF_MODELS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "LICENSE*",
    "NOTICE*",
)
OF_CHECKPOINTS = (
    *OF_MODELS,
    "trainer_state.json",
    "training_args.bin",
    "*.pt",
    "*.pth",
    "*.distcp",
    "pytorch_model*.bin",
    "latest",
    "zero_to_fp32.py",
)
"""What trainers need to go on, on one device and on several."""
WORKING_FOLDERS = {claims.FOLDER_NAME, "locks", "answers", "tensorboard"}
"""What a command needs while it runs, and what its machine is called: never shared."""
LOGS = ("*.log", "events.out.tfevents.*")
SECRETS = (
    ".env*",
    "*.env",
    ".netrc",
    ".git-credentials",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_ed25519*",
    "*credentials*",
    "*secret*",
    "token",
    "token.*",
    "*.token",
    "*_token",
    "*_token.txt",
    "*api_key*",
    "kubeconfig*",
)
"""Names, in small letters, that are never shared, whatever was asked for."""


class SharedFile(NamedTuple):
    """A file to share: its path in the folder, with slashes, and where its bytes are."""

    name: str
    path: Path


class Belongings(NamedTuple):
    """What is in a folder.

    ``files`` are shared. ``strangers`` belong to no artifact and no model, ``secrets`` look like
    credentials; ``n_working`` files are claims, locks, logs and temporary files. ``links`` are
    shared as what they point to.
    """

    files: list[SharedFile]
    strangers: list[str]
    secrets: list[str]
    links: list[str]
    n_working: int


def belongings_of(
    folder: Path,
    *,
    is_report: Callable[[Path], bool],
    checkpoints: bool = True,
    all_files: bool = False,
) -> Belongings:
    """Return what of a folder is shared.

    Args:
        folder: an artifact, a model, or a folder of both.
        is_report: whether an HTML file is a report of prefpipe's.
        checkpoints: whether the checkpoints of trainings are.
        all_files: whether strangers are, too. Secrets and hidden files never are.

    Raises:
        InputError: a link that leads nowhere or round in a circle, or a folder that cannot be read.
    """
    walk = _Walk(is_report, checkpoints=checkpoints, all_files=all_files)
    walk.enter(folder, "", _Room(), (folder.resolve(),))
    return walk.found


def contents_of(folder: Path, files: list[SharedFile]) -> dict[str, str]:
    """Return what a folder holds: each artifact and model by its path, with what identifies it.

    That is the fingerprint of an artifact, and the hash of the content of another model.
    """
    inside: dict[str, set[str]] = {}
    for file in files:
        place, _, name = file.name.rpartition("/")
        inside.setdefault(place, set()).add(name)

    contents = {}
    for place, names in sorted(inside.items()):
        last = place.rpartition("/")[2]
        if last.startswith(CHECKPOINT_PREFIX):
            continue
        try:
            if run_record.FILE_NAME in names:
                contents[place or "."] = run_record.read_run_record(folder / place).fingerprint
            elif names & set(CONFIG_FILES):
                contents[place or "."] = content_hash_of(folder / place)
        except PrefpipeError:
            # whether it is whole is another question
            continue
    return contents


class _Room(NamedTuple):
    """What kind of folder one stands in."""

    is_model: bool = False
    is_checkpoint: bool = False
    has_code: bool = False


class _Walk:
    def __init__(
        self, is_report: Callable[[Path], bool], *, checkpoints: bool, all_files: bool
    ) -> None:
        self._is_report = is_report
        self._checkpoints, self._all_files = checkpoints, all_files
        self.found = Belongings([], [], [], [], 0)

    def enter(self, folder: Path, name: str, outer: _Room, above: tuple[Path, ...]) -> None:
        """Sort what is in a folder; ``above`` are the folders that one came through."""
        entries = sorted(_entries(folder), key=lambda entry: entry.name)
        names = {entry.name for entry in entries}
        room = _room_of(folder, names, outer)
        for entry in entries:
            path = Path(entry.path)
            inner = f"{name}/{entry.name}" if name else entry.name
            is_shared = self._is_shared(entry, path, inner, room)
            if is_shared is None:
                continue
            if entry.is_symlink():
                _require_target(path)
                self.found.links.append(inner)
            if entry.is_dir():
                real = path.resolve()
                if real in above:
                    raise InputError(
                        f"{path} is a link to {real}, which it lies in",
                        hint="remove the link, then run the same command again",
                    )
                self.enter(path, inner, room, (*above, real))
            elif is_shared or self._all_files:
                self.found.files.append(SharedFile(inner, path))
            else:
                self.found.strangers.append(inner)

    def _is_shared(
        self, entry: "os.DirEntry[str]", path: Path, inner: str, room: _Room
    ) -> bool | None:
        """Return whether a file belongs here; None for what is left out without its name."""
        name = entry.name
        # a shard of weights of several devices keeps its table in a hidden file
        if name == ".metadata" and room.is_checkpoint:
            return True
        if any(fnmatchcase(name.lower(), pattern) for pattern in SECRETS):
            self.found.secrets.append(inner)
            return None
        is_checkpoint = name.startswith(CHECKPOINT_PREFIX) and entry.is_dir()
        is_working = name in WORKING_FOLDERS and entry.is_dir()
        is_log = any(fnmatchcase(name, pattern) for pattern in LOGS) and not self._all_files
        left_out = is_checkpoint and not self._checkpoints
        if name.startswith(".") or is_working or is_log or left_out:
            self._leave_out(path)
            return None
        if name == MANIFEST_FILE:
            return None
        return entry.is_dir() or self._belongs(path, room)

    def _belongs(self, path: Path, room: _Room) -> bool:
        name = path.name
        if name in OF_RUNS or PART_PATTERN.fullmatch(name):
            return True
        if path.suffix == ".html":
            return self._is_report(path)
        if room.has_code and path.suffix == ".py":
            return True
        patterns = OF_CHECKPOINTS if room.is_checkpoint else OF_MODELS if room.is_model else ()
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    def _leave_out(self, path: Path) -> None:
        n_files = sum(1 for each in path.rglob("*") if each.is_file()) if path.is_dir() else 1
        self.found = self.found._replace(n_working=self.found.n_working + n_files)


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise InputError(
            f"cannot read {folder}: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from error


def _room_of(folder: Path, names: set[str], outer: _Room) -> _Room:
    is_checkpoint = outer.is_checkpoint or folder.name.startswith(CHECKPOINT_PREFIX)
    is_model = bool(names & {*CONFIG_FILES, "modules.json"})
    # modules of sentence-transformers, further chat templates
    is_inside = outer.is_model and not KEPT_STEP_NAME.fullmatch(folder.name)
    has_code = "config.json" in names and "auto_map" in _config_of(folder)
    return _Room(is_model or is_inside or is_checkpoint, is_checkpoint, has_code)


def _config_of(folder: Path) -> dict[str, object]:
    try:
        return dict(read_json(folder / "config.json"))
    except PrefpipeError:
        return {}


def _require_target(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f"{path} is a link to {path.readlink()}, which is not there",
            hint="remove the link, or restore what it points to",
        )


def is_safe_name(name: str) -> bool:
    """Return whether a file's name in a manifest stays inside the folder that it is written to."""
    pieces = name.split("/")
    if any(piece in {"", ".", ".."} for piece in pieces):
        return False
    return re.search(r"[\x00-\x1f\\]", name) is None and not re.match(r"[A-Za-z]:", name)
