"""Arguments of a chat template beside the conversation: ``enable_thinking=false``.

A template that never reads an argument writes the same without it, and nothing would say that it
was spelt wrongly. So the variables of the template's source are looked through before a model is
loaded.
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
"""Texts to JSON, true or false to some readers of YAML; to a template any text is true."""
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
"""What a template, or the function that renders it, is handed already."""
OF_THE_READER = frozenset({"raise_exception", "strftime_now", "documents"})
"""Variables of a template that no user means."""


class _GenerationBlocks(Extension):
    """Reads ``{% generation %}``, which transformers adds to the language of templates."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def read_template_args(texts: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of ``KEY=VALUE`` texts.

    Raises:
        ValueError: a sentence on each text that is none, or that names a key again.
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
    """Return a value: JSON where it is some, else the text as it stands.

    Raises:
        ValueError: what begins like JSON and is none, or a word that readers take differently.
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

    # `NaN` and 1e999 are numbers to Python, and JSON knows neither, however deep they stand
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError("the value is not a finite number") from error
    if has_lone_surrogates(text):
        raise ValueError("the value holds half of a surrogate pair, which is not a character")
    return value


def written_args(args: TemplateArgs) -> str:
    """Return arguments as the command line takes them, for messages."""
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in args.items()]
    return " ".join(texts) or "none"


def variables_of(template: str) -> set[str] | None:
    """Return the variables that a template's source reads; None of a template that is no Jinja.

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
        return None  # a template that cannot be read fails on its first conversation, by name

    # jinja2 counts a variable that is set in one branch and read in another as undeclared
    set_here = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    return undeclared - (set_here - _asked_for(tree))


def _asked_for(tree: nodes.Template) -> set[str]:
    """Return the variables whose value from outside counts although the template sets them.

    It asks whether they are defined, has a default for them, or makes their value of themselves.
    """
    asked = set()
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        asks = node.name in ("defined", "undefined", "default", "d")
        if asks and isinstance(node.node, nodes.Name):
            asked.add(node.node.name)
    # what is made of itself has a value before: where that is the first one, it is from outside
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
        UsageError: naming the first of them, and the variable that is spelt most like it.
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
    """Refuse arguments that are not those of the candidates: prompts would be other prompts.

    Args:
        given: on the command line.
        recorded: with what sampled the candidates.
        candidates: where they are, for messages.

    Raises:
        UsageError: naming both.
    """
    if any(key not in recorded or recorded[key] != value for key, value in given.items()):
        raise UsageError(
            f"{FLAG} {written_args(given)}: the candidates of {candidates} were sampled with "
            f"{written_args(recorded)}",
            hint=f"leave {FLAG} out to use the candidates' value, or sample again with the new "
            "value",
        )
