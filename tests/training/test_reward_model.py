"""What a reward model is made of: the head, the pad token, the template.

And what it is not made of.
"""

from math import sqrt

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import (
    END_ID,
    PAD_ID,
    VOCAB_SIZE,
    make_tiny_causal_lm,
    make_tiny_encoder,
    make_tiny_reward_model,
    tiny_config,
)
from transformers import AutoTokenizer, LlamaForSequenceClassification

from prefpipe.backends.scorers.reward_model import RewardModelScorer
from prefpipe.errors import InputError, ModelError, UsageError
from prefpipe.models.files import inspect_model
from prefpipe.training.policy import LoraSettings, save_policy
from prefpipe.training.reward_model import (
    check_ends,
    finished_reward_model,
    load_reward_model,
    load_reward_tokenizer,
    longest_conversation,
    read_template,
)

ENDS_WITH_END = "{% for message in messages %}{{ message.content + '<|im_end|>' }}{% endfor %}"


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return inspect_model(make_tiny_causal_lm(tmp_path_factory.mktemp("causal")), "causal")


def edited(make, path, **changes):
    """A model whose tokenizer has other special tokens."""
    make(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(path)
    return inspect_model(path, "edited")


def load(files, seed=0, lora=None):
    return load_reward_model(files, load_reward_tokenizer(files), lora=lora, seed=seed)


@pytest.mark.slow
def test_a_fresh_head_is_drawn_by_the_seed_with_the_papers_spread(causal):
    heads = [load(causal, seed).model.score.weight.detach() for seed in (0, 0, 1)]
    assert heads[0].equal(heads[1])
    assert not heads[0].equal(heads[2])
    many = torch.cat([load(causal, seed).model.score.weight.detach() for seed in range(20)])
    assert many.std().item() == pytest.approx(1 / sqrt(32 + 1), rel=0.15)


def test_the_backbone_is_the_language_models(causal):
    weights = load_file(causal.path / "model.safetensors")
    model = load(causal).model
    assert all(
        value.equal(weights[name]) for name, value in model.state_dict().items() if name in weights
    )
    assert {name for name in model.state_dict() if name not in weights} == {"score.weight"}
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_a_head_that_is_there_is_kept(tmp_path):
    files = inspect_model(make_tiny_reward_model(tmp_path / "reward"), "reward")
    weights = load_file(tmp_path / "reward" / "model.safetensors")
    assert load(files, seed=5).model.score.weight.equal(weights["score.weight"])


def test_a_pad_token_that_ends_no_conversation_stays(causal):
    assert load_reward_tokenizer(causal).pad_token_id == PAD_ID


def test_padding_with_the_end_of_turn_is_replaced_where_conversations_end_with_it(tmp_path):
    """With ``pad_token = eos_token`` the classifier would look past the end of turn and read one token early."""
    files = edited(
        make_tiny_causal_lm, tmp_path / "model", pad_token="<|im_end|>", chat_template=ENDS_WITH_END
    )
    tokenizer = load_reward_tokenizer(files)
    assert tokenizer.pad_token_id not in (None, END_ID)
    model = load_reward_model(files, tokenizer, lora=None, seed=0).model
    assert model.config.pad_token_id == tokenizer.pad_token_id
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], return_dict=False
    )
    hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state
    torch.testing.assert_close(
        model(input_ids=torch.tensor([ids])).logits[0], model.score(hidden[0, -1])
    )


def test_without_a_spare_special_token_one_is_added_with_an_embedding_and_scores_survive_saving(
    tmp_path,
):
    files = edited(
        make_tiny_causal_lm,
        tmp_path / "model",
        pad_token=None,
        bos_token=None,
        chat_template=ENDS_WITH_END,
    )
    tokenizer = load_reward_tokenizer(files)
    if tokenizer.pad_token != "<|pad|>":
        pytest.skip("this release of transformers keeps another special token")
    policy = load_reward_model(files, tokenizer, lora=None, seed=0)
    (tmp_path / "saved").mkdir()
    save_policy(finished_reward_model(policy), tmp_path / "saved", "card")
    RewardModelScorer(
        inspect_model(tmp_path / "saved", "saved"), device="cpu"
    )  # its own padding test passes


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_merged_adapters_score_as_the_adapters_did(causal, tmp_path):
    policy = load(causal, lora=LoraSettings(r=4, alpha=8))
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    rows = torch.arange(4, 24).reshape(2, 10)
    expected = policy.model(input_ids=rows).logits.detach()
    merged = finished_reward_model(policy)
    (tmp_path / "saved").mkdir()
    save_policy(merged, tmp_path / "saved", "card")
    assert type(merged.model) is LlamaForSequenceClassification
    found = LlamaForSequenceClassification.from_pretrained(tmp_path / "saved")(
        input_ids=rows
    ).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_several_labels_are_refused(tmp_path):
    LlamaForSequenceClassification(tiny_config(num_labels=3)).save_pretrained(tmp_path)
    make_tiny_causal_lm(tmp_path / "other")
    AutoTokenizer.from_pretrained(tmp_path / "other").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has 3 labels; a reward model has one"):
        load(inspect_model(tmp_path, "three"))


def test_missing_weights_are_refused_unless_they_are_the_fresh_heads(tmp_path):
    for make, name in (
        (make_tiny_causal_lm, "model.norm.weight"),
        (make_tiny_reward_model, "score.weight"),
    ):
        folder = make(tmp_path / name)
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=f"lack {name}: these weights would be random"):
            load(inspect_model(folder, "broken"))


def test_a_template_that_fails_or_writes_two_bos_is_refused(tmp_path):
    for number, (template, message) in enumerate(
        (
            ("{{ raise_exception('no') }}", "fails on one question"),
            (
                "<|bos|><|bos|>{% for m in messages %}{{ m.content }}{% endfor %}",
                "twice at the start",
            ),
        )
    ):
        files = edited(make_tiny_causal_lm, tmp_path / str(number), chat_template=template)
        with pytest.raises(ModelError, match=message):
            load_reward_tokenizer(files)


def test_a_template_file_must_hold_something(tmp_path):
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(UsageError, match="is empty"):
        read_template(tmp_path / "empty")


def test_the_limit_is_the_positions_of_the_model_or_what_the_tokenizer_says(causal, tmp_path):
    assert longest_conversation(causal, load_reward_tokenizer(causal)) == 512
    encoder = inspect_model(make_tiny_encoder(tmp_path), "encoder")
    tokenizer = AutoTokenizer.from_pretrained(encoder.path)
    tokenizer.model_max_length = 100
    assert longest_conversation(encoder, tokenizer) == 100


def test_a_conversation_that_ends_with_padding_is_refused():
    check_ends("p", [5, 6], PAD_ID)
    with pytest.raises(InputError, match="a conversation of prompt p ends with the pad token"):
        check_ends("p", [5, PAD_ID], PAD_ID)


def test_vocabulary_stays_where_the_pad_token_is_known(causal):
    assert load(causal).model.get_input_embeddings().weight.shape[0] == VOCAB_SIZE
