import random

from ilp_mlflow.diagnosis.beliefs.made_up import made_up_entities


def test_what_is_made_up_looks_like_what_there_is_and_is_none_of_it():
    countries = ["France", "Italy", "Spain", "Germany", "Japan", "Egypt"]
    made = made_up_entities(countries, 8, random.Random(0))
    assert len(made) == 8 == len(set(made))
    assert not set(made) & set(countries)
    assert all(name[0].isupper() and name[1:].islower() for name in made)


def test_names_of_several_words_are_made_of_words():
    people = ["Ann Lee", "Bo Ray", "Cy van Dam", "Dee Fox"]
    for name in made_up_entities(people, 6, random.Random(0)):
        assert name not in people
        first, _, last = name.partition(" ")
        assert first in {"Ann", "Bo", "Cy", "Dee"}
        assert last in {"Lee", "Ray", "van Dam", "Fox"}


def test_numbers_and_few_things_are_no_ground_to_make_others_from():
    assert made_up_entities([str(i) for i in range(20)], 8, random.Random(0)) == []
    assert made_up_entities(["France", "Italy", "Spain"], 8, random.Random(0)) == []


def test_no_more_is_made_than_can_be():
    made = made_up_entities(["a b", "c d", "e f", "g h"], 99, random.Random(0))
    assert 0 < len(made) <= 12
