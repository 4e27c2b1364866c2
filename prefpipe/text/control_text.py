"""Texts that spell control tokens, for models whose tokenizer is elsewhere.

Where the tokenizer is here, such a text is tokenised as text (`prefpipe.text.chat_template`). A
server renders and tokenises by itself, and nothing in its protocol says which letters are data.
"""

import re
from collections.abc import Iterable

_SPELLED = re.compile(
    r"<\|[^|<>\s]{2,40}\|>"  # ChatML, Llama 3, Phi, and most others
    r"|<\uff5c[^\uff5c<>]{2,40}\uff5c>"  # DeepSeek
    r"|<(?:start|end)_of_turn>|</s>|\[/INST\]"  # Gemma, Llama 2 and Mistral
)


def spells_control_token(texts: Iterable[str]) -> bool:
    """Return whether one of the texts spells what common models have as a control token."""
    return any(_SPELLED.search(text) for text in texts)


def note_on_server(n: int, what: str) -> list[str]:
    """Return a sentence on texts that were sent to a server and spell control tokens.

    Args:
        n: how many; none for none.
        what: they are, in the plural.
    """
    if not n:
        return []
    risk = "a server may take it for the end of a turn, and prefpipe cannot keep it from that"
    return [f"{n:,} {what} spell a control token, such as <|im_end|>: {risk}"]
