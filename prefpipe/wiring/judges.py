"""The judges that ``prefpipe judge`` and ``prefpipe score`` name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.judging import ENGINES, JudgeSpec, parse_judge
from prefpipe.configs.score import ScoreConfig
from prefpipe.wiring.engines import (
    open_reward_model,
    open_transformers,
    open_vllm,
    run_control,
)
from prefpipe.wiring.extras import JUDGE, require
from prefpipe.wiring.models import locate, template_date

if TYPE_CHECKING:
    from prefpipe.backends.judges.answers import CompletionSource, JudgeAnswers
    from prefpipe.backends.judges.llm_judge import JudgeSettings, VerdictBy
    from prefpipe.backends.protocol import PairwiseJudge, Scorer
    from prefpipe.execution.runtime import Runtime
    from prefpipe.stages.judge.run import Judge
    from prefpipe.stages.score import Rater
    from prefpipe.text.judging.judge_prompt import Kind


def judge_for(config: JudgeConfig, runtime: "Runtime") -> "Judge":
    """Return the judge of ``--judge``, with its fingerprint entry and how to open it."""
    from prefpipe.stages.judge.run import Judge

    spec = parse_judge(config.judge)
    if spec.kind not in ENGINES:
        return _reward_judge(config, spec)

    # of token probabilities there is one to read: the prompt asks for a letter
    default = "pairwise-letter-v1" if config.verdict_by == "logprobs" else "pairwise-v1"
    judge = _language_judge(
        config, spec, runtime, kind="pairwise", verdict=config.verdict_by, default_prompt=default
    )

    def open_judge() -> "PairwiseJudge":
        from prefpipe.backends.judges.llm_judge import LlmJudge

        return LlmJudge(judge.settings, judge.answers)

    return Judge(judge.identity, sees_order=True, open=open_judge)


def _reward_judge(config: JudgeConfig, spec: JudgeSpec) -> "Judge":
    from prefpipe.backends.fake import FakeScorer
    from prefpipe.stages.judge.run import Judge

    identity: dict[str, Any] = {
        "kind": spec.kind,
        "target": spec.model,
        "verdict": config.reward_rule,
        "tie_tolerance": config.tie_tolerance,
    }
    open_scorer: Callable[[], Scorer] = FakeScorer

    if spec.kind == "reward-model":
        model = locate(spec.model, trust_remote_code=config.trust_remote_code)
        model = model.dated(template_date(config, [config.a, config.b]))
        # the hashes say which model it is, wherever its folder is
        identity |= {
            **model.identity(),
            "target": "",
            "max_length": config.max_length,
            "dtype": config.dtype,
        }

        def open_scorer() -> "Scorer":
            return open_reward_model(model, config)

    def open_judge() -> "PairwiseJudge":
        from prefpipe.backends.judges.reward_judge import RewardJudge

        return RewardJudge(
            open_scorer(), rule=config.reward_rule, tie_tolerance=config.tie_tolerance
        )

    return Judge(identity, sees_order=False, open=open_judge)


def judge_rater(config: ScoreConfig, name: str, target: str, runtime: "Runtime") -> "Rater":
    """Return the scorer ``judge:TARGET``: a language model that rates single responses."""
    from prefpipe.stages.score import Rater

    spec = parse_judge(target)
    judge = _language_judge(
        config,
        spec,
        runtime,
        kind="pointwise",
        verdict="either",
        default_prompt="pointwise-v1",
    )

    def open_scorer() -> "Scorer":
        from prefpipe.backends.judges.llm_judge import JudgeScorer

        return JudgeScorer(judge.settings, judge.answers)

    identity = {**judge.identity, "kind": "judge", "engine": spec.kind}
    return Rater(name, identity, open_scorer)


class _LanguageJudge(NamedTuple):
    """A language model that judges.

    ``identity``: its fingerprint entry. ``settings``: the settings of questions. ``answers``: the
    source of the answers.
    """

    identity: dict[str, Any]
    settings: "JudgeSettings"
    answers: "JudgeAnswers"


class _AnswerSource(NamedTuple):
    """The model or server that answers a judge's questions.

    ``name`` identifies the model in the key of an answer, ``identity`` in the fingerprint.
    """

    name: str
    identity: dict[str, Any]
    open: "Callable[[], CompletionSource]"


def _language_judge(
    config: JudgeConfig | ScoreConfig,
    spec: JudgeSpec,
    runtime: "Runtime",
    *,
    kind: "Kind",
    verdict: "VerdictBy",
    default_prompt: str,
) -> _LanguageJudge:
    from prefpipe.artifacts.answer_cache import AnswerCache, answers_folder
    from prefpipe.artifacts.interchange.judge_batch import read_batch_answers
    from prefpipe.backends.judges.answers import JudgeAnswers
    from prefpipe.backends.judges.llm_judge import JudgeSettings, default_max_tokens
    from prefpipe.backends.judges.prompt_files import read_judge_prompt

    prompt = read_judge_prompt(config.judge_prompt or default_prompt, kind)
    is_served = spec.kind == "openai"
    source = _server(config, spec, verdict, runtime) if is_served else _engine(config, spec)

    settings = JudgeSettings(
        source.name,
        prompt,
        verdict,
        config.judge_max_tokens or default_max_tokens(prompt),
        config.judge_temperature,
    )

    def open_source() -> "CompletionSource":
        with runtime.opening():
            return source.open()

    answers = JudgeAnswers(
        # the first part that has a question to ask finds out that it is needed
        lambda: runtime.main_thread.do(open_source),
        AnswerCache(config.cache or answers_folder(config.output)),
        mode=config.answers_mode,
        batch=read_batch_answers(config.ingest_batch),
        ask_again=config.asks_again,
        is_served=is_served,
    )
    identity = {"kind": spec.kind, **source.identity, **settings.identity()}
    return _LanguageJudge(identity, settings, answers)


def _server(
    config: JudgeConfig | ScoreConfig, spec: JudgeSpec, verdict: "VerdictBy", runtime: "Runtime"
) -> _AnswerSource:
    def open_client() -> "CompletionSource":
        require(JUDGE, "a judge behind a server")
        from prefpipe.backends.chat_client import ChatClient, ServerSettings

        settings = ServerSettings(
            base_url=config.base_url,
            concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            timeout_s=config.timeout_s,
            max_tries=config.max_tries,
            can_do_without=("logprobs", "top_logprobs") if verdict == "either" else (),
            needs_logprobs=verdict == "logprobs",
        )
        return ChatClient(settings, run_control(runtime))

    return _AnswerSource(spec.model, {"served": spec.model}, open_client)


def _engine(config: JudgeConfig | ScoreConfig, spec: JudgeSpec) -> _AnswerSource:
    from prefpipe.artifacts.fingerprint import fingerprint_of
    from prefpipe.models.files import require_chat_template

    judged = [config.candidates] if isinstance(config, ScoreConfig) else [config.a, config.b]
    model = locate(spec.model, trust_remote_code=config.trust_remote_code)
    model = model.dated(template_date(config, judged))
    require_chat_template(model)

    identity = {**model.identity(), "dtype": config.dtype, "max_length": config.max_length}
    open_engine = open_vllm if spec.kind == "vllm" else open_transformers

    def open_source() -> "CompletionSource":
        from prefpipe.backends.judges.engine_answers import EngineAnswers

        return EngineAnswers(open_engine(model, config, max_model_len=config.max_length))

    # by its content: answers are found again when the model's folder has another name
    return _AnswerSource(f"{spec.kind}:{fingerprint_of(identity)}", identity, open_source)
