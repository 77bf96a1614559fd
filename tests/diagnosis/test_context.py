import pyarrow as pa
import pytest

from ilp_mlflow import Checkpoint, Evidence, PluginError, Score
from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import to_table
from ilp_mlflow.diagnosis.context import ScoredSamples, question_rewriter
from ilp_mlflow.diagnosis.diagnose import _examine
from ilp_mlflow.plugin import Stage
from tests.contexts import sample
from tests.conversations import chat
from tests.scoring.verdicts.judged_scores import judged


def known(n, **scoring):
    samples = [sample(f"{i:02}") for i in range(n)]
    scores = [
        Score(
            sample_id=s.id,
            checkpoint=c,
            logprob=-9.0,
            tokens=2,
            greedy=False,
            token_accuracy=0.0,
            gap=-5.0,
            dtype="float32",
        )
        for c in ("base", "first")
        for s in samples
    ]
    checkpoints = [Checkpoint(name=name, model_uri=name) for name in ("base", "first")]
    stages = [Stage(name="first", samples=tuple(samples))]
    table: pa.Table = to_table(scores, Score)
    judgements = judged(table, [checkpoint.name for checkpoint in checkpoints])
    options = ScoringConfig(**scoring)
    return ScoredSamples(samples, stages, checkpoints, table, judgements, options, 0).context


def test_models_are_asked_about_so_many_unlearned_samples_the_same_with_the_same_seed():
    assert known(20).asked == {f"{i:02}" for i in range(20)}
    few = known(20, asked=5).asked
    assert len(few) == 5
    assert few == known(20, asked=5).asked


@pytest.mark.parametrize("cause", ["history", "unexplained"])
def test_a_cause_may_not_be_named_like_what_stands_beside_it(cause):
    class Named:
        def examine(self, unlearned, context):
            return {unlearned[0].id: Evidence(cause=cause, strength=1, reason="")}

    with pytest.raises(PluginError, match="with a cause of its own"):
        _examine(Named(), [sample("a")], known(1))


def test_prompts_are_worded_otherwise_in_their_last_turn(monkeypatch):
    monkeypatch.setattr(
        "ilp_mlflow.tracking.llm_judge.reword_question", lambda model, question: [f"{question}?"]
    )
    assert question_rewriter(ScoringConfig()) is None
    write = question_rewriter(ScoringConfig(writer="openai:/m"))
    assert write(sample("x", "ask")) == ["ask?"]
    turns = chat(system="s", user="ask")
    assert write(sample("x", turns, chat(assistant="a"))) == ["ask?"]


def test_a_judge_that_fails_is_told_once_and_not_asked_again(monkeypatch, capsys):
    asked = []

    def fail(model, question):
        asked.append(question)
        raise PluginError("judge 'openai:/m' cannot be asked: no route")

    monkeypatch.setattr("ilp_mlflow.tracking.llm_judge.reword_question", fail)
    write = question_rewriter(ScoringConfig(writer="openai:/m"))
    assert [write(sample("x", "a")), write(sample("y", "b"))] == [[], []]
    assert asked == ["a"]
    assert "no route" in capsys.readouterr().err
