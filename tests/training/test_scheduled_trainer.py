"""Training in rounds that a schedule of one's own plans, from what became of the samples."""

import pytest
import torch

from ilp_mlflow import PluginError
from ilp_mlflow.plugin import Message, Value
from ilp_mlflow.scoring import loading, scorer, token_trees
from ilp_mlflow.training import scheduled_trainer
from ilp_mlflow.training.trainer import train_stage
from tests.training.test_trainer import PEFT, stage, weights

CONSTANT = {"lr_scheduler_type": "constant"}


class Told(Value):
    """Gives the rounds it was told to and keeps what it is shown."""

    rounds: tuple[tuple[tuple[str, ...], ...] | None, ...]
    ask: tuple[str, ...] = ()

    def next_round(self, history):
        SEEN.append((history, history.measure(self.ask)))
        return self.rounds[len(history.rounds)] if len(history.rounds) < len(self.rounds) else None


SEEN = []


@pytest.fixture(autouse=True)
def forget():
    SEEN.clear()


def trained(tiny_model, folder, told, training_=None, **fields):
    one = stage(peft=PEFT, training=CONSTANT | (training_ or {}), schedule=told, **fields)
    return train_stage(one, loading.load_model([str(tiny_model)]), folder)


IDS = [s.id for s in stage().samples]


def test_rounds_of_any_length_are_trained_as_planned_and_their_results_are_shown(
    tiny_model, tmp_path
):
    plan = (((IDS[0], IDS[1]), (IDS[0],)), ((IDS[5], IDS[6], IDS[7]),))
    done = trained(tiny_model, tmp_path, Told(rounds=plan, ask=(IDS[2],)))
    assert [e.exposures for e in done.exposures] == [2, 1, 0, 0, 0, 1, 1, 1]
    assert done.signals["step"].to_pylist() == [1, 1, 2, 3, 3, 3]
    last, _ = SEEN[-1]
    assert [r.batches for r in last.rounds] == list(plan)
    assert [set(r.results) for r in last.rounds] == [set(IDS[:2]), set(IDS[5:])]
    assert [h.steps_left for h, _ in SEEN] == [
        6,
        4,
        3,
    ]  # three passes over eight samples in batches of four
    losses = [m[IDS[2]].loss for _, m in SEEN]
    assert len(set(losses)) == 3  # other samples were trained in between
    assert [r.measured[IDS[2]].loss for r in last.rounds] == losses[:2]


def test_what_is_measured_is_a_plain_forward_pass(tiny_model, tmp_path):
    more = (
        stage(validation=stage().samples[:1])
        .validation[0]
        .model_copy(update={"id": "held", "stage": "elsewhere"})
    )
    told = Told(rounds=(((IDS[0],),),), ask=(*IDS, "held", "no such"))
    trained(tiny_model, tmp_path, told, validation=(more,))
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


def test_text_and_messages_can_be_in_one_stage(tiny_model, tmp_path):
    def turn(role, text):
        return (Message(role=role, content=text),)

    plain = stage().samples
    chats = [
        s.model_copy(
            update={"prompt": turn("user", s.prompt), "completion": turn("assistant", s.answer)}
        )
        for s in plain[::2]
    ]
    samples = tuple(next((c for c in chats if c.id == s.id), s) for s in plain)
    together = {}
    for part in (samples, plain, chats):
        ids = tuple(s.id for s in part)
        told = Told(rounds=((ids[:4], ids[4:]) if ids[4:] else (ids,),), ask=ids)
        one = stage(peft=PEFT, training=CONSTANT, schedule=told).model_copy(
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


def test_what_a_schedule_looks_at_is_logged_by_subset(tiny_model, tmp_path):
    logged = {}
    told = Told(rounds=(((IDS[0],),), ((IDS[1],),)), ask=(IDS[2], IDS[3]))
    one = stage(peft=PEFT, training=CONSTANT, schedule=told)
    train_stage(
        one,
        loading.load_model([str(tiny_model)]),
        tmp_path,
        lambda m, step: logged.setdefault(step, {}).update(m),
    )
    looks = {step: m["loss_of_s"] for step, m in logged.items() if "loss_of_s" in m}
    assert looks == {
        step: pytest.approx(sum(m[i].loss for i in IDS[2:4]) / 2)
        for step, (_, m) in enumerate(SEEN)
    }
    assert all(0 <= m["accuracy_of_s"] <= 1 for m in logged.values() if "accuracy_of_s" in m)


def test_training_ends_where_its_steps_are_used_up(tiny_model, tmp_path):
    done = trained(
        tiny_model, tmp_path, Told(rounds=(((IDS[0],),) * 5,) * 3), {"num_train_epochs": 1}
    )
    assert done.signals["step"].to_pylist() == [1, 2]


def test_a_round_is_of_whole_steps(tiny_model, tmp_path):
    twice = {"gradient_accumulation_steps": 2}
    done = trained(tiny_model, tmp_path, Told(rounds=(((IDS[0],),) * 2, ((IDS[1],),) * 4)), twice)
    assert done.signals["step"].to_pylist() == [1, 1, 2, 2, 3, 3]
    with pytest.raises(PluginError, match="3 batches; a round is of whole steps of 2"):
        trained(tiny_model, tmp_path, Told(rounds=(((IDS[0],),) * 3,)), twice)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (((("stranger",),),), "planned 'stranger', which is not among"),
        ((((),),), "a batch of 0 samples; batches have 1 to 4"),
        (((tuple(IDS[:5]),),), "a batch of 5 samples"),
        (((),), "0 batches"),
    ],
)
def test_a_round_that_cannot_be_trained_is_refused(tiny_model, tmp_path, plan, told):
    with pytest.raises(PluginError, match=told):
        trained(tiny_model, tmp_path, Told(rounds=plan))


def test_a_schedule_may_not_stop_under_a_learning_rate_that_falls(tiny_model, tmp_path):
    with pytest.raises(PluginError, match=r"lr_scheduler_type cosine.*set it to constant"):
        trained(tiny_model, tmp_path, Told(rounds=(((IDS[0],),),)), {"lr_scheduler_type": "cosine"})


class Kept(Value):
    """Five passes, of which the model behind some is kept."""

    passes: tuple[int, ...]

    def next_round(self, history):
        if len(history.rounds) in self.passes:
            history.keep()
        ids = history.sample_ids
        return None if len(history.rounds) == 5 else [ids[:4], ids[4:]]


def test_a_stage_that_stops_ends_with_the_model_that_was_kept(tiny_model, tmp_path):
    ten = {"num_train_epochs": 10}
    back = trained(tiny_model, tmp_path / "a", Kept(passes=(0, 1, 3)), ten)
    plain = trained(
        tiny_model, tmp_path / "b", Told(rounds=((tuple(IDS[:4]), tuple(IDS[4:])),) * 3), ten
    )
    ours, theirs = weights(back.loaded.model), weights(plain.loaded.model)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert back.signals == plain.signals  # what was undone is struck off
    assert [e.exposures for e in back.exposures] == [3] * 8
    assert back.tokens > plain.tokens  # but it was paid for
    nothing = trained(tiny_model, tmp_path / "c", Kept(passes=(0,)), ten)
    assert nothing.signals.num_rows == 0
    assert [e.exposures for e in nothing.exposures] == [0] * 8


class Adaptive(Value):
    """The two samples of the largest loss of the last round, then all."""

    def next_round(self, history):
        ids = sorted(history.sample_ids)
        if history.rounds and len(history.rounds) % 2:
            results = history.rounds[-1].results
            ids = sorted(results, key=lambda i: -results[i].loss)[:2]
        return [ids[n : n + history.batch_size] for n in range(0, len(ids), history.batch_size)]


@pytest.mark.parametrize("schedule", ["shuffled", "sequential", Adaptive(), Kept(passes=(0, 1))])
@pytest.mark.parametrize("after", [3, 5])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    tiny_model, tmp_path, monkeypatch, schedule, after
):
    monkeypatch.setattr(scheduled_trainer, "KEPT_EVERY", 0)
    plan = {"logging_steps": 1, "lr_scheduler_type": "cosine", "num_train_epochs": 4}
    if isinstance(schedule, Kept):  # it stops, and goes back behind the interruption
        plan |= {"lr_scheduler_type": "constant", "num_train_epochs": 10}
    one = stage(peft={**PEFT, "lora_dropout": 0.2}, training=plan).model_copy(
        update={"schedule": schedule}
    )

    def interrupt(metrics, step):
        if step == after:
            raise KeyboardInterrupt

    whole = train_stage(one, loading.load_model([str(tiny_model)]), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_stage(one, loading.load_model([str(tiny_model)]), tmp_path / "halves", interrupt)
    steps = []
    halves = train_stage(
        one,
        loading.load_model([str(tiny_model)]),
        tmp_path / "halves",
        lambda m, step: steps.append(step),
    )
    assert steps[0] > 1  # it did not begin again
    ours, theirs = weights(halves.loaded.model), weights(whole.loaded.model)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert halves.signals.equals(whole.signals)
    assert halves.tokens == whole.tokens
