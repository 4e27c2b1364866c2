"""Lone surrogates: half characters that broken JSON escapes leave in a string and that no tokenizer or file takes."""


def replace_lone_surrogates(text: str) -> str:
    r"""Return ``text`` with surrogate pairs joined (``\ud83d\ude00`` is one emoji) and each lone half as U+FFFD.

    Text without surrogates comes back as it is.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
