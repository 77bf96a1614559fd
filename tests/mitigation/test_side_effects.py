"""What is asked beyond the rows: other wordings, facts, held-out rows."""

import math

import pytest

from ilp_mlflow.core import config
from ilp_mlflow.core.values import Guard, Sample, Score, Stage, to_table
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.mitigation import side_effects
from ilp_mlflow.mitigation.side_effects import Answers, guard_outcome
from ilp_mlflow.plugin import Exchange
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.training.trainer import train_stage
from tests.conftest import rows
from tests.conversations import chat
from tests.training.test_trainer import TRAINING


def row(id_, prompt="p", **more):
    return Sample(
        id=id_, stage="s", prompt=prompt, completion="c" if isinstance(prompt, str) else (), **more
    )


def test_a_samples_own_paraphrases_come_before_what_a_judge_writes():
    worded, bare = row("a", paraphrases=("x", "y")), row("b")
    asked = side_effects.plan_questions(
        [worded, bare], [worded, bare], [], 0, write=lambda s: ["written"]
    )
    assert [(q.metadata["of"], q.prompt) for q in asked.wordings] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "written"),
    ]
    assert len({q.id for q in asked.wordings}) == 3
    assert [q.prompt for q in side_effects.plan_questions([bare], [bare], [], 0).wordings] == []
    one = row(
        "c",
        prompt=chat(system="s", user="p"),
        paraphrases=("x",),
    )
    (question,) = side_effects.plan_questions([one], [one], [], 0).wordings
    assert question.prompt == chat(system="s", user="x")


def test_facts_are_each_asked_once_and_not_more_than_so_many(monkeypatch):
    probes = tuple(Exchange(prompt=f"p{n}", completion="c") for n in range(9))
    samples = [row("a", probes=probes), row("b", probes=probes[:3])]
    assert sorted(f.prompt for f in side_effects.plan_questions([], samples, [], 0).facts) == [
        f"p{n}" for n in range(9)
    ]
    monkeypatch.setattr(side_effects, "MAX_FACTS", 4)
    facts = side_effects.plan_questions([], samples, [], 0).facts
    assert len(facts) == 4
    assert facts == side_effects.plan_questions([], samples, [], 0).facts


def test_what_was_right_before_and_is_wrong_after_is_lost():
    before = Answers(guard={"a": True, "b": True, "c": False})
    guard = guard_outcome(
        before,
        Answers(guard={"a": False, "b": True, "c": True}),
        Answers(guard={"a": False, "b": False, "c": False}),
    )
    assert (guard.right, guard.lost, guard.lost_by_control) == (2, 1, 2)
    assert guard_outcome(before, before, None).lost_by_control == 0
    assert guard_outcome(Answers(guard={"a": False}), Answers(guard={"a": True}), None) is None


def test_answers_are_written_and_read_back():
    answers = Answers({"a": True, "b": False}, {"fact 1": True})
    assert side_effects.answers_from_table(side_effects.answers_to_table(answers)) == answers
    assert side_effects.answers_from_table(side_effects.answers_to_table(Answers())) == Answers()


@pytest.fixture
def tuned(tiny_model, store, tmp_path):
    """Folder of the tiny model after it has learned its rows."""
    samples = tuple(sample_from_record(dict(r), "s", i, "here") for i, r in enumerate(rows()))
    longer = {**TRAINING, "num_train_epochs": 30}
    stage = Stage(name="s", samples=samples, training=longer)
    loaded = train_stage(stage, loading.load_model([str(tiny_model)]), tmp_path / "trainer").loaded
    loading.save_model(loaded, tmp_path / "tuned", str(tiny_model), True)
    return tmp_path / "tuned", samples


def test_a_model_is_asked_in_each_way(tuned, tiny_model):
    folder, samples = tuned
    experiment = config.Experiment.model_validate(
        {"name": "x", "model": str(tiny_model), "stages": [{"name": "s", "data": "unused.jsonl"}]}
    )
    known, other = samples[0], samples[1]
    asked = side_effects.Questions(
        wordings=[
            known.model_copy(update={"id": "k1", "metadata": {"of": "right"}}),
            known.model_copy(update={"id": "k2", "metadata": {"of": "right"}}),
            other.model_copy(
                update={"id": "o1", "completion": known.completion, "metadata": {"of": "half"}}
            ),
            other.model_copy(update={"id": "o2", "metadata": {"of": "half"}}),
        ],
        facts=[known.model_copy(update={"id": "fact 1"})],
        held_out=[
            known.model_copy(update={"id": "held out k"}),
            other.model_copy(update={"id": "o", "completion": known.completion}),
        ],
    )
    answers = side_effects.ask_questions(asked, str(tiny_model), str(folder), experiment)
    assert answers.held == {"right": True, "half": False}  # most of them, not half
    assert answers.guard == {"held out k": True, "o": False}  # the base does not know the fact
    as_base = side_effects.ask_questions(asked, str(folder), str(folder), experiment)
    assert as_base.guard["fact 1"]


def test_a_guard_without_a_score_is_a_guard_broken():
    before = Answers(guard={"a": True, "b": True, "c": False, "d": None})
    whole = Answers(guard=dict.fromkeys("abcd", True))
    spoiled = Answers(guard={"a": None, "b": True, "c": None})  # d is missing
    assert guard_outcome(before, whole, whole) == Guard(
        right=3, lost=0, lost_by_control=0, unscored=1
    )
    # the worst for the mitigation: lost after it, and not after its control
    assert guard_outcome(before, spoiled, whole) == Guard(
        right=3, lost=2, lost_by_control=0, unscored=2
    )
    assert guard_outcome(before, whole, spoiled) == Guard(
        right=3, lost=0, lost_by_control=0, unscored=2
    )
    assert guard_outcome(Answers(guard={"c": False}), spoiled, None) is None


def test_questions_without_a_score_are_told_from_wrong_answers(monkeypatch, experiment_file):
    experiment = config.read(experiment_file)
    fact, unsure = row("fact 1"), row("fact 2")
    wordings = [
        row("a in words 1", metadata={"of": "a"}),
        row("a in words 2", metadata={"of": "a"}),
        row("b in words 1", metadata={"of": "b"}),
    ]
    spoiled = {("base", "fact 2"), ("model", "a in words 2"), ("model", "held out x")}

    def score_checkpoints(questions, wrong, uris, *more):
        scores = []
        for name in uris:
            for question in questions:
                number = math.nan if (name, question.id) in spoiled else -1.0
                scores.append(
                    Score(
                        sample_id=question.id,
                        checkpoint=name,
                        logprob=number,
                        tokens=2,
                        greedy=True,
                        token_accuracy=1.0,
                    )
                )
        return to_table(scores, Score)

    monkeypatch.setattr(side_effects, "score_checkpoints", score_checkpoints)
    questions = side_effects.Questions(wordings, [fact, unsure], [row("held out x")])
    answers = side_effects.ask_questions(questions, "b", "m", experiment)
    assert answers == Answers(
        held={"a": None, "b": True},
        guard={"fact 1": True, "fact 2": True, "held out x": None},
    )
    assert side_effects.answers_from_table(side_effects.answers_to_table(answers)) == answers
