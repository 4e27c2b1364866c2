"""``prefpipe export`` as it is typed, read by the tools that it is for, and read back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import jinja2
import pyarrow.parquet as pq
import pytest
import yaml
from support.finished_run import command, copy_to
from support.interchange_files import SKY, assistant, kept, lines, rejected, user, write_groups
from support.pipelines import rows_of

from prefpipe.artifacts.interchange.data_descriptions import is_lost_in_template
from prefpipe.cli.main import run
from prefpipe.cli.signals import stop_request

SYSTEM = [{"role": "system", "content": "Be brief."}]
FILES = {
    "trl": ".parquet",
    "trl-implicit": ".jsonl",
    "trl-unpaired": ".jsonl",
    "trl-sft": ".jsonl",
    "sft": ".parquet",
    "nemo-rl": ".parquet",
    "jsonl": ".jsonl",
}
FOLDERS = ("llama-factory", "axolotl")


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Three parts: two groups and a rejected prompt, nothing but a rejected prompt, one group."""
    return write_groups(
        tmp_path / "groups",
        [
            kept("a", 0, "positive", 2.0),
            kept("a", 1, "negative", 1.0),
            kept("a", 2, "negative", -1.0),
            rejected("b"),
            kept("c", 0, "positive", 0.5, messages=SYSTEM + SKY),
            kept("c", 3, "negative", 0.25, messages=SYSTEM + SKY),
        ],
        [rejected("d", "no_rewards")],
        [
            kept("e", 1, "positive", 1.0, "Grüße \U0001f600\u2028"),
            kept("e", 0, "negative", 0.0, " \n"),
        ],
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def export(groups: Path, out: Path, kind: str, *more: str) -> int:
    return run(["export", str(groups), "-o", str(out), "--format", kind, *more])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_trl_is_a_preference_set_that_datasets_loads(
    tmp_path: Path, groups: Path, suffix: str, capsys
) -> None:
    out = tmp_path / f"pairs{suffix}"
    assert export(groups, out, "trl") == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert "4 rows in" in printed.err
    assert "3 prompts, 7 responses, 4 pairs" in printed.err
    assert "1 prompts left out: tie" in printed.err
    assert "1 prompts left out: no_rewards" in printed.err
    assert "margin: lowest 0.25, median 1, highest 3" in printed.err
    kind = "json" if suffix == ".jsonl" else "parquet"
    loaded = datasets.load_dataset(
        kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.to_list() == [
        row("a", 0, 1, 2.0, 1.0, user("question a")),
        row("a", 0, 2, 2.0, -1.0, user("question a")),
        row("c", 0, 3, 0.5, 0.25, SYSTEM + SKY),
        row("e", 1, 0, 1.0, 0.0, user("question e"), "Grüße \U0001f600\u2028", " \n"),
    ]


def row(
    prompt_id: str,
    a: int,
    b: int,
    x: float,
    y: float,
    messages: Any,
    chosen: str | None = None,
    lost: str | None = None,
) -> dict[str, Any]:
    return {
        "prompt": messages,
        "chosen": assistant(chosen or f"answer {prompt_id}.{a}"),
        "rejected": assistant(lost or f"answer {prompt_id}.{b}"),
        "prompt_id": prompt_id,
        "chosen_sample_idx": a,
        "rejected_sample_idx": b,
        "score_chosen": x,
        "score_rejected": y,
        "margin": x - y,
        "chosen_model": f"m{a % 2}",
        "rejected_model": f"m{b % 2}",
    }


def positive_row(prompt_id: str, idx: int, score: float, text: str | None = None) -> dict[str, Any]:
    return {
        "completion": assistant(text or f"answer {prompt_id}.{idx}"),
        "prompt_id": prompt_id,
        "sample_idx": idx,
        "score": score,
        "model": f"m{idx % 2}",
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_supervised_rows_are_the_positives_alone(
    tmp_path: Path, groups: Path, suffix: str, capsys
) -> None:
    """A prompt with its completion for TRL, or the whole conversation for everybody else."""
    expected = [
        {"prompt": user("question a")} | positive_row("a", 0, 2.0),
        {"prompt": SYSTEM + SKY} | positive_row("c", 0, 0.5),
        {"prompt": user("question e")} | positive_row("e", 1, 1.0, "Grüße \U0001f600\u2028"),
    ]
    out = tmp_path / f"rows{suffix}"
    assert export(groups, out, "trl-sft") == 0
    assert "3 rows in" in capsys.readouterr().err
    written = read_lines(out) if suffix == ".jsonl" else pq.read_table(out).to_pylist()
    assert written == expected

    assert export(groups, out, "sft", "--overwrite") == 0
    written = read_lines(out) if suffix == ".jsonl" else pq.read_table(out).to_pylist()
    for row in expected:
        conversation = {"messages": row.pop("prompt") + row.pop("completion")}
        assert written.pop(0) == conversation | row
    assert not written


def test_positives_alone_are_written_for_supervised_training_and_for_nothing_with_pairs(
    tmp_path: Path, capsys
) -> None:
    groups = write_groups(
        tmp_path / "groups", [kept("a", 0, "positive", 2.0)], strategy="best-of-n"
    )
    for kind in ("trl-sft", "sft", "trl-unpaired", "jsonl"):
        assert export(groups, tmp_path / f"{kind}.jsonl", kind) == 0
    capsys.readouterr()
    assert export(groups, tmp_path / "pairs.jsonl", "trl") == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "holds only positives (--strategy best-of-n), and trl needs pairs" in printed
    assert "--format trl-sft or sft" in printed
    assert not (tmp_path / "pairs.jsonl").exists()


def test_json_output_holds_the_counts_and_margins(tmp_path: Path, groups: Path, capsys) -> None:
    assert export(groups, tmp_path / "a.jsonl", "trl", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert {
        key: facts[key]
        for key in ("stage", "path", "n_rows", "n_prompts", "n_pairs", "left_out", "margin")
    } == {
        "stage": "export",
        "path": f"{tmp_path}/a.jsonl",
        "n_rows": 4,
        "n_prompts": 3,
        "n_pairs": 4,
        "left_out": {"tie": 1, "no_rewards": 1},
        "margin": {"lowest": 0.25, "median": 1.0, "highest": 3.0},
    }


def test_nemo_rl_loads_as_its_loaders_load_it(tmp_path: Path, groups: Path) -> None:
    """They take JSON lines or Parquet, add ``task_name``, and want two completions of different rank."""
    for suffix, kind in ((".jsonl", "json"), (".parquet", "parquet")):
        assert export(groups, tmp_path / f"a{suffix}", "nemo-rl") == 0
        loaded = datasets.load_dataset(
            kind,
            data_files=str(tmp_path / f"a{suffix}"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        loaded = loaded.add_column("task_name", ["preferences"] * len(loaded))
        assert len(loaded) == 4
        for item in loaded:
            assert [completion["rank"] for completion in item["completions"]] == [0, 1]
            assert item["completions"][0]["score"] > item["completions"][1]["score"]
            conversation = item["context"] + item["completions"][0]["completion"]
            assert conversation[-1]["role"] == "assistant"


def test_nemo_rl_whole_groups_are_one_row_each(tmp_path: Path, groups: Path) -> None:
    assert export(groups, tmp_path / "a.jsonl", "nemo-rl", "--whole-groups") == 0
    assert [len(item["completions"]) for item in read_lines(tmp_path / "a.jsonl")] == [3, 2, 2]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_implicit_prompts_are_whole_conversations_on_both_sides(
    tmp_path: Path, groups: Path, suffix: str
) -> None:
    assert export(groups, tmp_path / f"a{suffix}", "trl-implicit") == 0
    rows = load(tmp_path / f"a{suffix}")
    assert len(rows) == 4
    assert all("prompt" not in item for item in rows)
    assert rows[2]["chosen"] == SYSTEM + SKY + assistant("answer c.0")
    assert rows[2]["rejected"] == SYSTEM + SKY + assistant("answer c.3")
    assert [item["margin"] for item in rows] == [1.0, 3.0, 0.25, 1.0]
    assert (rows[1]["score_chosen"], rows[1]["score_rejected"]) == (2.0, -1.0)


def test_llama_factory_is_a_folder_that_describes_itself(
    tmp_path: Path, groups: Path, capsys
) -> None:
    out = tmp_path / "factory"
    assert export(groups, out, "llama-factory") == 0
    assert capsys.readouterr().out == f"{out}\n"
    info = json.loads((out / "dataset_info.json").read_text())["prefpipe"]
    assert info["ranking"] is True
    assert info["formatting"] == "sharegpt"
    rows = read_lines(out / info["file_name"])
    assert {*info["columns"].values()} <= rows[0].keys()
    tags = info["tags"]
    for item in rows:  # what its converter for this layout asks of a row
        roles = [turn[tags["role_tag"]] for turn in item["messages"]]
        spoken = roles[1:] if roles[0] == tags["system_tag"] else roles
        assert len(spoken) % 2 == 1
        assert all(
            role == tags["user_tag" if i % 2 == 0 else "assistant_tag"]
            for i, role in enumerate(spoken)
        )
        assert isinstance(item["chosen"], dict)
        assert item["chosen"][tags["role_tag"]] == tags["assistant_tag"]
        assert isinstance(item["rejected"][tags["content_tag"]], str)
    assert rows[0]["margin"] == 1.0


def test_llama_factory_leaves_out_what_it_would_skip(tmp_path: Path, capsys) -> None:
    twice = user("one") + user("two")
    rows = [
        kept("a", 0, "positive", 1.0),
        kept("a", 1, "negative", 0.0),
        kept("b", 0, "positive", 1.0, messages=twice),
        kept("b", 1, "negative", 0.0, messages=twice),
    ]
    groups = write_groups(tmp_path / "groups", rows)
    assert export(groups, tmp_path / "out", "llama-factory") == 0
    assert "1 prompts left out: turns_do_not_alternate" in capsys.readouterr().err
    assert len(read_lines(tmp_path / "out" / "preferences.jsonl")) == 1


def test_axolotl_is_a_folder_with_a_piece_of_its_config(
    tmp_path: Path, groups: Path, capsys
) -> None:
    out = tmp_path / "axolotl"
    assert export(groups, out, "axolotl") == 0
    assert "1 responses begin or end with white space" not in capsys.readouterr().err
    config = yaml.safe_load((out / "axolotl.yaml").read_text())
    [data] = config["datasets"]
    assert (config["rl"], data["type"], data["ds_type"]) == ("dpo", "chat_template.default", "json")
    [first, *_] = read_lines(Path(data["path"]))
    assert first[data["field_messages"]] == user("question a")
    assert first[data["field_chosen"]] == assistant("answer a.0")[0]
    assert (
        first[data["field_rejected"]][data["message_property_mappings"]["content"]] == "answer a.1"
    )


def test_axolotl_counts_responses_that_it_would_cut_at_the_wrong_place(
    tmp_path: Path, capsys
) -> None:
    texts = ["user", "Lake Chad.", "a", "4", "helpful", "", "assistant\n", "Hugging Face"]
    rows = [
        kept("p", i, "negative" if i else "positive", -float(i), text)
        for i, text in enumerate(texts)
    ]
    assert (
        export(write_groups(tmp_path / "groups", rows), tmp_path / "out", "axolotl", "--json") == 0
    )
    printed = capsys.readouterr()
    assert json.loads(printed.out)["n_responses_in_template_text"] == 7
    assert "7 responses also occur in the text that chat templates write before them" in printed.err


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    "text",
    [
        "user",
        "Lake Chad.",
        "message",
        "u",
        "x",
        "im_start",
        "assistant",
        "Assistant",
        "",
        "[[dummy",
        "]]<|im_end|>",
    ],
)
def test_the_rule_is_that_of_axolotls_converter(text: str) -> None:
    """Its rule, written out: template a user turn and the response, cut at the first place of the response's text."""
    turns = [
        {"role": "user", "content": "[[dummy_message]]"},
        {"role": "assistant", "content": text},
    ]
    templated = jinja2.Template(CHATML).render(messages=turns)
    cut = templated[templated.find(text) :]
    is_right = cut == f"{text}<|im_end|>\n"
    if not is_right:
        assert is_lost_in_template(text)
    if text in ("Lake Chad.", "x", "Assistant"):
        assert is_right
        assert not is_lost_in_template(text) or text == "x"


def test_beats_are_the_pairs(tmp_path: Path, capsys) -> None:
    chosen = kept("a", 0, "positive", 2.0, beats=[{"sample_idx": 2, "margin": 3.0}])
    none = [kept("b", 0, "positive", 2.0, beats=[]), kept("b", 1, "negative", 2.0, beats=[])]
    rows = [chosen, kept("a", 1, "negative", 1.0), kept("a", 2, "negative", -1.0), *none]
    groups = write_groups(tmp_path / "groups", rows)
    assert export(groups, tmp_path / "a.jsonl", "trl") == 0
    assert "1 prompts left out: no_pairs" in capsys.readouterr().err
    assert [
        (item["rejected_sample_idx"], item["margin"]) for item in read_lines(tmp_path / "a.jsonl")
    ] == [(2, 3.0)]
    assert export(groups, tmp_path / "b.jsonl", "jsonl") == 0
    assert [item["pairs"] for item in read_lines(tmp_path / "b.jsonl")] == [
        [{"chosen": 0, "rejected": 2, "margin": 3.0}],
        [],
    ]


@pytest.mark.parametrize("kind", [*FILES, *FOLDERS])
def test_an_export_that_is_there_is_replaced_only_when_asked(
    tmp_path: Path, groups: Path, kind: str, capsys
) -> None:
    out = tmp_path / f"out{FILES.get(kind, '')}"
    assert export(groups, out, kind) == 0
    content = {path: path.read_bytes() for path in ([out] if out.is_file() else out.iterdir())}
    assert export(groups, out, kind) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert export(groups, out, kind, "--overwrite") == 0
    assert {path: path.read_bytes() for path in content} == content
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.slow
def test_a_folder_of_ones_own_is_never_written_into(tmp_path: Path, groups: Path, capsys) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset_info.json").write_text('{"mine": {}}')
    assert export(groups, data, "llama-factory", "--overwrite") == 2
    assert "describes mine as well, and --overwrite would lose that" in capsys.readouterr().err
    (data / "notes.txt").write_text("mine")
    assert export(groups, data, "axolotl", "--overwrite") == 2
    assert "holds dataset_info.json, which was not written by an export" in capsys.readouterr().err
    assert export(groups, data, "trl") == 2  # the name of a file ends in .jsonl or .parquet
    assert sorted(path.name for path in data.iterdir()) == ["dataset_info.json", "notes.txt"]
    (tmp_path / "x.jsonl").mkdir()
    assert export(groups, tmp_path / "x.jsonl", "trl", "--overwrite") == 2
    assert "is a folder, and trl writes a file" in capsys.readouterr().err
    (tmp_path / "y").write_text("")
    assert export(groups, tmp_path / "y", "axolotl", "--overwrite") == 2
    assert "is a file, and axolotl writes a folder" in capsys.readouterr().err


def test_a_folder_that_a_killed_export_left_is_finished(tmp_path: Path, groups: Path) -> None:
    """The description is written last: data without it are of an attempt that did not end."""
    assert export(groups, tmp_path / "out", "axolotl") == 0
    (tmp_path / "out" / "axolotl.yaml").unlink()
    assert export(groups, tmp_path / "out", "axolotl") == 0


def test_missing_parts_are_refused_unless_allowed(tmp_path: Path, capsys) -> None:
    part = [kept("a", 0, "positive", 1.0), kept("a", 1, "negative", 0.0)]
    groups = write_groups(tmp_path / "groups", part, part, missing=(1,))
    assert export(groups, tmp_path / "a.jsonl", "trl") == 4
    assert "is incomplete: 1 of 2 parts are missing" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()
    assert export(groups, tmp_path / "a.jsonl", "trl", "--allow-partial") == 0


@pytest.mark.slow
def test_nothing_to_export_is_an_error_and_leaves_no_file(tmp_path: Path, capsys) -> None:
    groups = write_groups(tmp_path / "groups", [rejected("a"), rejected("b")])
    for kind, suffix in FILES.items():
        assert export(groups, tmp_path / f"a{suffix}", kind) == 1
        assert "holds nothing to export: 2 tie" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["groups"]


def test_a_stop_leaves_no_file(tmp_path: Path, groups: Path, monkeypatch, capsys) -> None:
    seen = []
    monkeypatch.setattr(
        type(stop_request), "__call__", lambda _self: len(seen) >= 1 or seen.append(1) is not None
    )
    assert export(groups, tmp_path / "a.jsonl", "trl") == 75
    assert "export stopped on request; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["groups"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["-o", "a.csv", "--format", "trl"],
            "the name of a file of format trl ends in .jsonl or .parquet",
        ),
        (
            ["-o", "a.parquet", "--format", "jsonl"],
            "the name of a file of format jsonl ends in .jsonl",
        ),
        (["-o", "a", "--format", "nemo-rl"], "ends in .jsonl or .parquet"),
        (["-o", "a.jsonl", "--format", "axolotl"], "axolotl gets a folder"),
        (
            ["-o", "a.jsonl", "--format", "trl", "--whole-groups"],
            "--whole-groups goes with --format nemo-rl, not trl",
        ),
        (["-o", "a.jsonl", "--format", "kto"], "--format must be one of trl"),
        (["-o", "a.jsonl"], "`prefpipe export` needs --format"),
        (
            ["-o", "a.jsonl", "--format", "trl", "--max-error-rate", "1"],
            "No such option: --max-error-rate",
        ),
    ],
)
def test_flags_that_cannot_be_used_are_refused(
    tmp_path: Path, groups: Path, monkeypatch, capsys, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(groups), *words]) == 2
    assert message in capsys.readouterr().err


def test_other_artifacts_and_the_groups_own_folder_are_refused(
    tmp_path: Path, groups: Path, capsys
) -> None:
    assert export(groups, groups / "a.jsonl", "trl") == 2
    assert "lie inside each other" in capsys.readouterr().err
    record = groups / "run.json"
    assert export(record, tmp_path / "a.jsonl", "trl") == 1
    candidates = copy_to(tmp_path / "finished") / "candidates"
    assert export(candidates, tmp_path / "a.jsonl", "trl") == 1
    assert "holds candidates (made by `prefpipe generate`), not groups" in capsys.readouterr().err


def imported(
    source: Path, out: Path, kind: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    command(["import", str(source), "-o", str(out), "--format", kind])
    return rows_of(out / "candidates"), rows_of(out / "scores")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "suffix", "reader"),
    [
        ("trl", ".parquet", "trl"),
        ("trl", ".jsonl", "trl"),
        ("trl-implicit", ".parquet", "trl"),
        ("trl-implicit", ".jsonl", "trl"),
        ("trl-unpaired", ".jsonl", "trl"),
        ("trl-unpaired", ".parquet", "trl"),
        ("jsonl", ".jsonl", "jsonl"),
    ],
)
def test_what_is_exported_is_imported_as_it_was(
    tmp_path: Path, groups: Path, kind: str, suffix: str, reader: str
) -> None:
    """Keys, texts, models and rewards come back, and so do the files when they are selected and exported again."""
    assert export(groups, tmp_path / f"a{suffix}", kind) == 0
    candidates, scores = imported(tmp_path / f"a{suffix}", tmp_path / "run", reader)
    rows = [item for item in rows_of(groups) if item["role"] is not None]
    names = ("prompt_id", "sample_idx", "messages", "response", "model")
    order = {prompt_id: i for i, prompt_id in enumerate("ace")}
    expected = sorted(rows, key=lambda item: (order[item["prompt_id"]], item["sample_idx"]))
    assert [[item[name] for name in names] for item in candidates] == [
        [item[name] for name in names] for item in expected
    ]
    assert [item["reward"] for item in scores] == [item["reward"] for item in expected]
    out = tmp_path / "run"
    command(
        [
            "select",
            f"{out}/candidates",
            "--scores",
            f"{out}/scores",
            "-o",
            f"{out}/groups",
            "--strategy",
            "all",
            "--keep-duplicates",
        ]
    )
    assert export(out / "groups", tmp_path / f"b{suffix}", kind) == 0
    first, second = (load(tmp_path / f"{name}{suffix}") for name in "ab")
    if kind != "jsonl":  # which tells the strategy and the ranks of the pool as well
        assert sorted(second, key=str) == sorted(
            (item for item in first if item["prompt_id"] != "e"), key=str
        )


def load(path: Path) -> list[dict[str, Any]]:
    return read_lines(path) if path.suffix == ".jsonl" else pq.read_table(path).to_pylist()


@pytest.mark.slow
def test_the_whole_chain_from_another_tools_file_to_another_tools_file(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"question {i}",
            "all_generated_responses": [f"answer {i} {j}" for j in range(5)],
            "all_rm_scores": [(i * 3 + j * 7) % 11 / 2 for j in range(5)],
        }
        for i in range(7)
    ]
    out = tmp_path / "run"
    command(
        [
            "import",
            lines(tmp_path / "a.jsonl", *rows),
            "-o",
            str(out),
            "--format",
            "simpo",
            "--part-size",
            "3",
        ]
    )
    command(["embed", f"{out}/candidates", "-o", f"{out}/embeddings", "--model", "fake"])
    command(["score", f"{out}/candidates", "-o", f"{out}/fakes", "--scorer", "fake"])
    command(
        [
            "select",
            f"{out}/candidates",
            "--scores",
            f"{out}/scores",
            "--embeddings",
            f"{out}/embeddings",
            "-o",
            f"{out}/groups",
            "--strategy",
            "coreset",
            "--k",
            "2",
        ]
    )
    command(["export", f"{out}/groups", "-o", f"{out}/pairs.jsonl", "--format", "trl"])
    pairs = read_lines(out / "pairs.jsonl")
    assert len(pairs) == 14
    for item in pairs:
        i = int(item["prompt"][0]["content"].split()[1])
        scores = rows[i]["all_rm_scores"]
        assert item["score_chosen"] == max(scores)
        assert item["score_rejected"] == scores[item["rejected_sample_idx"]]
        assert item["rejected"][0]["content"] == f"answer {i} {item['rejected_sample_idx']}"


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="the peak of a process of its own is read from /proc",
)
def test_memory_does_not_grow_with_the_number_of_parts(tmp_path: Path) -> None:
    """Eight times the parts, the same peak: 90 MB more are written."""
    text = "word " * 2_000
    code = (
        "import sys\nfrom prefpipe.cli.main import run\ncode = run(sys.argv[1:])\n"
        "sys.stderr.write(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))\nsys.exit(code)"
    )
    peaks_mib = []
    for n_parts in (10, 80):
        parts = [
            [
                kept(
                    f"p{i}.{j}",
                    k,
                    "positive" if k == 0 else "negative",
                    -float(k),
                    f"{text}{i} {j} {k}",
                )
                for j in range(20)
                for k in range(4)
            ]
            for i in range(n_parts)
        ]
        groups = write_groups(tmp_path / f"groups{n_parts}", *parts)
        words = ["export", str(groups), "-o", str(tmp_path / f"{n_parts}.jsonl"), "--format", "trl"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        peaks_mib.append(int(done.stderr.split()[-2]) / 1024)
    assert (tmp_path / "80.jsonl").stat().st_size - (tmp_path / "10.jsonl").stat().st_size > 80e6
    assert peaks_mib[1] - peaks_mib[0] < 10
