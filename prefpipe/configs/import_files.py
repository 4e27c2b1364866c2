"""The knobs of ``prefpipe import``."""

import keyword
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.conversations import ON_DUPLICATE, ConversationsConfig, split_columns
from prefpipe.configs.options import flag_named, option
from prefpipe.configs.score import REWARD_FUNCTIONS
from prefpipe.configs.stage import FILES_HEADING, PART_SIZE_HELP, GraceConfig, SizedParts

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
NAME_RULE = "letters, digits and _ make one, functions of --reward and Python's own words do not"


@dataclass(frozen=True, kw_only=True)
class ImportConfig(SizedParts, GraceConfig, ConversationsConfig):
    """Read responses and scores from another tool's file.

    Writes folders `candidates` and, if the file has scores, `scores`.
    """

    stage: ClassVar[str] = "import"
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "format", "requests", "overwrite"),
        "Columns": (
            "reward_column",
            "score_column",
            "prompt_column",
            "response_column",
            "model_column",
            "prompt_id_column",
            "columns",
            "model_name",
        ),
        FILES_HEADING: ("on_duplicate", "skip_bad_rows"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe import responses.parquet -o run --format rows --reward-column judge",
        "prefpipe import hf:HuggingFaceH4/ultrafeedback_binarized -o run --format trl",
    )
    # 2: arrow.json as what it holds; system columns, templated prompts, ratings joined
    VERSION: ClassVar[int] = 2

    output: Location = option(
        common=True,
        help="folder to write `candidates` and `scores` into",
        identity=False,
        flag="-o",
        metavar="DIR",
    )
    source: str = option(
        positional=True,
        identity=False,
        metavar="SOURCE",
        common=True,
        help="JSONL, JSON, CSV or Parquet file, a datasets folder, or "
        "hf:org/name[@revision][:split]",
    )
    format: str = option(
        choices=FORMATS,
        common=True,
        help="format of the file; docs/guides/interchange.md shows an example of each",
    )
    requests: str | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="openai-batch: the request file that was sent; arena-hard: the question.jsonl of v0.1",
    )
    reward_column: tuple[str, ...] = option(
        (),
        metavar="[NAME=]COLUMN",
        common=True,
        help="rows: column of scores, higher is better; NAME= names the scorer; repeatable",
    )
    score_column: tuple[str, ...] = option(
        (),
        metavar="[NAME=]COLUMN",
        common=True,
        help="wide: column of scores of a --response-column, in the same order; NAME= names "
        "the scorer (default: score); repeatable",
    )
    prompt_id_column: str | None = option(
        None,
        metavar="COLUMN",
        common=True,
        help="rows, wide: column of the prompt's id; default: prompt_id, else a hash of the prompt",
    )
    prompt_column: str | None = option(
        None,
        metavar="COLUMN",
        common=True,
        help="rows, wide: column of the prompt, text or turns; default: prompt or messages",
    )
    response_column: tuple[str, ...] = option(
        (),
        metavar="COLUMN",
        common=True,
        help="rows: column of the response (default: response); wide: repeat for each column "
        "of responses, or name one of lists",
    )
    model_column: str | None = option(
        None,
        metavar="COLUMN",
        common=True,
        help="rows, wide: column of the model that wrote the response; default: model, if any",
    )
    on_duplicate: str | None = option(
        None,
        choices=ON_DUPLICATE,
        help="several scores of one response: use the mean (default of rows) or the first, or "
        "refuse the file (default of trl)",
    )
    model_name: str = option("imported", help="model of the responses if the file names none")
    columns: str | None = option(
        None,
        common=True,
        help="columns of your file to pass through, comma-separated, or `none`; default: of "
        "rows and wide the columns with one value per prompt",
    )
    part_size: int | None = option(None, minimum=1, help=PART_SIZE_HELP)

    def problems(self) -> list[str]:
        problems = super().problems()
        if not self.model_name:
            problems.append("--model-name must not be empty")
        return [
            *problems,
            *self._format_problems(),
            *self._response_problems(),
            *self._scorer_problems(),
        ]

    @property
    def is_wide(self) -> bool:
        """Whether a row holds several responses: the format says so, or the columns named."""
        if self.format == "rows":
            return len(self.response_column) > 1 or bool(self.score_column)
        return self.format == "wide"

    def _format_problems(self) -> list[str]:
        """Return what does not go with ``--format``."""
        problems = []
        if self.format not in NAMED_BY_USER:
            for name, formats in NAMING_FIELDS.items():
                if getattr(self, name):
                    problems.append(
                        f"{flag_named(name)} goes with --format {formats}, not {self.format}"
                    )

        if self.format == "openai-batch" and self.requests is None:
            problems.append(
                "--format openai-batch needs --requests: the answers do not hold the messages"
            )
        if self.format not in ("openai-batch", "arena-hard") and self.requests is not None:
            problems.append(
                f"--requests goes with --format openai-batch and arena-hard, not {self.format}"
            )
        if self.format == "openai-batch" and self.kept_columns:
            problems.append("--columns: a batch holds no columns of the user's")
        return problems

    def _response_problems(self) -> list[str]:
        """Return what is wrong with the columns of responses."""
        problems = [
            f"--response-column names `{name}` twice" for name in _repeated(self.response_column)
        ]
        if self.is_wide and not self.response_column:
            problems.append(
                f"--format {self.format} with several responses per row needs --response-column, "
                "once for each column of responses, or one column of lists"
            )
        if self.is_wide and self.reward_column:
            problems.append(
                "--reward-column is the score of one response per row; the scores of several are "
                "--score-column, once for each --response-column in their order"
            )
        return problems

    def _scorer_problems(self) -> list[str]:
        """Return what is wrong with the names of scorers."""
        problems = [
            f"--score-column: `{name}` is no name for a scorer: {NAME_RULE}"
            for name in self.scores
            if not is_scorer_name(name)
        ]

        for name, column in self.rewards:
            if not is_scorer_name(name):
                problems.append(
                    f"--reward-column: `{name}` is no name for a scorer: {NAME_RULE}; name it, "
                    f"--reward-column score={column}"
                )
        repeated = _repeated([name for name, _ in self.rewards])
        return [
            *problems,
            *(f"--reward-column: two scorers are called `{each}`" for each in repeated),
        ]

    @property
    def rewards(self) -> list[tuple[str, str]]:
        """Scorer and column of each ``--reward-column``; a column alone names its scorer."""
        pairs = []
        for text in self.reward_column:
            name, equals, column = text.partition("=")
            pairs.append((name.strip(), column.strip() if equals else name.strip()))
        return pairs

    @property
    def scores(self) -> dict[str, tuple[str, ...]]:
        """Scorer, and the columns of its ``--score-column``s in their order."""
        columns: dict[str, tuple[str, ...]] = {}
        for text in self.score_column:
            head, equals, tail = text.partition("=")
            name, column = (head, tail) if equals else ("score", head)
            columns[name.strip()] = (*columns.get(name.strip(), ()), column.strip())
        return columns

    @property
    def kept_columns(self) -> list[str] | None:
        """The user's columns to keep; None for all that belong to the prompts."""
        if self.columns is not None:
            return split_columns(self.columns)
        return None if self.format in NAMED_BY_USER else []

    @property
    def reading_rules(self) -> ReadingRules:
        """What the readers need to know."""
        return super().reading_rules._replace(on_duplicate=self.on_duplicate)

    def identity(self) -> dict[str, Any]:
        """Leave out what was not given: later names then make no other runs of these."""
        identity = super().identity()
        if not self.is_wide and self.response_column:
            # as it was written when there could be one alone
            identity["response_column"] = self.response_column[0]
        return {name: value for name, value in identity.items() if value not in (None, [])}


def is_scorer_name(name: str) -> bool:
    """Return whether a reward expression can name a scorer so."""
    # Python reads a name in its NFKC form: another one would not be found under what was written
    is_plain = name.isidentifier() and unicodedata.normalize("NFKC", name) == name
    return is_plain and not keyword.iskeyword(name) and name not in REWARD_FUNCTIONS


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
