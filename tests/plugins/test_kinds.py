"""Which sources can be given, how one that does not fit is named, and what is left out of what they have."""

import pytest
from ilp_mitigations.augment_rare import AugmentRare
from ilp_mitigations.knowledge_augmentation import KnowledgeAugmentation
from ilp_mitigations.sources import kinds
from pydantic import ValidationError

from ilp_mlflow import PluginError
from ilp_mlflow.core.plugin_loader import configure
from ilp_mlflow.plugin import Request
from tests.contexts import context, sample
from tests.plugins.test_plans import diagnosed


class Own:
    """A third party's source."""

    def __init__(self, *texts, rows=()):
        self.texts, self.rows, self.wanted = texts, rows, None

    def documents(self, samples, n):
        return [list(self.texts) for _ in samples]

    def samples(self, words, given, stage, n):
        self.wanted = n
        return {word: list(self.rows) for word in words}


@pytest.mark.parametrize(
    ("plugin", "options", "kind"),
    [
        ("knowledge_augmentation", {"path": "c.jsonl", "field": "body"}, "Corpus"),
        ("belief_correction", {"wikipedia": "pt-br", "articles": 2}, "Wikipedia"),
        ("knowledge_augmentation", {"model": "gateway:/writer"}, "Writer"),
        ("augment_rare", {"path": "c.jsonl"}, "Pool"),
        ("augment_rare", {"model": "openai:/m"}, "Writer"),
    ],
)
def test_a_source_is_told_by_the_key_that_only_it_has(plugin, options, kind):
    source = configure("mitigation", {plugin: {"source": options}})[plugin].source
    assert type(source).__name__ == kind
    assert source.model_dump(exclude_unset=True) == options


@pytest.mark.parametrize(
    ("plugin", "options", "expected"),
    [
        (
            "knowledge_augmentation",
            {"pth": "c"},
            r"source: expected {path: .*}, {wikipedia: en} or {model: .*}$",
        ),
        ("knowledge_augmentation", "c.jsonl", r"source: expected {path: .*got 'c.jsonl'"),
        (
            "knowledge_augmentation",
            {"path": "c", "feild": "x"},
            r"source\.Corpus\.feild: unknown key; did you mean 'field'",
        ),
        (
            "knowledge_augmentation",
            {"model": "m", "path": "c"},
            r"source\.Corpus\.model: unknown key; known are: field, path",
        ),
        (
            "knowledge_augmentation",
            {"wikipedia": "en", "time": 3},
            r"source\.Wikipedia\.time: .*did you mean 'timeout'",
        ),
        (
            "knowledge_augmentation",
            {"wikipedia": "en", "timeout": 0},
            r"source\.Wikipedia\.timeout: .*greater than 0 \(got 0\)",
        ),
        (
            "knowledge_augmentation",
            {"wikipedia": "en.evil/x"},
            r"source\.Wikipedia\.wikipedia: .*got 'en\.evil/x'",
        ),
        ("augment_rare", {"wikipedia": "en"}, r"source: expected {path: .*} or {model: .*}$"),
        ("augment_rare", {"model": 3}, r"source\.Writer\.model: .*string \(got 3\)"),
    ],
)
def test_a_source_that_does_not_fit_is_named_in_one_line(plugin, options, expected):
    with pytest.raises(PluginError, match=expected) as raised:
        configure("mitigation", {plugin: {"source": options}})
    assert str(raised.value).startswith(f"mitigation '{plugin}': ")
    assert "\n" not in str(raised.value)


def test_from_python_anything_with_the_method_is_a_source():
    diagnoses = [diagnosed("a", "missing_knowledge")]
    whole = context([sample("a", prompt="where is anna ?", completion=" oslo")])
    plan = KnowledgeAugmentation(source=Own("anna is in oslo")).plan(diagnoses, whole)
    assert [s.completion for s in plan.stages[0].samples] == ["anna is in oslo"]
    lacking = KnowledgeAugmentation(source=Own()).plan(diagnoses, whole)
    assert isinstance(lacking, Request)
    assert "Own object" in lacking.reason
    for kind in (KnowledgeAugmentation, AugmentRare):
        with pytest.raises(ValidationError, match=r"expected {path"):
            kind(source=object())


def test_no_text_of_any_source_is_one_of_the_samples_own():
    asked = [
        sample("a", prompt="Where is Anna ?", completion=" Oslo"),
        sample("b", prompt="Where is Bob ?", completion=" Rome"),
    ]
    texts = (
        "where is  bob ?\nrome",
        "Anna is in Oslo.",
        "It says: where is anna ? oslo.",
        "Bob is in Rome.",
        "Rome has Bob.",
    )
    assert kinds.find_texts(Own(*texts), asked, 2) == [["Anna is in Oslo.", "Bob is in Rome."]] * 2
    assert kinds.find_texts(Own(*texts), asked[:1], 9) == [[texts[0], texts[1], *texts[3:]]]


def test_more_samples_of_any_source_have_the_word_and_ask_something_new():
    trained = sample("a", prompt="Is anna vrazo ?")
    rows = [
        sample(str(n), prompt=p)
        for n, p in enumerate(("is Anna vrazo?", "is bob vrazo ?", "is bob Vrazo", "is eve x ?"))
    ]
    source = Own(rows=rows)
    assert [
        s.id for s in kinds.find_samples(source, ["vrazo"], {"a": trained}, "first", 7)["vrazo"]
    ] == ["2"]
    assert source.wanted == 7
