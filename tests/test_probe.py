import pytest
import torch

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


def test_samples_are_drawn_from_the_whole_distribution(loaded):
    loaded.model.generation_config.top_p = 1e-6
    assert len(set(ModelProbe(lambda name: loaded).generate("base", ["The"], 6)[0])) > 1


def test_a_conversation_is_continued_behind_its_template(loaded):
    said = ModelProbe(lambda name: loaded).generate("base", [(Message(role="user", content="Hi"),)], 2, max_new_tokens=3)
    assert len(said[0]) == 2
