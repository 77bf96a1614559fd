"""The facts that come with the package."""

import random

from ilp_mlflow.lab.real.facts import facts, invented_subjects, kinds
from ilp_mlflow.lab.real.rows import HELD_WAY


def test_there_are_facts_enough_of_kinds_enough():
    assert len(facts()) >= 400
    assert len(kinds()) >= 8


def test_every_kind_has_wordings_of_its_own_that_ask_for_the_subject():
    seen = set()
    for kind in kinds().values():
        assert len(kind.wordings) == HELD_WAY + 1
        assert not seen & set(kind.wordings)
        seen.update(kind.wordings)
        for fact in (f for f in facts() if f.kind == kind):
            assert all(fact.subject in question for question in fact.wordings)
            assert fact.question(2) == fact.wordings[2]
            assert fact.answer
            assert fact.answer == fact.answer.strip()


def test_invented_subjects_are_new_and_the_same_for_a_seed():
    known = {fact.subject.lower() for fact in facts()}
    for name, kind in kinds().items():
        taken = {"batum"}
        found = invented_subjects(kind, 50, random.Random(1), taken)
        assert len(set(found)) == 50
        assert not {subject.lower() for subject in found} & known, name
        assert found == invented_subjects(kind, 50, random.Random(1), {"batum"})
