"""Lone surrogates: half characters that broken JSON escapes leave in a string.

No tokenizer takes them, and no file.
"""


def replace_lone_surrogates(text: str) -> str:
    r"""Return ``text`` with surrogate pairs joined, and each lone half as U+FFFD.

    The pair ``\ud83d\ude00`` is one emoji. Text without surrogates comes back as it is.
    """
    if has_lone_surrogates(text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def has_lone_surrogates(text: str) -> bool:
    """Whether ``text`` cannot be written as UTF-8: so Python holds a name that is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
