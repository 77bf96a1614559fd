import pytest

from ilp_mlflow import Score
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.optimization.got_nowhere import find_optimization_faults
from tests.contexts import context, sample
from tests.diagnosis.training_logs import log

STEPS = 30
STEADY = [4.0] * STEPS
FALLEN = [4.0 * 0.9**step for step in range(STEPS)]
RATE = [1e-3] * STEPS
NORMS = [2.0] * STEPS
STEEP = log([11.0 * 0.95**step for step in range(STEPS)], RATE, NORMS)
NO_NUMBER = float("nan")
INFINITE = float("inf")


def facts(logged, after=4.0, taught=0.0, before=4.0, rows=20):
    """A stage that took its rows from one loss to another, nats per token."""
    samples = [sample(f"r{place}") for place in range(rows)]
    learned = {f"r{n}": ("unlearned", "learned") for n in range(round(taught * rows))}
    scores = []
    for row in samples:
        for name, loss in (("base", before), ("first", after)):
            scores.append(Score(sample_id=row.id, checkpoint=name, logprob=-5 * loss, tokens=5))
    known = context(samples, learned, scores, checkpoints=("base", "first"))
    return RunFacts(known, logs={"first": logged})


def kinds(*args, **options):
    return [fault.kind for fault in find_optimization_faults(facts(*args, **options))]


@pytest.mark.parametrize(
    ("kind", "logged", "after"),
    [
        ("rate_too_high", log([4, 40, 30, *[20] * 27], RATE, NORMS), 18.0),
        ("rate_too_high", log([4, 9, 12, *[5] * 27], RATE, NORMS), 2.5),
        ("rate_too_high", log(STEADY, RATE, NORMS), 5.5),
        ("warmup_too_long", log(STEADY, [n * 1e-6 for n in range(STEPS)], NORMS), 3.9),
        # slower than its noise, and far from where it could get
        (
            "warmup_too_long",
            log([4, 3] * 5 + [3.4, 2.8] * 10, [n * 1e-6 for n in range(STEPS)], NORMS),
            3.0,
        ),
        ("warmup_too_long", log(FALLEN, [n * 1e-6 for n in range(STEPS)], NORMS), 0.5),
        ("rate_too_low", log(STEADY, [1e-9] * STEPS, NORMS), 4.0),
        ("rate_too_low", log(STEADY, [0.0] * STEPS, NORMS), 4.0),
        ("zero_gradients", log(STEADY, RATE, [0.0] * STEPS), 4.0),
        ("zero_gradients", log([0.0] * STEPS, RATE, [0.0] * STEPS), 4.0),
        (
            "overflowing_gradients",
            log([0.0] * STEPS, RATE, [NO_NUMBER] * 20 + [1.0] * 10),
            4.0,
        ),
        ("overflowing_gradients", log(STEADY, RATE, [INFINITE] * 16 + [1.0] * 14), 4.0),
        (
            "gradients_clipped",
            log(STEADY, RATE, NORMS, settings={"max_grad_norm": 1e-3, "optim": "sgd"}),
            4.0,
        ),
        (
            "gradients_clipped",
            log(STEADY, RATE, NORMS, settings={"max_grad_norm": 1e-9, "optim": "adamw_torch"}),
            4.0,
        ),
        ("adapter_too_small", log(STEADY, RATE, NORMS, settings={"r": 8, "lora_alpha": 1e-6}), 4.0),
        ("adapter_too_small", log(steps=0, settings={"r": 8, "lora_alpha": 1e-6}), 4.0),
        ("stood_still", log(STEADY, RATE, NORMS), 4.0),
    ],
)
def test_a_training_that_got_nowhere_is_named_with_its_figures(kind, logged, after):
    found = facts(logged, after)
    (fault,) = find_optimization_faults(found)
    assert (fault.kind, fault.cause, fault.subject.name) == (kind, "failed_optimization", "first")
    assert fault.samples == tuple(found.context.samples)
    assert any(letter.isdigit() for letter in fault.reason)
    assert fault.change
    # where nothing moved at all, nothing is seen of single rows
    assert fault.stops == (after == 4.0)


@pytest.mark.parametrize(
    ("logged", "after"),
    [
        # clipped at every step, which Adam does not mind
        (log(FALLEN, RATE, [50.0] * STEPS, settings={"max_grad_norm": 0.1, "optim": "adamw"}), 1.0),
        # a few steps that the scaler of fp16 skips while it looks for its scale
        (log(FALLEN, RATE, [INFINITE] * 4 + [1.0] * 26), 1.0),
        # one odd batch
        (log([4.0, 30.0, *FALLEN[2:]], RATE, NORMS), 1.0),
        # a rate that rose first
        (log(FALLEN, [min(n, 10) * 1e-4 for n in range(STEPS)], NORMS), 1.0),
        # a rate still rising behind a loss that has settled: there was enough of it
        (log([4.0] * 3 + [1.0] * 27, [n * 1e-4 for n in range(STEPS)], NORMS), 1.0),
        # nothing logged
        (log(), 4.0),
        # a small adapter scale, and it learned all the same
        (log(FALLEN, RATE, NORMS, settings={"r": 256, "lora_alpha": 1}), 1.0),
        # rows that are worse while the log says otherwise: not the training, but its weights
        (log(FALLEN, RATE, NORMS), 9.0),
        # nothing of what was learned is in the weights: the same
        (log(FALLEN, [1e-9] * STEPS, NORMS), 4.0),
        # one zero gradient is none of all
        (log(FALLEN, RATE, [0.0, *NORMS[1:]]), 1.0),
    ],
)
def test_what_only_looks_like_a_failed_training_is_none(logged, after):
    assert kinds(logged, after) == []


def test_a_jump_before_the_first_entry_is_seen_where_it_cannot_be_the_prompt():
    late = {"entries": tuple(e.model_copy(update={"step": e.step * 10}) for e in STEEP.entries)}
    assert kinds(STEEP.model_copy(update=late), 3.0, before=2.0) == ["rate_too_high"]
    # nor is it missed behind the first entry
    jump = log([4, 4, 9, 12, *[5] * 26], RATE, NORMS)
    later = {"entries": tuple(e.model_copy(update={"step": e.step * 10}) for e in jump.entries)}
    assert kinds(jump.model_copy(update=later), 3.0) == ["rate_too_high"]
    # four nats per token may be those of prompts in the loss
    low = log([4.0 * 0.97**step for step in range(STEPS)], RATE, NORMS)
    late = {"entries": tuple(e.model_copy(update={"step": e.step * 10}) for e in low.entries)}
    assert kinds(low.model_copy(update=late), 1.9, before=2.0) == []


def later(logged, times=10):
    """The same, logged every so many steps: not at the first one."""
    entries = tuple(e.model_copy(update={"step": e.step * times}) for e in logged.entries)
    return logged.model_copy(update={"entries": entries, "steps": logged.steps * times})


HUMP = [4.4, 4.2, 3.8, *[2.0 + 0.5 * 0.9**step for step in range(STEPS - 3)]]
LORA_RATE = [1e-3] * STEPS


@pytest.mark.parametrize(
    ("losses", "after", "rates", "settings", "expected"),
    [
        # the log ends with the loss that the answers have, so its beginning is of answers, too
        (HUMP, 2.0, RATE, {}, ["rate_too_high"]),
        (HUMP, 2.0, [1e-2] * STEPS, {"r": 8, "lora_alpha": 8}, ["rate_too_high"]),
        # it ends with another: prompts are in it, and theirs may be as high
        (HUMP, 1.75, RATE, {}, []),
        (HUMP, 2.4, RATE, {}, []),
        # it ends there by chance: the answers are much better, or the rate is a usual one
        ([*HUMP[:3], *[1.2] * 27], 1.2, RATE, {}, []),
        (HUMP, 2.0, [1e-4] * STEPS, {}, []),
        (HUMP, 2.0, LORA_RATE, {"r": 8, "lora_alpha": 8}, []),
        (HUMP, 2.0, RATE, {"optim": "sgd"}, []),
        # it begins with the loss that they had
        ([2.5, 2.6, 2.4, *HUMP[3:]], 2.0, RATE, {}, []),
        # one odd batch
        ([2.5, 4.4, 2.4, *HUMP[3:]], 2.0, RATE, {}, []),
    ],
)
def test_a_rise_before_the_first_entry_shows_where_the_log_is_of_answers(
    losses, after, rates, settings, expected
):
    logged = later(log(losses, rates, NORMS, per_epoch=6, settings=settings))
    assert kinds(logged, after, before=2.47) == expected


def test_a_first_entry_of_easy_rows_makes_no_jump_of_what_the_rows_lost_before():
    losses = [1.8, 2.2, 2.4, 2.6, 3.5, 3.4, 3.3, *[2.3] * 23]
    assert kinds(later(log(losses, RATE, NORMS)), 2.3, before=2.4) == []


@pytest.mark.parametrize("norms", [[0.0], [0.0, 0.0], [0.0] * STEPS])
def test_zero_gradients_are_told_from_few_entries_where_nothing_moved(norms):
    logged = log([4.0] * len(norms), [1e-3] * len(norms), norms)
    assert kinds(logged, 4.0) == ["zero_gradients"]
    # rows that moved say that there were others
    assert kinds(logged, 3.0) == (["zero_gradients"] if len(norms) > 2 else [])


def test_a_stage_that_taught_half_of_its_rows_did_not_fail():
    assert kinds(log(STEADY, [1e-9] * STEPS, NORMS), taught=0.5) == []


def test_a_stage_without_a_log_is_not_known_to_have_failed():
    assert find_optimization_faults(RunFacts(facts(log()).context)) == []


def test_rows_that_the_stage_had_taught_are_not_spoken_for():
    known = facts(log(STEADY, [1e-9] * STEPS, NORMS), taught=0.25)
    (fault,) = find_optimization_faults(known)
    assert len(fault.samples) == 15


def test_a_warmup_that_was_stopped_early_says_how_many_steps_were_planned():
    rising = [n * 1e-6 for n in range(STEPS)]
    settings = {"max_steps": 300, "warmup_steps": 100}
    (fault,) = find_optimization_faults(facts(log(STEADY, rising, NORMS, settings=settings), 3.9))
    assert "warmup_steps 100" in fault.reason
    assert "300 steps were planned" in fault.reason


HIGH = [3e-2] * STEPS
SETTLED = [8.0, 6.0, 4.0, 3.5, 3.2, *[3.0, 3.1] * 12, 3.0]
LORA = {"r": 8, "lora_alpha": 16}


@pytest.mark.parametrize(
    ("rates", "losses", "settings", "expected"),
    [
        (HIGH, SETTLED, LORA, ["rate_too_high"]),
        # in a few steps no loss settles
        (HIGH[:10], SETTLED[:6] + [3.1] * 4, LORA, []),
        # a usual rate: what holds this training back is not its rate
        (RATE, SETTLED, LORA, []),
        # it still falls
        (HIGH, [8.0 * 0.96**step for step in range(STEPS)], LORA, []),
        # virtual tokens, which have no rank, are trained at such rates, and so are weights with SGD
        (HIGH, SETTLED, {}, []),
        (HIGH, SETTLED, {**LORA, "optim": "sgd"}, []),
    ],
)
def test_a_loss_that_settles_high_at_a_rate_far_above_the_usual(rates, losses, settings, expected):
    logged = log(losses, rates, NORMS, settings=settings)
    assert kinds(logged, after=3.0, before=8.0) == expected
