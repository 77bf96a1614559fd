import random

import pytest

from ilp_mlflow import Signal
from ilp_mlflow.core.values import to_table
from ilp_mlflow.diagnosis.loss_course import course_from_log, course_from_signals, read_course
from tests.diagnosis.training_logs import log

FALLING = [4 * 0.97**step for step in range(60)]
SETTLED = [max(1.0, 4 * 0.8**step) for step in range(60)]


def noisy(losses, seed=0, noise=0.3):
    draw = random.Random(seed)
    return [loss + draw.gauss(0, noise) for loss in losses]


@pytest.mark.parametrize("per_epoch", [None, 10])
def test_a_loss_falls_to_the_end_or_has_settled(per_epoch):
    assert course_from_log(log(FALLING, per_epoch=per_epoch)).falls is True
    assert course_from_log(log(SETTLED, per_epoch=per_epoch)).falls is False


def test_noise_is_no_fall():
    found = [course_from_log(log(noisy(SETTLED, seed), per_epoch=10)).falls for seed in range(20)]
    # two standard errors: at most about one in twenty by chance, and most of these are small
    assert found.count(True) <= 1
    found = [course_from_log(log(noisy(FALLING, seed))).falls for seed in range(20)]
    assert found.count(True) >= 19


def test_passes_are_compared_and_of_a_rate_that_decayed_thirds():
    constant = log(FALLING, rates=[0.1] * 60, per_epoch=10)
    assert course_from_log(constant).before == pytest.approx(sum(FALLING[40:50]) / 10)
    decayed = log(FALLING, rates=[0.1 - step / 600 for step in range(60)], per_epoch=10)
    assert course_from_log(decayed).before == pytest.approx(sum(FALLING[20:40]) / 20)


def test_of_few_entries_only_a_clear_fall_is_known():
    assert course_from_log(log([3.0, 2.0, 1.0])).falls is True
    assert course_from_log(log([3.0, 2.0, 1.99])).falls is None
    assert course_from_log(log([3.0, 2.0])) is None


def test_what_is_no_loss_is_left_out():
    nothing = float("nan")
    found = course_from_log(log([4.0, 0.0, nothing, 3.0, 2.0], norms=[1, nothing, 1, 1, 1]))
    assert (found.first, found.last) == (4.0, 2.0)


def signals(losses, stage="first"):
    rows = []
    for id_, course in losses.items():
        for step, loss in enumerate(course, 1):
            row = {"sample_id": id_, "stage": stage, "step": step, "loss": loss}
            rows.append(Signal(**row, token_accuracy=0.0))
    return to_table(rows, Signal)


def test_of_a_training_that_was_followed_the_unlearned_rows_count():
    table = signals({"a": [4.0, 3.0, 2.0], "b": [4.0, 1.0, 1.0], "c": [9.0]})
    assert course_from_signals(table, "first", frozenset("a")).falls is True
    assert course_from_signals(table, "first", frozenset("b")).falls is False
    assert course_from_signals(table, "first", frozenset("c")) is None
    assert course_from_signals(table, "second", frozenset("a")) is None


def test_the_log_speaks_where_the_rows_do_not():
    table = signals({"a": [4.0, 1.0, 1.0]})
    assert read_course("first", frozenset("a"), None, table).source == "signals"
    assert read_course("first", frozenset("a"), log(FALLING), table).source == "log"
    assert read_course("first", frozenset("a"), None, None) is None
