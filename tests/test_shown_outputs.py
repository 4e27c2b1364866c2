"""What README and docs show of a terminal is what their commands print: ``make docs-outputs`` writes it again."""

from pathlib import Path

import pytest
from support import shown_outputs
from support.shown_outputs import MODEL_PROMPTS, REPOSITORY, Session

SESSIONS = shown_outputs.sessions()
FAKE = [one for one in SESSIONS if not one.with_models]
WITH_MODELS = [one for one in SESSIONS if one.with_models]


def test_there_are_sessions_with_and_without_models() -> None:
    assert FAKE
    assert WITH_MODELS


@pytest.mark.slow
@pytest.mark.parametrize("session", FAKE, ids=lambda one: one.id)
def test_commands_print_what_is_shown(session: Session, tmp_path: Path) -> None:
    printed = shown_outputs.run(session, tmp_path)
    assert shown_outputs.differences(session, printed) == []


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("session", WITH_MODELS, ids=lambda one: one.id)
def test_commands_with_models_print_what_is_shown(session: Session, tmp_path: Path) -> None:
    """On a few of the prompts, with every number masked: the words are the same for all of them."""
    printed = shown_outputs.run(session, tmp_path, MODEL_PROMPTS)
    assert shown_outputs.differences(session, printed) == []


def test_quotes_stand_on_the_page_that_they_quote() -> None:
    quotes = shown_outputs.quotes()
    assert quotes, "README quotes the first run"
    for page, quoted, shown in quotes:
        missing = shown_outputs.lines_missing(f"...\n{shown}", shown_outputs.shown_on(quoted))
        assert missing == [], (
            f"{page.relative_to(REPOSITORY)} quotes what {quoted.name} does not show"
        )


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("a 1\nb 2", "a 1\nb 2", 0),
        ("a 1\nb 2", "a 1\nb 3", 1),  # another number
        ("b 2\na 1", "a 1\nb 2", 1),  # another order
        ("a 1", "a 1\nb 2", 1),  # a line too few, and no gap
        ("a 1\n...", "a 1\nb 2", 0),
        ("40 rows in 3 s, 12 tokens/s", "40 rows in 97.5 s, 1,300 tokens/s", 0),
        ("40 rows in 3 s", "41 rows in 3 s", 1),
    ],
)
def test_lines_missing(shown: str, printed: str, missing: int) -> None:
    """Times and rates may differ, anything else may not; a line ... stands for lines left out."""
    assert len(shown_outputs.lines_missing(shown, printed)) == missing


def test_a_shown_text_is_written_again_between_its_gaps(tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run: it -->\n```bash\nls\n```\n\n```text\nrows 1\n...\nend 5\n```\n\nmore\n"
    )
    monkeypatch.setattr(shown_outputs, "REPOSITORY", tmp_path)
    session = Session(page, "it", with_models=False)
    assert shown_outputs.rewritten(session, ["rows 2\nbetween\nend 6"]) == (
        page.read_text().replace("rows 1", "rows 2").replace("end 5", "end 6")
    )
