"""Lone surrogates: half characters that broken JSON escapes leave in a string.

No tokenizer takes them, and no file.
"""


def replace_lone_surrogates(text: str) -> str:
    r"""Return ``text`` with surrogate pairs joined, and each lone half as U+FFFD.

    The pair ``\ud83d\ude00`` is one emoji. Text without surrogates comes back as it is.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
