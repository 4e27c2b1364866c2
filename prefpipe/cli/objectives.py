"""``prefpipe objectives``: what ``--objective`` can be, with formula, knobs and paper."""

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefpipe.configs.objectives import ObjectivesConfig

if TYPE_CHECKING:
    from prefpipe.maths.objectives.registry import Objective

FACTS = (
    "name",
    "trains",
    "score",
    "comparison",
    "target",
    "needs_reference",
    "reads_roles",
    "reads_rewards",
)
"""Attributes of an objective that are shown as they are."""


def objectives(config: ObjectivesConfig) -> None:
    """Print a list of all, or a page of one."""
    from prefpipe.cli import stdout
    from prefpipe.maths.objectives.registry import ALL_OBJECTIVES, find_objective
    from prefpipe.pages.objectives import list_page, one_page

    if config.name is None:
        rows = [_facts(objective) for objective in ALL_OBJECTIVES.values()]
        if config.as_json:
            stdout.pipe_json(rows)
        else:
            stdout.show(list_page(rows, width=stdout.width()))
        return

    objective = find_objective(config.name)
    facts = {**_facts(objective), "documentation": _documentation(objective)}
    if config.as_json:
        stdout.pipe_json(facts)
    else:
        stdout.show(one_page(facts))


def _facts(objective: "Objective") -> dict[str, Any]:
    facts = {name: getattr(objective, name) for name in FACTS}
    facts["knobs"] = [
        {"name": knob.name, "default": knob.default, "range": knob.range, "meaning": knob.help}
        for knob in objective.knobs
    ]
    for name in ("formula", "source", "summary"):
        facts[name] = getattr(objective, name)
    facts["goes_with"] = [option._asdict() for option in objective.loss_options]
    return facts


def _documentation(objective: "Objective") -> str:
    """Return the docstring of the objective's loss, read from the source: no torch is needed."""
    from prefpipe.maths import objectives as package

    function = f"{objective.name.replace('-', '_')}_loss"
    for folder in package.__path__:
        for path in sorted(Path(folder).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef) and node.name == function:
                    return ast.get_docstring(node) or ""
    return ""
