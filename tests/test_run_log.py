import json

import pytest

from ilp_mlflow import run_log
from ilp_mlflow.core import config
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.values import Outcome, Request, as_json
from ilp_mlflow.mitigation.search import SearchOptions, SearchResult
from ilp_mlflow.tracking import runs
from ilp_mlflow.training.preflight import check_experiment
from tests.conftest import edit_yaml


def outcome(name, **changes):
    fields = {"targets": (), "recovered": (), "still": (), "regressed": ()}
    return Outcome(mitigation=name, run_id="r", **{**fields, **changes})


def request(reason):
    return Request(targets=(), wanted={}, reason=reason)


@pytest.fixture
def run_id(store):
    with runs.start("tiny", "experiment") as id_:
        runs.write(id_, "outcomes.json", as_json([outcome("one"), outcome("two")]))
        requests = {"three": request("more").model_dump(), "four": request("much").model_dump()}
        runs.write(id_, "requests.json", json.dumps(requests))
    return id_


def test_settings_of_stages_are_logged_once_and_stay(experiment_file, store):
    experiment = config.read(experiment_file)
    stages = check_experiment(experiment)
    with runs.start("tiny", "experiment") as run_id:
        run_log.log_experiment(run_id, experiment, stages)
        first = runs.params(run_id)
        assert first["ilp.name"] == "tiny"
        assert first["ilp.first.rows"] == "8"
        assert "ilp.first.seed" not in first  # the experiment's own
        longer = stages[0].model_copy(update={"training": {"num_train_epochs": 77, "seed": 5}})
        run_log.log_experiment(run_id, experiment, [longer, stages[1]])
    again = runs.params(run_id)
    assert again == first | {"ilp.first.seed": "5"}
    assert [s.id for s in runs.read_samples(run_id)] == [s.id for st in stages for s in st.samples]


def test_a_run_goes_on_with_its_own_experiment_only(experiment_file, store):
    experiment = config.read(experiment_file)
    with runs.start("tiny", "experiment") as run_id:
        with pytest.raises(
            ConfigError, match=f"run {run_id} is not of an experiment, this is tiny"
        ):
            run_log.check_same_experiment(experiment, run_id)
        run_log.log_experiment(run_id, experiment, check_experiment(experiment))
    run_log.check_same_experiment(experiment, run_id)
    other = experiment.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match=f"is of seed {experiment.seed}, this is 5; leave out"):
        run_log.check_same_experiment(other, run_id)


def test_earlier_outcomes_stay_in_front_unless_they_are_tried_again(run_id):
    result = SearchResult(
        outcomes=[outcome("two", tokens=7)], requests={"four": request("now")}, failed=["late"]
    )
    found = run_log.add_earlier(result, run_id)
    assert found.outcomes == [outcome("one"), outcome("two", tokens=7)]
    assert found.requests == {"three": request("more"), "four": request("now")}
    assert found.failed == ["late"]
    lacking = run_log.add_earlier(SearchResult(requests={"one": request("data")}), run_id)
    assert [o.mitigation for o in lacking.outcomes] == ["two"]


@pytest.mark.parametrize(
    ("only", "expected"), [((), {"replay": {}}), (("replay",), {"control": {}, "replay": {}})]
)
def test_the_run_says_what_was_tried_on_it(experiment_file, run_id, only, expected):
    experiment = config.read(edit_yaml(experiment_file, mitigations=["control"]))
    runs.write(run_id, "experiment.yaml", config.dump(experiment))
    run_log.log_mitigations(run_id, {"replay": {}}, SearchOptions(only=only))
    assert runs.read_experiment(None, run_id).mitigations == expected


def test_the_run_has_the_metrics_of_what_was_tried(experiment_file, run_id):
    with runs.start("control", "mitigation", parent=run_id) as child:
        runs.log(child, metrics={"recovered": 0.5, "regressed": 0.25, "unlearned_rate": 0.1})
    tried = outcome("control").model_copy(update={"run_id": child})
    result = SearchResult(outcomes=[tried], requests={"reader": request("texts")})
    run_log.log_outcomes(config.read(experiment_file), run_id, result)
    assert runs.metrics(run_id) == {"recovered/control": 0.5, "regressed/control": 0.25}
    assert json.loads(runs.read(run_id, "outcomes.json"))[0]["run_id"] == child
    assert json.loads(runs.read(run_id, "requests.json"))["reader"]["reason"] == "texts"
    assert "ilp.mitigated" not in runs.tags(run_id)  # nothing is recommended
