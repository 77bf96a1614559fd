"""What a base knows is asked behind solved questions, all rows at a time."""

import pytest
import torch

from ilp_mlflow.lab.real import knowledge
from ilp_mlflow.lab.real.facts import Kind, kinds
from ilp_mlflow.scoring.models import loading
from tests.conftest import CITIES, LANDS

WORDING = "The capital of {x} is"


@pytest.fixture
def guessing(tiny_model):
    """A model that can say names of cities alone, which one depends on what it reads."""
    loaded = loading.load_model([str(tiny_model)])
    loaded.model.eval()
    with torch.no_grad():
        # random weights are so small that nothing but the last token counts
        for name, weights in loaded.model.named_parameters():
            if "self_attn" in name:
                weights.mul_(20)
    ids = [loaded.tokenizer(f" {city}")["input_ids"] for city in CITIES]
    is_city = torch.zeros(loaded.model.config.vocab_size, dtype=torch.bool)
    is_city[[token for (token,) in (i for i in ids if len(i) == 1)]] = True
    plain = loaded.model.forward

    def forward(*args, **kwargs):
        output = plain(*args, **kwargs)
        output.logits = output.logits.masked_fill(~is_city, -1e9)
        return output

    loaded.model.forward = forward
    return loaded


def said_alone(loaded, text):
    """The city that the model goes on with after a text, read in one piece and by itself."""
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        return loaded.tokenizer.decode(loaded.model(ids).logits[0, -1:].argmax(-1)).strip()


def test_rows_behind_shared_examples_are_right_as_they_are_alone(guessing):
    examples = "The capital of Korea is Seoul\n\n"
    said = {x: said_alone(guessing, examples + WORDING.format(x=x)) for x in LANDS}
    assert len(set(said.values())) > 1
    # every other one is asked for what the model does not say
    answers = dict(said)
    for land in LANDS[::2]:
        answers[land] = next(city for city in said.values() if city != said[land])
    kind = Kind("capital", (WORDING,) * 4, answers)
    found = knowledge._right_behind(guessing, examples, kind, LANDS, 0)
    assert found == list(LANDS[1::2])


def test_examples_are_of_the_kind_and_hold_no_answer_that_is_asked_for():
    for kind in kinds().values():
        subjects = list(kind.answers)
        asked = subjects[: knowledge.ROWS_PER_PASS]
        examples = knowledge._examples(kind, asked)
        assert 0 < len(examples) <= knowledge.EXAMPLES
        assert not set(examples) & set(asked)
        others = {kind.answers[s] for s in subjects if s not in asked}
        free = others - {kind.answers[s] for s in asked}
        told = {kind.answers[s] for s in examples}
        # where the kind has answers enough, none is told
        assert len(told & free) == min(len(free), len(examples))


def test_only_so_many_facts_of_some_kinds_are_asked(guessing, monkeypatch):
    asked = []

    def none_right(loaded, prefix, kind, subjects, way):
        asked.extend((kind.name, way, subject) for subject in subjects)
        return []

    monkeypatch.setattr(knowledge, "_right_behind", none_right)
    right = knowledge.measure(guessing, {"capital": 3, "past": 2})
    assert {name: len(by_subject) for name, by_subject in right.items()} == {
        "capital": 3,
        "past": 2,
    }
    assert len(asked) == len(set(asked)) == 5 * knowledge.WORDINGS
