from dataclasses import replace

import pytest

from ilp_mlflow.lab.leak_check import surface_check


@pytest.mark.parametrize("planted", ["full"], indirect=True)  # the other size has too few rows
def test_the_groups_look_alike(planted):
    _, found, _ = planted
    trained = [r for rows in found.stages.values() for r in rows]
    measured = surface_check(found.samples, trained, 0)
    assert measured["chance"] == 1 / 7
    assert measured["macro_f1"] <= measured["chance"] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["full"], indirect=True)
def test_a_giveaway_is_seen(planted):
    _, found, _ = planted
    trained = [r for rows in found.stages.values() for r in rows]
    told = [
        replace(r, city=f"{r.city} indeed") if r.group == "missing_knowledge" else r
        for r in found.samples
    ]
    assert (
        surface_check(told, trained, 0)["macro_f1"]
        > surface_check(found.samples, trained, 0)["macro_f1"] + 0.1
    )
