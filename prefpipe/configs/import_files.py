"""The knobs of ``prefpipe import``."""

import keyword
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.configs.conversations import ON_DUPLICATE, ConversationsConfig
from prefpipe.configs.options import option
from prefpipe.configs.score import REWARD_FUNCTIONS

FORMATS = (
    "rows",
    "wide",
    "simpo",
    "ultrafeedback",
    "helpsteer2",
    "helpsteer3",
    "pku-saferlhf",
    "online-rlhf",
    "openai-batch",
    "trl",
    "nemo-rl",
    "jsonl",
    "alpaca-eval",
    "arena-hard",
)
NAMED_BY_USER = ("rows", "wide")
"""Formats whose columns the user names; every other format has names of its own."""
NAMING_FIELDS = {
    "reward_column": "rows",
    "score_column": "wide",
    "prompt_id_column": "rows or wide",
    "prompt_column": "rows or wide",
    "response_column": "rows or wide",
    "model_column": "rows or wide",
}
"""Fields that name columns, and the formats that they go with."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig(ConversationsConfig):
    """Make candidates, and scores where there are any, of a file of another tool."""

    stage: ClassVar[str] = "import"
    VERSION: ClassVar[int] = (
        2  # 2: arrow.json as what it holds; system columns, templated prompts, ratings joined
    )

    output: Path = option(
        help="folder that gets `candidates` and `scores`", identity=False, short="o", metavar="DIR"
    )
    source: str = option(
        positional=True,
        identity=False,
        metavar="SOURCE",
        help="JSONL, JSON, CSV or Parquet file, a datasets folder, or hf:org/name[@revision][:split]",
    )
    format: str = option(
        choices=FORMATS, help="what the file holds; docs/interchange.md has two lines of each"
    )
    requests: str | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="openai-batch: the file of requests that was sent; arena-hard: the question.jsonl of v0.1",
    )
    reward_column: tuple[str, ...] = option(
        (),
        metavar="[NAME=]COLUMN",
        help="rows: column of scores, higher is better; NAME= names the scorer; repeat for several",
    )
    score_column: tuple[str, ...] = option(
        (),
        metavar="[NAME=]COLUMN",
        help="wide: column of the scores of a --response-column, in their order; NAME= names the scorer, default score; repeat",
    )
    prompt_id_column: str | None = option(
        None,
        metavar="COLUMN",
        help="rows, wide: column of the prompt's id; default prompt_id, else the hash of the prompt",
    )
    prompt_column: str | None = option(
        None,
        metavar="COLUMN",
        help="rows, wide: column of the prompt, text or turns; default prompt or messages",
    )
    response_column: tuple[str, ...] = option(
        (),
        metavar="COLUMN",
        help="rows: column of the response, default response; wide: repeat for each column of responses, or name one of lists",
    )
    model_column: str | None = option(
        None,
        metavar="COLUMN",
        help="rows, wide: column of the model that wrote the response; default model, where there is one",
    )
    on_duplicate: str | None = option(
        None,
        choices=ON_DUPLICATE,
        help="several scores of one response: their mean (default of rows), the first, or refuse the file (default of trl)",
    )
    model_name: str = option(
        "imported", help="model of the responses for which the file names none"
    )
    columns: str | None = option(
        None,
        help="the user's columns to pass through, comma-separated, `none` for none; default for rows and wide all that hold one "
        "value for each prompt, for every other format none",
    )
    part_size: int = option(128, help="prompts a part; a crash costs at most one part")

    def problems(self) -> list[str]:
        found = super().problems()
        if self.part_size < 1:
            found.append(f"--part-size must be 1 or more, not {self.part_size}")
        if not self.model_name:
            found.append("--model-name must not be empty")
        if self.format not in NAMED_BY_USER:
            given = [name for name in NAMING_FIELDS if getattr(self, name)]
            found += [
                f"--{name.replace('_', '-')} goes with --format {NAMING_FIELDS[name]}, not {self.format}"
                for name in given
            ]
        found += self._wide_problems()
        if self.format == "openai-batch" and self.requests is None:
            found.append(
                "--format openai-batch needs --requests: the answers do not hold the messages"
            )
        if self.format not in ("openai-batch", "arena-hard") and self.requests is not None:
            found.append(
                f"--requests goes with --format openai-batch and arena-hard, not {self.format}"
            )
        if self.format == "openai-batch" and self.kept_columns:
            found.append("--columns: a batch holds no columns of the user's")
        return found + self._reward_problems()

    @property
    def is_wide(self) -> bool:
        """Whether a row holds several responses: the format says so, or the columns that are named."""
        return self.format == "wide" or (
            self.format == "rows" and (len(self.response_column) > 1 or bool(self.score_column))
        )

    def _wide_problems(self) -> list[str]:
        found = []
        if self.is_wide and not self.response_column:
            found.append(
                f"--format {self.format} with several responses a row needs --response-column, once for each column of "
                "responses, or one column of lists"
            )
        if self.is_wide and self.reward_column:
            found.append(
                "--reward-column is the score of one response a row; the scores of several are --score-column, once for each "
                "--response-column in their order"
            )
        twice = sorted(
            {name for name in self.response_column if self.response_column.count(name) > 1}
        )
        found += [f"--response-column names `{name}` twice" for name in twice]
        found += [
            f"--score-column: `{name}` is no name for a scorer: letters, digits and _ make one, functions of --reward and "
            "Python's own words do not"
            for name in self.scores
            if not is_scorer_name(name)
        ]
        return found

    def _reward_problems(self) -> list[str]:
        names = [name for name, _ in self.rewards]
        found = [
            f"--reward-column: `{name}` is no name for a scorer: letters, digits and _ make one, functions of --reward and "
            f"Python's own words do not; name it, --reward-column score={column}"
            for name, column in self.rewards
            if not is_scorer_name(name)
        ]
        twice = sorted({name for name in names if names.count(name) > 1})
        return found + [f"--reward-column: two scorers are called `{name}`" for name in twice]

    @property
    def rewards(self) -> list[tuple[str, str]]:
        """Scorer and column of each ``--reward-column``."""
        pairs = [text.partition("=") for text in self.reward_column]
        return [
            (name.strip(), column.strip() if equals else name.strip())
            for name, equals, column in pairs
        ]

    @property
    def scores(self) -> dict[str, tuple[str, ...]]:
        """Scorer, and the columns of its ``--score-column``s in their order."""
        found: dict[str, tuple[str, ...]] = {}
        for text in self.score_column:
            name, equals, column = text.partition("=")
            scorer = name.strip() if equals else "score"
            found[scorer] = (*found.get(scorer, ()), (column if equals else name).strip())
        return found

    @property
    def kept_columns(self) -> list[str] | None:
        """The user's columns to keep; None for all that belong to the prompts."""
        if self.columns is None:
            return None if self.format in NAMED_BY_USER else []
        return (
            []
            if self.columns == "none"
            else [name.strip() for name in self.columns.split(",") if name.strip()]
        )

    @property
    def reading_rules(self) -> ReadingRules:
        """What the readers need to know."""
        return super().reading_rules._replace(on_duplicate=self.on_duplicate)

    def identity(self) -> dict[str, Any]:
        """Leave out what was not given: a later release may add names without making other runs of these."""
        found = super().identity()
        if not self.is_wide and self.response_column:
            found["response_column"] = self.response_column[0]  # as it was when there could be one
        return {name: value for name, value in found.items() if value not in (None, [])}


def is_scorer_name(name: str) -> bool:
    """Return whether a reward expression can name a scorer so."""
    is_plain = (
        name.isidentifier() and unicodedata.normalize("NFKC", name) == name
    )  # which is how Python reads it
    return is_plain and not keyword.iskeyword(name) and name not in REWARD_FUNCTIONS
