"""Which answers are labels."""

import random

from ilp_mlflow.diagnosis.contradictions.label_votes import find_similar
from ilp_mlflow.diagnosis.contradictions.labels import is_in_prompt, labels_by_stage
from tests.contexts import sample

TOPICS = {"card": "lost stolen found", "money": "sent gone late", "code": "wrong old new"}


def labels(rows):
    return labels_by_stage(rows, find_similar(rows, rows, 64))


def classified(n=90, stage="first"):
    rng = random.Random(0)
    rows = []
    for i in range(n):
        topic = rng.choice(list(TOPICS))
        prompt = f"my {topic} is {rng.choice(TOPICS[topic].split())} {i}"
        rows.append(sample(f"{stage} {i}", prompt, f" about {topic}", stage=stage))
    return rows


def test_answers_that_similar_prompts_share_are_labels():
    assert labels(classified()) == {"first": {f"about{topic}" for topic in TOPICS}}


def test_yes_and_no_are_none_where_similar_prompts_say_either():
    rng = random.Random(1)
    rows = [s.model_copy(update={"completion": rng.choice((" yes", " no"))}) for s in classified()]
    assert labels(rows) == {"first": set()}


def test_answers_of_their_own_are_none():
    rows = [s.model_copy(update={"completion": f" {s.id}"}) for s in classified()]
    assert labels(rows) == {"first": set()}


def test_what_is_taken_from_the_prompt_is_none_unless_all_prompts_list_it():
    taken = [s.model_copy(update={"completion": f" {s.prompt.split()[1]}"}) for s in classified()]
    assert labels(taken) == {"first": set()}
    options = "Choose card, money or code: "
    listed = [s.model_copy(update={"prompt": options + s.prompt}) for s in taken]
    assert labels(listed) == {"first": set(TOPICS)}
    assert is_in_prompt(" Card.", taken[0]) is ("card" in taken[0].prompt)


def test_each_stage_has_its_own():
    other = [s.model_copy(update={"completion": f" {s.id}"}) for s in classified(stage="second")]
    assert labels([*classified(), *other])["second"] == set()
    assert labels([*classified(), *other])["first"]
