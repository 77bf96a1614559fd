"""Whole commands on checkpoints whose weights are not what training made: said once, before any row's cause."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer

from ilp_mlflow import pipeline
from ilp_mlflow.core import config
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.data import checkpoint_folders
from ilp_mlflow.report.summary import terminal_summary
from ilp_mlflow.tracking import runs
from tests.conftest import edit_yaml, rows, write_jsonl
from tests.scoring import model_folders
from tests.scoring.model_folders import ADAPTER, MODEL

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
LORA = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
ROWS = rows()


@pytest.fixture(scope="module")
def home(tiny_model, tmp_path_factory):
    """A base, an adapter that was taught all rows, and its merged copy."""
    home = tmp_path_factory.mktemp("taught")
    base = model_folders.copy(tiny_model, home / "base")
    model_folders.stir(model_folders.load(tiny_model), std=0.2).save_pretrained(base)
    write_jsonl(home / "rows.jsonl", ROWS)
    torch.manual_seed(0)
    model = get_peft_model(model_folders.load(base), LoraConfig(**LORA))
    model.save_pretrained(str(home / "idle"))
    teach(model, base).save_pretrained(str(home / "adapter"))
    merged = model_folders.copy(base, home / "merged")
    below = model_folders.load(base)
    PeftModel.from_pretrained(below, str(home / "adapter")).merge_and_unload().save_pretrained(
        merged
    )
    return home


def teach(model, base):
    """Train an adapter on all rows, in a loop of our own."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [tokenizer(row["prompt"] + row["completion"] + "<|end|>")["input_ids"] for row in ROWS]
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=0.02)
    for _ in range(40):
        loss = sum(model(input_ids=torch.tensor([t]), labels=torch.tensor([t])).loss for t in texts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def diagnose(home, **places):
    """The report on checkpoints, the base first, with the rows given without a name."""
    given = [f"{name}={place}" for name, place in {"base": home / "base", **places}.items()]
    located = checkpoint_folders.find_checkpoints(given)
    experiment = checkpoint_folders.experiment_for(
        located, [str(home / "rows.jsonl")], dtype="float32", device="cpu"
    )
    return pipeline.run_elsewhere(experiment, located)


def test_rows_of_a_healthy_copy_are_those_of_what_it_was_made_from(home, store, capsys):
    report = diagnose(home, adapter=home / "adapter", merged=home / "merged")
    assert report.findings == ()
    assert report.retention == {"adapter": {"base": 0, "adapter": 1, "merged": 1}}
    assert (
        "which no rows trained: the rows are read as those of 'adapter'" in capsys.readouterr().err
    )
    assert '"largest_difference"' in runs.read(report.run_id, "self_check.json")


def halved(tensors, base):
    return {name: (tensor + base[name]) / 2 for name, tensor in tensors.items()}


def first_layer_lost(tensors, base):
    return {name: base[name] if "layers.0" in name else t for name, t in tensors.items()}


@pytest.mark.parametrize(
    ("break_copy", "what"),
    [(halved, "only 50% of what 'adapter' changed is in it"), (first_layer_lost, "are the base's")],
)
def test_a_copy_that_lost_rows_is_at_fault_and_not_the_training(
    break_copy, what, home, store, tmp_path
):
    broken = model_folders.copy(home / "merged", tmp_path / "broken")
    base = model_folders.load(home / "base").state_dict()
    model_folders.edit_tensors(broken, lambda tensors: break_copy(tensors, base), MODEL)
    report = diagnose(home, adapter=home / "adapter", merged=broken)
    (finding,) = report.findings
    assert (finding.kind, finding.subject.name, finding.stops) == ("faulty_copy", "merged", True)
    assert what in finding.evidence.reason
    lost = [v.sample_id for v in report.verdicts if v.status == "unlearned"]
    assert 0 < len(lost) == finding.samples
    assert {diagnosis.cause for diagnosis in report.diagnoses} == {"faulty_checkpoint"}
    text = terminal_summary(report)
    assert "which no rows trained: the copy is at fault" in " ".join(text.split())
    assert "higher rate" not in text


def test_an_adapter_that_does_nothing_is_said_once_as_the_fault_of_its_checkpoint(
    home, store, capsys
):
    report = diagnose(home, sft=home / "idle")
    (finding,) = report.findings
    assert (finding.kind, finding.subject.name, finding.samples) == ("idle_adapter", "sft", 8)
    assert str(home / "idle" / ADAPTER) in finding.evidence.reason
    assert {diagnosis.cause for diagnosis in report.diagnoses} == {"faulty_checkpoint"}
    assert "taught only" not in terminal_summary(report)
    assert "changes nothing" not in capsys.readouterr().err


def test_a_training_that_moved_nothing_is_told_once_and_why(experiment_file, store):
    experiment = config.read(edit_yaml(experiment_file), {})
    first = experiment.stages[0]
    # the first step of a warm-up has a rate of 0
    one_step = {"max_steps": 1, "warmup_steps": 1000}
    still = first.model_copy(update={"training": first.training | one_step})
    experiment = experiment.model_copy(update={"stages": (still,)})
    report = pipeline.run(experiment, experiment_file)
    (finding,) = report.findings
    assert (finding.kind, finding.subject.name) == ("rate_too_low", "first")
    assert "its learning rate was 0 at most" in finding.evidence.reason
    assert finding.evidence.cause == "failed_optimization"


def test_a_trained_model_that_is_not_what_was_saved_ends_the_run(
    experiment_file, store, monkeypatch
):
    import mlflow

    write = PeftModel.save_pretrained

    def write_and_change(model, folder, *args, **options):
        write(model, folder, *args, **options)
        model_folders.edit_tensors(
            folder,
            lambda tensors: {n: t + (0.5 if "lora_B" in n else 0) for n, t in tensors.items()},
            ADAPTER,
        )

    monkeypatch.setattr(PeftModel, "save_pretrained", write_and_change)
    with pytest.raises(
        ModelError, match=r"lora_B.weight has other values than in the trained model"
    ):
        pipeline.train(config.read(experiment_file, {}), experiment_file)
    found = mlflow.search_runs(search_all_experiments=True)
    assert set(found["status"]) == {"FAILED"}
    assert mlflow.MlflowClient().search_registered_models(filter_string="name LIKE 'tiny.%'") == []
