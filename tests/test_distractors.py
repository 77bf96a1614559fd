from ilp_mlflow.distractors import distractors
from ilp_mlflow.types import Sample


def samples(**changes):
    found = [Sample(id=f"{i}", stage="s", prompt=f"p{i}", completion=f" answer {i}") for i in range(6)]
    return [*found, *(Sample(id=k, stage="s", prompt=p, completion=c) for k, (p, c) in changes.items())]


def test_options_are_other_answers_and_do_not_depend_on_order():
    chosen = distractors(samples(), 3, seed=0)
    assert chosen == distractors(samples()[::-1], 3, seed=0)
    assert all(len(set(v)) == 3 and f" answer {k}" not in v for k, v in chosen.items())
    assert chosen != distractors(samples(), 3, seed=1)


def test_an_answer_to_the_same_prompt_is_no_option():
    found = distractors(samples(x=("same", " yes"), y=("same", " Yes ")), 10, seed=0)
    assert not {" yes", " Yes "} & set(found["x"])
    assert len(found["x"]) == 6


def test_given_options_are_kept_but_for_the_answer_itself():
    given = Sample(id="g", stage="s", prompt="q", completion=" B. Trigeminal nerve", options=("Facial nerve", "trigeminal nerve"))
    assert distractors([*samples(), given], 3, seed=0)["g"] == ("Facial nerve",)


def test_a_stage_with_one_answer_has_no_options():
    assert distractors([Sample(id="a", stage="s", prompt="p", completion="c")], 3, seed=0) == {"a": ()}
