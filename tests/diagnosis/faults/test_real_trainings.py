"""Real trainings of TRL on tiny models: planted faults are named, and unusual settings are none.

`experiments/training_logs.py` has all variants; here are some of them, with a seed that nothing was
tuned on.
"""

import importlib.util
import json
import logging
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from tests.cli.commands import document, ilp
from tests.conftest import write_jsonl

SEED = 110
SCRIPT = Path(__file__).parents[3] / "experiments" / "training_logs.py"


@pytest.fixture(scope="module")
def lab():
    """The module of the script."""
    spec = importlib.util.spec_from_file_location("training_logs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(lab, tmp_path_factory):
    """Folder of a base that knows facts of the same form."""
    folder = tmp_path_factory.mktemp("base")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    lab.make_base(folder, SEED)
    logging.disable(logging.NOTSET)
    return folder


@pytest.fixture
def rows(lab):
    return lab.make_rows(lab.ROWS, SEED)


@pytest.fixture
def train(lab, base, rows, tmp_path):
    """Trains a variant; returns its folder."""

    def run(name):
        out = tmp_path / name
        lab.train(base, rows, lab.VARIANTS[name], out, SEED)
        return out

    return run


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "bf16",
        "lora_r2",
        "one_epoch",
        "keep_end",
        "accumulation_8",
        "label_smoothing",
        "rate_1000_times",
        "adapter_rate_by_100000",
        "warmup_10_times",
        "clipped",
        "frozen",
        "tiny_alpha",
        "fp16_overflow",
    ],
)
def test_a_training_has_the_fault_that_was_planted_and_no_other(lab, base, rows, train, name):
    planted = lab.VARIANTS[name].fault
    found = lab.Result(lab.read_facts(base, rows, train(name)))
    assert found.kinds == ([planted] if planted else [])


@pytest.mark.slow
def test_a_folder_with_the_trainers_state_is_told_why_it_stood_still(
    base, rows, train, tmp_path, store
):
    folder = train("rate_by_100000")
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    diagnose = ["diagnose", "--checkpoint", f"base={base}", "--data", data]
    code, out, err = ilp(*diagnose, "--checkpoint", f"sft={folder}")
    assert code == 0, err
    said = " ".join(out.split())
    assert "Stage 'sft': training moved its rows by" in said
    assert "its learning rate was 3e-08 at most (48 unlearned samples)" in said
    assert "failed_optimization: 48 of 48 unlearned samples" in said
    assert "train longer" not in said

    # without the state nobody knows, and nobody guesses
    bare = shutil.copytree(folder, tmp_path / "bare" / "model")
    (bare / "trainer_state.json").unlink()
    found = document(*diagnose, "--checkpoint", f"sft={bare}")
    assert "rate_too_low" not in json.dumps(found)
