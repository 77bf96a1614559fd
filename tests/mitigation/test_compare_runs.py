import json
import re

from tests.cli.test_cli import ilp
from tests.conftest import edit_yaml


def test_two_runs_sample_by_sample_and_a_limit_for_ci(experiment_file, store):
    first = json.loads(ilp("run", edit_yaml(experiment_file, mitigations=["control"]), "--json")[1])
    again = first["outcomes"][0]["run_id"]

    code, out, err = ilp(
        "compare", first["run_id"], first["run_id"], "--json", "--max-regressed", "0"
    )
    assert code == 0, err
    same = json.loads(out)
    assert same["recovered"] == same["regressed"] == []
    assert sum(map(len, (same[n] for n in ("still", "kept", "flickering")))) == 16
    assert same["p_value"] == 1

    code, out, err = ilp("compare", first["run_id"], again, "--json")
    found = json.loads(out)
    assert sorted(found["recovered"]) == sorted(first["outcomes"][0]["recovered"])
    assert sorted(found["regressed"]) == sorted(first["outcomes"][0]["regressed"])
    back = json.loads(ilp("compare", again, first["run_id"], "--json")[1])
    assert sorted(back["regressed"]) == sorted(found["recovered"])

    worse = (again, first["run_id"]) if back["regressed"] else (first["run_id"], again)
    if back["regressed"] or found["regressed"]:
        code, out, err = ilp("compare", *worse, "--max-regressed", "0")
        assert code == 1
        assert "samples regressed, more than --max-regressed 0" in err
        assert re.match(rf"from: \S.* \({worse[0]}\)\nto  : \S.*\({worse[1]}\)\n\nrecovered ", out)

    code, out, err = ilp("compare", first["run_id"], "nothing")
    assert (code, out) == (2, "")
    assert "nothing" in err


def test_two_rules_are_no_difference_between_models(experiment_file, store):
    runs = [
        json.loads(
            ilp(
                "run", edit_yaml(experiment_file, name=preset, scoring={"preset": preset}), "--json"
            )[1]
        )
        for preset in ("default", "paper")
    ]
    statuses = [{v["sample_id"]: v["status"] for v in run["verdicts"]} for run in runs]
    assert statuses[0] != statuses[1]  # the same training
    for one, other in (runs, runs[::-1]):
        found = json.loads(ilp("compare", one["run_id"], other["run_id"], "--json")[1])
        assert found["recovered"] == found["regressed"] == found["flickering"] == []
