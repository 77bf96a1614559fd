import math
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.speaking.greedy_answers import (
    _AfterFirstSentence,
    _first_sentence,
    _sentence_end,
)
from ilp_mlflow.scoring.speaking.probe import ModelProbe
from ilp_mlflow.scoring.tokens.encoding import encode
from tests.conversations import chat


@pytest.fixture
def loaded(tiny_model):
    return loading.load_model([str(tiny_model)])


def truth(loaded, prompt, completion):
    """Log-probability of a completion without its end token, alone in its batch."""
    e = encode(loaded.tokenizer, prompt, completion, loaded.end_token_ids)
    ids = e.ids[: len(e.ids) - e.ended]
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(logits[e.start - 1 : -1].gather(1, torch.tensor(ids[e.start :])[:, None]).sum())


def test_logprobs_are_those_of_each_exchange_alone_and_without_its_end(loaded):
    asked = [
        ("The capital of France is", " Paris"),
        ("Two and two", " make four"),
        ("", " x"),
        ("The", " a" * loaded.max_length),
    ]
    found = ModelProbe(lambda name: loaded).logprobs("base", asked)
    assert found[:2] == pytest.approx([truth(loaded, *e) for e in asked[:2]], abs=1e-4)
    assert all(math.isnan(x) for x in found[2:])


def test_nothing_is_asked_twice(loaded):
    asked = []

    def load(name):
        asked.append(name)
        return loaded

    probe = ModelProbe(load)
    first = (
        probe.logprobs("base", [("The", " end"), ("The", " end")]),
        probe.answer("base", ["The"]),
    )
    probe.logprobs("other", [("A", " b")])
    assert (
        probe.logprobs("base", [("The", " end"), ("The", " end")]),
        probe.answer("base", ["The"]),
    ) == first
    assert asked == ["base", "other"]


def test_what_a_model_says_is_its_first_choice_whatever_it_is_asked_beside(loaded):
    prompts = ["The capital of France is", "Two", "A longer prompt than the others, by far"]
    together = ModelProbe(lambda name: loaded).answer("base", prompts, 4)
    for prompt, said in zip(prompts, together, strict=True):
        ids = loaded.tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            for _ in range(4):
                ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert (
            loaded.tokenizer.decode(ids[len(loaded.tokenizer(prompt)["input_ids"]) :])
            .strip()
            .startswith(said.text)
        )
        (alone,) = ModelProbe(lambda name: loaded).answer("base", [prompt], 4)
        assert said.text == alone.text
        assert said.logprob == pytest.approx(alone.logprob, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" Paris. It is", "Paris"),
        (" 3.14 of it", "3.14 of it"),
        ("\n\nParis\nLondon", "Paris"),
        (" Who? Me", "Who"),
        ("", ""),
    ],
)
def test_an_answer_ends_with_its_sentence(loaded, text, said):
    tokens = loaded.tokenizer(text)["input_ids"]
    found = _first_sentence(loaded, tokens, [-1.0] * len(tokens))
    assert found.text == said
    assert len(loaded.tokenizer.decode(tokens[: -int(found.logprob)]).strip()) >= len(said)


def test_a_prompt_without_room_for_an_answer_is_not_answered(loaded):
    (said,) = ModelProbe(lambda name: loaded).answer("base", ["x" * loaded.max_length])
    assert said.text == ""
    assert math.isnan(said.logprob)


def adapted(loaded):
    return replace(
        loaded, model=get_peft_model(loaded.model, LoraConfig(r=2, target_modules="all-linear"))
    )


@pytest.mark.parametrize("change", [lambda loaded: loaded, adapted], ids=["plain", "adapter"])
@pytest.mark.parametrize(
    "cut", [{"top_p": 1e-6}, {"min_p": 1.0}, {"repetition_penalty": 1e6}], ids=str
)
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
    assert [
        len(x)
        for x in ModelProbe(lambda name: loaded).generate(
            "base", ["The", long], 2, max_new_tokens=5
        )
    ] == [2, 0]


def test_a_conversation_is_continued_behind_its_template(loaded):
    said = ModelProbe(lambda name: loaded).generate("base", [chat(user="Hi")], 2, max_new_tokens=3)
    assert len(said[0]) == 2


@pytest.mark.parametrize(
    ("text", "done"),
    [("Paris", False), ("Paris.", False), ("Paris. It", True), ("\n", False), ("a\n", True)],
)
def test_a_row_is_done_when_something_stands_behind_its_first_sentence(loaded, text, done):
    ids = torch.tensor([loaded.tokenizer("Q" + text)["input_ids"]])
    assert (
        bool(_AfterFirstSentence(loaded, len(loaded.tokenizer("Q")["input_ids"]))(ids, None))
        is done
    )


def test_what_a_model_makes_of_a_prompt_does_not_depend_on_what_is_asked_beside(loaded):
    prompts = ["The capital of France is", "Two", "x" * 10_000]
    found = ModelProbe(lambda name: loaded).embed("base", prompts)
    for prompt, state in zip(prompts[:2], found, strict=False):
        with torch.inference_mode():
            ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
            last = loaded.model(ids, output_hidden_states=True).hidden_states[-1]
        assert state == pytest.approx(last[0].mean(0).numpy(), abs=1e-4)
    assert all(math.isnan(x) for x in found[2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("John F. Kennedy. He", "John F. Kennedy"),
        ("St. Louis\n", "St. Louis"),
        ("D.C. and", "D.C. and"),
        ("\u6771\u4eac\u3002\u5927", "\u6771\u4eac"),
    ],
)
def test_initials_and_titles_end_no_sentence(text, said):
    assert text[: _sentence_end(text)].strip() == said


def test_nothing_is_asked_of_nobody(loaded):
    probe = ModelProbe(lambda name: loaded)
    assert (probe.answer("base", []), probe.logprobs("base", []), len(probe.embed("base", []))) == (
        [],
        [],
        0,
    )
