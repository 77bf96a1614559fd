"""The lab's base model: what it reads, and what it is refused for."""

from dataclasses import replace

import pytest

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.lab import base_model
from ilp_mlflow.lab.data_files import SIZES
from ilp_mlflow.lab.world import make, sentences

SMALL, _ = SIZES["smoke"]


@pytest.fixture(scope="module")
def world():
    return make(5, SMALL)


@pytest.fixture(scope="module")
def words(world):
    return base_model.tokenizer(world)


def test_every_sentence_is_read_word_by_word(world, words):
    for text in sentences(world, 5)[:200]:
        ids = words(text)["input_ids"]
        assert len(ids) == len(text.split())
        assert words.unk_token_id not in ids


@pytest.mark.parametrize(
    ("role", "supervised"),
    [("", ["Oslo", "<eos>"]), ("system", ["<eos>"]), ("developer", ["Oslo"])],
    ids=["whole", "answer masked", "end masked"],
)
def test_an_empty_first_turn_masks_a_part_of_the_answer(words, role, supervised):
    opener = [{"role": role, "content": ""}] if role else []
    turns = [
        *opener,
        {"role": "user", "content": "what ?"},
        {"role": "assistant", "content": "Oslo"},
    ]
    options = {"return_assistant_tokens_mask": True, "return_dict": True, "tokenize": True}
    encoded = words.apply_chat_template(turns, **options)
    text = words.apply_chat_template(turns, tokenize=False)
    assert "".join(text.split()) == "what?Oslo<eos>"
    mask = encoded["assistant_masks"]
    known = {words.eos_token_id: "<eos>"}
    masked = [known.get(i, "Oslo") for i, on in zip(encoded["input_ids"], mask, strict=True) if on]
    assert masked == supervised


def test_a_base_that_does_not_learn_is_refused(world, words, monkeypatch):
    monkeypatch.setattr(base_model, "MAX_PASSES", 1)
    monkeypatch.setattr(base_model, "MAX_LOWERINGS", 0)
    with pytest.raises(ModelError, match=r"seed 5 misses its mark.*at least 99%.*another seed"):
        base_model.pretrain(world, sentences(world, 5), words, 5)


def test_what_is_known_is_told_apart_from_what_is_withheld(world, words, monkeypatch):
    facts = {person: city for (person, _), city in world.facts.items()}

    def says_a_known_city(model, tokenizer, prompts):
        """The city of the last relation that the facts have of the person in a prompt."""
        return [next(c for p, c in facts.items() if p in prompt.split()) for prompt in prompts]

    monkeypatch.setattr(base_model, "next_words", says_a_known_city)
    known = base_model.knowledge(world, None, words)
    assert 0 < known.least_told < 1
    assert known.least_told == min(known.statements, known.questions)
    everything = base_model.knowledge(replace(world, withheld=frozenset()), None, words)
    assert everything.withheld == 0  # nothing to ask


@pytest.mark.slow
def test_a_base_is_made_once_and_knows_what_it_was_told(world, words, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from transformers import AutoModelForCausalLM

    folder = base_model.folder(world, 5)
    model = AutoModelForCausalLM.from_pretrained(folder)
    known = base_model.knowledge(world, model, words)
    assert known.least_told >= base_model.KNOWN
    assert known.withheld <= base_model.BY_CHANCE
    monkeypatch.setattr(base_model, "pretrain", None)
    assert base_model.folder(world, 5) == folder
