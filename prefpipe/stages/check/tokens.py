"""Problems of the token ids that training would use.

They are counted row by row, with the first example of each problem.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.text.control_tokens import TemplateError
from prefpipe.text.stop_texts import StopTexts
from prefpipe.training.encoding import Encoder, EncodingError, begins_with_two_bos

N_TEMPLATE_LOOKS = 64
"""Responses formatted by the template although their stored ids are used."""


class TokenIds(NamedTuple):
    """A prompt's and a response's ids."""

    prompt: Sequence[int]
    response: Sequence[int]


class StopSettings(NamedTuple):
    """``--stop`` and ``--min-tokens`` of a sampling."""

    stops: Sequence[str]
    min_tokens: int


def stop_settings(samplings: Iterable[Mapping[str, Any]]) -> list[StopSettings]:
    """Return the stop texts in candidates' identities, if any."""
    return [
        StopSettings(sampling["stop"], sampling.get("min_tokens", 0))
        for sampling in samplings
        if sampling.get("stop")
    ]


class TokenCheck:
    """Takes rows one by one and returns the ids that ``train`` would use.

    ``problems`` counts responses by problem, ``examples`` has the first of each. Of every response:

    - ``no_ids``, ``template_error``, ``not_prefix``, ``double_bos``, ``bos_in_response``,
      ``beyond_vocabulary``, ``stop_without_eos``;
    - ``stop_text``: it ends with a text of ``--stop`` instead;
    - ``control_text``: a turn or the response holds the text of a control token, which is read as
      text;
    - ``apart``: the response is tokenised apart from its prompt;
    - ``turn_words``: the response holds the plain words that the template writes in front of a
      user's turn.

    Of the first few:

    - ``template_drift``: the template makes another prompt than the stored one;
    - ``text_differs``: the stored ids are another text.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        *,
        takes_stored: bool,
        n_vocabulary: int | None,
        stops: Sequence[StopSettings] = (),
    ) -> None:
        self.stops = stops
        self.encoder, self.takes_stored, self.n_vocabulary = encoder, takes_stored, n_vocabulary
        self.problems: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.n_looks = self.n_encoded = 0

    def ids_of(self, row: Row) -> TokenIds | None:
        """Return the ids of a row, None if there is none at all; every problem is counted."""
        place = f"response {row['sample_idx']} of prompt {row['prompt_id']}"
        ids = None
        if row["prompt_token_ids"] is not None and row["response_token_ids"] is not None:
            ids = TokenIds(row["prompt_token_ids"], row["response_token_ids"])

        if self.encoder is not None:
            self._look_for_turn_words(row, self.encoder, place)
            if not self.takes_stored:
                ids = self._encoded(row, self.encoder, place)
                if ids is None:
                    return None  # the template's problem, which is counted
            elif self.n_looks < N_TEMPLATE_LOOKS:
                self.n_looks += 1
                self._look_at_template(row, ids, self.encoder, place)

        if ids is None:
            self.count("no_ids", place)
            return None
        self._look_at_ids(row, ids, place)
        return ids

    def count(self, problem: str, example: str) -> None:
        """Count a problem, and keep the first example of it."""
        self.problems[problem] += 1
        self.examples.setdefault(problem, example)

    def _look_for_turn_words(self, row: Row, encoder: Encoder, place: str) -> None:
        template = encoder.template
        if template.holds_turn_words(row["response"] or ""):
            self.count("turn_words", f"{template.turn_words!r} in {place}")

    def _encoded(self, row: Row, encoder: Encoder, place: str) -> TokenIds | None:
        """Return the ids from the template; a response that ``train`` leaves out has none."""
        is_finished = row["finish_reason"] != "length"
        try:
            encoded = encoder.encode_as_it_is(
                row["prompt_id"], row["messages"], row["response"], finished=is_finished
            )
        except EncodingError as error:
            self.count(error.problem, place if error.problem == "not_prefix" else error.message)
            return None

        self.n_encoded += 1
        if encoded.is_apart:
            self.count("apart", place)
        if encoded.holds_control_text:
            self.count("control_text", place)
        return TokenIds(encoded.prompt, encoded.response)

    def _look_at_template(
        self, row: Row, stored: TokenIds | None, encoder: Encoder, place: str
    ) -> None:
        """Compare stored ids with those that the template gives now, and with their text."""
        # Not for train, which takes the stored ids: for tools that tokenise the conversation again.
        try:
            prompt = encoder.template.ids(row["messages"], add_generation_prompt=True)
            encoder.encode_as_it_is(
                row["prompt_id"], row["messages"], row["response"], finished=True
            )
        except TemplateError as error:
            self.count("template_drift", error.message)
            return
        except EncodingError as error:
            is_refused = error.problem == "template_error"
            self.count("template_drift" if is_refused else error.problem, error.message)
        if stored is None:
            return

        if list(stored.prompt) != prompt:
            self.count("template_drift", place)
        # The end of the turn is no part of the text.
        body = stored.response
        if body and body[-1] in encoder.eos_token_ids:
            body = body[:-1]
        text = self._decode(body)
        if row["response"] not in (text, *self._texts_before_stops(body)):
            self.count("text_differs", place)

    def _decode(self, ids: Sequence[int]) -> str:
        assert self.encoder is not None
        text: str = self.encoder.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _texts_before_stops(self, ids: Sequence[int]) -> Iterator[str]:
        """Yield the texts that a response with these ids may have because of ``--stop``."""
        for stops, min_tokens in self.stops:
            text = StopTexts(stops, min_tokens, self._decode).text_before(ids)
            if text is not None:
                yield text

    def _look_at_ids(self, row: Row, ids: TokenIds, place: str) -> None:
        largest = max([*ids.prompt, *ids.response], default=0)
        if self.n_vocabulary is not None and largest >= self.n_vocabulary:
            self.count("beyond_vocabulary", place)
        if self.encoder is None:
            return

        bos, ends = self.encoder.tokenizer.bos_token_id, self.encoder.eos_token_ids
        if begins_with_two_bos(ids.prompt, bos):
            self.count("double_bos", place)
        # Where one token both begins and ends a text, as GPT-2's, it may be there.
        if bos is not None and bos not in ends and bos in ids.response:
            self.count("bos_in_response", place)
        if row["finish_reason"] == "stop" and ids.response and ids.response[-1] not in ends:
            is_stopped = row["response"] in self._texts_before_stops(ids.response)
            self.count("stop_text" if is_stopped else "stop_without_eos", place)
