"""The statistics of a mitigation against its control, on cases worked out by hand."""

import math

import pytest

from ilp_mlflow.mitigation.statistics import (
    mcnemar_p,
    net_recovery,
    newcombe_interval,
    significant,
)


def test_net_recovery_is_the_difference_with_its_interval_and_exact_p_value():
    targets = [str(i) for i in range(20)]
    share, (low, high), p_value = net_recovery(targets[:12], targets[:2], targets)
    assert share == pytest.approx(0.5)
    assert low < 0.5 < high
    assert p_value == pytest.approx(2 * 0.5**10)  # ten discordant pairs, all one way


def test_a_mitigation_like_its_control_has_no_net_recovery():
    share, interval, p_value = net_recovery(["a"], ["a"], ["a", "b"])
    assert (share, interval, p_value) == (0.0, (0.0, 0.0), 1.0)


def test_the_p_value_is_that_of_a_fair_coin():
    assert mcnemar_p(0, 0) == mcnemar_p(3, 3) == 1
    assert mcnemar_p(0, 5) == pytest.approx(2 * 0.5**5)


def test_the_interval_of_a_difference_is_newcombes():
    # by hand from the Wilson intervals: 9 of 10 is 0.596 to 0.982, 3 of 10 is 0.108 to 0.603
    assert newcombe_interval(9, 3, 10) == pytest.approx(
        (0.6 - math.hypot(0.304, 0.303), 0.6 + math.hypot(0.082, 0.192)), abs=0.002
    )
    assert newcombe_interval(10, 0, 10)[1] == pytest.approx(1)
    low, high = newcombe_interval(4, 4, 10)
    assert low == pytest.approx(-high)


def test_one_target_has_an_interval_of_its_own_value():
    assert net_recovery(["a"], [], ["a"])[1] == (1.0, 1.0)


def test_several_tests_are_corrected_for_their_number():
    # .01 < .05 / 3; .03 is not below .05 / 2, and behind it .04 is not either
    assert significant([0.01, 0.04, 0.03], 0.05) == [True, False, False]
    assert significant([0.01, 0.04, 0.02], 0.05) == [True, True, True]
    assert significant([], 0.05) == []
