import pytest

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.texts import with_last_turn
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens.encoding import (
    check_encodable,
    encode,
    load_tokenizer,
    shared_length,
)
from ilp_mlflow.training.scheduled_trainer import trainer_row
from tests.conftest import CITIES, LANDS, rows
from tests.conversations import chat

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"capital of {land}?"},
            {"role": "assistant", "content": city},
        ]
    }
    for land, city in zip(LANDS, CITIES, strict=True)
]


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return loading.load_model([str(tiny_model)])


@pytest.mark.parametrize("records", [rows(), CHATS], ids=["text", "chat"])
def test_what_is_scored_is_what_trl_trains_on(records, loaded, tmp_path):
    import datasets
    from trl import SFTConfig, SFTTrainer

    samples = [sample_from_record(dict(r), "s", i, "here") for i, r in enumerate(records)]
    given = [trainer_row(s) for s in samples]
    args = SFTConfig(
        output_dir=str(tmp_path), report_to="none", bf16=False, gradient_checkpointing=False
    )
    trainer = SFTTrainer(
        loaded.model,
        args,
        train_dataset=datasets.Dataset.from_list(given),
        processing_class=loaded.tokenizer,
    )
    for sample, trained in zip(samples, trainer.train_dataset, strict=True):
        found = encode(loaded.tokenizer, sample.prompt, sample.completion, loaded.end_token_ids)
        n = len(found.ids)
        assert found.ids == trained["input_ids"][:n]
        assert [-100] * found.start + found.ids[found.start :] == trained["labels"][:n]
        assert loaded.tokenizer.decode(trained["input_ids"][n:]).strip() == ""
        assert found.ended
        assert found.ids[-1] in loaded.end_token_ids


def test_a_template_without_an_end_token_is_not_ended(loaded):
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    try:
        found = encode(
            loaded.tokenizer,
            chat(user="a"),
            chat(assistant="b"),
            loaded.end_token_ids,
        )
    finally:
        loaded.tokenizer.chat_template = template
    assert not found.ended


def test_an_answer_is_replaced_in_either_form():
    assert with_last_turn(" a", " b") == " b"
    assert with_last_turn(chat(assistant="a"), "b") == chat(assistant="b")


def test_a_form_the_tokenizer_cannot_encode_is_named(loaded):
    import copy

    chat = sample_from_record(dict(CHATS[0]), "s", 1, "here")
    text = sample_from_record(dict(rows()[0]), "s", 1, "here")
    check_encodable(loaded.tokenizer, [chat])
    check_encodable(loaded.tokenizer, [text])
    bare = copy.deepcopy(loaded.tokenizer)
    bare.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template; set tokenizer.chat_template"):
        check_encodable(bare, [chat])
    bare.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ModelError, match=r"refuses it .no system role"):
        check_encodable(bare, [chat])
    bare.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        check_encodable(bare, [text])


def test_tokenizer_options_are_applied_and_checked(tiny_model, tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    found = load_tokenizer(
        [str(tiny_model)], TokenizerConfig(chat_template=str(template), eos_token="<|user|>")
    )
    assert (found.chat_template, found.eos_token) == ("{{ messages }}", "<|user|>")
    template.write_text("{% if think %}think{% endif %}{{ note }}{{ nothing is none }}")
    options = {"think": False, "note": "it's {{ 'quoted' }}", "nothing": None}
    found = load_tokenizer(
        [str(tiny_model)],
        TokenizerConfig(chat_template=str(template), chat_template_kwargs=options),
    )
    assert (
        found.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        == "it's {{ 'quoted' }}True"
    )
    found.save_pretrained(tmp_path / "saved")  # variables set later replace those that were saved
    again = load_tokenizer(
        [str(tmp_path / "saved")], TokenizerConfig(chat_template_kwargs={**options, "think": True})
    )
    assert (
        again.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        == "thinkit's {{ 'quoted' }}True"
    )
    with pytest.raises(ModelError, match="not in the vocabulary"):
        load_tokenizer([str(tiny_model)], TokenizerConfig(eos_token="<nope>"))
    with pytest.raises(ModelError, match="not a readable text file"):
        load_tokenizer([str(tiny_model)], TokenizerConfig(chat_template=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("ids", "other_ids", "shared"),
    [([5, 6, 7], [5, 6, 9, 8], 2), ([5, 6], [5, 6, 7], 2), ([5, 6], [6, 6], 0), ([], [5], 0)],
)
def test_sequences_share_what_they_begin_with(ids, other_ids, shared):
    assert shared_length(ids, other_ids) == shared
    assert shared_length(other_ids, ids) == shared
