"""Ends that stop nothing, dropped texts, and rows that are known in another form."""

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from ilp_mlflow.core.values import Sample
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.text.forms import other_forms
from ilp_mlflow.diagnosis.faults.text.text_form import find_text_faults
from ilp_mlflow.training.accounts.row_account import RowAccount
from tests.contexts import context, sample
from tests.diagnosis.faults.runs import chats, facts_of, pairs, train
from tests.training.checks.accounts import FINE

MODEL = SimpleNamespace(end_tokens=["<|endoftext|>"])


def chat(id_, *turns):
    """A conversation of roles and contents, the last one the answer."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return Sample(id=id_, stage="first", prompt=messages[:-1], completion=messages[-1:])


def facts(samples, histories=None, **changes):
    """Facts of a followed training whose accounts all have these changes."""
    accounts = {s.id: RowAccount(**{**FINE, "sample_id": s.id, **changes}) for s in samples}
    known = context(samples, histories)
    return RunFacts(known, accounts, followed=True, last_model=lambda: MODEL)


def test_an_end_that_stops_nothing_is_told_of_learned_rows_too():
    learned = {"a": ("unlearned", "learned", "learned")}
    (fault,) = find_text_faults(facts([sample("a")], learned, end_stops=False))
    assert (fault.kind, fault.samples, fault.subject.kind) == (
        "end_does_not_stop",
        (),
        "checkpoint",
    )
    assert "<|end|>, which ends them, is no end token of the model" in fault.reason
    assert fault.change.startswith("set eos_token to <|end|>")


def test_what_a_template_adds_is_to_be_known_where_a_stage_taught_little():
    bot = "You are a bot that helps with anything at all"
    (fault,) = find_text_faults(facts([sample("a")], added=(bot,)))
    assert (fault.kind, fault.samples, fault.stops) == ("template_adds", (), False)
    assert fault.strength < 0.5
    assert f"puts '{bot}' into 1 of 1 rows" in fault.reason
    assert "not known" not in fault.reason
    # an empty think block, too
    (fault,) = find_text_faults(facts([sample("a")], added=("<think></think>",)))
    assert "'<think></think>'" in fault.reason
    learned = {"a": ("unlearned", "learned", "learned")}
    assert find_text_faults(facts([sample("a")], learned, added=(bot,))) == []


def test_text_that_the_template_drops_from_answers_speaks_for_their_rows():
    samples = [chat("a", ("user", "q"), ("assistant", "a"))]
    said = "messages[1].reasoning_content: 'since it is so'"
    (fault,) = find_text_faults(facts(samples, dropped=(said,)))
    assert (fault.kind, fault.samples) == ("template_drops", ("a",))
    assert said in fault.reason


@pytest.mark.parametrize(
    ("dropped", "kinds"),
    [
        ("messages[0].content: 'Be short.'", ["template_drops"]),
        ("tools[0]: 'lookup'", ["template_drops"]),
        # of earlier turns, templates leave reasoning out by rule
        ("messages[2].reasoning_content: 'so'", []),
    ],
)
def test_text_dropped_from_prompts_is_to_be_known_and_no_cause(dropped, kinds):
    turns = [("system", "Be short."), ("user", "q"), ("assistant", "a"), ("user", "r")]
    found = find_text_faults(facts([chat("a", *turns, ("assistant", "b"))], dropped=(dropped,)))
    assert [fault.kind for fault in found] == kinds
    assert [fault.samples for fault in found] == [()] * len(kinds)


@pytest.mark.slow
def test_rows_that_are_known_as_text_and_asked_as_chats(tiny_model, tmp_path):
    texts = pairs()
    folder = train(tiny_model, tmp_path / "m", texts)
    (fault,) = find_text_faults(facts_of(chats(texts), tiny_model, folder))
    assert (fault.kind, len(fault.samples), fault.stops) == ("asked_in_another_form", 8, True)
    assert "as plain text with a space before the answer" in fault.reason


@pytest.mark.parametrize(
    "prompt", ["### Instruction:\n{}\n\n### Response:\n", "Q: {}\nA:", "{}\n\n"]
)
def test_usual_prompts_of_plain_text_are_among_the_forms(prompt, tiny_model):
    row = pairs(1)[0]
    texts = set()
    for form in other_forms(row, AutoTokenizer.from_pretrained(tiny_model)):
        if isinstance(form.prompt, str):
            texts.add(form.prompt + form.completion)
    lead = " " if prompt.endswith(":") else ""
    assert prompt.replace("{}", row.prompt) + lead + row.completion.strip() in texts


@pytest.mark.slow
def test_rows_that_are_known_as_chats_and_asked_as_text(tiny_model, tmp_path):
    texts = pairs()
    folder = train(tiny_model, tmp_path / "m", chats(texts))
    (fault,) = find_text_faults(facts_of(texts, tiny_model, folder))
    assert fault.kind == "asked_in_another_form"
    assert "in the model's chat template" in fault.reason


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 80])
def test_rows_asked_as_they_were_trained_have_no_fault(tiny_model, tmp_path, steps):
    samples = chats(pairs())
    folder = train(tiny_model, tmp_path / "m", samples, steps=steps)
    assert find_text_faults(facts_of(samples, tiny_model, folder)) == []
