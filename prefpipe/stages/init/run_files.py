"""The files to start from: settings of a stage, or of a whole run with its script and a plan."""

import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from prefpipe.artifacts.atomic import create_exclusively, make_folder
from prefpipe.configs.init import InitConfig
from prefpipe.configs.plan_sections import SECTIONS
from prefpipe.configs.sampling import AUTO
from prefpipe.configs.stages import STAGES
from prefpipe.errors import UsageError
from prefpipe.execution.script_lines import comment
from prefpipe.stages.init.stage_yaml import stage_yaml, written

SCRIPT, PLAN = "run.sh", "rounds.yaml"
SCRIPT_TEXT = """\
#!/usr/bin/env bash
# The pipeline: sample, score, embed, select, train, evaluate.
# Run it again after a stop: finished parts are kept. After a change of a setting, add
# --overwrite=stale to each command: what depends on the change is made again.
set -euo pipefail

settings=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)/settings
run=${{1:-{run}}}
model={model}
prompts={prompts}
heldout={heldout}
scorer={scorer}

prefpipe generate "$prompts" -o "$run/candidates" --model "$model" \\
    --config "$settings/generate.yaml"
prefpipe score "$run/candidates" -o "$run/scores" --scorer "$scorer" \\
    --config "$settings/score.yaml"
prefpipe embed "$run/candidates" -o "$run/embeddings" --model {embedder} \\
    --config "$settings/embed.yaml"
prefpipe select "$run/candidates" --scores "$run/scores" --embeddings "$run/embeddings" \\
    -o "$run/groups" --config "$settings/select.yaml"
prefpipe train "$run/groups" -o "$run/policy" --model "$model" \\
    --config "$settings/train.yaml"
prefpipe eval --policy "$run/policy" --baseline "$model" --prompts "$heldout" \\
    -o "$run/eval" --scorer "$scorer" --config "$settings/eval.yaml"

prefpipe status "$run"
"""
PLAN_TEXT = """\
# Several rounds of the pipeline, each from the policy of the last one:
{dry_run}   # print the commands
{command}
rounds: {rounds}
prompts: {prompts}
model: {model}
prompt_use: split       # each round has its own share of the prompts; reuse: all prompts
seed: 0

# a section is a command, a key is a flag of it: prefpipe generate --help-all
{sections}
# from a round on, other values:
# changes:
#   2: {{train: {{learning_rate: 2e-6}}}}
"""


def write_stage_file(config: InitConfig) -> Path:
    """Write the settings of one stage and return their file.

    Raises:
        UsageError: the file exists.
    """
    (config_class,) = (each for each in STAGES if each.stage == config.stage)
    path = config.folder / f"{config.stage}.yaml"
    text = stage_yaml(config_class, stage_values(config)[config_class.stage])
    _write_new({path: text})
    return path


def write_run_folder(config: InitConfig) -> Path:
    """Write the script, the settings and the plan of a whole run, and return their folder.

    Raises:
        UsageError: one of the files exists; then none is written.
    """
    folder = config.folder
    of_run = run_values(config)
    texts = {
        folder / "settings" / f"{stage}.yaml": stage_yaml(
            config_class, of_run[stage], passed_by=SCRIPT
        )
        for stage, config_class in SECTIONS.items()
    }
    script, plan = folder / SCRIPT, folder / PLAN
    texts[script] = SCRIPT_TEXT.format(
        run=quote(no_flag(str(folder / "run"))),
        model=quote(no_flag(config.model_or_default)),
        prompts=quote(no_flag(config.prompts)),
        heldout=quote(no_flag(config.heldout)),
        scorer=quote(config.scorer_or_default),
        embedder=quote(config.embedder_or_default),
    )
    command = f"prefpipe rounds {quote(no_flag(str(plan)))} -o {quote(str(folder / 'rounds'))}"
    texts[plan] = PLAN_TEXT.format(
        command=_comment(command),
        dry_run=_comment(f"{command} --dry-run"),
        rounds=2 if config.is_dry_run else 3,
        prompts=written(config.prompts),
        model=written(config.model_or_default),
        sections=_sections(config, of_run),
    )
    _write_new(texts)
    script.chmod(script.stat().st_mode | 0o111)
    return folder


def run_values(config: InitConfig) -> dict[str, dict[str, Any]]:
    """Return by stage of the pipeline the settings that its file sets, places left out."""
    if config.is_dry_run:
        sampled = {"temperature": [0.8], "max_tokens": 64, "backend": config.backend}
        return {
            "generate": {"n": 4, **sampled},
            "score": {},
            "embed": {},
            "select": {"strategy": "opt-select", "k": 2},
            "train": {"objective": "ampo", "lora_r": 16, "max_steps": 2, "global_batch_size": 4},
            "eval": {"n": 1, **sampled},
        }

    engine = {} if config.backend == AUTO else {"backend": config.backend}
    return {
        "generate": {"n": 16, "temperature": [0.8], "max_tokens": 1024, **engine},
        "score": {},
        "embed": {},
        "select": {"strategy": "opt-select", "k": 7},
        "train": {"objective": "ampo", "lora_r": 16},
        "eval": {"n": 1, "temperature": [0.8], "max_tokens": 1024, **engine},
    }


def stage_values(config: InitConfig) -> dict[str, dict[str, Any]]:
    """Return by stage what its file sets when it stands alone: places and models, too."""
    model, scorer = config.model_or_default, [config.scorer_or_default]
    engine = {} if config.backend == AUTO else {"backend": config.backend}
    candidates, groups = "run/candidates", "run/groups"
    return {
        "generate": {
            "prompts": config.prompts,
            "output": candidates,
            "model": [model],
            **engine,
        },
        "score": {"candidates": candidates, "output": "run/scores", "scorer": scorer},
        "embed": {
            "candidates": candidates,
            "output": "run/embeddings",
            "model": config.embedder_or_default,
        },
        "select": {
            "candidates": candidates,
            "output": groups,
            "scores": "run/scores",
            "embeddings": "run/embeddings",
        },
        "train": {"groups": groups, "output": "run/policy", "model": model},
        "eval": {
            "output": "run/eval",
            "policy": "run/policy",
            "baseline": model,
            "prompts": config.heldout,
            "scorer": scorer,
            **engine,
        },
        "judge": {
            "a": "run/policy-candidates",
            "b": "run/baseline-candidates",
            "output": "run/verdicts",
            "judge": "openai:gpt-4.1",
        },
        "logprobs": {"groups": groups, "output": "run/reference", "model": model},
        "import": {"source": "responses.parquet", "output": "run", "format": "rows"},
        "export": {"groups": groups, "output": "pairs.parquet", "format": "trl"},
    }


def _sections(config: InitConfig, of_run: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the plan's sections, a line each."""
    scorer = [config.scorer_or_default]
    of_plan: dict[str, dict[str, Any]] = {stage: dict(of_run[stage]) for stage in SECTIONS}
    of_plan["score"] = {"scorer": scorer}
    of_plan["embed"] = {"model": config.embedder_or_default}
    of_plan["eval"] = {"prompts": config.heldout, "scorer": scorer, **of_plan["eval"]}
    return "\n".join(f"{stage}: {written(values)}" for stage, values in of_plan.items()) + "\n"


def no_flag(place: str) -> str:
    """Return a path that no command reads as a flag: ``./-x`` for ``-x``."""
    return f"./{place}" if place.startswith("-") else place


def _comment(command: str) -> str:
    """Return a command line as a comment; a name with a line end does not end it."""
    return f"#   {command}" if command.isprintable() else comment(command)


def _write_new(texts: Mapping[Path, str]) -> None:
    """Write files that do not exist.

    Raises:
        UsageError: one does; then nothing is written.
    """
    for path in texts:
        if os.path.lexists(path):
            raise UsageError(f"{path} exists already", hint="choose another folder with -o")
    for path, text in texts.items():
        make_folder(path.parent)
        if not create_exclusively(path, text.encode()):
            raise UsageError(f"{path} exists already", hint="choose another folder with -o")
