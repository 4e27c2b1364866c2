"""Real models are loaded and saved without a word of the libraries that do it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(600)]
FOREIGN = re.compile(
    r"%\||it/s|Loading weights|Writing model shards|Setting `pad_token_id`|site-packages"
    r"|^\[transformers\]|Warning:|^warning: (?!the run has one step)|TOKENIZERS_PARALLELISM",
    re.MULTILINE,
)
OURS = (
    r"backend: transformers, .*",
    r"2 prompts x 2 responses in 1 part",
    r"loading .*",
    r"(generate|embed): 1 of 1 part done, .*",
    r"(generate|embed): .* rows in .*",
    r"status +rows +share",
    r"(ok|truncated) +\d+ +[\d.]+%",
    r"\d+ (tokens|texts) in .*",
    r"\d+ responses repeat .*",
    r"\d+ texts \(.*\) exceeded .*",
)
"""Every line that the two commands print to stderr."""


def test_sampling_and_embedding_print_lines_of_ours_alone(tmp_path: Path, repository: Path) -> None:
    lines = (repository / "sample_data" / "prompts.jsonl").read_text().splitlines()
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines[:2]) + "\n")
    generate = ["generate", "prompts.jsonl", "-o", "candidates", "--n", "2", "--max-tokens", "2"]
    for words in (
        [*generate, "--model", "bundled:smollm2-135m", "--backend", "transformers"],
        ["embed", "candidates", "-o", "embeddings", "--model", "bundled:minilm"],
    ):
        command = [sys.executable, "-m", "prefpipe", *words]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert FOREIGN.search(ended.stderr) is None, ended.stderr
        for line in ended.stderr.splitlines():
            assert any(re.fullmatch(each, line) for each in OURS), line
