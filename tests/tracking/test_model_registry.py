import json
import shutil

import mlflow
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ilp_mlflow.core.config import TrackingConfig
from ilp_mlflow.core.errors import ModelError, TrackingError
from ilp_mlflow.data import checkpoint_folders
from ilp_mlflow.scoring.tokens import encoding
from ilp_mlflow.tracking import connection, model_registry, runs


@pytest.fixture
def run_id(store):
    connection.connect(TrackingConfig(), "x")
    with runs.start("parent", "experiment") as run_id:
        yield run_id


def adapter(path, below):
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": below}))
    return str(path)


def test_a_local_base_is_stored_once_and_a_hub_model_not_at_all(run_id, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    uri = model_registry.register_base(str(folder), run_id)
    assert uri == model_registry.register_base(str(folder), run_id) == "models:/base/1"
    (folder / "config.json").write_text('{"changed": true}')
    assert model_registry.register_base(str(folder), run_id) == "models:/base/2"
    hub = model_registry.register_base("owner/name", run_id)
    assert hub == model_registry.register_base("owner/name", run_id) == "models:/owner.name/1"
    assert model_registry.resolve_parts(hub) == ["owner/name"]
    assert model_registry.register_base("models:/base@latest", run_id) == "models:/base/2"


def test_a_model_is_its_base_and_then_its_adapters(run_id, tmp_path):
    model_registry.register_base("owner/name", run_id)
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


def stage_tags(experiment, stage):
    return {"ilp.kind": "stage", "ilp.experiment": experiment, "ilp.stage": stage, "ilp.n": 1}


def test_stages_are_listed_by_experiment_and_creation(run_id, tmp_path):
    for number, (experiment, stage) in enumerate((("b", "x"), ("a", "y"), ("a", "x"))):
        folder = adapter(tmp_path / f"{number}", "owner/name")
        model_registry.register(
            f"{experiment}.{stage}", folder, run_id, stage_tags(experiment, stage)
        )
    rows = model_registry.list_stages()
    assert [row["uri"] for row in rows] == ["models:/a.y/1", "models:/a.x/1", "models:/b.x/1"]
    assert rows[0]["experiment"] == "a"
    assert rows[0]["stage"] == "y"
    assert rows[0]["run_id"] == run_id
    assert rows[0]["parent"] is None
    assert [row["uri"] for row in model_registry.list_stages("b")] == ["models:/b.x/1"]
    with pytest.raises(TrackingError, match="no registered stages of experiment 'c'"):
        model_registry.list_stages("c")


def test_a_registered_model_has_the_tags_that_its_versions_share(run_id, tmp_path):
    folder = adapter(tmp_path / "1", "owner/name")
    model_registry.register("a.x", folder, run_id, stage_tags("a", "x"))
    client = mlflow.MlflowClient()
    shared = {"ilp.kind": "stage", "ilp.experiment": "a", "ilp.stage": "x"}
    assert client.get_registered_model("a.x").tags == shared
    assert client.get_model_version("a.x", "1").tags == shared | {"ilp.n": "1"}


def test_a_logged_model_is_promoted_once(run_id, tmp_path):
    logged = model_registry.store("x.one", adapter(tmp_path / "1", "owner/name"), run_id)
    assert model_registry.promote("x.one", logged, run_id, {"ilp.kind": "stage"}, "best") == (
        "models:/x.one/1"
    )
    assert model_registry.promote("x.one", logged, run_id, {}, "good") == "models:/x.one/1"
    found = mlflow.MlflowClient().get_model_version_by_alias("x.one", "best")
    assert found.source == logged
    assert model_registry.model_id("models:/x.one/1") == logged.removeprefix("models:/")
    assert model_registry.model_id(logged) == logged.removeprefix("models:/")
    assert model_registry.model_id("owner/name") is None
    model_registry.log_model_inputs(run_id, ["owner/name", "models:/x.one/1"])
    (logged_input,) = mlflow.get_run(run_id).inputs.model_inputs
    assert f"models:/{logged_input.model_id}" == logged


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("models:/none/1", "model 'models:/none/1' is not in sqlite"),
        ("models:/none@best", "model 'models:/none@best' is not in sqlite"),
        ("runs:/none/x", "model 'runs:/none/x' is not in sqlite"),
        ("/no/such/folder", "no such folder, and neither an MLflow URI"),
    ],
)
def test_a_model_that_is_nowhere_is_named(run_id, location, expected):
    with pytest.raises(ModelError, match=expected):
        model_registry.resolve_parts(location)


def test_an_adapter_with_a_damaged_configuration_is_named(tmp_path):
    folder = adapter(tmp_path / "1", "owner/name")
    (tmp_path / "1" / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"adapter_config.json: not a valid adapter"):
        model_registry.adapter_base(folder)


@pytest.mark.slow
def test_a_download_from_a_server_is_kept_and_not_repeated(server, tmp_path):
    connection.connect(TrackingConfig(), "x")
    with runs.start("parent", "experiment") as run_id:
        uri = model_registry.register("x.one", adapter(tmp_path / "1", "owner/name"), run_id, {})
        base, first = model_registry.resolve_parts(uri)
        again = model_registry.resolve_parts(uri)
    assert base == "owner/name"
    assert again[-1] == first
    assert str(tmp_path) in first
    assert connection.run_url(run_id).startswith(server)
    assert connection.ui_command() is None


@pytest.mark.filterwarnings("ignore")
def test_what_mlflow_itself_logs_is_read_from_everywhere(run_id, tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, one in (("lora", adapted), ("full", adapted.unload())):
        parts = {"model": one, "tokenizer": tokenizer}
        mlflow.transformers.log_model(
            parts,
            name=name,
            task="text-generation",
            registered_model_name=name,
            pip_requirements=["torch"],
        )
    for uri in ("models:/full/1", "models:/full@latest", f"runs:/{run_id}/full"):
        (folder,) = model_registry.resolve_parts(uri)
        assert folder.endswith("/model")
        assert (
            encoding.tokenizer_folder(folder)
            == folder.removesuffix("model") + "components/tokenizer"
        )
    # a folder of that form, wherever it was copied
    copied = shutil.copytree(folder.removesuffix("/model"), tmp_path / "copied")
    assert model_registry.resolve_parts(str(copied)) == [str(copied / "model")]
    (checkpoint,) = checkpoint_folders.find_checkpoints([f"base={copied}"])
    assert checkpoint.model_uri == str(copied)
    # an adapter lies in a folder of its own, and takes the base that it names or is given
    base, adapter_folder = model_registry.resolve_parts("models:/lora/1")
    assert (base, adapter_folder[-5:]) == (str(tiny_model), "/peft")
    assert encoding.has_tokenizer(adapter_folder)


def test_a_model_logged_without_its_weights_is_that_of_the_hub(tmp_path):
    flavor = {"transformers": {"source_model_name": "owner/name"}}
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": flavor}))
    assert model_registry.resolve_parts(str(tmp_path)) == ["owner/name"]


def test_a_model_of_another_library_is_refused_by_its_name(tmp_path):
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": {"sklearn": {}}}))
    with pytest.raises(ModelError, match="logged by MLflow as sklearn; only models of"):
        model_registry.resolve_parts(str(tmp_path))


def test_what_is_below_an_adapter_can_be_said(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    one, two = (adapter(tmp_path / name, "/nowhere") for name in ("one", "a+b"))
    # a folder may have a + in its name
    assert model_registry.resolve_parts(two, base=str(base)) == [str(base), two]
    three = adapter(tmp_path / "three", "/nowhere")
    stack = f"{base}+{one}+{three}"
    assert model_registry.resolve_parts(stack) == [str(base), one, three]
    with pytest.raises(ModelError, match=r"base is no adapter, so nothing can be below it"):
        model_registry.resolve_parts(f"{one}+{base}", base=str(base))


def test_stages_side_by_side_on_one_base_are_found():
    parts = {
        "base": ["b"],
        "one@5": ["b", "1@5"],
        "one": ["b", "1"],
        "two@5": ["b", "2@5"],
        "two": ["b", "2"],
        "on_two": ["b", "1", "2", "4"],
    }
    assert model_registry.side_by_side(parts) == {"two@5": "one", "two": "one"}


def test_an_adapter_on_the_base_behind_a_full_model_is_found():
    parts = {"base": ["b"], "same": ["b"], "full": ["f"], "two": ["b", "2"], "on_full": ["f", "3"]}
    assert model_registry.side_by_side(parts) == {"two": "full"}
