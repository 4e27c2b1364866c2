"""The core without PyTorch: its commands give the right figures, all others one line that says what to install.

``make test-wheel`` runs this file outside of the checkout with ``PREFPIPE_PYTHON``, the interpreter of an environment
that holds the built wheel and nothing else. Without the variable it makes an environment here: links to the packages
that pyproject.toml names as dependencies, and to none besides.
"""

import json
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

INSTALLED = os.environ.get("PREFPIPE_PYTHON")
HEAVY = [
    "torch", "transformers", "accelerate", "peft", "tensorboard", "sentence_transformers", "sklearn", "openai",
    "ray", "datasets", "bitsandbytes", "vllm", "pandas",
]  # fmt: skip

RUN_MANY = """
import json, sys
from prefpipe.cli.main import run

for words in json.loads(sys.argv[1]):
    code = run(words)
    for stream in (sys.stdout, sys.stderr):
        stream.write(f"\\x1e{code}\\x1f")
        stream.flush()
"""


def closure(requirements: list[str]) -> Iterator[metadata.Distribution]:
    """Yield what is installed here of these requirements, and of theirs."""
    from packaging.requirements import Requirement

    waiting, seen = [Requirement(line) for line in requirements], set()
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        key = (name, *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = metadata.distribution(name)
        yield distribution
        for line in distribution.requires or []:
            further = Requirement(line)
            extras = ["", *requirement.extras]
            if further.marker is None or any(
                further.marker.evaluate({"extra": each}) for each in extras
            ):
                waiting.append(further)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """The interpreter of an environment with the core alone."""
    if INSTALLED:
        return INSTALLED

    root = Path(__file__).resolve().parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("core")
    packages = folder / "packages"
    packages.mkdir()
    for distribution in [*closure(project["dependencies"]), metadata.distribution("prefpipe")]:
        for name in {Path(file).parts[0] for file in distribution.files}:
            source = Path(distribution.locate_file(name)).resolve()
            if (
                name not in ("..", "__pycache__")
                and source.suffix != ".pth"
                and not (packages / name).exists()
            ):
                (packages / name).symlink_to(source)

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "core.pth").write_text(f"{root}\n{packages}\n")
    return str(folder / "venv" / "bin" / "python")


@pytest.fixture(scope="module")
def call(python):
    """Run the interpreter in a folder, without what an environment of a developer sets."""

    def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PREFPIPE"))
        }
        environment |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        return subprocess.run(
            [python, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def work(tmp_path_factory, call) -> Path:
    """A folder with a user's small files, and a run that was made of them."""
    folder = tmp_path_factory.mktemp("work")
    rows = []
    for number in range(6):
        for sample in range(4):
            prompt, response = f"Question {number}?", f"Answer {sample}" + " word" * (sample + 1)
            rows.append({"prompt": prompt, "response": response, "score": sample + number / 10})
    write_lines(folder / "rows.jsonl", rows)

    gaps = [1.5, -0.5, 2.0, 0.25, 3.0, -1.0, 0.75, 2.5]
    pairs = []
    for number, gap in enumerate(gaps):
        scores = {"score_chosen": 1.0 + gap, "score_rejected": 1.0}
        pairs.append(
            {"prompt": f"{number}?", "chosen": "good " * (number + 1), "rejected": "bad", **scores}
        )
    write_lines(folder / "pairs.jsonl", pairs)

    preferences = [1.0, 2.0, 2.0, 1.75] * 4
    annotations = []
    for number, preference in enumerate(preferences):
        outputs = {
            "output_1": "theirs",
            "output_2": "mine " * (number % 3 + 1),
            "generator_1": "a",
            "generator_2": "b",
        }
        annotations.append({"instruction": f"{number}?", **outputs, "preference": preference})
    (folder / "annotations.json").write_text(json.dumps(annotations))

    checked = [
        {"prompt": "Name a fruit.", "response": text} for text in ("apple", "an apple, of course")
    ]
    for row in checked:
        row["checks"] = [{"type": "words", "max": 2}]
    write_lines(folder / "checked.jsonl", checked)
    write_lines(folder / "prompts.jsonl", [{"prompt": "Name a fruit."}])

    importing = "import rows.jsonl --format rows --reward-column score -o run"
    selecting = "select run/candidates --scores run/scores --strategy bottom-k --k 2 -o run/groups"
    for words in (importing, selecting):
        done = call(["-m", "prefpipe", *words.split()], folder)
        assert done.returncode == 0, done.stderr
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_many(call, commands: list[str], cwd: Path) -> list[tuple[int, str, str]]:
    """Run commands one after another in one process; return exit code, stdout and stderr of each."""
    done = call(["-c", RUN_MANY, json.dumps([command.split() for command in commands])], cwd)
    assert done.returncode == 0, done.stderr
    outputs = [stream.split("\x1e") for stream in (done.stdout, done.stderr)]
    results, texts = [], [[streams[0]] for streams in outputs]
    for stream, pieces in zip(texts, outputs, strict=True):
        for piece in pieces[1:]:
            code, _, text = piece.partition("\x1f")
            stream += [code, text]
    for place in range(len(commands)):
        out, code, err = texts[0][2 * place], texts[0][2 * place + 1], texts[1][2 * place]
        results.append((int(code), out, err))
    return results


def one_json(call, command: str, cwd: Path) -> dict:
    ((code, out, err),) = run_many(call, [command], cwd)
    assert code == 0, err
    return json.loads(out)


def test_the_environment_holds_nothing_heavy(call, tmp_path) -> None:
    code = "import sys, json; from importlib.util import find_spec; print(json.dumps([n for n in json.loads(sys.argv[1]) if find_spec(n)]))"
    done = call(["-c", code, json.dumps(HEAVY)], tmp_path)
    assert json.loads(done.stdout) == [], done.stderr


def test_the_package_is_the_installed_one_and_says_its_version(call, tmp_path) -> None:
    code = "import prefpipe; from importlib.metadata import version; print(prefpipe.__file__, prefpipe.__version__, version('prefpipe'))"
    file, shown, recorded = call(["-c", code], tmp_path).stdout.split()
    assert shown == recorded
    assert call(["-m", "prefpipe", "--version"], tmp_path).stdout == f"{shown}\n"
    if INSTALLED:
        assert "site-packages" in file
        assert shown == os.environ["PREFPIPE_VERSION"]
        script = Path(INSTALLED).with_name("prefpipe")
        assert (
            subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
            == f"{shown}\n"
        )


def test_import_and_select_keep_the_right_candidates(call, work) -> None:
    code = """
import json, prefpipe
groups = prefpipe.read("run/groups").sort("prompt_id", "sample_idx")
kept = groups.group_by("prompt_id", maintain_order=True).agg("sample_idx", "role")
print(json.dumps([kept["sample_idx"].to_list(), kept["role"].to_list()]))
"""
    done = call(["-c", code], work)
    assert done.returncode == 0, done.stderr
    numbers, roles = json.loads(done.stdout)
    # bottom-k with k = 2: the best response, and the two with the lowest rewards
    assert numbers == [[0, 1, 3]] * 6
    assert roles == [["negative", "negative", "positive"]] * 6

    record = json.loads((work / "run" / "groups" / "run.json").read_text())
    versions = next(iter(find_all(record, "versions")))
    assert versions["prefpipe"] == call(["-m", "prefpipe", "--version"], work).stdout.strip()


def find_all(value, key: str) -> Iterator[dict]:
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for each in value.values():
            yield from find_all(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from find_all(each, key)


def test_an_objective_is_explained_and_its_function_says_what_to_install(call, work) -> None:
    done = call(["-m", "prefpipe", "objectives", "bt-margin"], work)
    assert done.returncode == 0, done.stderr
    assert "Source:" in done.stdout

    done = call(["-c", "import prefpipe; prefpipe.preference_loss"], work)
    assert "an objective on tensors needs torch, which is not installed" in done.stderr
    assert "hint: pip install 'prefpipe[train]'" in done.stderr


def test_opt_select_and_the_functions_on_arrays(call, work) -> None:
    code = """
import json, numpy, prefpipe, sys
rewards = numpy.array([0.1, 0.9, 0.5, 0.3])
embeddings = numpy.eye(4)
chosen = prefpipe.select_responses(rewards, embeddings=embeddings, strategy="opt-select", k=2)
lowest = prefpipe.select_responses(rewards, strategy="bottom-k", k=2)
rate = prefpipe.win_rate(numpy.array([1.0, 0.0, 1.0, 0.5]))
heavy = sorted({"torch", "transformers", "sklearn"} & set(sys.modules))
print(json.dumps([len(chosen.negatives), sorted(int(i) for i in lowest.negatives), rate.mean, heavy]))
"""
    done = call(["-c", code], work)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [2, [0, 3], 0.625, []]


def test_status_inspect_export_and_checks(call, work) -> None:
    (state, shown, prompt, exported, candidates, scored) = run_many(
        call,
        [
            "status run --json",
            "inspect run/groups",
            "inspect run/candidates --json",
            "export run/groups --format trl -o pairs-out.jsonl",
            "import checked.jsonl --format rows -o checked",
            "score checked/candidates --scorer checks -o checked/scores",
        ],
        work,
    )
    assert state[0] == 0, state[2]
    assert {each["state"] for each in json.loads(state[1])} == {"done"}
    assert shown[0] == 0, shown[2]
    assert "18 rows" in shown[1]
    assert prompt[0] == 0, prompt[2]
    assert exported[0] == 0, exported[2]
    lines = [json.loads(line) for line in (work / "pairs-out.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert {line["chosen"][0]["content"] for line in lines} == {"Answer 3 word word word word"}
    assert candidates[0] == 0, candidates[2]
    assert scored[0] == 0, scored[2]
    code = "import prefpipe; print(prefpipe.read('checked/scores').sort('sample_idx')['reward'].to_list())"
    assert call(["-c", code], work).stdout == "[1.0, 0.0]\n"


def test_win_rates_and_calibration_are_those_by_hand(call, work) -> None:
    rates = one_json(call, "eval win-rate annotations.json --json", work)
    # preferences of 1 to 2 are win rates of 0 to 1
    assert rates["results"][0]["win_rate"]["mean"] == pytest.approx((0 + 1 + 1 + 0.75) / 4)

    figures = one_json(call, "eval calibration --pairs pairs.jsonl -o calibration --json", work)
    gaps = [1.5, -0.5, 2.0, 0.25, 3.0, -1.0, 0.75, 2.5]
    assert figures["accuracy"]["mean"] == 6 / 8
    losses = [math.log1p(math.exp(-gap)) for gap in gaps]
    assert figures["calibration"]["log_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-12)


MISSING = [
    # the command, the package that its message names, the extra that its hint installs
    ("generate prompts.jsonl --model gpt2 -o out", "torch", "generate"),
    ("generate prompts.jsonl --model gpt2 --backend transformers -o out", "torch", "generate"),
    ("generate prompts.jsonl --model gpt2 --backend vllm -o out", "vllm", "vllm"),
    ("generate prompts.jsonl --model m --backend openai --base-url http://localhost:1/v1 -o out", "openai", "judge"),
    ("generate prompts.jsonl --model fake --backend fake --workers 2 --on ray:localhost:1 -o out", "ray", "ray"),
    ("embed run/candidates --model bundled:minilm -o out", "torch", "embed"),
    ("score run/candidates --scorer reward-model:r -o out", "torch", "generate"),
    ("score run/candidates --scorer judge:openai:m --base-url http://localhost:1/v1 -o out", "openai", "judge"),
    ("score run/candidates --scorer judge:vllm:m -o out", "vllm", "vllm"),
    ("judge run/candidates run/candidates --judge openai:m --base-url http://localhost:1/v1 -o out", "openai", "judge"),
    ("judge run/candidates run/candidates --judge reward-model:m -o out", "torch", "generate"),
    ("logprobs run/groups --model gpt2 -o out", "torch", "train"),
    ("train run/groups --model gpt2 -o out", "torch", "train"),
    ("train run/groups --model gpt2 --lora-r 8 --load-in-4bit -o out", "torch", "train"),
    ("eval --policy gpt2 --baseline run/candidates --prompts prompts.jsonl --scorer checks -o out", "torch", "generate"),
    ("eval --policy run/candidates --baseline run/candidates --policy-scores run/scores --baseline-scores run/scores --kl-reference gpt2 -o out", "torch", "train"),
    ("eval rewardbench --pairs pairs.jsonl --model gpt2 -o out", "torch", "train"),
    ("eval calibration --pairs pairs.jsonl --model gpt2 -o out", "torch", "train"),
    ("merge run -o out", "torch", "train"),
    ("check run/groups --model gpt2", "torch", "train"),
    ("savings run/groups --model gpt2 --tflops 1", "torch", "train"),
    ("report run -o out", "scikit-learn", "report"),
    ("inspect run/groups --prompt-id x --map", "scikit-learn", "embed"),
    ("import hf:org/name --format trl -o out", "datasets", "hub-datasets"),
    ("rounds rounds.yaml -o out", "torch", "generate"),
]  # fmt: skip

PLAN = """
rounds: 1
prompts: prompts.jsonl
model: gpt2
generate: {backend: transformers, n: 2}
score: {scorer: [checks]}
select: {strategy: bottom-k, k: 1}
train: {objective: dpo}
"""


def test_a_missing_extra_is_one_line_with_the_command_to_type(call, work) -> None:
    """Before anything is read or made: models and servers here do not exist, and no output does afterwards."""
    (work / "rounds.yaml").write_text(PLAN)
    before = sorted(work.rglob("*"))
    wrong = []
    results = run_many(call, [command for command, *_ in MISSING], work)
    for (command, package, extra), (code, out, err) in zip(MISSING, results, strict=True):
        lines = [
            line for line in err.splitlines() if line.strip() and not line.startswith("backend: ")
        ]
        is_right = code == 2 and not out and len(lines) == 2
        if is_right:
            says = re.fullmatch(rf"error: .+ needs {package}, which is not installed", lines[0])
            is_right = says is not None and lines[1] == f"hint: pip install 'prefpipe[{extra}]'"
        if not is_right:
            wrong.append(f"{command}\n  exit {code}\n  {err}")
    assert not wrong, "\n".join(wrong)
    assert sorted(work.rglob("*")) == before


def test_a_finished_run_needs_no_engine(call, work) -> None:
    """A script that is run again where its vLLM is not: what is finished is kept, and nothing is asked of it."""
    sampling = "generate prompts.jsonl --model fake --backend fake -o sampled"
    embedding = "embed sampled --model fake -o vectors"
    results = run_many(call, [sampling, embedding, sampling, embedding], work)
    assert [code for code, *_ in results] == [0, 0, 0, 0], results


def test_help_of_every_command(call, tmp_path) -> None:
    code = """
import json, typer
from prefpipe.cli.app import app
from prefpipe.cli.reference import commands
print(json.dumps([path.split()[1:] for path, _ in commands(typer.main.get_command(app))]))
"""
    names = json.loads(call(["-c", code], tmp_path).stdout)
    assert len(names) > 20
    results = run_many(call, [" ".join([*words, "--help"]) for words in names], tmp_path)
    assert not [
        name
        for name, (code, out, _) in zip(names, results, strict=True)
        if code or "Usage:" not in out
    ]
