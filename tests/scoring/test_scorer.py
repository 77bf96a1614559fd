import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.texts import with_last_turn
from ilp_mlflow.core.values import Sample, Score
from ilp_mlflow.data.distractors import choose_distractors
from ilp_mlflow.scoring import forward, scorer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens import token_trees
from ilp_mlflow.scoring.tokens.encoding import encode
from tests.conftest import rows

CLOSE = 1e-4


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return loading.load_model([str(tiny_model)])


def some_samples(n=8):
    longer = [
        Sample(
            id="long",
            stage="s",
            prompt="In a land far away the capital is",
            completion=" Paris and Rome and Oslo",
        )
    ]
    return longer + [
        Sample(id=r["id"], stage="s", prompt=r["prompt"], completion=r["completion"])
        for r in rows(n=n)
    ]


def planned(samples, loaded, options=3, batch_tokens=2048):
    return token_trees.plan_batches(
        samples, choose_distractors(samples, options, 0), loaded, batch_tokens
    )


def scored(samples, loaded, options=3, batch_tokens=2048):
    return {
        s.sample_id: s
        for s in scorer.score_samples(planned(samples, loaded, options, batch_tokens), loaded, "c")
    }


def alone(loaded, prompt, completion):
    """Log-probabilities of the completion's tokens from a plain forward pass of that one sequence."""
    e = encode(loaded.tokenizer, prompt, completion, loaded.end_token_ids)
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([e.ids])).logits[0].log_softmax(-1)
    targets = torch.tensor(e.ids[e.start :])
    rows_ = logits[e.start - 1 : -1]
    return rows_.gather(1, targets[:, None])[:, 0], rows_.argmax(-1) == targets


def test_every_completion_scores_as_in_a_pass_of_its_own(loaded):
    samples = some_samples()
    together, wrong = scored(samples, loaded), choose_distractors(samples, 3, 0)
    for sample in samples:
        found = together[sample.id]
        logprob, top = alone(loaded, sample.prompt, sample.completion)
        assert found.logprob == pytest.approx(float(logprob.sum()), abs=CLOSE)
        assert found.tokens == len(logprob)
        assert found.token_accuracy == pytest.approx(float(top.float().mean()))
        encoded = encode(loaded.tokenizer, sample.prompt, sample.completion, loaded.end_token_ids)
        wrong_places = [encoded.start + n for n, right in enumerate(top.tolist()) if not right]
        assert found.first_wrong == (wrong_places[0] if wrong_places else None)
        said = [" " + w.lstrip() for w in wrong[sample.id]]
        apart = [
            alone(loaded, sample.prompt, with_last_turn(sample.completion, w))[0] for w in said
        ]
        assert list(found.option_logprobs[1:]) == pytest.approx(
            [float(x.sum()) for x in apart], abs=CLOSE
        )
        assert list(found.option_tokens) == [len(logprob), *map(len, apart)]
        total = sum(math.exp(x) for x in found.option_logprobs)
        assert found.p_correct == pytest.approx(
            math.exp(found.option_logprobs[0]) / total, abs=1e-6
        )


def test_a_prior_is_the_score_behind_a_blank_prompt(loaded):
    def behind_end(answer):
        ids = [loaded.tokenizer.eos_token_id, *loaded.tokenizer(answer + "<|end|>")["input_ids"]]
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(logits[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum())

    samples = some_samples()
    together, wrong = scored(samples, loaded), choose_distractors(samples, 3, 0)
    for sample in samples:
        expected = [
            behind_end(" " + answer.lstrip()) for answer in (sample.answer, *wrong[sample.id])
        ]
        assert list(together[sample.id].option_priors) == pytest.approx(expected, abs=CLOSE)


def test_priors_of_chats_keep_the_system_turn_and_blank_the_others(loaded):
    def chat(asked):
        turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": asked})
        return Sample(
            id="a",
            stage="s",
            prompt=turns,
            completion=({"role": "assistant", "content": "Paris"},),
            options=("Rome",),
        )

    found, blank = (
        scored([chat(asked)], loaded)["a"] for asked in ("The capital of France is", "")
    )
    assert list(found.option_priors) == pytest.approx(list(blank.option_logprobs), abs=CLOSE)
    assert found.option_priors != found.option_logprobs


def test_a_prior_is_computed_once_for_all_samples(loaded):
    samples = some_samples()
    answers = {sample.answer for sample in samples}
    plan = token_trees.plan_batches(
        samples, {s.id: sorted(answers - {s.answer})[:2] for s in samples}, loaded, 2048
    )
    assert sum(len(blank.numbers) for batch in plan.blank_batches for blank in batch) == len(
        answers
    )
    few = plan.only(frozenset({samples[0].id}))
    kept = {number for batch in few.blank_batches for blank in batch for number in blank.numbers}
    assert kept == set(few.sample_batches[0][0].blank_numbers)


def test_a_plan_for_some_samples_scores_them_the_same(loaded):
    samples = some_samples()
    plan, few = planned(samples, loaded), frozenset({"France", "Peru"})
    one = {s.sample_id: s for s in scorer.score_samples(plan, loaded, "c")}
    other = {s.sample_id: s for s in scorer.score_samples(plan.only(few), loaded, "c")}
    assert set(other) == few
    for id_ in few:
        same(other[id_], one[id_])


def same(one, other):
    for name, value in one.model_dump().items():
        expected = other.model_dump()[name]
        close = (
            pytest.approx(expected, abs=CLOSE) if isinstance(expected, float | tuple) else expected
        )
        assert value == close, name


def test_a_score_does_not_depend_on_its_batch_or_order(loaded):
    samples = some_samples()
    together = scored(samples, loaded)
    for variant in (
        scored(samples[::-1], loaded),
        scored(samples, loaded, batch_tokens=1),
        scored(samples, loaded, batch_tokens=150),
    ):
        for id_, found in variant.items():
            same(found, together[id_])


def test_permuting_the_given_options_permutes_their_scores(loaded):
    options = (" Rome", " Oslo and Lima", " Cairo")
    sample = Sample(
        id="a", stage="s", prompt="The capital of France is", completion=" Paris", options=options
    )
    one = scored([sample], loaded)["a"]
    other = scored([sample.model_copy(update={"options": options[::-1]})], loaded)["a"]
    assert list(one.option_logprobs[1:]) == pytest.approx(
        list(other.option_logprobs[1:])[::-1], abs=CLOSE
    )
    assert one.wrong == other.wrong
    assert one.p_correct == pytest.approx(other.p_correct, abs=CLOSE)


def memorise(tiny_model, text_prompt, text_completion):
    """A copy of the tiny model trained until it says one completion."""
    loaded = loading.load_model([str(tiny_model)])
    e = encode(loaded.tokenizer, text_prompt, text_completion, loaded.end_token_ids)
    ids = torch.tensor([e.ids])
    labels = ids.clone()
    labels[0, : e.start] = -100
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=0.02)
    for _ in range(30):
        loaded.model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loaded


def test_greedy_means_that_generation_says_exactly_the_completion_and_stops(tiny_model):
    prompt, completion = "The capital of France is", " Paris"
    loaded = memorise(tiny_model, prompt, completion)
    sample = Sample(id="a", stage="s", prompt=prompt, completion=completion)
    found = scored([sample, *some_samples()], loaded)["a"]
    assert (found.greedy, found.stops, found.token_accuracy) == (True, True, 1.0)
    assert found.first_wrong is None
    assert found.gap > 0
    inputs = loaded.tokenizer(prompt, return_tensors="pt")
    said = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=20)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert (
        said.tolist()
        == encode(loaded.tokenizer, prompt, completion, loaded.end_token_ids).ids[
            inputs["input_ids"].shape[1] :
        ]
    )


def test_a_right_answer_that_does_not_stop_is_told_apart(tiny_model):
    loaded = memorise(tiny_model, "The capital of France is", " Paris Paris Paris")
    found = scored(
        [Sample(id="a", stage="s", prompt="The capital of France is", completion=" Paris")], loaded
    )["a"]
    assert (found.greedy, found.stops) == (False, False)
    assert found.token_accuracy == pytest.approx(1 - 1 / found.tokens)
    ids = encode(loaded.tokenizer, "The capital of France is", " Paris", loaded.end_token_ids).ids
    assert found.first_wrong == len(ids) - 1


def tree_result(logprobs, gaps):
    tokens = np.zeros(len(gaps), np.float32)
    return forward.TreeResult(logprobs, gaps, tokens, tokens, tokens.astype(np.int32))


def test_a_long_completion_may_miss_one_token_in_twenty():
    def gap(gaps, *decisive):
        item = token_trees.SampleTree(
            "a", token_trees.build_tree([[1] * (len(gaps) + 1)], [1]), True, (), (), decisive
        )
        result = tree_result(np.array([-1.0]), np.array(gaps))
        return scorer._sample_score(item, result, [], "c", torch.float32).gap

    assert gap([1.0] * 18 + [-1.0]) == -1.0
    assert gap([1.0] * 19 + [-1.0]) == 1.0
    assert gap([1.0] * 38 + [-2.0, -1.0]) == 1.0
    assert gap([1.0] * 37 + [-3.0, -2.0, -1.0]) == -1.0
    # one of a number, a name, a negation or code never is
    assert gap([1.0] * 19 + [-1.0], 19) == -1.0
    assert gap([1.0] * 19 + [-1.0], 3, 4) == 1.0
    assert gap([1.0] * 38 + [-2.0, -1.0], 38) == -2.0
    assert gap([1.0] * 37 + [0.5, -2.0, -1.0], 37) == 0.5


def test_a_negation_or_number_that_the_model_puts_in_is_no_free_miss(loaded):
    gaps = np.array([1.0] * 39 + [-1.0])

    def decisive(text, gaps=gaps):
        token = loaded.tokenizer(text)["input_ids"][-1]
        result = tree_result(np.array([-1.0]), gaps)
        result = result._replace(best_ids=np.full(len(gaps), token, np.int32))
        tree = token_trees.build_tree([[1] * (len(gaps) + 1)], [1])
        sample = token_trees.SampleTree("a", tree, True, (), (), (3,))
        return scorer._with_said(sample, result, loaded).decisive

    # the tokenizer has letters: a digit is a number, and no letter is a negation
    assert decisive("7") == (3, 39)
    assert decisive("q") == (3,)
    # more misses than may be, or none
    assert decisive("7", np.full(40, -1.0)) == (3,)
    assert decisive("7", np.full(40, 1.0)) == (3,)


def test_too_long_a_sample_is_unscored_with_the_reason(loaded):
    limit = loaded.max_length
    filler = "x" * 200
    found = scored(
        [Sample(id="a", stage="s", prompt=filler, completion=" y"), *some_samples()], loaded
    )
    assert found["a"].logprob is None
    assert f"positions for {limit}" in found["a"].unscored
    assert found["France"].logprob is not None


@pytest.mark.parametrize(
    ("part", "number"),
    [
        *itertools.product(["logprobs", "options"], [np.nan, np.inf, -np.inf]),
        # a gap of minus infinity marks a token that the model lacks
        ("gaps", np.nan),
        ("gaps", np.inf),
    ],
)
def test_where_the_model_gives_no_number_the_sample_is_unscored(part, number):
    item = SimpleNamespace(sample_id="a", ended=True, options=(" b",), decisive=())
    logprobs, gaps = np.array([-1.0, -2.0]), np.array([1.0, 2.0])
    spoiled = gaps if part == "gaps" else logprobs
    spoiled[1 if part == "options" else 0] = number
    result = tree_result(logprobs, gaps)
    found = scorer._sample_score(item, result, [-1.0, -1.0], "c", torch.bfloat16)
    assert found == Score(
        sample_id="a",
        checkpoint="c",
        dtype="bfloat16",
        unscored="the model's output is not a number",
    )


def test_a_model_that_overflows_for_one_token_loses_the_samples_with_that_token(loaded):
    samples = some_samples()
    before = scored(samples, loaded)
    ids = [loaded.tokenizer(sample.prompt)["input_ids"] for sample in samples]
    rare = next(i for i in ids[0] if not any(i in other for other in ids[1:]))
    weights = loaded.model.get_input_embeddings().weight
    kept = weights[rare].clone()
    with torch.no_grad():
        weights[rare] = float("inf")
    try:
        after = scored(samples, loaded)
    finally:
        with torch.no_grad():
            weights[rare] = kept
    assert after.pop(samples[0].id).unscored == "the model's output is not a number"
    assert before.pop(samples[0].id).unscored is None
    for sample_id, score in after.items():
        assert score.logprob == pytest.approx(before[sample_id].logprob, abs=1e-4)


def test_a_sample_right_at_the_limit_is_scored(loaded):
    e = encode(loaded.tokenizer, "The capital of France is", " Paris", loaded.end_token_ids)
    for limit, fits in ((len(e.ids), True), (len(e.ids) - 1, False)):
        tight = dataclasses.replace(loaded, max_length=limit)
        sample = Sample(id="a", stage="s", prompt="The capital of France is", completion=" Paris")
        assert (scored([sample], tight)["a"].logprob is not None) == fits


class Crowded:
    """The forward pass on a device that has memory for so many tokens."""

    def __init__(self, tokens):
        self.tokens, self.sizes = tokens, []

    def __call__(self, trees, loaded, as_trees):
        size = len(trees) * max(map(len, trees))
        self.sizes.append(size)
        if size > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward.forward(trees, loaded, as_trees)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_with_those_after_it(loaded, monkeypatch):
    samples = some_samples()
    expected = scored(samples, loaded)
    crowded = Crowded(60)
    monkeypatch.setattr(scorer, "forward", crowded)
    for id_, found in scored(samples, loaded).items():
        same(found, expected[id_])
    assert 1 <= sum(size > 60 for size in crowded.sizes) <= 3  # 288, 128 and 64, each of them once


def test_a_sample_that_does_not_fit_alone_is_an_error_of_one_line(loaded, monkeypatch):
    monkeypatch.setattr(scorer, "forward", Crowded(5))
    with pytest.raises(
        ModelError, match="a sample with its options, do not fit into the memory of cpu"
    ):
        scored(some_samples(), loaded)


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory(loaded, monkeypatch):
    def broken(trees, loaded, as_trees):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(scorer, "forward", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        scored(some_samples(), loaded)


def tiny(kind, **changes):
    """A random model of another family with the tiny tokenizer's vocabulary."""
    import transformers

    sizes = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    sizes |= {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 96,
        "pad_token_id": 0,
        "eos_token_id": 0,
    }
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.eval()
    for (
        weights
    ) in model.parameters():  # far from initialisation, so that a wrong position or mask shows
        torch.nn.init.normal_(weights, std=0.3)
    return model


SHARING = {
    "Llama tied": ("Llama", {"tie_word_embeddings": True}),
    "Qwen2": ("Qwen2", {}),
    "Qwen3": ("Qwen3", {}),
    "Gemma": ("Gemma", {}),
    "Gemma2 short": ("Gemma2", {"sliding_window": 96}),
    "GPT2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}),
    "Olmo2": ("Olmo2", {}),
    "Mixtral": (
        "Mixtral",
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "output_router_logits": True,
            "sliding_window": None,
        },
    ),
}
APART = {
    "Mistral window": ("Mistral", {"sliding_window": 8}),
    "Gemma2 window": ("Gemma2", {"sliding_window": 8}),
    "Mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 96}),
    "Bloom": ("Bloom", {"n_layer": 2, "n_head": 4}),
}


@pytest.mark.parametrize(
    ("name", "shared"), [*((n, True) for n in SHARING), *((n, False) for n in APART)]
)
def test_every_family_scores_as_alone_sharing_its_prompt_or_not(loaded, name, shared):
    kind, changes = (SHARING | APART)[name]
    model = dataclasses.replace(loaded, model=tiny(kind, **changes))
    samples = some_samples()
    deepest = next(
        i.tree for b in planned(samples, model).sample_batches for i in b if i.sample_id == "long"
    )
    assert forward.supports_trees(deepest, model) == shared
    for id_, found in scored(samples, model).items():
        (sample,) = (s for s in samples if s.id == id_)
        assert found.logprob == pytest.approx(
            float(alone(model, sample.prompt, sample.completion)[0].sum()), abs=1e-3
        )


def test_an_architecture_that_cannot_branch_is_found_even_behind_a_long_sample_without_options(
    loaded,
):
    model = dataclasses.replace(loaded, model=tiny("Mpt", **APART["Mpt"][1]))
    long = Sample(
        id="long",
        stage="s",
        prompt="The capital of a land far, far away from here is",
        completion=" Paris",
    )
    short = Sample(id="short", stage="s", prompt="The capital is", completion=" Oslo")
    plan = token_trees.plan_batches(
        [long, short], {"short": (" Rome", " Lima and Rome")}, model, 2048
    )
    found = {s.sample_id: s for s in scorer.score_samples(plan, model, "c")}["short"]
    for answer, logprob in zip(
        (" Oslo", " Rome", " Lima and Rome"), found.option_logprobs, strict=True
    ):
        assert logprob == pytest.approx(
            float(alone(model, short.prompt, answer)[0].sum()), abs=1e-3
        )


def test_an_option_that_does_not_fit_is_left_out(loaded):
    options = (" Rome", " Rome and " * 60)
    sample = Sample(
        id="a", stage="s", prompt="The capital of France is", completion=" Paris", options=options
    )
    assert len(scored([sample], loaded)["a"].option_logprobs) == 2


def test_samples_are_counted_once_each(loaded, monkeypatch):
    told = {}

    def counted(items, description, total=None):
        told[description] = total
        found = list(items)
        assert len(found) == total
        return found

    monkeypatch.setattr(scorer, "track", counted)
    samples = some_samples()
    scored(samples, loaded)
    assert told["score c"] == len(samples)
    assert set(told) == {"score c", "score c, prompts blanked"}
