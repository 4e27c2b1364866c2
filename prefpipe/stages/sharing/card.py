"""The card of a model or a dataset on the Hugging Face hub: a README that says where it comes from.

What, made from what, by which command, for every ancestor whose record can be reached; of the
others what their children record of them. Folders of this machine are named by their last part:
a home folder, a host and a credential have no place in a page that others read.
"""

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prefpipe import __version__
from prefpipe.artifacts.store import Artifact
from prefpipe.configs.push import HUB_NAME
from prefpipe.models.files import ADAPTER_CONFIG, is_adapter
from prefpipe.models.json_files import read_json
from prefpipe.text.numbers import interval

SEAL = "<!-- prefpipe push {digest} -->\n"
"""Last line of a card: the digest of all above, so that a word of the user's in it is noticed."""
OF_TRAINING = re.compile(
    r"---\n(?:[\w-]+:.*\n)*tags: \[prefpipe\]\n(?:[\w-]+:.*\n)*---\n\n"
    r"[^\n]*(?:trained|merged in) by prefpipe[^\n]*\n\n(?:\|[^\n]*\|\n)+"
)
"""What `train` and `merge` write: front matter, a sentence and a table, and nothing else."""
TOKENS = re.compile(r"\b(?:hf_|sk-|ghp_|AKIA)[\w-]{8,}")
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY")
SHORTEST_SECRET, SHORTEST_HOST = 8, 3
MEASURES = (
    ("win rate", ("win_rate",), "{:.3f}"),
    ("length-controlled win rate", ("length_controlled",), "{:.3f}"),
    ("reward, difference to the baseline", ("reward", "difference"), "{:.4f}"),
    ("reward, policy", ("reward", "policy"), "{:.4f}"),
    ("reward, baseline", ("reward", "baseline"), "{:.4f}"),
    ("response tokens, difference", ("n_tokens", "difference"), "{:.1f}"),
)


class CardRequest(NamedTuple):
    """What the user says for the card, and the name of the repository."""

    repo_id: str
    license: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The heading."""
        return self.repo_id.partition("/")[2]


class RecipeModel(NamedTuple):
    """A model or a file that a stage was given: its role, its name, the hashes of its content."""

    role: str
    reference: str
    hashes: Mapping[str, Any]


class RecipeStep(NamedTuple):
    """A stage that something was made by.

    ``made_from``: its parents, each with what identifies it. Where no record could be reached there
    is no ``command``, and the ``settings`` are those that its children recorded.
    """

    name: str
    stage: str
    fingerprint: str
    command: str = ""
    made_from: Mapping[str, str] = {}
    models: Sequence[RecipeModel] = ()
    versions: Mapping[str, str] = {}
    settings: Mapping[str, Any] = {}


class CardModel(NamedTuple):
    """The model that a card is about.

    ``objective``: what prefpipe trained it with, "" if it did not. ``bases``: names of models that
    it began with, the nearest first. ``merged_from``: role, reference and hash of the content.
    """

    folder: Path
    content_hash: str
    objective: str = ""
    bases: Sequence[str] = ()
    merged_from: Sequence[tuple[str, str, str]] = ()


def is_ours(readme: str) -> bool:
    """Return whether a README was written by prefpipe and nobody has changed a word."""
    body, _, _ = readme.rstrip("\n").rpartition("\n")
    return readme == _sealed(body + "\n") or OF_TRAINING.fullmatch(readme) is not None


def model_card(
    model: CardModel,
    steps: Sequence[RecipeStep],
    evaluations: Sequence[Mapping[str, Any]],
    request: CardRequest,
) -> str:
    """Return the card of a model.

    Args:
        model: which.
        steps: how it was made, parents first.
        evaluations: their summaries.
        request: what the user says.
    """
    kind = "A LoRA adapter" if is_adapter(model.folder) else "A model"
    made = "shared with prefpipe"
    if model.merged_from:
        made = "merged by prefpipe"
    elif model.objective:
        made = f"trained by prefpipe with the objective `{model.objective}`"
    lines = [f"# {request.title}", "", f"{kind} {made}.", ""]
    lines += [f"sha256 of weights and configuration: `{model.content_hash}`", ""]
    if model.merged_from:
        lines += ["Merged from:", "", "| role | model | content |", "|---|---|---|"]
        for role, reference, content_hash in model.merged_from:
            lines.append(f"| {_plain(role)} | {_code(reference)} | `{content_hash}` |")
        lines.append("")
    for summary in evaluations:
        lines += _evaluation_lines(summary)
    lines += _recipe_lines(steps)
    return _page(_front_of_model(model, request), lines)


def dataset_card(
    artifacts: Mapping[str, Artifact], steps: Sequence[RecipeStep], request: CardRequest
) -> str:
    """Return the card of a dataset: one configuration an artifact, and the recipe of all.

    Args:
        artifacts: by their path in the repository, ``.`` for its root, parents first.
        steps: how they were made, parents first.
        request: what the user says.
    """
    configs: list[dict[str, Any]] = []
    for name, artifact in artifacts.items():
        if artifact.n_parts:
            inside = "" if name == "." else f"{name}/"
            glob = f"{inside}part-*.parquet"
            configs.append({"config_name": config_name(name), "data_files": glob})
    if len(configs) > 1:
        # the viewer shows one first: the last of the pipeline
        configs[-1]["default"] = True

    front: dict[str, Any] = {"pretty_name": request.title}
    if request.license:
        front["license"] = request.license
    if request.datasets:
        front["source_datasets"] = list(request.datasets)
    front |= {"tags": ["prefpipe"], "configs": configs}

    lines = [f"# {request.title}", "", "Artifacts of prefpipe, in parts of Parquet.", ""]
    lines += ["| configuration | made by | rows | parts | fingerprint |", "|---|---|---|---|---|"]
    for name, artifact in artifacts.items():
        record = artifact.record
        n_rows = sum(artifact.counts().values())
        lines.append(
            f"| {_code(config_name(name))} | `{record.stage}` | {n_rows:,} | {record.n_parts:,} | "
            f"`{record.fingerprint}` |"
        )
    if configs:
        shown = json.dumps(configs[-1]["config_name"])
        lines += ["", "```python", "from datasets import load_dataset", ""]
        lines += [f'rows = load_dataset("{request.repo_id}", {shown}, split="train")', "```"]
    lines += ["", "`prefpipe pull` copies them to a folder and verifies every part.", ""]
    lines += _recipe_lines(steps)
    return _page(front, lines)


def config_name(name: str) -> str:
    """Return what a configuration of the hub calls an artifact; it allows no slash."""
    return "default" if name == "." else name.replace("/", "--")


def _recipe_lines(steps: Sequence[RecipeStep]) -> list[str]:
    if not steps:
        return []
    lines = ["## Recipe", "", "Parents come first.", ""]
    for number, step in enumerate(steps, start=1):
        lines += [f"### {number}. `{step.stage}`: {_code(step.name)}", ""]
        lines += [f"fingerprint `{step.fingerprint}`", ""]
        if step.command:
            lines += ["```bash", step.command, "```", ""]
        if step.made_from:
            parents = [f"{name} `{digest}`" for name, digest in step.made_from.items()]
            lines += [f"Made from {', '.join(parents)}.", ""]
        for model in step.models:
            hashes = [f"{name} `{value}`" for name, value in model.hashes.items() if value]
            lines.append(f"- {_plain(model.role)} {_code(model.reference)}: {', '.join(hashes)}")
        if step.models:
            lines.append("")
        if step.versions:
            versions = [f"{name} {version}" for name, version in step.versions.items()]
            lines += [f"Made with {', '.join(versions)}.", ""]
        if step.settings:
            lines += ["Its folder was not at hand. What its children recorded of it:", ""]
            lines += ["```json", json.dumps(step.settings, indent=1), "```", ""]
    return lines


def _front_of_model(model: CardModel, request: CardRequest) -> dict[str, Any]:
    is_lora = is_adapter(model.folder)
    library = "peft" if is_lora else "transformers"
    if (model.folder / "modules.json").is_file():
        library = "sentence-transformers"
    front: dict[str, Any] = {"library_name": library}
    if request.license:
        front["license"] = request.license
    base = request.base_model or next(_bases_of(model), None)
    if base is not None:
        front["base_model"] = base
        front["base_model_relation"] = "adapter" if is_lora else "finetune"
    if request.datasets:
        front["datasets"] = list(request.datasets)
    front["tags"] = ["prefpipe", *([model.objective] if model.objective else [])]
    return front


def _bases_of(model: CardModel) -> Iterator[str]:
    """Yield names of the hub that the model began with; the hub takes no path and no bundled:."""
    names = []
    if (model.folder / ADAPTER_CONFIG).is_file():
        names.append(str(read_json(model.folder / ADAPTER_CONFIG).get("base_model_name_or_path")))
    names += model.bases
    for name in names:
        repo_id = name.partition("@")[0]
        if HUB_NAME.fullmatch(repo_id) and not Path(repo_id).exists():
            yield repo_id


def _evaluation_lines(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"## Evaluation against {_code(str(summary.get('baseline_name', '?')))}", ""]
    lines.append(
        f"{summary.get('n_prompts', '?')} held-out prompts, rewards by "
        f"{_code(str(summary.get('reward_expression', '?')))}; intervals at "
        f"{summary.get('confidence', 0.95):.0%}."
    )
    lines += ["", "| measure | mean and interval |", "|---|---|"]
    for words, keys, form in MEASURES:
        values: Any = summary
        for key in keys:
            values = values.get(key) if isinstance(values, Mapping) else None
        if isinstance(values, Mapping) and values.get("mean") is not None:
            shown = interval({"low": None, "high": None, **values}, form)
            lines.append(f"| {words} | {shown} |")
    recipe = summary.get("recipe")
    if isinstance(recipe, Mapping) and recipe.get("prompts_sha256"):
        lines += ["", f"sha256 of the prompts: `{recipe['prompts_sha256']}`"]
    return [*lines, ""]


def _page(front: Mapping[str, Any], lines: Sequence[str]) -> str:
    head = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    body = "\n".join(lines).rstrip()
    foot = f"Written by `prefpipe push` of prefpipe {__version__}."
    return _sealed(for_others(f"---\n{head}---\n\n{body}\n\n{foot}\n"))


def _sealed(body: str) -> str:
    return body + SEAL.format(digest=hashlib.sha256(body.encode()).hexdigest())


def for_others(text: str) -> str:
    """Return a text without credentials, the home folder, and the name of this host."""
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name.upper()) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    text = TOKENS.sub("***", text)
    text = text.replace(f"{Path.home()}/", "")
    host = socket.gethostname()
    if len(host) >= SHORTEST_HOST:
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "HOST", text)
    return text


def _code(text: str) -> str:
    """Return a text as Markdown shows it, whatever it holds."""
    return "`" + _plain(text).replace("`", "'").replace("|", "/") + "`"


def _plain(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f<>]", " ", text).strip()
