"""The check on the language of a response, by a naive Bayes model over byte n-grams (py3langid, 140 languages)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefpipe.spelling import did_you_mean
from prefpipe.text.checks.grading import Candidate, Grade


@functools.cache
def _identifier() -> Any:
    # Unpacking the model takes seconds, so only a prompt that asks for a language pays for it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> list[str]:
    """Return the codes that the model tells apart (ISO 639)."""
    return list(_identifier().labels)


def language_probabilities(text: str, among: tuple[str, ...] = ()) -> Mapping[str, float]:
    """Return the probability of each language, the likeliest first; renormalised over ``among`` when that is given."""
    ranked = _identifier().rank(text)
    if not among:
        return dict(ranked)
    kept = [(language, probability) for language, probability in ranked if language in among]
    total = sum(probability for _, probability in kept)
    # All may underflow to 0 in a long text of another language: then nothing speaks for any of them.
    return {language: probability / total if total else 0.0 for language, probability in kept}


@dataclass(frozen=True, kw_only=True)
class Language:
    """The language of the response: one code or several that are as good (``["zh", "yue"]``).

    ``among`` narrows the choice to languages that can occur at all, which helps with short texts.
    """

    language: tuple[str, ...]
    among: tuple[str, ...] = ()

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

    def grade(self, candidate: Candidate) -> Grade:
        """Return ``min(1, p / (2 r))``: p of the wanted language, r of the likeliest other one.

        So 1 for a language twice as probable as any other, 1/2 for a draw, as in texts too short to tell (``Oui.``). A
        text without letters scores 0.
        """
        text = candidate.response
        if not any(character.isalpha() for character in text):
            return Grade(0.0, "no letters")
        probabilities = language_probabilities(text, self.among)
        wanted = sum(probabilities[code] for code in set(self.language))
        others = [
            (probability, code)
            for code, probability in probabilities.items()
            if code not in self.language
        ]
        rival, rival_code = max(others, default=(0.0, "none"))
        score = min(1.0, wanted / (2 * rival)) if rival else float(wanted > 0)
        return Grade(
            score,
            f"{'/'.join(self.language)} {wanted:.2f}, next likeliest {rival_code} {rival:.2f}",
        )
