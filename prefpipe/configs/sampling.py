"""The knobs of sampling, shared by ``prefpipe generate`` and ``prefpipe eval``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_args

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.conversations import ConversationsConfig
from prefpipe.configs.json_schemas import JsonSchema, read_json_schema
from prefpipe.configs.options import Dtype, flag_named, option
from prefpipe.configs.stage import (
    ENGINE_HEADING,
    FILES_HEADING,
    PART_SIZE_HELP,
    TEMPLATE_HEADING,
    ErrorRateConfig,
    SizedParts,
)
from prefpipe.configs.template_args import PolicyTemplateConfig
from prefpipe.errors import InputError
from prefpipe.text.thoughts import AUTO as AUTO_MARKERS
from prefpipe.text.thoughts import read_markers

MOST_SAMPLES = 100_000
"""Of a prompt: far above use, and far below what would fill the memory before the first part."""
AUTO = "auto"
BACKENDS = (AUTO, "vllm", "transformers", "openai", "fake")
SERVED = ("openai", "fake")
"""Back-ends whose models are not on this disk: they are named as a server, or the fake, does."""
KEEP_TO_SCHEMAS = ("vllm", "openai")
"""Back-ends that can be held to a JSON schema."""

YOUNGER = (
    "stop",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "ignore_eos",
    "continue_final_message",
)
"""Identity fields that came after runs were on disk: left alone, they are not in it."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(SizedParts, PolicyTemplateConfig, ErrorRateConfig, ConversationsConfig):
    """How responses are sampled, and by which engine."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "Sampling": (
            "n",
            "temperature",
            "max_tokens",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "stop",
            "min_tokens",
            "ignore_eos",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "json_schema",
        ),
        TEMPLATE_HEADING: (
            "system_prompt",
            "template_arg",
            "continue_final_message",
            "thinking_markers",
            "template_date",
        ),
        ENGINE_HEADING: (
            "backend",
            "base_url",
            "batch_size",
            "device",
            "dtype",
            "max_model_len",
            "trust_remote_code",
            "tensor_parallel_size",
            "gpu_memory_utilization",
            "enable_prefix_caching",
            "enforce_eager",
        ),
        FILES_HEADING: ("drop_duplicate_prompts",),
    }

    backend: str = option(
        AUTO,
        choices=BACKENDS,
        common=True,
        help="engine: openai is any OpenAI-compatible server, fake is for dry runs; auto: the "
        "run's own, else vllm if installed with a GPU, else transformers",
    )
    n: int = option(
        32,
        minimum=1,
        maximum=MOST_SAMPLES,
        common=True,
        help="responses per prompt, shared among the models and temperatures",
    )
    temperature: tuple[float, ...] = option(
        (0.8,),
        minimum=0,
        maximum=10,
        common=True,
        help="sampling temperature, 0 is greedy; repeat for several",
    )
    top_p: float = option(
        1.0,
        above=0,
        maximum=1,
        help="sample from the smallest set of tokens with this total probability, 1 is all",
    )
    top_k: int = option(0, minimum=0, help="sample from this many most probable tokens, 0 is all")
    min_p: float = option(
        0.0,
        minimum=0,
        maximum=1,
        help="lowest probability of a sampled token, relative to the most probable token; 0 is off",
    )
    repetition_penalty: float = option(
        1.0,
        minimum=0.01,
        maximum=100,
        help="penalty on tokens that the prompt or response already contains: divides positive "
        "logits, multiplies negative ones; 1 is off",
    )
    presence_penalty: float = option(
        0.0,
        minimum=-2,
        maximum=2,
        help="subtracted from the logit of every token that the response already contains; 0 "
        "is off",
    )
    frequency_penalty: float = option(
        0.0,
        minimum=-2,
        maximum=2,
        help="subtracted from a token's logit once per occurrence in the response; 0 is off",
    )
    max_tokens: int = option(1024, minimum=1, common=True, help="longest response, in tokens")
    min_tokens: int = option(
        0,
        minimum=0,
        help="shortest response, in tokens: end of sequence and --stop are ignored before it",
    )
    stop: tuple[str, ...] = option(
        (),
        help="end a response before this text; its tokens stay in the response's ids, as an "
        "end of sequence does; repeatable",
    )
    ignore_eos: bool = option(
        False,
        help="keep sampling after an end of sequence, up to --max-tokens or --stop; for benchmarks",
    )
    json_schema: Location | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="JSON schema that every response must match (vllm, and servers that support "
        "response_format)",
    )
    seed: int = option(
        0,
        minimum=0,
        common=True,
        help="seed of the run; each sample's seed is a hash of it, prompt_id and sample_idx",
    )
    system_prompt: str | None = option(
        None, help="system turn to put before every conversation; default: none"
    )
    continue_final_message: bool = option(
        False,
        help="continue a prompt's last assistant turn; the response is the text that follows it",
    )
    thinking_markers: str = option(
        AUTO_MARKERS,
        identity=False,
        metavar="START..END",
        help="markers around the model's thoughts, which are stored apart from the response; "
        "auto reads them from the tokenizer, none keeps them in",
    )
    drop_duplicate_prompts: bool = option(
        False,
        help="keep the first of several prompts with the same id, instead of refusing the file",
    )
    part_size: int | None = option(None, minimum=1, help=PART_SIZE_HELP)
    max_model_len: int | None = option(
        None, minimum=2, help="longest prompt plus response, in tokens; default: the model's limit"
    )
    dtype: Dtype = option(
        "auto",
        choices=get_args(Dtype),
        help="number format of the weights",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    batch_size: int = option(
        64,
        identity=False,
        minimum=1,
        help="sequences per forward pass (transformers, scorers), or parallel requests (openai)",
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N (transformers)")
    tensor_parallel_size: int = option(
        1, identity=False, minimum=1, help="GPUs that share one model (vllm)"
    )
    gpu_memory_utilization: float = option(
        0.9, identity=False, above=0, maximum=1, help="share of the GPU memory that vllm may use"
    )
    enable_prefix_caching: bool = option(
        True, identity=False, help="share the prompt's cache among its samples (vllm)"
    )
    enforce_eager: bool = option(
        False, identity=False, help="run without CUDA graphs: slower, but starts faster (vllm)"
    )
    base_url: str | None = option(
        None,
        identity=False,
        common=True,
        help="address of the server; default: OPENAI_BASE_URL (openai)",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if not self.temperature:
            problems.append("--temperature is needed")
        try:
            read_markers(self.thinking_markers)
        except ValueError as error:
            problems.append(f"--thinking-markers {error}")
        if len(set(self.temperature)) < len(self.temperature):
            problems.append("--temperature names the same value twice")

        if "" in self.stop:
            problems.append("--stop must not be an empty text")
        if len(set(self.stop)) < len(self.stop):
            problems.append("--stop names the same text twice")
        # a max_tokens below 1 is named by its bound already
        if self.min_tokens > self.max_tokens >= 1:
            problems.append(
                f"--min-tokens {self.min_tokens} is more than --max-tokens {self.max_tokens}"
            )
        if self.min_p > 0 and self.temperature and not any(self.temperature):
            problems.append(
                f"--min-p {self.min_p:g} does nothing at --temperature 0, which takes the "
                "likeliest token"
            )
        return problems + self._schema_problems()

    def _schema_problems(self) -> list[str]:
        """Return what is wrong with ``--json-schema``, its file included."""
        if self.json_schema is None:
            return []

        problems = []
        try:
            read_json_schema(self.json_schema)
        except InputError as error:
            problems.append(f"--json-schema {error.message}")
        if self.backend not in (AUTO, *KEEP_TO_SCHEMAS):
            problems.append(
                f"--json-schema is not for --backend {self.backend}, which cannot hold a response "
                "to a schema: use --backend vllm, or --backend openai with a server that takes "
                "response_format (vllm serve, SGLang, llama.cpp)"
            )
        # The schema says where a response ends.
        problems += [
            f"--json-schema and {flag_named(name)} exclude each other"
            for name in ("stop", "min_tokens", "ignore_eos")
            if getattr(self, name)
        ]
        return problems

    @property
    def reading_rules(self) -> ReadingRules:
        """What the readers need to know."""
        return super().reading_rules._replace(continue_final_message=self.continue_final_message)

    @property
    def schema(self) -> JsonSchema | None:
        """The schema that responses are held to, None for none.

        Raises:
            InputError: the file has gone, or has changed to what is no schema.
        """
        return None if self.json_schema is None else read_json_schema(self.json_schema)

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows.

        The engine is the one that ``auto`` came to, and never ``auto``. Younger fields that were
        left alone are not mentioned, as before they were there.
        """
        assert self.backend != AUTO, "wiring settles the back-end before a stage is run"
        identity = super().identity()
        for item in fields(self):
            if item.name in YOUNGER and getattr(self, item.name) == item.default:
                del identity[item.name]

        schema = self.schema
        if schema is not None:
            identity["json_schema"] = schema.sha256
        return identity
