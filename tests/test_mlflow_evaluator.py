import json
import math
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import datasets
import mlflow
import pytest
import yaml
from mlflow.models.evaluation import EvaluationDataset

from ilp_mlflow import pipeline
from ilp_mlflow.core import config
from ilp_mlflow.core.config import DEFAULT_MAX_WRONG
from ilp_mlflow.core.errors import ConfigError, DatasetError, ModelError, PluginError
from ilp_mlflow.core.values import Score, to_table
from ilp_mlflow.diagnosis.attribution import NO_LEDGER_FACTOR, attribute, discount_without_ledger
from ilp_mlflow.diagnosis.installed_causes import installed_causes
from ilp_mlflow.diagnosis.strengths import read_strengths
from ilp_mlflow.mlflow_evaluator import IlpEvaluator, SilentProbe
from ilp_mlflow.tracking import runs
from tests.conftest import edit_yaml, rows, write_jsonl

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow")  # of type hints of its own
SAMPLE = ["sample_id", "prompt", "completion", "stage"]
UNASKED = ["not_trained", "left_side_forgetting"]
"""Diagnostics that ask no model."""


@pytest.fixture
def evaluate(store):
    """MLflow's evaluation with our evaluator installed."""
    from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry

    _model_evaluation_registry.register("ilp", IlpEvaluator)
    mlflow.set_experiment("evaluated")
    return lambda data, **more: mlflow.models.evaluate(
        data=data, **{"model_type": "ilp", "evaluators": "ilp", **more}
    )


def table(gaps, **columns):
    """Scores by sample, then checkpoint, each from its gap (nats), beside the samples themselves."""
    scores = [
        Score(
            sample_id=id_,
            checkpoint=name,
            logprob=gap,
            tokens=2,
            token_accuracy=float(gap > 0),
            gap=gap,
            stops=True,
        )
        for id_, by_name in gaps.items()
        for name, gap in by_name.items()
    ]
    data = to_table(scores, Score).to_pandas()
    samples = {
        "prompt": [f"Say {id_}" for id_ in data["sample_id"]],
        "completion": [f" {id_}" for id_ in data["sample_id"]],
    }
    return data.assign(**samples, **columns)


def lost():
    """One sample that is forgotten, and one that is kept."""
    return table(
        {"x": {"base": -1.0, "one": 2.0, "two": -3.0}, "y": {"base": -1.0, "one": 2.0, "two": 3.0}}
    )


def causes(diagnoses):
    return {d["verdict"]["sample_id"]: (d["cause"], d["runner_up"]) for d in diagnoses}


def diagnosed(experiment, run_id):
    """The causes of a run, with its evidence as sure as it is without a ledger."""
    found = pipeline.diagnose(experiment, run_id)
    evidence = {}
    for d in found:
        for name, own in d.evidence.items():
            evidence.setdefault(name, {})[d.verdict.sample_id] = own
    order = {cause.name: cause.order for cause in installed_causes()}
    named_from = read_strengths().named_from(DEFAULT_MAX_WRONG)
    verdicts = [d.verdict for d in found]
    return causes(
        d.model_dump()
        for d in attribute(verdicts, discount_without_ledger(evidence), order, named_from)
    )


@pytest.mark.long
def test_the_same_causes_as_those_of_an_experiment_from_its_scores_and_from_its_models(
    experiment_file, evaluate, tmp_path
):
    stages = yaml.safe_load(experiment_file.read_text())["stages"]
    for stage in stages:
        stage |= {"peft": None, "training": {**stage["training"], "num_train_epochs": 50}}
    contradicting = [
        {**one, "id": f"other {one['id']}", "completion": other["completion"]}
        for one, other in zip(rows(n=3), rows(n=4)[1:], strict=True)
    ]
    unlike = [
        {"id": row["id"] + "!", "prompt": f"{row['id']}!", "completion": f" no {i}"}
        for i, row in enumerate(rows())
    ]
    write_jsonl(tmp_path / "first.jsonl", rows())
    write_jsonl(tmp_path / "second.jsonl", contradicting + unlike)
    experiment = config.read(edit_yaml(experiment_file, stages=stages))
    run_id = pipeline.train(experiment, experiment_file)
    locations = {c.name: c.model_uri for c in runs.read_checkpoints(run_id)}
    samples = runs.read_table(run_id, "samples.parquet").to_pandas()[SAMPLE]

    expected = diagnosed(experiment, run_id)
    assert {"data_contradiction", "left_side_forgetting"} <= {
        cause for cause, _ in expected.values()
    }
    scores = runs.read_table(run_id, "scores.parquet")
    result = evaluate(samples, evaluator_config={"ilp": {"checkpoints": locations}})
    assert causes(result.artifacts["diagnoses"].content) == expected
    assert runs.read_table(result.run_id, "scores.parquet").equals(scores)
    logged = {
        name: value for name, value in runs.metrics(run_id).items() if not name.startswith("cause/")
    }
    shares = Counter(f"cause/{cause or 'unexplained'}" for cause, _ in expected.values())
    logged |= {name: n / len(samples) for name, n in shares.items()}
    assert {name: logged[name] for name in result.metrics} == pytest.approx(result.metrics)

    given = scores.to_pandas().merge(samples)
    result = evaluate(given, evaluator_config={"diagnostics": UNASKED})
    alone = diagnosed(
        experiment.model_copy(update={"diagnostics": {name: {} for name in UNASKED}}), run_id
    )
    assert causes(result.artifacts["diagnoses"].content) == alone
    assert "left_side_forgetting" in {cause for cause, _ in alone.values()}


def test_a_table_of_scores_is_diagnosed_without_a_model_and_says_so(evaluate, capsys):
    with mlflow.start_run() as run:
        mlflow.log_table({"own": [1]}, "own.json")
        result = evaluate(lost())
    assert result.metrics == {"unlearned_rate": 0.5, "cause/left_side_forgetting": 0.5}
    table = result.artifacts["diagnosis"].content.set_index("sample_id")
    assert table["history"].to_dict() == {"x": "base- one+ two-", "y": "base- one+ two+"}
    assert result.tables["diagnosis_table"]["cause"].to_list()[0] == "left_side_forgetting"
    (found,) = result.artifacts["diagnoses"].content
    signal = 1 - math.exp(-2) / 2
    strength = read_strengths().probability("left_side_forgetting", signal)
    assert found["strength"] == pytest.approx(NO_LEDGER_FACTOR * strength)
    assert found["evidence"]["left_side_forgetting"]["signal"] == pytest.approx(signal)
    assert list(found["evidence"]) == [
        "left_side_forgetting"
    ]  # nothing of those who would have to ask

    logged = mlflow.get_run(run.info.run_id).data
    assert result.metrics.items() <= logged.metrics.items()
    assert "no model to ask and no ledger of training" in logged.tags["ilp.lacking"]
    assert logged.tags["ilp.lacking"] in capsys.readouterr().err
    artifacts = {f.path for f in mlflow.MlflowClient().list_artifacts(run.info.run_id, "ilp")}
    assert artifacts == {
        "ilp/diagnosis.parquet",
        "ilp/diagnosis.json",
        "ilp/diagnoses.json",
        "ilp/findings.json",
    }
    shown = [entry["path"] for entry in json.loads(logged.tags["mlflow.loggedArtifacts"])]
    assert shown == ["own.json", "ilp/diagnosis.json", "diagnosis.json"]  # what others logged stays


def test_an_mlflow_data_set_among_other_evaluators_and_what_was_saved_loads_back(
    evaluate, tmp_path
):
    data = mlflow.data.from_pandas(lost(), targets="completion")
    result = evaluate(data, evaluators=["ilp"], evaluator_config={"ilp": {"seed": 3}})
    assert result.metrics["cause/left_side_forgetting"] == 0.5
    result.save(str(tmp_path / "saved"))
    again = mlflow.models.EvaluationResult.load(str(tmp_path / "saved"))
    assert again.metrics == result.metrics
    assert again.artifacts["diagnoses"].content == result.artifacts["diagnoses"].content


def test_a_hugging_face_data_set_of_mlflow_gives_what_its_table_does(evaluate):
    data = mlflow.data.from_huggingface(datasets.Dataset.from_pandas(lost()))
    assert evaluate(data).metrics == evaluate(lost()).metrics


def test_checkpoints_stand_in_the_order_of_their_appearance_unless_one_is_given(evaluate):
    assert evaluate(lost().iloc[::-1]).metrics["unlearned_rate"] == 1.0  # the base last
    ordered = evaluate(lost().iloc[::-1], evaluator_config={"checkpoints": ["base", "one", "two"]})
    assert ordered.metrics["cause/left_side_forgetting"] == 0.5
    assert evaluate(lost(), evaluator_config={"checkpoints": ["base", "one"]}).metrics == {
        "unlearned_rate": 0.0
    }


def test_messages_stages_and_the_preset_paper(evaluate):
    turns = [[{"role": "user", "content": "Say"}, {"role": "assistant", "content": "it"}]] * 6
    options = {
        "option_logprobs": [[-9.0, -1.0]] * 6,
        "option_tokens": [[2, 2]] * 6,
        "p_correct": 0.0,
    }
    data = (
        lost().drop(columns=["prompt", "completion"]).assign(messages=turns, stage="one", **options)
    )
    result = evaluate(data, evaluator_config={"preset": "paper"})
    assert result.metrics == {
        "unlearned_rate": 1.0,
        "cause/missing_knowledge": 1.0,
        "forgetting/one": 0.0,
    }


def refused(data, settings=None, **more):
    IlpEvaluator().evaluate(
        model_type="ilp",
        dataset=EvaluationDataset(data),
        run_id="unused",
        evaluator_config=settings or {},
        **more,
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"presett": "paper"}, r"presett: unknown key; did you mean 'preset'\?"),
        (
            {"ilp": {"foundation": "m"}},
            "foundation: unknown key; known are: asked, batch_tokens, checkpoints, device, ",
        ),
        ({"options": -1}, r"options: .*got -1"),
        (
            {"checkpoints": ["base", "thre", "two"]},
            "'thre' is not in the data; known are: base, one, two",
        ),
    ],
)
def test_what_is_wrong_with_a_setting_is_named(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        refused(lost(), settings)


def test_an_unknown_diagnostic_is_named():
    with pytest.raises(PluginError, match="'left_side' is not installed"):
        refused(lost(), {"diagnostics": ["left_side"]})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.rename(columns={"gap": "gaps"}), r"no column 'gap'.*; did you mean 'gaps'\?"),
        (
            lambda d: d[["prompt", "completion"]],
            "no column 'sample_id'.*to have samples scored, name models.*known are: completion, prompt",
        ),
        (
            lambda d: d.drop(columns="prompt"),
            "no column 'prompt'; known are: completion, sample_id",
        ),
        (lambda d: d.assign(gap="wide"), "column 'gap': .*'wide'"),
        (lambda d: d.assign(checkpoint=["base", None] * 3), "column 'checkpoint': empty in row 2"),
        (lambda d: d.assign(checkpoint="base"), "sample 'x' under checkpoint 'base' twice"),
        (
            lambda d: d.assign(prompt=[f"p{i}" for i in range(6)]),
            "row 2: sample 'x' has another prompt",
        ),
        (lambda d: d.assign(completion=" "), "row 1: completion is empty"),
        (lambda d: d.assign(stage="a/b"), "row 1: stage must be letters.*got 'a/b'"),
        (lambda d: d.iloc[:0], "no rows"),
        (lambda d: d["gap"].to_numpy()[:, None], "must be a pandas DataFrame.*got ndarray"),
    ],
)
def test_what_is_wrong_with_a_table_of_scores_is_named(change, expected):
    with pytest.raises(DatasetError, match=expected):
        refused(change(lost()))


def test_samples_to_be_scored_are_there_once():
    with pytest.raises(DatasetError, match="row 2: sample 'x' is there twice"):
        refused(lost(), {"checkpoints": {"base": "unused"}})


def test_a_model_to_load_is_refused_with_what_to_do_instead():
    with pytest.raises(ConfigError, match="leave out 'model' and give evaluator_config"):
        refused(lost(), model=object())


def test_it_judges_its_own_model_type_only():
    assert IlpEvaluator.can_evaluate(model_type="ilp", evaluator_config={})
    assert not IlpEvaluator.can_evaluate(model_type="classifier", evaluator_config={})


def test_a_probe_without_models_answers_nothing():
    probe = SilentProbe()
    assert all(map(math.isnan, probe.logprobs("base", [("p", " c")] * 2)))
    assert [said.text for said in probe.answer("base", ["p", "q"])] == ["", ""]
    assert probe.generate("base", ["p"], 3) == [[]]


def test_the_entry_point_leads_here_and_loads_no_libraries():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    (point,) = tomllib.loads(text)["project"]["entry-points"]["mlflow.model_evaluator"].items()
    assert EntryPoint(*point, "mlflow.model_evaluator").load() is IlpEvaluator
    code = "import sys, ilp_mlflow.mlflow_evaluator; sys.exit(not {'torch', 'transformers', 'trl'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_that_are_missing_or_hold_no_number_are_in_no_share(evaluate):
    whole = lost()
    is_y_last = (whole["sample_id"] == "y") & (whole["checkpoint"] == "two")
    expected = {"unlearned_rate": 1.0, "cause/left_side_forgetting": 1.0, "unscored": 1.0}
    infinite, empty = whole.copy(), whole.copy()
    infinite.loc[is_y_last, "gap"] = math.inf
    empty.loc[is_y_last, "gap"] = math.nan
    for data in (whole[~is_y_last], infinite, empty):
        assert evaluate(data).metrics == expected


def test_a_table_without_any_score_under_the_last_checkpoint_is_refused(evaluate):
    nothing = lost()
    nothing.loc[nothing["checkpoint"] == "two", "gap"] = math.inf
    with pytest.raises(ModelError, match="none of 2 samples can be scored under checkpoint 'two'"):
        IlpEvaluator().evaluate(
            model_type="ilp",
            dataset=EvaluationDataset(nothing),
            run_id="unused",
            evaluator_config={},
        )
