import json

import mlflow
import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.samples import samples_digest
from ilp_mlflow.tracking import runs
from ilp_mlflow.tracking.dataset_inputs import dataset_id, log_dataset

SAMPLES = [Sample(id=f"{i}", stage="s", prompt=f"p{i}", completion="c") for i in range(3)]


def test_a_data_set_has_a_name_and_a_digest_of_its_samples():
    found = dataset_id("s", SAMPLES)
    assert found == ("s", samples_digest(SAMPLES)[:12])
    assert found != dataset_id("s", SAMPLES[:2])


@pytest.mark.parametrize(
    ("origin", "kind", "source"),
    [
        (None, "code", {"tags": {}}),
        (
            DataConfig(dataset="owner/name", split="test"),
            "hugging_face",
            {"path": "owner/name", "config_name": None, "split": "test"},
        ),
        (DataConfig(path="/a/b.jsonl"), "local", {"uri": "/a/b.jsonl"}),
        (DataConfig(path="https://a.b/c.csv"), "http", {"url": "https://a.b/c.csv"}),
        (DataConfig(path="s3://a/b.csv"), "s3", {"uri": "s3://a/b.csv"}),
    ],
)
def test_a_run_has_its_data_set_as_an_input_that_says_where_it_is_from(store, origin, kind, source):
    with runs.start("x", "experiment") as run_id:
        logged = log_dataset(run_id, "s", SAMPLES, "training", origin)
    assert logged == dataset_id("s", SAMPLES)
    (found,) = mlflow.get_run(run_id).inputs.dataset_inputs
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training"}
    assert (found.dataset.name, found.dataset.digest) == logged
    assert found.dataset.source_type == kind
    assert json.loads(found.dataset.source) == source
    assert json.loads(found.dataset.profile) == {"num_rows": 3}
    columns = json.loads(found.dataset.schema)["mlflow_colspec"]
    assert [column["name"] for column in columns] == ["sample_id", "prompt", "completion"]
