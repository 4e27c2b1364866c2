"""`prefpipe push` and `pull` on a hub on loopback, by the real huggingface_hub client. The real hub is never asked."""

import json
import os
import random
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import finished_run
from support.fake_hub import TOKEN, Blob, FakeHub, hub_environment, running_hub
from support.pipelines import rows_of
from support.shared_run import CANARY, add_what_stays, tree_of, write_model, write_run
from support.warm_cli import Done, WarmCli, warm_cli

from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.models.files import content_hash_of
from prefpipe.models.merge_record import MergedPart, MergeRecord

MODULES = ["prefpipe.wiring.push", "prefpipe.stages.sharing.push", "prefpipe.stages.sharing.pull",
           "prefpipe.stages.sharing.hub_repository", "prefpipe.status.checker", "prefpipe.status.recipe",
           "prefpipe.report.page"]  # fmt: skip
MANIFEST, README, CARD = "prefpipe-manifest.json", "README.md", "prefpipe-card.md"
HOME_CANARY = "/home/canary-user"
HOST_CANARY = "canary-host.internal"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def cli(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCli]:
    home = tmp_path_factory.mktemp("hub-home")
    with warm_cli(MODULES, hub_environment(hub.url, str(home)), piece_bytes=5 * 2**20) as cli:
        yield cli


@pytest.fixture(autouse=True)
def _no_faults(hub: FakeHub) -> Iterator[None]:
    hub.fault = lambda _method, _path: None
    hub.requests.clear()
    yield
    hub.fault = lambda _method, _path: None


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "home")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"org/{abs(hash(request.node.nodeid))}"


def ok(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


def files_of(hub: FakeHub, name: str, kind: str = "model") -> dict[str, bytes]:
    head = hub.repository(name, kind).head()
    return {path: blob.data for path, blob in head.items() if path != ".gitattributes"}


def front_of(card: bytes) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card.decode(), re.DOTALL)
    assert match is not None
    values: dict[str, Any] = yaml.safe_load(match[1])
    return values


def write_policy(run: Path, name: str = "policy", seed: int = 0) -> Path:
    """Write a model with the record of a training on the run's groups, as another machine made it."""
    policy = write_model(run / name, 3_000_000, seed)
    groups = read_run_record(run / "groups")
    record = RunRecord(
        stage="train",
        schema="policy/1",
        n_parts=0,
        identity={"stage": "train", "objective": "ampo", "seed": seed, "groups": groups.identity},
        parents={"groups": str(run / "groups")},
        context={
            "command": [
                "prefpipe", "train", f"{HOME_CANARY}/work/run/groups", "-o", f"{HOME_CANARY}/work/run/policy",
                "--model", "org/base@abc", "--reference", f"{HOME_CANARY}/models/ref",
                "--judge-base-url", f"http://{HOST_CANARY}:8000/v1", f"--note={TOKEN}",
            ],
            "host": HOST_CANARY,
            "folder": f"{HOME_CANARY}/work",
            "versions": {"prefpipe": "0.9.1", "torch": "2.9"},
            "made_with": [
                {"role": "model", "reference": "org/base@abc", "hashes": {"content_hash": "c0ffee"}},
                {"role": "reference", "reference": f"{HOME_CANARY}/models/ref", "hashes": {"content_hash": "beef"}},
            ],
        },
    )  # fmt: skip
    (policy / "run.json").write_bytes(record.to_bytes())
    (policy / "summary.json").write_text("{}", encoding="utf-8")
    return policy


def write_evaluation(folder: Path, policy: Path, mean: float = 0.625) -> Path:
    folder.mkdir()
    record = RunRecord("eval", "evaluation/1", 0, {"stage": "eval"})
    (folder / "run.json").write_bytes(record.to_bytes())
    summary = {
        "policy_name": str(policy),
        "baseline_name": f"{HOME_CANARY}/base",
        "reward_expression": "checks",
        "confidence": 0.9,
        "n_prompts": 40,
        "win_rate": {"mean": mean, "low": 0.5, "high": 0.75},
        "reward": {"difference": {"mean": 0.25, "low": None, "high": None}},
        "recipe": {
            "prompts_sha256": "feed",
            "models": {"policy": [{"content_hash": content_hash_of(policy)}]},
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def test_a_dataset_goes_there_and_back(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    """One commit of everything; none the second time; the pulled folder is the pushed one and its card."""
    belonging = tree_of(run)
    add_what_stays(run)
    url = f"hf://datasets/{name}"
    done = ok(cli.run("push", run, url, folder=tmp_path))
    assert done.out == f"{url}\n"
    assert "the store's sizes agree, and its digests of 13" in done.err
    repository = hub.repository(name, "dataset")
    assert repository.is_private
    assert len(repository.commits) == 2
    there = files_of(hub, name, "dataset")
    assert there.keys() == belonging.keys() | {README, MANIFEST}
    assert {path: there[path] for path in belonging} == belonging
    assert CANARY.encode() not in b"".join(there.values())

    hub.requests.clear()
    done = ok(cli.run("push", run, url, "--json", folder=tmp_path))
    assert json.loads(done.out)["copied"] == 0
    assert not [line for line in hub.requests if not line.startswith(("GET", "HEAD"))]

    done = ok(cli.run("pull", url, "back", folder=tmp_path))
    assert "every sha256 is right, and the own digest of 12 parts" in done.err
    assert tree_of(tmp_path / "back") == {**belonging, README: there[README]}
    done = ok(cli.run("pull", url, "back", "--json", folder=tmp_path))
    assert json.loads(done.out)["copied"] == 0


def test_only_what_differs_is_sent(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    url = f"hf://datasets/{name}"
    ok(cli.run("push", run, url, folder=tmp_path))
    (run / "model" / "LICENSE").write_text("mine", encoding="utf-8")
    hub.requests.clear()
    ok(cli.run("push", run, url, "--verify", folder=tmp_path))
    assert not any("/lfs/objects" in line for line in hub.requests)
    assert files_of(hub, name, "dataset")["model/LICENSE"] == b"mine"
    assert len(hub.repository(name, "dataset").commits) == 3


def test_datasets_reads_what_was_pushed(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    """By the card's configurations, of the pulled folder; and the parts alone."""
    datasets = pytest.importorskip("datasets")
    url = f"hf://datasets/{name}"
    ok(cli.run("push", run, url, folder=tmp_path))
    ok(cli.run("pull", url, "back", folder=tmp_path))
    front = front_of(files_of(hub, name, "dataset")[README])
    configs = {each["config_name"]: each["data_files"] for each in front["configs"]}
    assert configs.keys() == {"candidates", "scores", "embeddings", "groups"}
    assert [each["config_name"] for each in front["configs"] if each.get("default")] == ["groups"]
    for config, pattern in configs.items():
        back = tmp_path / "back"
        settings: dict[str, Any] = {"split": "train", "cache_dir": str(tmp_path / "cache")}
        by_card = datasets.load_dataset(str(back), config, **settings)
        alone = datasets.load_dataset("parquet", data_files=str(back / pattern), **settings)
        expected = rows_of(run / config)
        assert by_card.select_columns(["prompt_id"]).to_list() == [
            {"prompt_id": row["prompt_id"]} for row in expected
        ]
        assert len(alone) == len(expected)


def test_the_card_of_a_dataset(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    """One artifact: its own part files, and the recipe of its ancestors."""
    words = ["--license", "cc-by-4.0", "--dataset", "org/prompts"]
    ok(cli.run("push", run / "groups", f"hf://datasets/{name}", *words, folder=tmp_path))
    card = files_of(hub, name, "dataset")[README]
    assert front_of(card) == {
        "pretty_name": name.partition("/")[2],
        "license": "cc-by-4.0",
        "source_datasets": ["org/prompts"],
        "tags": ["prefpipe"],
        "configs": [{"config_name": "default", "data_files": "part-*.parquet"}],
    }
    text = card.decode()
    for stage in ("candidates", "scores", "embeddings", "groups"):
        record = read_run_record(run / stage)
        assert f"fingerprint `{record.fingerprint}`" in text
    assert "prefpipe generate prompts.jsonl -o candidates --backend fake --model fake --n 4" in text
    assert "prefpipe select candidates --scores scores --embeddings embeddings -o groups" in text
    assert str(tmp_path) not in text
    steps = re.findall(r"### \d\. `(\w+)`", text)
    assert steps == ["generate", "score", "embed", "select"]


def test_parents_that_are_elsewhere_are_told_by_their_children(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    record = read_run_record(run / "groups")
    shutil.copytree(run / "groups", tmp_path / "alone" / "groups")
    shutil.rmtree(tmp_path / "home")
    ok(cli.run("push", "groups", f"hf://datasets/{name}", folder=tmp_path / "alone"))
    text = files_of(hub, name, "dataset")[README].decode()
    assert text.count("Its folder was not at hand.") == 3
    assert record.identity["candidates"]["prompts"] in text
    assert '"n": 4' in text


def test_the_card_of_a_policy(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    """What, from what, with which command, and how good; nothing of the machine that made it."""
    policy = write_policy(run)
    write_evaluation(run / "eval", policy)
    write_evaluation(run / "eval-of-another", write_policy(run, "other", seed=1), 0.125)
    ok(
        cli.run(
            "push", policy, f"hf://{name}", "--license", "apache-2.0", folder=tmp_path,
            HOME=HOME_CANARY, OTHER_API_KEY="canary-other-key",
        )
    )  # fmt: skip
    card = files_of(hub, name)[README]
    assert front_of(card) == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "base_model": "org/base",
        "base_model_relation": "finetune",
        "tags": ["prefpipe", "ampo"],
    }
    text = card.decode()
    assert content_hash_of(policy) in text
    assert "prefpipe train run/groups -o run/policy --model org/base@abc --reference ref" in text
    assert "--judge-base-url http://HOST/v1 --note=***" in text
    assert "- model `org/base@abc`: content_hash `c0ffee`" in text
    assert "- reference `ref`: content_hash `beef`" in text
    assert "Made with prefpipe 0.9.1, torch 2.9." in text
    assert "## Evaluation against `base`" in text
    assert "| win rate | 0.625 [0.500, 0.750] |" in text
    assert "| reward, difference to the baseline | 0.2500 |" in text
    assert "0.125" not in text
    for canary in ("canary", TOKEN, str(tmp_path)):
        assert canary not in text
    assert hub.repository(name).is_private


def test_an_evaluation_of_another_policy_is_refused(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    policy = write_policy(run)
    other = write_evaluation(run / "eval", write_policy(run, "other", seed=1))
    done = cli.run("push", policy, f"hf://{name}", "--evaluation", other, folder=tmp_path)
    assert done.code == 2
    assert f"{other} is no evaluation of {policy}" in done.err
    assert ("model", name) not in hub.repositories


def test_the_card_of_a_merged_model(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    """It has no record of a training: the one of its adapter is told."""
    adapter = write_policy(run)
    merged = write_model(run / "merged", 1000, seed=2)
    part = MergedPart("adapter", f"{HOME_CANARY}/policy", str(adapter), content_hash_of(adapter))
    MergeRecord(str(merged), HOST_CANARY, (part,), 1).write_to(merged)
    write_evaluation(run / "eval", adapter)
    ok(cli.run("push", merged, f"hf://{name}", "--base-model", "org/real-base", folder=tmp_path))
    card = files_of(hub, name)[README]
    assert front_of(card)["base_model"] == "org/real-base"
    text = card.decode()
    assert "A model merged by prefpipe." in text
    assert f"| adapter | `policy` | `{content_hash_of(adapter)}` |" in text
    assert "prefpipe train run/groups" in text
    assert "| win rate | 0.625" in text
    assert "canary" not in text


def test_a_readme_of_the_user_is_kept(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    """In the folder, and on the hub; that which a training or an earlier push wrote is replaced."""
    policy = write_policy(run)
    ours = (
        "---\nlibrary_name: transformers\ntags: [prefpipe]\n---\n\nA model trained by prefpipe from `x`.\n\n"
        "| setting | value |\n|---|---|\n| objective | ampo |\n"
    )
    (policy / README).write_text(ours, encoding="utf-8")
    url = f"hf://{name}"
    ok(cli.run("push", policy, url, folder=tmp_path))
    card = files_of(hub, name)[README]
    assert b"## Recipe" in card
    # pulled and pushed again it is no README of the user's
    ok(cli.run("pull", url, "back", folder=tmp_path))
    done = ok(cli.run("push", "back", url, "--json", folder=tmp_path))
    assert "is yours" not in done.err

    (policy / README).write_text(ours + "\nUse it with care.\n", encoding="utf-8")
    done = ok(cli.run("push", policy, url, folder=tmp_path))
    assert f"{policy}/README.md is yours and is pushed as it is" in done.err
    there = files_of(hub, name)
    assert there[README].endswith(b"Use it with care.\n")
    assert b"## Recipe" in there[CARD]

    repository = hub.repository(name)
    repository.commit("main", {**repository.head(), README: Blob(b"edited there", False)})
    (policy / README).write_text(ours, encoding="utf-8")
    for _ in range(2):
        done = ok(cli.run("push", policy, url, folder=tmp_path))
        assert f"the README.md of {url} is not the one that was pushed and stays" in done.err
        assert files_of(hub, name)[README] == b"edited there"
    ok(cli.run("push", policy, url, "--overwrite", folder=tmp_path))
    assert b"## Recipe" in files_of(hub, name)[README]


def test_a_repository_that_holds_something_else(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    url = f"hf://{name}"
    ok(cli.run("push", run / "model", url, folder=tmp_path))
    repository = hub.repository(name)
    before = dict(repository.head())
    other = write_model(tmp_path / "other", 1000, seed=1)
    done = cli.run("push", other, url, folder=tmp_path)
    assert done.code == 2
    assert f"{url} holds something else: it is " in done.err

    repository.commit("main", {**before, "mine.bin": Blob(b"1", False)})
    ok(cli.run("push", other, url, "--overwrite", folder=tmp_path))
    assert files_of(hub, name)["mine.bin"] == b"1"

    repository.commit("main", {"weights.bin": Blob(b"1", False), README: Blob(b"x", False)})
    done = cli.run("push", other, url, "--overwrite", folder=tmp_path)
    assert done.code == 2
    assert f"{url} already holds 1 file that no push wrote: weights.bin" in done.err


def test_kinds_that_do_not_fit(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    done = cli.run("push", run / "model", f"hf://datasets/{name}", folder=tmp_path)
    assert done.code == 2
    assert f"push it to hf://{name}" in done.err
    done = cli.run("push", run, f"hf://{name}", folder=tmp_path)
    assert done.code == 2
    assert f"push it to hf://datasets/{name}" in done.err
    assert hub.requests == []


def test_public_and_private(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    model = run / "model"
    ok(cli.run("push", model, f"hf://{name}", "--no-private", folder=tmp_path))
    assert not hub.repository(name).is_private
    (model / "LICENSE").write_text("mine", encoding="utf-8")
    done = cli.run("push", model, f"hf://{name}", folder=tmp_path)
    assert done.code == 2
    assert f"{name} is public" in done.err
    assert "--no-private" in done.err
    ok(cli.run("pull", f"hf://{name}", "back", folder=tmp_path))


@pytest.mark.parametrize("token", ["", "hf_canaryOfAnotherAccount01"])
def test_without_permission(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path, token: str
) -> None:
    done = cli.run("push", run / "model", f"hf://{name}", folder=tmp_path, HF_TOKEN=token)
    assert done.code == 1
    assert f"error: cannot write hf://{name}: permission denied" in done.err
    assert "hf auth login" in done.err
    assert "canary" not in done.err
    done = cli.run("pull", f"hf://{name}", "back", folder=tmp_path, HF_TOKEN=token)
    assert done.code == 1
    assert f"there is nothing at hf://{name}" in done.err
    assert hub.repositories.get(("model", name)) is None


def test_a_branch(cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path) -> None:
    url = f"hf://{name}"
    ok(cli.run("push", run / "model", url, folder=tmp_path))
    other = write_model(tmp_path / "other", 1000, seed=1)
    done = cli.run("push", other, url, "--revision", "v2", "--overwrite", folder=tmp_path)
    assert done.code == 0, done.err
    ok(cli.run("pull", f"{url}@v2", "v2", folder=tmp_path))
    ok(cli.run("pull", url, "v1", folder=tmp_path))
    weights = "model.safetensors"
    assert (tmp_path / "v2" / weights).read_bytes() == (other / weights).read_bytes()
    assert (tmp_path / "v1" / weights).read_bytes() == (run / "model" / weights).read_bytes()
    done = cli.run("pull", url, "v3", "--revision", "nothing", folder=tmp_path)
    assert done.code == 1
    assert f"there is nothing at {url}@nothing" in done.err


def test_a_repository_that_no_push_wrote(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    ok(cli.run("push", run / "model", f"hf://{name}", folder=tmp_path))
    repository = hub.repository(name)
    files = {path: blob for path, blob in repository.head().items() if path != MANIFEST}
    repository.commit("main", files)
    done = ok(cli.run("pull", f"hf://{name}", "back", folder=tmp_path))
    assert "has no manifest of a push" in done.err
    assert tree_of(tmp_path / "back") == tree_of(run / "model")


def test_somebody_commits_meanwhile(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    url = f"hf://{name}"
    ok(cli.run("push", run / "model", url, folder=tmp_path))
    (run / "model" / "LICENSE").write_text("mine", encoding="utf-8")
    repository = hub.repository(name)

    def commit(method: str, path: str) -> None:
        if "/commit/" in path and method == "POST":
            hub.fault = lambda _method, _path: None
            repository.commit("main", {**repository.head(), "theirs": Blob(b"1", False)})

    hub.fault = commit
    done = cli.run("push", run / "model", url, folder=tmp_path)
    assert done.code == 1
    assert "somebody else has committed there meanwhile" in done.err
    ok(cli.run("push", run / "model", url, folder=tmp_path))
    assert files_of(hub, name)["theirs"] == b"1"
    assert files_of(hub, name)["LICENSE"] == b"mine"


@pytest.mark.parametrize("fault", ["lost", "busy", "cut"])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path, fault: str
) -> None:
    left = [fault]
    hub.fault = lambda _method, path: left.pop() if "/commit/" in path and left else None
    ok(cli.run("push", run / "model", f"hf://{name}", folder=tmp_path))
    assert len(hub.repository(name).commits) == 2
    assert left == []


@pytest.mark.slow
def test_every_other_request_fails_once(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    lock, seen = threading.Lock(), set()
    kinds = ["cut", "busy", "lost", "half"]

    def choose(method: str, path: str) -> str | None:
        with lock:
            if (method, path) in seen:
                return None
            seen.add((method, path))
            # the client waits a second and more before it asks again
            return kinds[len(seen) // 2 % len(kinds)] if len(seen) % 2 else None

    hub.fault = choose
    ok(cli.run("push", run / "model", f"hf://{name}", folder=tmp_path))
    ok(cli.run("pull", f"hf://{name}", "back", folder=tmp_path))
    hub.fault = lambda _method, _path: None
    there = files_of(hub, name)
    assert tree_of(tmp_path / "back") == {**tree_of(run / "model"), README: there[README]}


@pytest.mark.slow
def test_push_and_pull_killed_at_twenty_requests(
    cli: WarmCli, hub: FakeHub, run: Path, name: str, tmp_path: Path
) -> None:
    """Run again and again, they end with the same commit's files, and with the same folder."""
    policy = write_policy(run)
    expected: dict[str, bytes] = {}
    numbers = random.Random(17)
    for words in (("push", policy, f"hf://{name}"), ("pull", f"hf://{name}", tmp_path / "back")):
        n_kills = 0
        while True:
            number = numbers.randint(1, 12) if n_kills < 10 else 0
            is_killed = killed_at(cli, hub, number, *words, folder=tmp_path)
            n_kills += is_killed
            if is_killed:
                continue
            if words[0] == "push":
                expected = files_of(hub, name)
                assert {path: expected[path] for path in tree_of(policy)} == tree_of(policy)
                assert json.loads(expected[MANIFEST])["is_complete"]
            else:
                found = tree_of(tmp_path / "back")
                assert {**found, MANIFEST: expected[MANIFEST]} == expected
                shutil.rmtree(tmp_path / "back")
            if n_kills >= 10:
                break
            if words[0] == "push":
                del hub.repositories["model", name]


def killed_at(cli: WarmCli, hub: FakeHub, number: int, *words: object, folder: Path) -> bool:
    """Run a command that is killed when its request of a number arrives; return whether so many came."""
    n_requests, pid = [0], [0]
    lock, is_begun = threading.Lock(), threading.Event()

    def kill(_method: str, _path: str) -> str | None:
        with lock:
            n_requests[0] += 1
            if n_requests[0] != number:
                return None
        assert is_begun.wait(60)
        os.kill(pid[0], signal.SIGKILL)
        return "lost" if number % 2 else "cut"

    hub.fault = kill
    pid[0] = cli.start(*words, folder=folder)
    is_begun.set()
    done = cli.wait()
    hub.fault = lambda _method, _path: None
    is_killed = done.code == -signal.SIGKILL
    assert is_killed or done.code == 0, done.err
    return is_killed


@pytest.mark.slow
def test_a_pulled_policy_samples_the_same_rows(
    cli: WarmCli, hub: FakeHub, name: str, tmp_path: Path
) -> None:
    tiny_models = pytest.importorskip("support.tiny_models")
    policy = tiny_models.make_tiny_causal_lm(tmp_path / "policy")
    ok(cli.run("push", policy, f"hf://{name}", folder=tmp_path))
    ok(cli.run("pull", f"hf://{name}", "pulled", folder=tmp_path))
    prompts = finished_run.write_run_prompts(tmp_path / "prompts.jsonl")
    for model in ("policy", "pulled"):
        words = ["generate", str(prompts), "-o", str(tmp_path / f"of-{model}"), "--n", "2"]
        words += ["--backend", "transformers", "--max-tokens", "12", "--seed", "3"]
        finished_run.command([*words, "--model", str(tmp_path / model)])
    first, second = (read_run_record(tmp_path / f"of-{model}") for model in ("policy", "pulled"))
    assert first.fingerprint == second.fingerprint
    rows = rows_of(tmp_path / "of-policy"), rows_of(tmp_path / "of-pulled")
    # the column names the folder
    for row in [*rows[0], *rows[1]]:
        row.pop("model")
    assert rows[0] == rows[1]
    assert replace(first, context={}) == replace(second, context={})
