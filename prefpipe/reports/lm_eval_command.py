"""The command with which lm-evaluation-harness evaluates a model that prefpipe trained."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from prefpipe.artifacts.model_files import find_adapter_base
from prefpipe.artifacts.tokenizer_files import find_tokenizer_files, read_chat_template
from prefpipe.errors import UsageError

MEANT_FOR_ARGUMENTS = tuple(",='\"{}")
"""``--model_args`` is a list of ``name=value`` parted by commas outside of quotes, or a JSON object; it cannot quote these."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
READ_AS_NO_TEXT = re.compile(r"[\d._+-]+(e[\d+-]+)?|true|false|none|nan|inf", re.IGNORECASE)
"""Values that the harness turns into numbers and the like, although they are the name of a folder."""


def lm_eval_command(reference: str, tasks: Sequence[str], *, output: str, batch_size: str = "auto", dtype: str = "auto") -> str:
    """Return one line for a shell.

    Args:
        reference: a model folder, whole or an adapter, or ``org/name[@revision]``. Of an adapter the base is ``pretrained``,
            and its tokenizer is the adapter's own where it has one, since that is what it was trained with.
        tasks: names of the harness's tasks.
        output: folder for its results.
        batch_size: sequences at once, or ``auto``.
        dtype: of the weights; ``auto`` is the checkpoint's.

    Errors:
        UsageError: a reference that the harness cannot open, or whose name its list of arguments cannot hold.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".gguf" or reference.startswith("bundled:"):
        raise UsageError(
            f"{reference} is no folder of safetensors, which lm-evaluation-harness needs",
            hint=f"run `prefpipe models convert {reference} -o DIR` and give DIR",
        )
    has_template = True
    if path.is_dir():
        base = find_adapter_base(path)
        if base is None and not (path / "config.json").exists():
            raise UsageError(
                f"{reference or '.'} is no model folder: it holds neither config.json nor an adapter",
                hint="give the folder that `prefpipe train` or `merge` wrote",
            )
        has_tokenizer = bool(find_tokenizer_files(path))
        arguments = {"pretrained": _as_text(path)}
        if base is not None:
            arguments = {"pretrained": _base_path(path, base.reference), "peft": _as_text(path)}
            arguments |= {"revision": base.revision} if base.revision else {}
            arguments |= {"tokenizer": _as_text(path)} if has_tokenizer else {}
        owner = path if has_tokenizer else Path(arguments["pretrained"])
        has_template = not owner.is_dir() or read_chat_template(owner) is not None
    elif path.exists() or HUB_NAME.fullmatch(reference.partition("@")[0]) is None or reference.startswith("."):
        raise UsageError(
            f"{reference or 'an empty name'} is no model folder, and no org/name of the hub",
            hint="give the folder that `prefpipe train` wrote",
        )
    else:
        name, _, revision = reference.partition("@")
        arguments = {"pretrained": name} | ({"revision": revision} if revision else {})
    arguments |= {"dtype": dtype} if dtype != "auto" else {}
    for name, value in arguments.items():
        if any(sign in value for sign in MEANT_FOR_ARGUMENTS):
            raise UsageError(
                f"{name}: {value!r} holds one of {' '.join(MEANT_FOR_ARGUMENTS)}, which lm-evaluation-harness takes for a part "
                "of its list of arguments",
                hint="rename the folder, or make a link to it without those signs",
            )
    words = ["lm_eval", "--model", "hf", "--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    words += ["--tasks", ",".join(tasks), *(["--apply_chat_template"] if has_template else [])]
    words += ["--batch_size", batch_size, "--output_path", output, "--log_samples"]
    return shlex.join(words)


def _base_path(adapter: Path, reference: str) -> str:
    """Return where an adapter's base is: a folder beside it, a path, or a name of the hub."""
    beside = adapter / reference
    return str(beside.resolve()) if beside.is_dir() and not Path(reference).expanduser().is_dir() else reference


def _as_text(path: Path) -> str:
    """Return a folder's path so that the harness reads a text: `2026` would be a number."""
    return f"./{path}" if READ_AS_NO_TEXT.fullmatch(str(path)) else str(path)
