"""The language of a response, among all languages or a few."""

import pytest

from prefpipe.text.checks.grading import CheckedResponse
from prefpipe.text.checks.languages import Language, known_languages, language_probabilities

SENTENCES = {
    "en": "The weather is lovely today, so we should go for a walk in the park.",
    "de": "Das Wetter ist heute sehr schön, deshalb gehen wir im Park spazieren.",
    "fr": "Il fait très beau aujourd'hui, alors nous allons nous promener dans le parc.",
    "es": "Hoy hace muy buen tiempo, así que vamos a dar un paseo por el parque.",
    "ar": "الطقس جميل جدا اليوم لذلك سنذهب في نزهة في الحديقة",
    "he": "מזג האוויר יפה מאוד היום ולכן נצא לטייל בפארק",
    "ja": "今日はとても天気がいいので、公園に散歩に行きましょう。",
    "ru": "Сегодня очень хорошая погода, поэтому мы пойдём гулять в парк.",
}


@pytest.mark.slow
@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_passes_in_its_language_and_fails_in_the_others(language):
    for wanted in SENTENCES:
        score = Language(language=(wanted,)).grade(CheckedResponse(SENTENCES[language])).score
        assert score == 1.0 if wanted == language else score < 0.1


@pytest.mark.parametrize("text", ["", "42", "😀😀", " \x00\n"])
def test_a_text_without_letters_has_no_language(text):
    assert Language(language=("en",)).grade(CheckedResponse(text)) == (0.0, "no letters")


def test_a_short_text_is_doubtful_among_all_and_clear_among_few():
    short = CheckedResponse("Oui.")
    doubtful = Language(language=("fr",)).grade(short)
    rival = max(p for code, p in language_probabilities("Oui.").items() if code != "fr")
    assert doubtful.score == pytest.approx(language_probabilities("Oui.")["fr"] / (2 * rival))
    assert Language(language=("fr",), among=("fr", "en", "de")).grade(short).score > doubtful.score


def test_a_short_sentence_with_names_and_numbers_passes():
    assert (
        Language(language=("en",))
        .grade(CheckedResponse("The Yamato Battleship was built in 1941."))
        .score
        == 1.0
    )


def test_the_only_language_to_choose_from_is_the_language():
    assert Language(language=("de",), among=("de",)).grade(CheckedResponse("Hallo")) == (
        1.0,
        "de 1.00, next likeliest none 0.00",
    )


def test_several_languages_may_be_as_good():
    text = CheckedResponse("你好")
    assert Language(language=("zh", "yue")).grade(text).score == 1.0
    assert Language(language=("zh",)).grade(text).score < 1.0


def test_probabilities_among_a_few_sum_to_one():
    assert sum(
        language_probabilities("Guten Morgen", ("de", "nl", "en")).values()
    ) == pytest.approx(1.0)


def test_unknown_codes_are_refused_with_those_known():
    with pytest.raises(ValueError, match=r"unknown language 'german'.*known: ace, af, am"):
        Language(language=("german",))
    with pytest.raises(ValueError, match="'among' lacks the wanted language 'de'"):
        Language(language=("de",), among=("en", "fr"))
    with pytest.raises(ValueError, match="'language' needs a code"):
        Language(language=())
    assert {"en", "zh", "sw"} <= set(known_languages())
