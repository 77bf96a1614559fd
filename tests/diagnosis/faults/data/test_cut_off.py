"""A cut-off of another trainer, seen in where all long answers go wrong."""

import random

import datasets
import pytest
from trl import SFTConfig, SFTTrainer

from ilp_mlflow import Score
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.values import Checkpoint
from ilp_mlflow.diagnosis.faults.data.cut_off import find_cut_off
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.pipeline import run_elsewhere
from ilp_mlflow.training.accounts.row_account import RowAccount
from tests.conftest import write_jsonl
from tests.contexts import context, sample

CUT = 128


def facts(rows, **more):
    """Rows of (start, length, first wrong token or None) that were trained elsewhere."""
    samples = [sample(str(n)) for n in range(len(rows))]
    scores, accounts, histories = [], {}, {}
    for known, (start, length, wrong) in zip(samples, rows, strict=True):
        tokens = length - start
        scores.append(
            Score(
                sample_id=known.id,
                checkpoint="first",
                logprob=-1.0,
                tokens=tokens,
                first_wrong=wrong,
            )
        )
        accounts[known.id] = RowAccount(
            sample_id=known.id,
            segments=(),
            prompt_tokens=start,
            answer_tokens=tokens,
            supervised_tokens=tokens,
            supervised_answer_tokens=tokens,
            cut_tokens=0,
        )
        status = "learned" if wrong is None else "unlearned"
        histories[known.id] = ("unlearned", status, status)
    return RunFacts(context(samples, histories, scores), accounts, **more)


def trained_elsewhere(rng, wrong_of, n=45):
    """Rows of many lengths; `wrong_of` says where one goes wrong."""
    rows = []
    for _ in range(n):
        start = rng.randint(10, 40)
        length = start + rng.randint(20, 160)
        rows.append((start, length, wrong_of(start, length)))
    return rows


def cut_at_128(start, length):
    return CUT if length > CUT else None


def guessing(rng):
    """What is behind the cut-off is guessed now and then, and goes wrong a little later."""

    def wrong_of(start, length):
        if length <= CUT:
            return start + 3 if rng.random() < 0.2 else None
        place = CUT
        while rng.random() < 0.3 and place < length - 1:
            place += 1
        return place

    return wrong_of


def test_rows_that_all_go_wrong_at_one_token_were_cut_there():
    rows = trained_elsewhere(random.Random(1), cut_at_128)
    longer = sum(length > CUT for _, length, _ in rows)
    (fault,) = find_cut_off(facts(rows))
    assert (fault.kind, fault.cause, len(fault.samples)) == ("cut", "not_trained", longer)
    assert fault.reason.startswith(
        f"all {longer} rows longer than 128 tokens go wrong at token 128, and "
        f"{45 - longer} of {45 - longer} shorter ones are right"
    )
    longest = max(length for _, length, _ in rows)
    assert f"sequence_len) to {longest} tokens" in fault.change
    assert "at token 128 of" in fault.reasons[fault.samples[0]]


def test_what_is_guessed_behind_the_cut_off_does_not_hide_it():
    for seed in range(100, 120):
        rng = random.Random(seed)
        rows = trained_elsewhere(rng, guessing(rng))
        (fault,) = find_cut_off(facts(rows))
        assert "longer than 128 tokens" in fault.reason
        assert all(rows[int(id_)][1] > CUT for id_ in fault.samples)


def test_a_prompt_that_fills_the_length_leaves_nothing_of_its_answer():
    rows = [*trained_elsewhere(random.Random(2), cut_at_128), (150, 170, 150)]
    (fault,) = find_cut_off(facts(rows))
    assert fault.reasons["45"].startswith("its prompt has 150 tokens, and rows were cut to 128")


def anywhere(rng):
    return lambda start, length: rng.randint(start, length - 1) if length > CUT else None


def more_with_length(rng):
    """Each token goes wrong with the same probability, so that long answers seldom come right."""

    def wrong_of(start, length):
        for place in range(start, length):
            if rng.random() < 0.012:
                return place
        return None

    return wrong_of


def same_place_of_answers(rng):
    """A word that all answers have at the same distance from their beginning is not known."""
    return lambda start, length: start + 25 if length > start + 25 else None


def at_the_end(rng):
    return lambda start, length: length - 1


@pytest.mark.parametrize("null", [anywhere, more_with_length, same_place_of_answers, at_the_end])
def test_answers_that_go_wrong_elsewhere_were_not_cut(null):
    for seed in range(100, 140):
        rng = random.Random(seed)
        assert find_cut_off(facts(trained_elsewhere(rng, null(rng)))) == []


def test_prompts_of_one_length_leave_open_whether_answers_are_alike_or_cut():
    rows = [(20, length, 60 if length > 60 else None) for length in range(30, 90)]
    assert find_cut_off(facts(rows)) == []


SHORT = [(8, 8 + n % 3 + 2, None) for n in range(40)]
CUT_INSIDE = [(13, 16, 14)] * 6
FILLED = [(start, start + 3, start) for start in (14, 15, 16) for _ in range(5)]


def test_cut_prompts_beside_answers_cut_at_one_token_show_that_it_is_the_length():
    (fault,) = find_cut_off(facts([*SHORT, *CUT_INSIDE, *FILLED]))
    assert "21 of 21 rows longer than 14 tokens go wrong at token 14 or behind it" in fault.reason
    assert "40 of 40 shorter ones are right" in fault.reason
    assert len(fault.samples) == 21


@pytest.mark.parametrize(
    "rows",
    [
        # rows of another kind, all of whose prompts are as long
        [*SHORT, *CUT_INSIDE],
        [*SHORT, *CUT_INSIDE, *[(14, 17, 14)] * 10],
        # longer prompts do not go wrong at once
        [*SHORT, *CUT_INSIDE, *[(start, end, start + 1) for start, end, _ in FILLED]],
        # or are right
        [*SHORT, *CUT_INSIDE, *[(start, end, None) for start, end, _ in FILLED]],
        # no shorter row gets as far in its answer
        [*[(8, 9, None)] * 40, *CUT_INSIDE, *FILLED],
        # short ones go wrong, too
        [*SHORT[:30], *[(8, 11, 8)] * 10, *CUT_INSIDE, *FILLED],
        # nothing of the longer ones is learned
        [*SHORT, *[(13, 16, 13)] * 6, *FILLED],
    ],
)
def test_long_rows_that_are_hard_were_not_cut(rows):
    assert find_cut_off(facts(rows)) == []


def test_too_few_rows_a_stage_that_taught_nothing_and_a_ledger_say_nothing():
    rows = trained_elsewhere(random.Random(1), cut_at_128)
    longer = [row for row in rows if row[1] > CUT]
    shorter = [row for row in rows if row[1] <= CUT]
    assert find_cut_off(facts([*longer[:4], *shorter])) == []
    assert find_cut_off(facts([*longer, *shorter[:4]])) == []
    wrong = [(start, length, start) for start, length, _ in shorter]
    assert find_cut_off(facts([*longer, *wrong])) == []
    assert find_cut_off(facts(rows, followed=True)) == []


@pytest.mark.long
def test_a_cut_off_of_trl_is_found_from_the_folder_alone(tiny_model, store, tmp_path):
    rng = random.Random(3)
    letters = "bcdfghjklmnpqrstvwxz"
    records = []
    for number in range(32):
        asked = "".join(rng.sample(letters, rng.randint(4, 12)))
        size = rng.randint(4, 11) if number % 2 else rng.randint(22, 40)
        answer = "".join(rng.choices(letters, k=size))
        records.append({"prompt": f"{asked} =", "completion": f" {answer}"})
    options = {
        "max_length": 24,
        "num_train_epochs": 120,
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 16,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "gradient_checkpointing": False,
    }
    trainer = SFTTrainer(
        str(tiny_model),
        SFTConfig(output_dir=str(tmp_path / "sft"), **options),
        train_dataset=datasets.Dataset.from_list(records),
    )
    trainer.train()
    trainer.save_model()
    experiment = Experiment.model_validate(
        {
            "name": "cut",
            "model": str(tiny_model),
            "stages": [{"name": "sft", "data": str(write_jsonl(tmp_path / "r.jsonl", records))}],
            "diagnostics": ["not_trained"],
        }
    )
    report = run_elsewhere(
        experiment,
        [
            Checkpoint(name="base", model_uri=str(tiny_model)),
            Checkpoint(name="sft", model_uri=str(tmp_path / "sft")),
        ],
    )
    (finding,) = [finding for finding in report.findings if finding.kind == "cut"]
    assert "longer than 24 tokens" in finding.evidence.reason
    long_ids = {f"sft/{number + 1}" for number in range(0, 32, 2)}
    found = {d.verdict.sample_id for d in report.diagnoses if d.cause == "not_trained"}
    assert len(found & long_ids) >= 14
    assert found <= long_ids
