"""Makes untrusted text safe for a terminal.

Responses may hold ANSI escapes, NUL bytes and characters that change the reading direction. They
are shown as harmless symbols, so that the model's real output stays visible.
"""

import unicodedata

KEPT = {"\n", "\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}"}
"""Joiners connect emoji and letters of many scripts; they cannot move anything else."""
INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
TAB = "    "


def visible(text: str) -> str:
    r"""Return ``text`` with every control and formatting character replaced by a symbol.

    ESC becomes ``␛``, NUL ``␀``. Characters without a picture become their escape, RIGHT-TO-LEFT
    OVERRIDE as ``\u202e``. New lines stay, tabs become four spaces. Letters of right-to-left
    scripts are letters and stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_sign, text))


def visible_line(text: str, limit: int = 80) -> str:
    """Return ``visible(text)`` on one line, at most ``limit`` characters, cut with ``…``."""
    # The beginning of a text of megabytes is enough, white space and symbols included.
    line = visible(" ".join(text[: 8 * limit].split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _sign(character: str) -> str:
    if character in KEPT:
        return character
    if character == "\t":
        return TAB
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    if unicodedata.category(character) in INVISIBLE:
        return character.encode("unicode_escape").decode()
    return character
