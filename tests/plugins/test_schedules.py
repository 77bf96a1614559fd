"""The schedules of mitigations, played through without a model: what they must never do, whatever the results."""

import itertools
import math
import random
from collections import Counter

import pytest
from ilp_mitigations.conflict_bucketing import Bucketed
from ilp_mitigations.dynamic_resampling import Resampled
from ilp_mitigations.progressive_epochs import UntilRise

from ilp_mlflow.plugin import History, Round, SampleResult

SUBSETS = {f"a{n}": "a" for n in range(7)} | {f"b{n}": "b" for n in range(40)}


def play(
    schedule,
    results,
    steps,
    batch_size=4,
    accumulation=1,
    subsets=SUBSETS,
    validation=(),
    seed=0,
    keep=lambda done: None,
):
    """The rounds that a schedule plans until `steps` are used up or it stops; `results(round)` says how samples do by then."""
    rounds, left = [], steps
    while left > 0:
        number = len(rounds)
        measured = {}

        def measure(ids, number=number, measured=measured):
            answer = {i: results(number)[i] for i in ids}
            measured.update(answer)
            return answer

        history = History(
            [i for i in subsets if i not in validation],
            subsets,
            batch_size,
            seed,
            tuple(rounds),
            left,
            accumulation,
        )
        more = {
            "measure": measure,
            "validation": list(validation),
            "keep": lambda: keep(tuple(rounds)),
        }
        batches = schedule.next_round(History(**{**history.__dict__, **more}))
        if batches is None:
            break
        assert batches
        assert len(batches) % accumulation == 0
        assert all(0 < len(b) <= batch_size for b in batches)
        batches = batches[: left * accumulation]
        rounds.append(Round(batches, {}, measured))
        left -= len(batches) // accumulation
    return rounds


def visits(rounds):
    return Counter(i for r in rounds for b in r.batches for i in b)


def accuracies(**by_subset):
    return {i: SampleResult(1.0, by_subset[s]) for i, s in SUBSETS.items()}


def resampled(**options):
    return Resampled(
        **{
            "visits": {"a": 4, "b": 1},
            "every": 3,
            "drop": 0.05,
            "factor": 2,
            "looked_at": 5,
            **options,
        }
    )


def test_without_a_drop_every_sample_is_seen_as_often_as_its_subset_is_to_be():
    rounds = play(resampled(), lambda n: accuracies(a=0.5, b=0.1), steps=17)
    seen = visits(rounds)
    assert all(3 <= seen[f"a{n}"] <= 5 for n in range(7))
    assert all(1 <= seen[f"b{n}"] <= 2 for n in range(40))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_subset_that_falls_is_drawn_more_often_until_it_is_back_and_no_sample_is_lost(
    accumulation,
):
    def results(n):
        return accuracies(a=0.9 if n in (0, 1, 4, 5) else 0.8, b=0.5)

    rounds = play(resampled(), results, steps=18 // accumulation, accumulation=accumulation)
    share = [
        sum(i.startswith("a") for b in r.batches for i in b) / sum(map(len, r.batches))
        for r in rounds
    ]
    if accumulation == 1:
        assert max(share[0], share[1]) < min(share[2], share[3])
        assert share[4] < share[3]
    assert set(visits(rounds)) == set(SUBSETS)


def test_a_fall_within_the_threshold_and_a_rise_change_nothing():
    steady = play(resampled(), lambda n: accuracies(a=0.9, b=0.5), steps=17)
    wavering = play(
        resampled(), lambda n: accuracies(a=0.9 - 0.04 * (n % 2), b=0.5 + 0.02 * n), steps=17
    )
    assert [r.batches for r in steady] == [r.batches for r in wavering]


@pytest.mark.parametrize("seed", range(5))
def test_no_sample_is_lost_however_the_others_fall(seed):
    rng = random.Random(seed)
    drawn = [accuracies(a=rng.random(), b=rng.random()) for _ in range(40)]
    rounds = play(
        resampled(factor=50, visits={"a": 1, "b": 1}), lambda n: drawn[n], steps=12, seed=seed
    )
    assert set(visits(rounds)) == set(SUBSETS)


def apart(rivals, rounds, batch_size, accumulation):
    pairs = {
        frozenset((sample_id, other)) for sample_id, others in rivals.items() for other in others
    }
    for r in rounds:
        for k in range(0, len(r.batches), accumulation):
            step = [i for b in r.batches[k : k + accumulation] for i in b]
            for pair in itertools.combinations(step, 2):
                if frozenset(pair) in pairs:
                    return False
    return True


def wrong(ids=()):
    return {i: SampleResult(1.0, 0.5 if i in ids or not ids else 1.0) for i in SUBSETS}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_rivals_are_never_in_one_step_and_no_sample_is_lost(seed, every, accumulation):
    rng = random.Random(seed)
    ids = list(SUBSETS)
    rivals = {
        sample_id: tuple(rng.sample([i for i in ids if i != sample_id], rng.randint(1, 12)))
        for sample_id in rng.sample(ids, 8)
    }
    schedule = Bucketed(rivals=rivals, every=every)
    steps = 3 * -(-len(ids) // (4 * accumulation)) + 3
    rounds = play(schedule, lambda n: wrong(), steps, accumulation=accumulation, seed=seed)
    assert apart(rivals, rounds, 4, accumulation)
    seen = visits(rounds)
    assert set(seen) == set(ids)
    assert max(seen.values()) - min(seen.values()) <= 2


def test_even_where_all_are_rivals_no_step_holds_two():
    ids = list(SUBSETS)[:6]
    rivals = {sample_id: tuple(i for i in ids if i != sample_id) for sample_id in ids}
    subsets = dict.fromkeys(ids, "a")
    rounds = play(Bucketed(rivals=rivals), lambda n: wrong(), 6, subsets=subsets)
    assert apart(rivals, rounds, 4, 1)
    assert set(visits(rounds)) == set(ids)


def test_rivals_that_are_both_reproduced_are_none_any_more():
    rivals = {"a0": tuple(i for i in SUBSETS if i != "a0")}
    never_reproduced = play(Bucketed(rivals=rivals, every=4), lambda n: wrong(), 60)
    let_go = play(Bucketed(rivals=rivals, every=4), lambda n: wrong(("b39",)) if n else wrong(), 60)
    assert apart(rivals, never_reproduced, 4, 1)
    assert apart(rivals, let_go[:1], 4, 1)
    assert not apart(rivals, let_go, 4, 1)
    assert apart({"a0": ("b39",)}, let_go, 4, 1)  # one of these is still not


VALIDATION = ("b38", "b39")


@pytest.mark.parametrize(
    ("losses", "passes", "best"),
    [
        ((3.0, 2.0, 1.0, 1.0, 1.0, 1.0), 5, 2),
        ((3.0, 2.0, 1.0, 1.005, 1.02, 9.0), 4, 2),
        ((3.0, 2.0, 1.0, 0.9, 0.8, 0.7), 5, 5),
        ((1.0, 5.0, 5.0, 5.0, 5.0, 5.0), 1, 0),
        ((3.0, 2.0, math.nan, 1.0, 1.0, 1.0), 2, 1),
    ],
)
def test_passes_go_on_until_the_validation_loss_rises_and_the_best_is_kept(losses, passes, best):
    schedule, keeps = UntilRise(most=5, delta=0.01), []
    per_pass = -(-(len(SUBSETS) - 2) // 4)
    rounds = play(
        schedule,
        lambda n: {i: SampleResult(losses[n], 1.0) for i in SUBSETS},
        9 * per_pass,
        validation=VALIDATION,
        keep=lambda done: keeps.append(len(done)),
    )
    assert (len(rounds), keeps[-1]) == (passes, best)
    seen = visits(rounds)
    assert set(seen.values()) == {passes}
    assert not set(seen) & set(VALIDATION)


@pytest.mark.parametrize(
    "schedule",
    [resampled(), Bucketed(rivals={"a0": ("b1",)}, every=3), UntilRise(most=3, delta=0.1)],
)
def test_the_same_history_gives_the_same_round(schedule):
    first, second = (
        play(schedule, lambda n: accuracies(a=0.5, b=0.5), 12, validation=VALIDATION)
        for _ in range(2)
    )
    assert [r.batches for r in first] == [r.batches for r in second]
    other = play(schedule, lambda n: accuracies(a=0.5, b=0.5), 12, validation=VALIDATION, seed=1)
    assert [r.batches for r in first] != [r.batches for r in other]
