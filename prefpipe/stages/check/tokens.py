"""What is wrong with the token ids that training would take: counted row by row, with the first example of each problem."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from prefpipe.stages.shared.candidate_rows import Row
from prefpipe.text.control_tokens import TemplateError
from prefpipe.training.encoding import Encoder, EncodingError, begins_with_two_bos

N_TEMPLATE_LOOKS = 64
"""Responses whose conversation goes through the template where stored ids are what counts: a look, not a tokenisation of all."""


class Ids(NamedTuple):
    """A prompt's and a response's ids."""

    prompt: Sequence[int]
    response: Sequence[int]


class TokenCheck:
    """Takes rows one by one and hands out their ids, those that ``train`` would take.

    ``problems`` counts responses by problem: ``no_ids``, ``template_error``, ``not_prefix``, ``double_bos``, ``bos_in_response``,
    ``beyond_vocabulary``, ``stop_without_eos``; ``control_text`` (a turn or the response holds the text of a control token, which
    is read as text), ``apart`` (the response is tokenised apart from its prompt) and ``turn_words`` (the response holds the
    plain words that the template writes in front of a user's turn); and of a first few ``template_drift`` (the template makes
    another prompt than the stored one) and ``text_differs`` (the stored ids are another text). ``examples`` has the first of
    each.
    """

    def __init__(
        self, encoder: Encoder | None, *, takes_stored: bool, n_vocabulary: int | None
    ) -> None:
        self.encoder, self.takes_stored, self.n_vocabulary = encoder, takes_stored, n_vocabulary
        self.problems: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.n_looks = self.n_encoded = 0

    def ids_of(self, row: Row) -> Ids | None:
        """Return the ids of a row, None where there are none at all; every problem is counted."""
        place = f"response {row['sample_idx']} of prompt {row['prompt_id']}"
        stored = None
        if row["prompt_token_ids"] is not None and row["response_token_ids"] is not None:
            stored = Ids(row["prompt_token_ids"], row["response_token_ids"])
        self._look_for_turn_words(row, place)
        if self.takes_stored:
            if self.n_looks < N_TEMPLATE_LOOKS and self.encoder is not None:
                self.n_looks += 1
                self._look_at_template(row, stored, self.encoder, place)
            found = stored
        elif self.encoder is not None:
            found = self._encoded(row, self.encoder, place)
            if found is None:
                return None  # the template's problem, which is counted
        else:
            found = stored
        if found is None:
            self.count("no_ids", place)
            return None
        self._look_at_ids(row, found, place)
        return found

    def _look_for_turn_words(self, row: Row, place: str) -> None:
        template = None if self.encoder is None else self.encoder.template
        if template is not None and template.holds_turn_words(row["response"] or ""):
            self.count("turn_words", f"{template.turn_words!r} in {place}")

    def _encoded(self, row: Row, encoder: Encoder, place: str) -> Ids | None:
        """Return the ids that the template makes; a response that ``train`` would leave out has none."""
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
        return Ids(encoded.prompt, encoded.response)

    def _look_at_template(self, row: Row, stored: Ids | None, encoder: Encoder, place: str) -> None:
        """Compare stored ids with what the template makes now, and with their text."""
        try:
            prompt = encoder.template.ids(row["messages"], add_generation_prompt=True)
            encoder.encode_as_it_is(
                row["prompt_id"], row["messages"], row["response"], finished=True
            )
        except TemplateError as error:
            self.count("template_drift", error.message)
            return
        except EncodingError as error:
            self.count(
                "template_drift" if error.problem == "template_error" else error.problem,
                error.message,
            )
        if stored is None:
            return
        if list(stored.prompt) != prompt:
            self.count("template_drift", place)
        body = (
            stored.response[:-1]
            if stored.response and stored.response[-1] in encoder.eos_token_ids
            else stored.response
        )
        text = encoder.tokenizer.decode(
            body, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if text != row["response"]:
            self.count("text_differs", place)

    def _look_at_ids(self, row: Row, ids: Ids, place: str) -> None:
        if (
            self.n_vocabulary is not None
            and max([*ids.prompt, *ids.response], default=0) >= self.n_vocabulary
        ):
            self.count("beyond_vocabulary", place)
        if self.encoder is None:
            return
        bos = self.encoder.tokenizer.bos_token_id
        if begins_with_two_bos(ids.prompt, bos):
            self.count("double_bos", place)
        if bos is not None and bos not in self.encoder.eos_token_ids and bos in ids.response:
            self.count("bos_in_response", place)
        if (
            row["finish_reason"] == "stop"
            and ids.response
            and ids.response[-1] not in self.encoder.eos_token_ids
        ):
            self.count("stop_without_eos", place)

    def count(self, problem: str, example: str) -> None:
        """Count a problem, and keep the first example of it."""
        self.problems[problem] += 1
        self.examples.setdefault(problem, example)
