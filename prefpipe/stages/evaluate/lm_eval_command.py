"""The command with which lm-evaluation-harness evaluates a model that prefpipe trained."""

import ast
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from prefpipe.errors import UsageError
from prefpipe.models.files import find_adapter_base
from prefpipe.models.tokenizer import find_tokenizer_files, read_chat_template

MEANT_FOR_ARGUMENTS = tuple(",='\"{}")
"""``--model_args`` is a list of ``name=value`` parted by commas, or a JSON object.

Neither can quote these.
"""
BRACKETS = {"]": "[", ")": "("}
"""A comma between them parts nothing: one that stays open swallows what is behind it."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def lm_eval_command(
    reference: str,
    tasks: Sequence[str],
    *,
    output: str,
    batch_size: str = "auto",
    dtype: str = "auto",
) -> str:
    """Return one line for a shell.

    Args:
        reference: a model folder, whole or an adapter, or ``org/name[@revision]``. Of an adapter
            the base is ``pretrained``, and its tokenizer is the adapter's own where it has one,
            since that is what it was trained with.
        tasks: names of the harness's tasks.
        output: folder for its results.
        batch_size: sequences at once, or ``auto``.
        dtype: of the weights; ``auto`` is the checkpoint's.

    Raises:
        UsageError: a reference that the harness cannot open, or whose name its list of arguments
            cannot hold.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".gguf" or reference.startswith("bundled:"):
        raise UsageError(
            f"{reference} is not a folder of safetensors files, which lm-evaluation-harness needs",
            hint=f"run `prefpipe models convert {reference} -o DIR` and pass DIR",
        )
    if path.is_dir():
        arguments, has_template = _arguments_of_folder(reference, path)
    else:
        arguments, has_template = _arguments_of_hub_model(reference), True

    if dtype != "auto":
        arguments["dtype"] = dtype
    for name, value in arguments.items():
        _check_argument(name, value)

    model_args = ",".join(f"{name}={value}" for name, value in arguments.items())
    words = ["lm_eval", "--model", "hf", "--model_args", model_args, "--tasks", ",".join(tasks)]
    if has_template:
        words.append("--apply_chat_template")
    words += ["--batch_size", batch_size, "--output_path", output, "--log_samples"]
    return shlex.join(words)


def _arguments_of_folder(reference: str, path: Path) -> tuple[dict[str, str], bool]:
    """Return the arguments of a model folder, and whether its tokenizer has a chat template.

    The folder is a full model or an adapter.
    """
    base = find_adapter_base(path)
    has_tokenizer = bool(find_tokenizer_files(path))
    if base is None:
        if not (path / "config.json").exists():
            raise UsageError(
                f"{reference or '.'} is not a model folder: it holds neither config.json nor an "
                "adapter",
                hint="pass the folder that `prefpipe train` or `prefpipe merge` wrote",
            )
        arguments = {"pretrained": _as_text(path)}
    else:
        arguments = {"pretrained": _base_path(path, base.reference), "peft": _as_text(path)}
        if base.revision:
            arguments["revision"] = base.revision
        if has_tokenizer:
            arguments["tokenizer"] = _as_text(path)

    # A base of the hub is not on this disk; that it has a template is the likelier case.
    owner = path if has_tokenizer else Path(arguments["pretrained"])
    has_template = not owner.is_dir() or read_chat_template(owner) is not None
    return arguments, has_template


def _arguments_of_hub_model(reference: str) -> dict[str, str]:
    """Return the arguments of ``org/name[@revision]``."""
    name, _, revision = reference.partition("@")
    is_hub_name = HUB_NAME.fullmatch(name) is not None and not reference.startswith(".")
    if Path(reference).expanduser().exists() or not is_hub_name:
        raise UsageError(
            f"{reference or 'an empty name'} is neither a model folder nor an org/name of the hub",
            hint="pass the folder that `prefpipe train` wrote",
        )
    arguments = {"pretrained": name}
    if revision:
        arguments["revision"] = revision
    return arguments


def _check_argument(name: str, value: str) -> None:
    """Refuse a value that the harness's list of arguments cannot hold.

    Raises:
        UsageError: naming it.
    """
    if any(sign in value for sign in MEANT_FOR_ARGUMENTS):
        raise UsageError(
            f"{name}: {value!r} contains one of {' '.join(MEANT_FOR_ARGUMENTS)}, which separate "
            "arguments in lm-evaluation-harness",
            hint="rename the folder, or make a link to it without those characters",
        )

    if has_open_bracket(value):
        raise UsageError(
            f"{name}: {value!r} has an unpaired bracket, and lm-evaluation-harness reads text "
            "between brackets as one argument",
            hint="rename the folder, or make a link to it without brackets",
        )

    if not is_read_as_text(value):
        hint = f"download it, `hf download {value} --local-dir DIR`, and pass ./DIR"
        if name == "revision":
            hint = "name a branch, a tag or a longer commit hash"
        raise UsageError(
            f"{name}: lm-evaluation-harness reads {value!r} as a number or another Python value, "
            "and has no way to mark it as text",
            hint=hint,
        )


def is_read_as_text(value: str) -> bool:
    """Return whether lm-evaluation-harness reads the value of an argument as text.

    It turns everything into a number, a switch, a list or another literal of Python that is spelt
    like one: a folder ``0x10`` becomes 16, ``[1]`` a list, ``Infinity`` a float. The rule is that
    of lm-eval 0.4.13 and of the releases before it.
    """
    if value.lower() in ("true", "false", "none") or value.isnumeric():
        return False
    try:
        float(value)
    except ValueError:
        pass
    else:
        return False

    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return True
    return False


def has_open_bracket(value: str) -> bool:
    """Return whether a bracket in the value of an argument lacks its other half."""
    opened: list[str] = []
    for sign in value:
        if sign in BRACKETS.values():
            opened.append(sign)
        elif sign in BRACKETS and (not opened or opened.pop() != BRACKETS[sign]):
            return True
    return bool(opened)


def _base_path(adapter: Path, reference: str) -> str:
    """Return where an adapter's base is: a folder beside it, a path, or a name of the hub."""
    path = Path(reference).expanduser()
    if path.is_dir():
        return _as_text(path)
    beside = adapter / reference
    return str(beside.resolve()) if beside.is_dir() else reference


def _as_text(path: Path) -> str:
    """Return a folder's path in a form that the harness reads as text.

    No literal of Python begins with ``./``.
    """
    return str(path) if is_read_as_text(str(path)) else f"./{path}"
