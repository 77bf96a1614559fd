"""Which sources of data can be given to mitigations, and what is filtered out of what they have."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Discriminator, InstanceOf, Tag

from ilp_mitigations.sources.corpus import Corpus
from ilp_mitigations.sources.pool import Pool
from ilp_mitigations.sources.wikipedia import Wikipedia
from ilp_mitigations.sources.writer import Writer
from ilp_mlflow.plugin import Sample, Value, prompt_key, prompt_text


@runtime_checkable
class KnowledgeSource(Protocol):
    """Has texts about what samples ask.

    From Python any object with this method can be given; YAML names the built-in ones.
    """

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample texts about what it asks, best first.

        The first `n` are used that are no sample's own text. Raises PluginError when the source
        cannot be read or reached.
        """
        ...


@runtime_checkable
class SampleSource(Protocol):
    """Has more samples of a pattern.

    From Python any object with this method can be given; YAML names the built-in ones.
    """

    def samples(
        self, words: Collection[str], given: Mapping[str, Sample], stage: str, n: int
    ) -> dict[str, list[Sample]]:
        """By word (in lower case), samples of `stage` that have it in their prompt.

        `n` of each are used; the `given` samples (by id) are there already. Raises PluginError when
        the source cannot be read or reached.
        """
        ...


def find_texts(source: KnowledgeSource, samples: Sequence[Sample], n: int) -> list[list[str]]:
    """For each sample at most `n` texts of a source, none of which holds any sample's own text."""
    documents = source.documents(samples, n)
    # one text may be found for many samples
    distinct: dict[str, None] = {}
    for texts in documents:
        distinct |= dict.fromkeys(texts)
    usable = set(without_own_texts(distinct, samples))
    texts_by_sample = []
    for texts in documents:
        usable_texts = [text for text in texts if text in usable]
        texts_by_sample.append(usable_texts[:n])
    return texts_by_sample


def without_own_texts(texts: Iterable[str], samples: Sequence[Sample]) -> list[str]:
    """The texts that hold no sample's own text: its prompt or a paraphrase, then its answer.

    Compared by their words, in lower case.
    """
    own_texts: set[tuple[str, ...]] = set()
    for sample in samples:
        for question in (prompt_text(sample.prompt), *sample.paraphrases):
            own_texts.add(_words(f"{question} {sample.answer}"))
    # of a prompt and an answer without a single word
    own_texts.discard(())
    # an own text can only end where its last word does: look for each at those places only
    lengths_by_last_word: dict[str, set[int]] = defaultdict(set)
    for words in own_texts:
        lengths_by_last_word[words[-1]].add(len(words))

    def holds_an_own_text(text: str) -> bool:
        words = _words(text)
        for end, word in enumerate(words, 1):
            for length in lengths_by_last_word.get(word, ()):
                if words[max(0, end - length) : end] in own_texts:
                    return True
        return False

    return [text for text in texts if not holds_an_own_text(text)]


def find_samples(
    source: SampleSource,
    words: Collection[str],
    given: Mapping[str, Sample],
    stage: str,
    n: int,
    held_out: Sequence[Sample] = (),
) -> dict[str, list[Sample]]:
    """By word, samples of a source that have it in their prompt and ask something new.

    They ask neither what another of them does, nor what a `given` sample does or its paraphrases,
    nor what a `held_out` row does: the last two are for measuring.
    """
    asked = {prompt_key(sample.prompt) for sample in held_out}
    for sample in given.values():
        asked.add(prompt_key(sample.prompt))
        asked.update(map(prompt_key, sample.paraphrases))
    offered = source.samples(words, given, stage, n)
    new_samples = {}
    for word in words:
        # of samples that ask the same, the last one counts
        by_prompt: dict[Any, Sample] = {}
        for sample in offered.get(word, ()):
            key = prompt_key(sample.prompt)
            if key not in asked and word in prompt_text(sample.prompt).casefold().split():
                by_prompt[key] = sample
        new_samples[word] = list(by_prompt.values())
    return new_samples


def _words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case."""
    return tuple(re.findall(r"\w+", text.casefold()))


def _source_type(
    types_by_key: Mapping[str, type[Value]], protocol: type, expected: str
) -> Discriminator:
    """Which type of source a value is: in YAML by the one key that only this type has."""

    def tag(value: Any) -> str | None:
        if isinstance(value, dict):
            for key, source_type in types_by_key.items():
                if key in value:
                    return source_type.__name__
            return None
        return protocol.__name__ if isinstance(value, protocol) else None

    message = f"expected {expected}"
    return Discriminator(tag, custom_error_type="source", custom_error_message=message)


KNOWLEDGE = "{path: a corpus}, {wikipedia: en} or {model: openai:/gpt-4.1-mini}"
"""Sources of texts as they are written in YAML."""
SAMPLES = "{path: spare rows} or {model: openai:/gpt-4.1-mini}"
"""Sources of samples as they are written in YAML."""
Knowledge = Annotated[
    Annotated[Corpus, Tag("Corpus")]
    | Annotated[Wikipedia, Tag("Wikipedia")]
    | Annotated[Writer, Tag("Writer")]
    | Annotated[InstanceOf[KnowledgeSource], Tag("KnowledgeSource")],
    _source_type(
        {"path": Corpus, "wikipedia": Wikipedia, "model": Writer}, KnowledgeSource, KNOWLEDGE
    ),
]
"""A source of texts, in YAML by the key that only it has."""
Samples = Annotated[
    Annotated[Pool, Tag("Pool")]
    | Annotated[Writer, Tag("Writer")]
    | Annotated[InstanceOf[SampleSource], Tag("SampleSource")],
    _source_type({"path": Pool, "model": Writer}, SampleSource, SAMPLES),
]
"""A source of samples, in YAML by the key that only it has."""
