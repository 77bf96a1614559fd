from collections import Counter

import pytest
import torch

from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.models.loading import ModelLoader
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.speaking import completions
from ilp_mlflow.scoring.speaking.completions import Request, complete
from ilp_mlflow.scoring.speaking.speaker import Speaker

PROMPTS = ("The capital of France is", "The", "Rome lies in Italy, and Oslo in Norway, and Lima in")


@pytest.fixture(scope="module")
def loaded(tiny_model):
    parts = [str(tiny_model)]
    return ModelLoader(read_tokenization(parts), "cpu", "float32")(parts)


def requests(loaded, *limits):
    ids = [loaded.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    return [Request(i, limit) for i, limit in zip(ids, limits, strict=True)]


def alone(loaded, request):
    """The greedy continuation by the model alone, token by token."""
    ids = list(request.ids)
    for _ in range(request.max_new_tokens):
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in loaded.end_token_ids:
            break
    new = ids[len(request.ids) :]
    ended = bool(new) and new[-1] in loaded.end_token_ids
    return loaded.tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True), ended


@pytest.mark.parametrize("batch_tokens", [1, 4, 2048])
@pytest.mark.parametrize("between", [1, 3, 16])
def test_greedy_completions_are_those_of_the_model_alone(
    loaded, batch_tokens, between, monkeypatch
):
    monkeypatch.setattr(completions, "TOKENS_BETWEEN", between)
    asked = requests(loaded, 5, 20, 9)
    found = complete(loaded, asked, 0, batch_tokens, 0)
    assert [len(of_request) for of_request in found] == [1, 1, 1]
    assert [tuple(one) for (one,) in found] == [alone(loaded, request) for request in asked]


def test_no_row_goes_beyond_the_models_positions(loaded):
    positions = loaded.max_length
    long_prompt = loaded.tokenizer("a" * 400)["input_ids"][: positions - 20]
    short_prompt = loaded.tokenizer("The")["input_ids"]
    asked = [Request(long_prompt, 20), Request(short_prompt, positions - len(short_prompt))]
    found = complete(loaded, asked, 0, 2048, 0)
    assert [tuple(one) for (one,) in found] == [alone(loaded, request) for request in asked]


def test_many_samples_of_one_prompt_are_drawn_in_parts(loaded, monkeypatch):
    monkeypatch.setattr(completions, "ROOM", 1)
    (said,) = complete(loaded, requests(loaded, 8, 8, 8)[:1], 7, 40, 0)
    assert len(said) == 7


def test_samples_are_many_and_the_same_for_the_same_seed(loaded):
    asked = requests(loaded, 8, 0, 8)
    found = complete(loaded, asked, 6, 2048, 3)
    assert [len(of_request) for of_request in found] == [6, 6, 6]
    assert all(one.text == "" for one in found[1])
    assert len({one.text for one in found[0]}) > 1
    assert complete(loaded, asked, 6, 2048, 3) == found
    assert complete(loaded, asked, 6, 2048, 4) != found


def test_samples_follow_the_models_distribution(loaded):
    (request,) = [Request(loaded.tokenizer(PROMPTS[0])["input_ids"], 1)]
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([request.ids])).logits[0, -1]
    mass = Counter()
    for token, p in enumerate(logits.softmax(-1).tolist()):
        is_end = token in loaded.end_token_ids
        mass["" if is_end else loaded.tokenizer.decode([token], skip_special_tokens=True)] += p
    (said,) = complete(loaded, [request], 2000, 2048, 0)
    drawn = Counter(one.text for one in said)
    for text, p in mass.most_common(5):
        assert drawn[text] / 2000 == pytest.approx(p, abs=4 * (p * (1 - p) / 2000) ** 0.5 + 1e-3)


def test_a_speaker_asks_once_and_leaves_out_what_does_not_fit(loaded, tiny_model, store):
    loads = []

    def load(name):
        loads.append(name)
        return loaded

    tokenization = read_tokenization([str(tiny_model)])
    samples = [Sample(id=p, stage="s", prompt=p, completion=" x") for p in (*PROMPTS, "")]
    for _ in range(2):
        speaker = Speaker(load, lambda name: [name], tokenization, 2048, 0)
        said = speaker.generate("last", samples, [4, 4, 10**6, 4])
        assert [len(of_sample) for of_sample in said] == [1, 1, 1, 0]
    # the second time, from the cache
    assert loads == ["last"]
    Speaker(load, lambda name: [name], tokenization, 2048, 0).generate("other", samples, [4] * 4)
    assert loads == ["last", "other"]
