"""Arguments of a chat template beside the conversation: ``enable_thinking=false``.

A template that never reads an argument silently writes the same without it, so a misspelling would
go unnoticed. So the variables in the template's source are checked before a model is loaded.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prefpipe.errors import UsageError
from prefpipe.spelling import did_you_mean
from prefpipe.surrogates import has_lone_surrogates

FLAG = "--template-arg"
TemplateArgs = Mapping[str, Any]

WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "None"), None),
}
"""Words that are values: JSON's, with the spellings of YAML 1.2 and Python."""
UNCLEAR = ("yes", "no", "on", "off")
"""Texts in JSON, but true or false in some YAML; to a template any text is true."""
SET_BY_PREFPIPE = frozenset(
    {
        "messages",
        "conversation",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "prefpipe_clock",
    }
)
"""Names that a template, or the function that renders it, receives already."""
OF_THE_READER = frozenset({"raise_exception", "strftime_now", "documents"})
"""Variables of a template that are not arguments for users."""


class _GenerationBlocks(Extension):
    """Reads ``{% generation %}``, which transformers adds to the language of templates."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def read_template_args(texts: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of ``KEY=VALUE`` texts.

    Raises:
        ValueError: has a sentence for each text that is invalid or repeats a key.
    """
    args: dict[str, Any] = {}
    problems = []
    for text in texts:
        key, equals, written = text.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            problems.append(f"{FLAG} {text}: write it as KEY=VALUE, such as enable_thinking=false")
        elif key in SET_BY_PREFPIPE:
            problems.append(f"{FLAG} {text}: `{key}` is set by prefpipe")
        elif key in args:
            problems.append(f"{FLAG} {text}: `{key}` is given twice")
        else:
            try:
                args[key] = _value(written.strip())
            except ValueError as error:
                problems.append(f"{FLAG} {text}: {error}")
    if problems:
        raise ValueError("; ".join(problems))
    return args


def _value(written: str) -> Any:
    """Return a value: parsed if it is JSON, else the text itself.

    Raises:
        ValueError: a text that begins like JSON but is not, or a word that readers interpret
            differently.
    """
    if written in WORDS:
        return WORDS[written]
    if written.lower() in UNCLEAR:
        raise ValueError(f"write true or false, or '\"{written}\"' for the text")
    try:
        value = json.loads(written)
    except RecursionError as error:
        raise ValueError("the value is nested too deep") from error
    except ValueError as error:
        if written.startswith(("{", "[", '"')):
            raise ValueError(f"the value is not JSON ({error})") from error
        return written

    # `NaN` and 1e999 are numbers to Python but not to JSON, at any depth.
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError("the value is not a finite number") from error
    if has_lone_surrogates(text):
        raise ValueError("the value holds half of a surrogate pair, which is not a character")
    return value


def written_args(args: TemplateArgs) -> str:
    """Return arguments in command-line form, for messages."""
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in args.items()]
    return " ".join(texts) or "none"


def variables_of(template: str) -> set[str] | None:
    """Return the variables that a template's source reads; None if it is not Jinja.

    Args:
        template: its source.
    """
    environment = ImmutableSandboxedEnvironment(
        extensions=[_GenerationBlocks, "jinja2.ext.loopcontrols"]
    )
    try:
        tree = environment.parse(template)
        undeclared = meta.find_undeclared_variables(tree)
    except jinja2.TemplateError:
        return None  # an unreadable template fails on its first conversation, with its name

    # jinja2 treats a variable set in one branch and read in another as undeclared.
    set_here = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    return undeclared - (set_here - _asked_for(tree))


def _asked_for(tree: nodes.Template) -> set[str]:
    """Return the variables that callers can set although the template sets them, too.

    It checks whether they are defined, has a default for them, or derives their value from
    themselves.
    """
    asked = set()
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        asks = node.name in ("defined", "undefined", "default", "d")
        if asks and isinstance(node.node, nodes.Name):
            asked.add(node.node.name)
    # A value derived from itself has an earlier value; if it is the first, it comes from outside.
    first: dict[str, nodes.Assign] = {}
    for assign in sorted(tree.find_all(nodes.Assign), key=lambda assign: assign.lineno):
        if isinstance(assign.target, nodes.Name):
            first.setdefault(assign.target.name, assign)
    for name, assign in first.items():
        read = {part.name for part in assign.find_all(nodes.Name) if part.ctx == "load"}
        asked |= read & {name}
    return asked


def args_read_by(template: str, args: TemplateArgs) -> dict[str, Any]:
    """Return the arguments that a template reads."""
    variables = variables_of(template)
    return {key: value for key, value in args.items() if variables is None or key in variables}


def refuse_unread(template: str, args: TemplateArgs, name: str) -> None:
    """Refuse arguments that a template never reads: it would write the same without them.

    Args:
        template: its source.
        args: the arguments.
        name: of the model, for messages.

    Raises:
        UsageError: names the first of them, and the variable with the nearest spelling.
    """
    read = args_read_by(template, args)
    unread = [key for key in args if key not in read]
    if not unread:
        return

    variables = variables_of(template) or set()
    offered = sorted(
        key for key in variables - SET_BY_PREFPIPE - OF_THE_READER if not key.endswith("_token")
    )
    shown = f"it reads {', '.join(offered)}" if offered else "it reads no arguments"
    raise UsageError(
        f"{FLAG} {unread[0]}: the chat template of {name} never reads `{unread[0]}`"
        f"{did_you_mean(unread[0], offered)}",
        hint=shown,
    )


def refuse_contradiction(given: TemplateArgs, recorded: TemplateArgs, candidates: str) -> None:
    """Refuse arguments that differ from the candidates': prompts would change.

    Args:
        given: arguments on the command line.
        recorded: arguments with which the candidates were sampled.
        candidates: where they are, for messages.

    Raises:
        UsageError: names both.
    """
    if any(key not in recorded or recorded[key] != value for key, value in given.items()):
        raise UsageError(
            f"{FLAG} {written_args(given)}: the candidates of {candidates} were sampled with "
            f"{written_args(recorded)}",
            hint=f"leave {FLAG} out to use the candidates' value, or sample again with the new "
            "value",
        )
