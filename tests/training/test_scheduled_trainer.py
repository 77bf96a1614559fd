"""SFTTrainer with batches from a schedule: how it prepares rows and measures them."""

import pytest

from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens import token_trees
from ilp_mlflow.training.scheduled_trainer import trainer_rows
from ilp_mlflow.training.trainer import train_stage
from tests.conversations import chat
from tests.training.schedules import CONSTANT, IDS, SEEN, Planned, trained
from tests.training.test_trainer import PEFT, stage


def test_rows_are_numbered_and_keep_their_form():
    one = stage(
        [{"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}]
    )
    rows = trainer_rows((stage().samples[0], one.samples[0]), 5).to_list()
    assert [row["row"] for row in rows] == [5, 6]
    assert rows[0]["completion"] == [" Paris"]
    assert rows[1]["prompt"] == [{"role": "user", "content": "Q?"}]
    assert rows[1]["completion"] == [{"role": "assistant", "content": "A."}]


def test_what_is_measured_is_a_plain_forward_pass(tiny_model, tmp_path):
    more = (
        stage(validation=stage().samples[:1])
        .validation[0]
        .model_copy(update={"id": "held", "stage": "elsewhere"})
    )
    schedule = Planned(rounds=(((IDS[0],),),), ask=(*IDS, "held", "no such"))
    trained(tiny_model, tmp_path, schedule, validation=(more,))
    history, measured = SEEN[0]
    assert set(measured) == {*IDS, "held"}
    assert history.validation == ["held"]
    assert history.subsets == {**dict.fromkeys(IDS, "s"), "held": "elsewhere"}
    loaded = loading.load_model([str(tiny_model)])
    for score in scorer.score_samples(
        token_trees.plan_batches(stage().samples, {}, loaded, 2048), loaded, "base"
    ):
        assert measured[score.sample_id].loss == pytest.approx(
            -score.logprob / score.tokens, abs=1e-4
        )
        assert measured[score.sample_id].token_accuracy == pytest.approx(score.token_accuracy)
    assert measured["held"] == pytest.approx(measured[IDS[0]], abs=1e-4)


@pytest.mark.long
def test_text_and_messages_can_be_in_one_stage(tiny_model, tmp_path):
    plain = stage().samples
    chats = [
        s.model_copy(update={"prompt": chat(user=s.prompt), "completion": chat(assistant=s.answer)})
        for s in plain[::2]
    ]
    samples = tuple(next((c for c in chats if c.id == s.id), s) for s in plain)
    together = {}
    for part in (samples, plain, chats):
        ids = tuple(s.id for s in part)
        schedule = Planned(rounds=((ids[:4], ids[4:]) if ids[4:] else (ids,),), ask=ids)
        one = stage(peft=PEFT, training=CONSTANT, schedule=schedule).model_copy(
            update={"samples": tuple(part)}
        )
        done = train_stage(one, loading.load_model([str(tiny_model)]), tmp_path)
        measured, _ = SEEN.pop(0)[1], SEEN.clear()
        if not together:
            together = measured
            assert [(e.exposures, e.truncated_tokens) for e in done.exposures] == [(1, 0)] * 8
        for s in part:  # before the first step, each is what it is among its own kind
            if s in samples:
                assert together[s.id].loss == pytest.approx(measured[s.id].loss, abs=1e-4)
