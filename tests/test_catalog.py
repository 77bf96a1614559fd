import json
import tempfile

import pytest

from ilp_mlflow import catalog, tracking
from ilp_mlflow.config import TrackingConfig
from ilp_mlflow.errors import ModelError, TrackingError


@pytest.fixture
def run_id(store):
    tracking.connect(TrackingConfig(), "x")
    with tracking.run("parent", "experiment") as run_id:
        yield run_id


def adapter(path, below):
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": below}))
    return str(path)


def digest(folder):
    return f"digest of {folder}"


def test_a_local_base_is_stored_once_and_a_hub_model_not_at_all(run_id, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    uri = catalog.register_base(str(folder), digest, run_id)
    assert uri == catalog.register_base(str(folder), digest, run_id) == "models:/base/1"
    assert catalog.register_base(str(folder), lambda f: "changed", run_id) == "models:/base/2"
    hub = catalog.register_base("owner/name", digest, run_id)
    assert hub == catalog.register_base("owner/name", digest, run_id) == "models:/owner.name/1"
    assert catalog.locate(hub) == ["owner/name"]
    assert catalog.register_base("models:/base@latest", digest, run_id) == "models:/base/2"


def test_a_model_is_its_base_and_then_its_adapters(run_id, tmp_path):
    catalog.register_base("owner/name", digest, run_id)
    one = catalog.register("x.one", adapter(tmp_path / "1", "models:/owner.name/1"), run_id, {"ilp.base": "models:/owner.name/1"})
    two = catalog.register("x.two", adapter(tmp_path / "2", one), run_id, {})
    base, first, second = catalog.locate(two)
    assert base == "owner/name"
    assert catalog.below(first) == "models:/owner.name/1"
    assert catalog.below(second) == one
    assert catalog.locate("models:/x.two@latest") == [base, first, second]
    assert catalog.locate(f"runs:/{run_id}/x-two") == [base, first, second]
    assert catalog.base_of(one) == "models:/owner.name/1"
    assert catalog.base_of("models:/owner.name/1") == "models:/owner.name/1"
    # ours name their base in MLflow, which no other base replaces; one trained elsewhere takes the base it is given
    assert catalog.locate(two, base="other/base")[0] == "owner/name"
    assert catalog.locate(adapter(tmp_path / "3", "/home/someone/model"), base="other/base")[0] == "other/base"
    (tmp_path / "here").mkdir()
    assert catalog.locate(adapter(tmp_path / "5", str(tmp_path / "here")), base="other/base")[0] == str(tmp_path / "here")
    assert catalog.locate(adapter(tmp_path / "6", "owner/name"), base="other/base")[0] == "other/base"
    itself = adapter(tmp_path / "7", "owner/name")
    assert catalog.locate(itself, base=itself) == ["owner/name", itself]
    with pytest.raises(ModelError, match="does not name its base"):
        catalog.locate(adapter(tmp_path / "4", None))


def test_a_failed_upload_registers_nothing(run_id, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(tracking.MlflowClient, "log_model_artifacts", fail)
    with pytest.raises(OSError, match="disk full"):
        catalog.register("x.one", adapter(tmp_path / "1", "b"), run_id, {})
    assert not tracking.MlflowClient().search_model_versions()


def test_artifacts_are_read_back_and_a_missing_one_is_named(run_id, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tracking.write(run_id, "a.txt", "text")
    before = sorted(tmp_path.iterdir())
    assert tracking.read(run_id, "a.txt") == "text"
    assert sorted(tmp_path.iterdir()) == before  # no copies are left behind
    with pytest.raises(TrackingError, match=r"has no artifact ilp/b.txt"):
        tracking.read(run_id, "b.txt")


@pytest.mark.slow
def test_a_download_from_a_server_is_kept_and_not_repeated(server, tmp_path):
    tracking.connect(TrackingConfig(), "x")
    with tracking.run("parent", "experiment") as run_id:
        uri = catalog.register("x.one", adapter(tmp_path / "1", "owner/name"), run_id, {})
        base, first = catalog.locate(uri)
        again = catalog.locate(uri)
    assert base == "owner/name"
    assert again[-1] == first
    assert str(tmp_path) in first
    assert tracking.link(run_id).startswith(server)
    assert tracking.serve_hint() is None
