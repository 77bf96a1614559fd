import pytest

from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.speaking import greedy_answers as answers


def ids_of(loaded, texts):
    return {i: loaded.tokenizer(text)["input_ids"] for i, text in enumerate(texts)}


def test_prompts_that_begin_alike_are_answered_as_each_alone(tiny_model):
    loaded = loading.load_model([str(tiny_model)])
    examples = "The capital of France is Paris. " * 8
    texts = [examples + end for end in ("One", "One and two", "The capital of", "A longer end is")]
    prompts = ids_of(loaded, [*texts, "Something else", "The"])
    together = answers.answer_greedily(loaded, prompts, max_new_tokens=6, batch_tokens=2048)
    for number, ids in prompts.items():
        alone = answers.answer_greedily(loaded, {0: ids}, max_new_tokens=6, batch_tokens=2048)[0]
        assert together[number].text == alone.text
        assert together[number].logprob == pytest.approx(alone.logprob, abs=1e-4)


def test_a_beginning_that_is_shared_is_read_once(tiny_model, monkeypatch):
    loaded = loading.load_model([str(tiny_model)])
    shared = "The capital of France is Paris. " * 8
    prompts = ids_of(loaded, [shared + end for end in ("One", "Two", "Three", "Four")])
    read = []
    read_once = answers._read_once

    def counted(loaded, ids, rows):
        read.append((len(ids), rows))
        return read_once(loaded, ids, rows)

    monkeypatch.setattr(answers, "_read_once", counted)
    answers.answer_greedily(loaded, prompts, max_new_tokens=2, batch_tokens=2048)
    assert len(read) == 1
    assert read[0][0] >= min(map(len, prompts.values())) - 4
    assert read[0][1] == len(prompts)


def test_every_prompt_is_in_one_batch_within_the_budget():
    prompts = {i: [1] * 40 + [i + 2] * (i % 7 + 1) for i in range(50)}
    prompts |= {100 + i: [i + 2] * (5 * i + 1) for i in range(9)}
    batches = list(answers._batches(prompts, batch_tokens=128))
    assert sorted(number for batch in batches for number in batch) == sorted(prompts)
    for batch in batches:
        rows = [prompts[number] for number in batch]
        shared = answers._shared_by_all(rows) if len(rows) > 1 else 0
        longest = max(len(row) for row in rows) - shared
        assert len(rows) == 1 or shared + len(rows) * longest <= 128


@pytest.mark.parametrize("keeps_all", [True, False])
def test_answers_that_are_done_early_change_no_other(tiny_model, monkeypatch, keeps_all):
    loaded = loading.load_model([str(tiny_model)])
    examples = "The capital of France is Paris. " * 8
    prompts = ids_of(loaded, [examples + end for end in ("One", "Two and", "The", "A b c", "x y")])
    alone = {}
    for number, ids in prompts.items():
        alone |= {number: answers.answer_greedily(loaded, {0: ids}, 11, 2048)[0]}
    if not keeps_all:
        monkeypatch.setattr(answers, "whole", lambda cache, loaded: None)
    over = answers._is_over
    # every second question whether one is done says so, whatever was said
    asked = []

    def sometimes_over(loaded, tokens):
        asked.append(len(tokens))
        return over(loaded, tokens) or (len(asked) % 5 == 1 and len(tokens) < 11)

    monkeypatch.setattr(answers, "_is_over", sometimes_over)
    together = answers.answer_greedily(loaded, prompts, 11, 2048)
    whole = [number for number in prompts if together[number].text == alone[number].text]
    for number in prompts:
        assert alone[number].text.startswith(together[number].text)
    assert 1 <= len(whole) < len(prompts)
