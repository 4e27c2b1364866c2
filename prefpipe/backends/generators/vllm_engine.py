"""Sampling with vLLM, in this process and on its GPUs (or on CPU with vLLM's CPU build).

Interface used: https://docs.vllm.ai/en/stable/api/vllm/, of the releases that ``vllm_support``
names. vLLM's own settings (``VLLM_*`` variables) belong to the user. Two defaults differ here: its
log goes to stderr, because stdout is prefpipe's, and shows warnings only.

Several processes on one node, one for each shard, need nothing special. vLLM asks the operating
system for free ports, and the supported releases write their compile cache atomically (torch 2.10
and later), so sharing ``VLLM_CACHE_ROOT`` is safe and saves compile time. Give each process its
GPUs with ``CUDA_VISIBLE_DEVICES``.
"""

import atexit
import gc
import os
from collections.abc import Sequence
from typing import Any

from prefpipe.backends.chat_tokenizer import ChatTokenizer
from prefpipe.backends.generators.engine_processes import EngineProcesses
from prefpipe.backends.generators.vllm_stream import EngineRequest, Refused, VllmStream
from prefpipe.backends.generators.vllm_support import check_adapter, find_version, hidden_torchrun
from prefpipe.backends.open_calls import Answered
from prefpipe.backends.protocol import (
    TOO_LONG_PREFIX,
    Generation,
    GenerationRequest,
    Message,
    SamplingParams,
)
from prefpipe.errors import ModelError
from prefpipe.models.files import ModelFiles

VERSION = find_version()
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

# After the version check, and the settings that vLLM reads on import.
import vllm  # noqa: E402
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: E402
from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.inputs import tokens_input  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import (  # noqa: E402
    RequestOutputKind,
    StructuredOutputsParams,
)

REFUSED = (ValueError, VLLMValidationError)
"""Errors of vLLM for a request that it cannot accept; the second is its later own class."""
CPU_KV_CACHE_BYTES = 4 * 2**30


class VllmGenerator:
    """A generator on vLLM's offline engine, for the calls of many threads at a time.

    Every request has its own seed, so a sample's randomness does not depend on its neighbours. Its
    arithmetic does, in the last bits, because vLLM batches requests freely
    (``VLLM_BATCH_INVARIANT=1`` removes that on recent GPUs). Samples of one prompt share its cache
    when ``enable_prefix_caching`` is on.

    ``gpu_memory_utilization`` is for GPUs. On CPU the same number would claim that share of the
    machine's memory, so the cache there has 4 GiB, or ``VLLM_CPU_KVCACHE_SPACE``. ``dtype="auto"``
    is float32 on CPU and vLLM's choice on GPUs: the weights' own format, 16 bits when that is
    float32.

    Raises:
        ModelError: vLLM is missing or has another version, cannot load the model or the adapter, or
            lacks memory.
    """

    def __init__(
        self,
        model: ModelFiles,
        *,
        dtype: str,
        max_model_len: int | None,
        trust_remote_code: bool,
        tensor_parallel_size: int,
        gpu_memory_utilization: float,
        enable_prefix_caching: bool,
        enforce_eager: bool,
    ) -> None:
        settings: dict[str, Any] = {}
        self._lora = None
        if model.kind == "adapter":
            rank = check_adapter(model.path)
            settings = {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
            self._lora = LoRARequest("adapter", 1, str(model.path))
        if current_platform.is_cpu():
            settings["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
            dtype = "float32" if dtype == "auto" else dtype
            # A prompt prefilled in chunks makes vLLM rewind its request's generator. torch's CPU
            # generators cannot do that: the engine dies as soon as several prompts arrive at once.
            settings["enable_chunked_prefill"] = False

        self._chat = ChatTokenizer(model, trust_remote_code=trust_remote_code)
        base = model.base or model
        self._processes = EngineProcesses()
        try:
            with hidden_torchrun(), self._processes.started_here():
                self._engine: Any = vllm.LLM(
                    str(base.path),
                    tokenizer=str(model.tokenizer_path),
                    dtype=dtype,
                    max_model_len=max_model_len,
                    trust_remote_code=trust_remote_code,
                    tensor_parallel_size=tensor_parallel_size,
                    gpu_memory_utilization=gpu_memory_utilization,
                    enable_prefix_caching=enable_prefix_caching,
                    enforce_eager=enforce_eager,
                    # at temperature 1 and before truncation, as in `Generation`
                    logprobs_mode="raw_logprobs",
                    **settings,
                )
        except (RuntimeError, MemoryError, OSError, *REFUSED) as error:
            raise ModelError(
                f"vLLM cannot load {model.requested}: {error}",
                hint="read vLLM's log above; if memory is short, lower --max-model-len or change "
                "--gpu-memory-utilization",
            ) from error
        self.max_model_len = int(self._engine.model_config.max_model_len)
        self.engine_version = f"vllm {VERSION}"

        config = self._engine.llm_engine.vllm_config
        self._stream = VllmStream(
            self._engine.llm_engine,
            n_slots=int(config.scheduler_config.max_num_seqs),
            refusals=REFUSED,
            lora=self._lora,
        )
        self._processes.watch(lambda how: self._stream.end(f"the vLLM engine died: {how}"))
        # Its thread must not be inside torch when the interpreter exits.
        atexit.register(self.close)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the templated conversation, generation prompt included."""
        return self._chat.encode(messages)

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Return one generation for each request, in order.

        A request that vLLM refuses is a row with an error. Any number of threads may call it at a
        time; requests of earlier calls go first.

        Raises:
            EngineDeadError: the engine died, now or earlier, or was closed.
        """
        accepted: dict[int, EngineRequest] = {}
        generations: dict[int, Generation] = {}
        for index, request in enumerate(requests):
            prompt = list(request.prompt_token_ids) or self.encode(request.messages)
            problem = self._problem(len(prompt), request, params)
            if problem:
                generations[index] = Generation("", [], "error", None, problem)
                continue
            try:
                request_params = self._params(request, params)
            except REFUSED as error:
                generations[index] = Generation("", [], "error", None, str(error))
            else:
                accepted[index] = EngineRequest(tokens_input(prompt), request_params)

        answers = self._stream.answer(list(accepted.values()))
        for index, answer in zip(accepted, answers, strict=True):
            generations[index] = self._read(requests[index], answer, params)
        return [generations[index] for index in range(len(requests))]

    def has_room(self) -> bool:
        """Return whether more requests are needed to keep the engine's slots busy."""
        return self._stream.has_room()

    def answered(self) -> Answered:
        """Return how many samples of the open calls are drawn."""
        return self._stream.answered()

    def close(self) -> None:
        """End waiting calls, stop the engine's processes and release its memory."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        atexit.unregister(self.close)
        self._processes.stopping()
        self._stream.close()
        engine.llm_engine.engine_core.shutdown()
        self._processes.close()
        del engine
        gc.collect()
        cleanup_dist_env_and_memory()

    def _problem(
        self, n_tokens: int, request: GenerationRequest, params: SamplingParams
    ) -> str | None:
        """Return why the request must not reach vLLM, which would silently cut or change it."""
        if n_tokens + params.max_tokens > self.max_model_len:
            return (
                f"{TOO_LONG_PREFIX}{n_tokens} + {params.max_tokens} tokens, "
                f"the limit is {self.max_model_len}"
            )
        if 0 < request.temperature < 0.01:
            return (
                f"vLLM would sample at temperature 0.01 instead of {request.temperature}: "
                "use 0, or at least 0.01"
            )
        return None

    def _params(self, request: GenerationRequest, params: SamplingParams) -> Any:
        structured_outputs = None
        if params.json_schema is not None:
            structured_outputs = StructuredOutputsParams(json=params.json_schema)
        return vllm.SamplingParams(
            seed=request.seed,
            temperature=request.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            max_tokens=params.max_tokens,
            min_tokens=params.min_tokens,
            stop=list(params.stop),
            ignore_eos=params.ignore_eos,
            structured_outputs=structured_outputs,
            # of the chosen token only
            logprobs=0,
            # Text is made from the ids afterwards, the same way for every engine; vLLM decodes them
            # only to notice a stop text.
            detokenize=bool(params.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
            stop_token_ids=[] if params.ignore_eos else sorted(self._chat.eos_ids),
        )

    def _read(self, request: GenerationRequest, answer: Any, params: SamplingParams) -> Generation:
        if isinstance(answer, Refused):
            return Generation("", [], "error", None, answer.reason)
        ids = list(answer.token_ids)
        if answer.finish_reason not in {"stop", "length"}:
            reason = f"vLLM ended the response with finish_reason {answer.finish_reason!r}"
            return Generation("", [], "error", None, reason)

        # vLLM's raw log-probabilities are measured after a schema has banned tokens: not the
        # model's own.
        logp = None if params.json_schema is not None else float(answer.cumulative_logprob)
        read = self._chat.reading_of(request, ids, params)
        text = read.text
        if isinstance(answer.stop_reason, str) and not read.is_stopped and read.thought is None:
            # It saw a stop text that the ids alone do not spell: a leading space.
            text = answer.text
        finish_reason = "stop" if read.is_stopped else answer.finish_reason
        return Generation(text, ids, finish_reason, logp, reasoning=read.thought)
