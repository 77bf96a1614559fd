import json
import tempfile

import pytest

from ilp_mlflow.core.config import TrackingConfig
from ilp_mlflow.core.errors import ModelError, TrackingError
from ilp_mlflow.tracking import model_registry, runs


@pytest.fixture
def run_id(store):
    runs.connect(TrackingConfig(), "x")
    with runs.start("parent", "experiment") as run_id:
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
    uri = model_registry.register_base(str(folder), digest, run_id)
    assert uri == model_registry.register_base(str(folder), digest, run_id) == "models:/base/1"
    assert (
        model_registry.register_base(str(folder), lambda f: "changed", run_id) == "models:/base/2"
    )
    hub = model_registry.register_base("owner/name", digest, run_id)
    assert (
        hub == model_registry.register_base("owner/name", digest, run_id) == "models:/owner.name/1"
    )
    assert model_registry.resolve_parts(hub) == ["owner/name"]
    assert model_registry.register_base("models:/base@latest", digest, run_id) == "models:/base/2"


def test_a_model_is_its_base_and_then_its_adapters(run_id, tmp_path):
    model_registry.register_base("owner/name", digest, run_id)
    one = model_registry.register(
        "x.one",
        adapter(tmp_path / "1", "models:/owner.name/1"),
        run_id,
        {"ilp.base": "models:/owner.name/1"},
    )
    two = model_registry.register("x.two", adapter(tmp_path / "2", one), run_id, {})
    base, first, second = model_registry.resolve_parts(two)
    assert base == "owner/name"
    assert model_registry.adapter_base(first) == "models:/owner.name/1"
    assert model_registry.adapter_base(second) == one
    assert model_registry.resolve_parts("models:/x.two@latest") == [base, first, second]
    assert model_registry.resolve_parts(f"runs:/{run_id}/x-two") == [base, first, second]
    assert model_registry.base_of(one) == "models:/owner.name/1"
    assert model_registry.base_of("models:/owner.name/1") == "models:/owner.name/1"
    # ours name their base in MLflow, which no other base replaces; one trained elsewhere takes the base it is given
    assert model_registry.resolve_parts(two, base="other/base")[0] == "owner/name"
    assert (
        model_registry.resolve_parts(
            adapter(tmp_path / "3", "/home/someone/model"), base="other/base"
        )[0]
        == "other/base"
    )
    (tmp_path / "here").mkdir()
    assert model_registry.resolve_parts(
        adapter(tmp_path / "5", str(tmp_path / "here")), base="other/base"
    )[0] == str(tmp_path / "here")
    assert (
        model_registry.resolve_parts(adapter(tmp_path / "6", "owner/name"), base="other/base")[0]
        == "other/base"
    )
    itself = adapter(tmp_path / "7", "owner/name")
    assert model_registry.resolve_parts(itself, base=itself) == ["owner/name", itself]
    with pytest.raises(ModelError, match="does not name its base"):
        model_registry.resolve_parts(adapter(tmp_path / "4", None))


def test_a_failed_upload_registers_nothing(run_id, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(runs.MlflowClient, "log_model_artifacts", fail)
    with pytest.raises(OSError, match="disk full"):
        model_registry.register("x.one", adapter(tmp_path / "1", "b"), run_id, {})
    assert not runs.MlflowClient().search_model_versions()


def test_artifacts_are_read_back_and_a_missing_one_is_named(run_id, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runs.write(run_id, "a.txt", "text")
    before = sorted(tmp_path.iterdir())
    assert runs.read(run_id, "a.txt") == "text"
    assert sorted(tmp_path.iterdir()) == before  # no copies are left behind
    with pytest.raises(TrackingError, match=r"has no artifact ilp/b.txt"):
        runs.read(run_id, "b.txt")


@pytest.mark.slow
def test_a_download_from_a_server_is_kept_and_not_repeated(server, tmp_path):
    runs.connect(TrackingConfig(), "x")
    with runs.start("parent", "experiment") as run_id:
        uri = model_registry.register("x.one", adapter(tmp_path / "1", "owner/name"), run_id, {})
        base, first = model_registry.resolve_parts(uri)
        again = model_registry.resolve_parts(uri)
    assert base == "owner/name"
    assert again[-1] == first
    assert str(tmp_path) in first
    assert runs.run_url(run_id).startswith(server)
    assert runs.ui_command() is None
