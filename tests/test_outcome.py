import pytest

from ilp_mlflow.outcome import compare, net_recovery


def test_every_sample_is_accounted_for():
    before = {"a": "unlearned", "b": "unlearned", "c": "learned", "d": "learned", "e": "learned"}
    after = {"a": "learned", "b": "uncertain", "c": "unlearned", "d": "learned", "e": "uncertain"}
    change = compare(before, after, ["a", "b"])
    assert (change.recovered, change.still, change.regressed) == (("a",), ("b",), ("c",))


def test_net_recovery_is_the_difference_with_its_interval_and_exact_p_value():
    targets = [str(i) for i in range(20)]
    share, (low, high), p_value = net_recovery(targets[:12], targets[:2], targets)
    assert share == pytest.approx(0.5)
    assert low < 0.5 < high
    assert p_value == pytest.approx(2 * 0.5**10)  # ten discordant pairs, all one way


def test_a_mitigation_like_its_control_has_no_net_recovery():
    share, interval, p_value = net_recovery(["a"], ["a"], ["a", "b"])
    assert (share, interval, p_value) == (0.0, (0.0, 0.0), 1.0)
