"""The knobs of sampling, shared by ``prefpipe generate`` and ``prefpipe eval``."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.configs.conversations import ConversationsConfig
from prefpipe.configs.json_schemas import JsonSchema, read_json_schema
from prefpipe.configs.options import Dtype, flag_named, option
from prefpipe.configs.stage import PART_SIZE_HELP, ErrorRateConfig, SizedParts
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

    backend: str = option(
        AUTO,
        choices=BACKENDS,
        help="engine: vllm on GPUs, transformers anywhere, openai for any OpenAI-compatible "
        "server, fake for tests and dry runs; auto: that of the run on disk, else vllm where it is "
        "installed and a GPU is visible, else transformers",
    )
    n: int = option(
        32,
        minimum=1,
        maximum=MOST_SAMPLES,
        help="responses a prompt, dealt in turn to every model and temperature",
    )
    temperature: tuple[float, ...] = option(
        (0.8,), minimum=0, maximum=10, help="sampling temperature, 0 is greedy; repeat for several"
    )
    top_p: float = option(
        1.0, above=0, maximum=1, help="smallest probability mass that is sampled from, 1 is all"
    )
    top_k: int = option(
        0, minimum=0, help="number of most probable tokens that are sampled from, 0 is all"
    )
    min_p: float = option(
        0.0,
        minimum=0,
        maximum=1,
        help="least probability of a token that is sampled, as a share of the likeliest one's, "
        "0 is off",
    )
    repetition_penalty: float = option(
        1.0,
        minimum=0.01,
        maximum=100,
        help="divides positive logits, and multiplies others, of tokens in the prompt or the "
        "response so far; 1 is off",
    )
    presence_penalty: float = option(
        0.0,
        minimum=-2,
        maximum=2,
        help="taken off the logits of tokens in the response so far, 0 is off",
    )
    frequency_penalty: float = option(
        0.0,
        minimum=-2,
        maximum=2,
        help="taken off the logit of a token as often as the response has it so far, 0 is off",
    )
    max_tokens: int = option(1024, minimum=1, help="longest response, in tokens")
    min_tokens: int = option(
        0, minimum=0, help="tokens before which neither end of sequence nor --stop ends a response"
    )
    stop: tuple[str, ...] = option(
        (),
        help="text before which a response ends; repeat for several. Its tokens are the last of "
        "the response's ids, as an end of sequence is",
    )
    ignore_eos: bool = option(
        False,
        help="keep sampling after an end of sequence, up to --max-tokens or --stop; for benchmarks",
    )
    json_schema: Path | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="JSON schema that every response is held to while it is sampled (vllm, and servers "
        "that take response_format)",
    )
    seed: int = option(
        0,
        minimum=0,
        help="seed of the run; each sample's own seed is a hash of it, prompt_id and sample_idx",
    )
    system_prompt: str | None = option(None, help="system turn put before every conversation")
    continue_final_message: bool = option(
        False,
        help="go on with a prompt's last turn where it is the assistant's: the beginning of the "
        "answer, to which the response is what follows",
    )
    thinking_markers: str = option(
        AUTO_MARKERS,
        identity=False,
        metavar="START..END",
        help="what the model writes around its thoughts, which are kept apart from the response: "
        "auto finds the usual ones in its template or tokenizer, none keeps all in the response",
    )
    drop_duplicate_prompts: bool = option(
        False, help="keep the first of prompts with the same id instead of refusing"
    )
    part_size: int | None = option(None, minimum=1, help=PART_SIZE_HELP)
    max_model_len: int | None = option(
        None, minimum=2, help="longest prompt plus response, in tokens; default the model's own"
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
        help="sequences in one forward pass (transformers, scorers) or requests at a time (openai)",
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N (transformers)")
    tensor_parallel_size: int = option(
        1, identity=False, minimum=1, help="GPUs that share one model (vllm)"
    )
    gpu_memory_utilization: float = option(
        0.9, identity=False, above=0, maximum=1, help="share of GPU memory that vllm may take"
    )
    enable_prefix_caching: bool = option(
        True, identity=False, help="share the prompt's cache between its samples (vllm)"
    )
    enforce_eager: bool = option(
        False, identity=False, help="no CUDA graphs: slower, starts faster (vllm)"
    )
    base_url: str | None = option(
        None, identity=False, help="address of the server, default OPENAI_BASE_URL (openai)"
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
