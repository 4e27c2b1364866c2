"""Questions answered by an engine in this process (vLLM or transformers) instead of a server: text verdicts only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefpipe.backends.chat_answers import ERROR, TOO_LONG, ChatAnswer, read_completion
from prefpipe.backends.protocol import Generation, GenerationRequest, Generator, SamplingParams
from prefpipe.errors import InputError

Body = Mapping[str, Any]
TOO_LONG_PREFIX = "prompt_too_long: "


class EngineSource:
    """Answers chat-completion bodies with a generator."""

    def __init__(self, engine: Generator) -> None:
        self._engine = engine

    def complete(
        self, bodies: Sequence[Body], keep: Callable[[int, Body], None]
    ) -> list[ChatAnswer]:
        """Return one answer for each body, in order; all share the first one's ``max_tokens``."""
        answers: dict[int, ChatAnswer] = {}
        requests: dict[int, GenerationRequest] = {}
        room = self._engine.max_model_len - bodies[0]["max_tokens"]
        for place, body in enumerate(bodies):
            try:
                ids = self._engine.encode(body["messages"])
            except InputError as error:
                answers[place] = ChatAnswer(ERROR, error.message)
                continue
            if len(ids) > room:
                answers[place] = ChatAnswer(
                    TOO_LONG, f"{len(ids)} prompt tokens, and there is room for {room}"
                )
            else:
                requests[place] = GenerationRequest(
                    "", 0, body["messages"], ids, 0, body["temperature"]
                )
        made = (
            self._engine.generate(list(requests.values()), SamplingParams(bodies[0]["max_tokens"]))
            if requests
            else []
        )
        for (place, request), generation in zip(requests.items(), made, strict=True):
            if generation.finish_reason == "error":
                answers[place] = _failure(generation)
                continue
            completion = _completion(request, generation)
            keep(place, completion)
            answers[place] = read_completion(completion)
        return [answers[place] for place in range(len(bodies))]

    def close(self) -> None:
        """Release the engine's memory."""
        self._engine.close()


def _failure(generation: Generation) -> ChatAnswer:
    reason = generation.error or "the engine gave no reason"
    status = TOO_LONG if reason.startswith(TOO_LONG_PREFIX) else ERROR
    return ChatAnswer(status, reason.removeprefix(TOO_LONG_PREFIX))


def _completion(request: GenerationRequest, generation: Generation) -> dict[str, Any]:
    message = {"role": "assistant", "content": generation.text}
    usage = {
        "prompt_tokens": len(request.prompt_token_ids),
        "completion_tokens": len(generation.token_ids),
    }
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": generation.finish_reason}],
        "usage": usage,
    }
