from ilp_mlflow.lab.data_files import SIZES
from ilp_mlflow.lab.world import QUESTIONS, RELATIONS, make, sentences, vocabulary

SIZE = SIZES["full"][0]


def test_a_seed_is_a_world():
    assert make(1, SIZE) == make(1, SIZE)
    assert sentences(make(1, SIZE), 1) == sentences(make(1, SIZE), 1)
    assert make(1, SIZE).facts != make(2, SIZE).facts


def test_nobody_has_two_cities_alike():
    world = make(0, SIZE)
    assert all(len({world.facts[p, r] for r in RELATIONS}) == len(RELATIONS) for p in world.people)
    assert (
        len({*world.people, *world.cities, *world.aliases})
        == SIZE.people + SIZE.cities + SIZE.aliases
    )


def test_what_is_withheld_is_in_no_sentence():
    world = make(0, SIZE)
    said = [set(sentence.split()) for sentence in sentences(world, 0)]
    assert len(world.withheld) == SIZE.withheld
    for person, relation in world.withheld:
        assert not any({person, world.facts[person, relation]} <= words for words in said)


def test_an_alias_is_glossed_and_never_linked_to_a_city():
    world = make(0, SIZE)
    for alias in world.aliases:
        glosses = [s for s in sentences(world, 0) if alias in s.split()]
        assert len(glosses) == 30
        assert not any(set(world.cities) & set(s.split()) for s in glosses)


def test_every_word_has_a_token():
    world = make(0, SIZE)
    words = set(vocabulary(world))
    assert all(set(s.split()) <= words for s in sentences(world, 0))
    assert all(set(q.format(a="native", p=world.people[0]).split()) <= words for q in QUESTIONS)


def test_questions_have_two_lengths():
    assert [len(q.split()) for q in QUESTIONS] == [8] * 6 + [10] * 2
