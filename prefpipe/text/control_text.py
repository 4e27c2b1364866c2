"""Texts that spell control tokens: notes on them, and models whose tokenizer is on a server.

With a local tokenizer such a text is tokenised as text (`prefpipe.text.chat_template`). A server
renders and tokenises on its own, and its protocol cannot mark letters as data.
"""

import re
from collections.abc import Iterable, Mapping

CONTROL_TEXT = "n_with_control_text/"
"""Prefix of the tally of conversations that hold the text of a control token.

One of the model's control tokens follows, for the message.
"""

N_READ = "n_read"
"""Name of the tally of conversations that a rater's tokenizer read."""

_SPELLED = re.compile(
    r"<\|[^|<>\s]{2,40}\|>"  # ChatML, Llama 3, Phi, and most others
    r"|<\uff5c[^\uff5c<>]{2,40}\uff5c>"  # DeepSeek
    r"|<(?:start|end)_of_turn>|</s>|\[/INST\]"  # Gemma, Llama 2 and Mistral
)


def spells_control_token(texts: Iterable[str]) -> bool:
    """Return whether one of the texts spells a common model's control token."""
    return any(_SPELLED.search(text) for text in texts)


def note_on_server(n: int, what: str) -> list[str]:
    """Return a sentence on texts that were sent to a server and spell control tokens.

    Args:
        n: how many; no sentence for 0.
        what: the noun for them, in the plural.
    """
    if not n:
        return []
    risk = "a server may read it as the end of a turn, and prefpipe cannot prevent that"
    return [f"{n:,} {what} spell a control token, such as <|im_end|>: {risk}"]


def note_on_control_text(n: int, n_conversations: int, example: str) -> list[str]:
    """Return a sentence on conversations with the text of a control token, which is read as text.

    Args:
        n: how many; no sentence for 0.
        n_conversations: the total.
        example: a control token of the model.
    """
    if not n:
        return []
    what = f"the text of a control token, such as {example}"
    return [f"{n:,} of {n_conversations:,} conversations hold {what}: it is read as text"]


def notes_of_control_text(tally: Mapping[str, float], n_conversations: float) -> list[str]:
    """Return `note_on_control_text` for the tallies under `CONTROL_TEXT`."""
    notes: list[str] = []
    for name, n in tally.items():
        if name.startswith(CONTROL_TEXT):
            example = name.removeprefix(CONTROL_TEXT)
            notes += note_on_control_text(int(n), int(n_conversations), example)
    return notes
