"""Questions answered by an engine in this process (vLLM or transformers): text verdicts only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefpipe.backends.chat_answers import ERROR, TOO_LONG, ChatAnswer, read_completion
from prefpipe.backends.open_calls import Answered, answered_by
from prefpipe.backends.protocol import (
    TOO_LONG_PREFIX,
    Generation,
    GenerationRequest,
    Generator,
    SamplingParams,
)
from prefpipe.errors import InputError

Body = Mapping[str, Any]


class EngineAnswers:
    """Answers chat-completion bodies with a generator."""

    def __init__(self, engine: Generator) -> None:
        self._engine = engine

    def complete(
        self, bodies: Sequence[Body], keep: Callable[[int, Body], None]
    ) -> list[ChatAnswer]:
        """Return one answer for each body, in order; all share the first one's ``max_tokens``."""
        max_tokens = bodies[0]["max_tokens"]
        room = self._engine.max_model_len - max_tokens

        answers: dict[int, ChatAnswer] = {}
        requests: dict[int, GenerationRequest] = {}
        for place, body in enumerate(bodies):
            try:
                ids = self._engine.encode(body["messages"])
            except InputError as error:
                answers[place] = ChatAnswer(ERROR, error.message)
                continue
            if len(ids) > room:
                reason = f"{len(ids)} prompt tokens, and there is room for {room}"
                answers[place] = ChatAnswer(TOO_LONG, reason)
                continue
            requests[place] = GenerationRequest(
                prompt_id="",
                sample_idx=0,
                messages=body["messages"],
                prompt_token_ids=ids,
                seed=0,
                temperature=body["temperature"],
            )

        generations: list[Generation] = []
        if requests:
            params = SamplingParams(max_tokens)
            generations = self._engine.generate(list(requests.values()), params)
        for (place, request), generation in zip(requests.items(), generations, strict=True):
            if generation.finish_reason == "error":
                answers[place] = _failure(generation)
                continue
            completion = _completion(request, generation)
            keep(place, completion)
            answers[place] = read_completion(completion)
        return [answers[place] for place in range(len(bodies))]

    def has_room(self) -> bool:
        """Return whether the engine may soon have nothing to do."""
        return self._engine.has_room()

    def answered(self) -> Answered:
        """Return how many questions of the open calls are answered."""
        return answered_by(self._engine)

    def close(self) -> None:
        """Release the engine's memory."""
        self._engine.close()


def _failure(generation: Generation) -> ChatAnswer:
    reason = generation.error or "the engine gave no reason"
    status = TOO_LONG if reason.startswith(TOO_LONG_PREFIX) else ERROR
    return ChatAnswer(status, reason.removeprefix(TOO_LONG_PREFIX))


def _completion(request: GenerationRequest, generation: Generation) -> dict[str, Any]:
    """Return a generation as a server would write it, so that all answers are kept in one form."""
    message = {"role": "assistant", "content": generation.text}
    usage = {
        "prompt_tokens": len(request.prompt_token_ids),
        "completion_tokens": len(generation.token_ids),
    }
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": generation.finish_reason}],
        "usage": usage,
    }
