from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ilp_mlflow import models
from ilp_mlflow.encoding import encode
from ilp_mlflow.probe import ModelProbe
from ilp_mlflow.types import Message


@pytest.fixture
def loaded(tiny_model):
    return models.load([str(tiny_model)])


def test_a_probe_gives_logprobs_and_samples(loaded):
    probe = ModelProbe(lambda name: loaded)
    (found,) = probe.logprobs("base", [("The capital of France is", " Paris")])
    e = encode(loaded.tokenizer, "The capital of France is", " Paris", loaded.ends)
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([e.ids])).logits[0].log_softmax(-1)
    expected = logits[e.start - 1 : -1].gather(1, torch.tensor(e.ids[e.start :])[:, None]).sum()
    assert found == pytest.approx(float(expected), abs=1e-4)
    assert [len(x) for x in probe.generate("base", ["The", "A"], 3)] == [3, 3]


def adapted(loaded):
    return replace(loaded, model=get_peft_model(loaded.model, LoraConfig(r=2, target_modules="all-linear")))


@pytest.mark.parametrize("change", [lambda loaded: loaded, adapted], ids=["plain", "adapter"])
@pytest.mark.parametrize("cut", [{"top_p": 1e-6}, {"min_p": 1.0}, {"repetition_penalty": 1e6}], ids=str)
def test_samples_are_drawn_from_the_whole_distribution(loaded, change, cut):
    changed = change(loaded)
    settings = changed.model.generation_config
    expected = ModelProbe(lambda name: changed).generate("base", ["The"], 6)
    for name, value in cut.items():
        setattr(settings, name, value)
    assert ModelProbe(lambda name: changed).generate("base", ["The"], 6) == expected
    assert len(set(expected[0])) > 1
    assert changed.model.generation_config is settings


def test_a_prompt_without_room_for_an_answer_has_none(loaded):
    long = "x" * loaded.max_length
    assert [len(x) for x in ModelProbe(lambda name: loaded).generate("base", ["The", long], 2, max_new_tokens=5)] == [2, 0]


def test_a_conversation_is_continued_behind_its_template(loaded):
    said = ModelProbe(lambda name: loaded).generate("base", [(Message(role="user", content="Hi"),)], 2, max_new_tokens=3)
    assert len(said[0]) == 2
