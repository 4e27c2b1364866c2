"""The check on the language of a response.

By a naive Bayes model over byte n-grams (py3langid, 140 languages).
"""

import functools
from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from prefpipe.spelling import did_you_mean
from prefpipe.text.checks.grading import CheckedResponse, Grade
from prefpipe.text.checks.parameters import Texts


@functools.cache
def _identifier() -> Any:
    # Unpacking the model takes seconds, so it happens only if a check needs a language.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> list[str]:
    """Return the codes that the model knows (ISO 639)."""
    return list(_identifier().labels)


def language_probabilities(text: str, among: tuple[str, ...] = ()) -> Mapping[str, float]:
    """Return the probability of each language, the likeliest first; renormalised over ``among``."""
    ranked = dict(_identifier().rank(text))
    if not among:
        return ranked

    kept = {language: share for language, share in ranked.items() if language in among}
    total = sum(kept.values())
    if not total:
        # All underflow to 0 in a long text of another language: there is no evidence for any.
        return dict.fromkeys(kept, 0.0)
    return {language: share / total for language, share in kept.items()}


@dataclass(frozen=True, kw_only=True)
class Language:
    """The language of the response: one code, or several equally good ones (``["zh", "yue"]``).

    ``among`` limits the choice to possible languages, which helps with short texts.
    """

    language: Texts
    among: Texts = ()

    def __post_init__(self) -> None:
        """Refuse codes that the model does not know."""
        if not self.language:
            raise ValueError("'language' needs a code")

        known = known_languages()
        for code in self.language + self.among:
            if code not in known:
                guess = did_you_mean(code, known, quote="'")
                raise ValueError(
                    f"unknown language {code!r}{guess}; known: {', '.join(sorted(known))}"
                )

        outside = [code for code in self.language if self.among and code not in self.among]
        if outside:
            raise ValueError(f"'among' lacks the wanted language {outside[0]!r}")

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return ``min(1, p / (2 r))``: p of the wanted language, r of the likeliest other one.

        So 1 for a language twice as probable as any other, 1/2 for a draw, as in very short texts
        (``Oui.``). A text without letters scores 0.
        """
        text = candidate.response
        if not any(character.isalpha() for character in text):
            return Grade(0.0, "no letters")

        probabilities = language_probabilities(text, self.among)
        # As a set: a repeated code counts once.
        wanted = sum(probabilities[code] for code in set(self.language))
        others = [
            (probability, code)
            for code, probability in probabilities.items()
            if code not in self.language
        ]
        rival, rival_code = max(others, default=(0.0, "none"))
        score = min(1.0, wanted / (2 * rival)) if rival else float(wanted > 0)
        names = "/".join(self.language)
        return Grade(score, f"{names} {wanted:.2f}, next likeliest {rival_code} {rival:.2f}")
