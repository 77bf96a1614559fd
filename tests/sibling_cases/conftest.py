"""Tiny models that are shared, since each is trained once, and the commands that read them."""

import mlflow
import pytest
from peft import LoraConfig

from tests.cli.commands import document, ilp
from tests.conftest import write_jsonl
from tests.sibling_cases import tiny_training as tiny

ONE = tiny.facts(12, seed=0)
"""Rows that the adapter and the full model are taught."""
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="session")
def town_base(tmp_path_factory):
    """Folder of a model that knows other towns than those of ONE, and has no chat template."""
    folder = tmp_path_factory.mktemp("towns") / "base"
    tokenizer = tiny.make_tokenizer(template=None, special=("<|endoftext|>",), end="<|endoftext|>")
    model = tiny.make_model(tokenizer, folder)
    known = tiny.facts(24, seed=3) + tiny.facts(24, seed=4)
    tiny.teach(model, tiny.text_examples(tokenizer, known), steps=200)
    return tiny.save(model, folder, tokenizer)


@pytest.fixture(scope="session")
def town_model(town_base):
    """Folder of the same model, all of whose weights were taught ONE."""
    tokenizer = tiny.load_tokenizer(town_base)
    model = tiny.teach(tiny.load(town_base), tiny.text_examples(tokenizer, ONE))
    return tiny.save(model, town_base.parent / "full", tokenizer)


@pytest.fixture(scope="session")
def town_adapter(town_base):
    """Folder of an adapter on that base that was taught ONE."""
    examples = tiny.text_examples(tiny.load_tokenizer(town_base), ONE)
    model = tiny.with_adapter(tiny.load(town_base), LoraConfig(**LORA))
    tiny.teach(model, examples, rate=1e-2)
    assert tiny.reproduced(model, examples) == len(ONE)
    return tiny.save(model, town_base.parent / "adapter")


@pytest.fixture
def diagnosed(store, tmp_path):
    """Diagnoses rows under models, by name and the base first: how many samples are what.

    Returns the document that `ilp diagnose --json` prints.
    """

    def diagnose(rows, *options, **models):
        data = write_jsonl(tmp_path / "rows.jsonl", rows)
        return document("diagnose", *_checkpoints(models), f"--data={data}", *options)

    return diagnose


@pytest.fixture
def refused(store, tmp_path):
    """Diagnoses rows under models, which is refused: the one line that says why."""

    def diagnose(rows, *options, **models):
        data = write_jsonl(tmp_path / "rows.jsonl", rows)
        code, out, err = ilp("diagnose", *_checkpoints(models), f"--data={data}", *options)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert mlflow.search_runs(search_all_experiments=True).empty
        return err

    return diagnose


def _checkpoints(models):
    return [f"--checkpoint={name}={place}" for name, place in models.items()]
