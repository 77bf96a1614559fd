"""What can be given as a source of data, and what is left out of what any of them has."""

from __future__ import annotations

import re
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
    """Has texts about what samples ask. From Python any object with this method can be given; YAML names the built-in ones."""

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample texts about what it asks, best first; the first `n` of them are used that are no sample's own text.

        Raises PluginError when there is no getting at them.
        """
        ...


@runtime_checkable
class SampleSource(Protocol):
    """Has more samples of a pattern. From Python any object with this method can be given; YAML names the built-in ones."""

    def samples(
        self, words: Collection[str], given: Mapping[str, Sample], stage: str, n: int
    ) -> dict[str, list[Sample]]:
        """By word (in lower case), samples of `stage` that have it in their prompt; `n` are used, `given` are there already, by id.

        Raises PluginError when there is no getting at them.
        """
        ...


def texts(source: KnowledgeSource, samples: Sequence[Sample], n: int) -> list[list[str]]:
    """For each sample `n` texts of a source or fewer; none has in it the words of any sample's own text: prompt, then answer."""
    found = source.documents(samples, n)
    fit = set(without_own(dict.fromkeys(text for row in found for text in row), samples))
    return [[text for text in row if text in fit][:n] for row in found]


def without_own(texts: Iterable[str], samples: Sequence[Sample]) -> list[str]:
    """The texts that do not have in them any sample's own text: its prompt, or a paraphrase of it, then its answer."""
    own = {
        _words(f"{asked} {s.answer}")
        for s in samples
        for asked in (prompt_text(s.prompt), *s.paraphrases)
    } - {()}
    lengths: dict[str, set[int]] = {words[-1]: set() for words in own}
    for words in own:
        lengths[words[-1]].add(len(words))

    def given_away(text: str) -> bool:
        words = _words(text)
        ends = (
            (end, length) for end, word in enumerate(words, 1) for length in lengths.get(word, ())
        )
        return any(words[max(0, end - length) : end] in own for end, length in ends)

    return [text for text in texts if not given_away(text)]


def more(
    source: SampleSource,
    words: Collection[str],
    given: Mapping[str, Sample],
    stage: str,
    n: int,
    held_out: Sequence[Sample] = (),
) -> dict[str, list[Sample]]:
    """By word, samples of a source that have it in their prompt and ask what neither a given one does nor another.

    Nor do they ask what a given one's paraphrases do, or a `held_out` row: those are for measuring.
    """
    asked = {prompt_key(s.prompt) for s in (*given.values(), *held_out)} | {
        prompt_key(text) for s in given.values() for text in s.paraphrases
    }
    found = source.samples(words, given, stage, n)
    fit = {}
    for word in words:
        having = (
            s for s in found.get(word, ()) if word in prompt_text(s.prompt).casefold().split()
        )
        distinct = {prompt_key(s.prompt): s for s in having}
        fit[word] = [sample for prompt, sample in distinct.items() if prompt not in asked]
    return fit


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _told(kinds: Mapping[str, type[Value]], protocol: type, offered: str) -> Discriminator:
    """Tells sources apart by the one key that only they have."""

    def tag(value: Any) -> str | None:
        if isinstance(value, dict):
            return next((kind.__name__ for key, kind in kinds.items() if key in value), None)
        return protocol.__name__ if isinstance(value, protocol) else None

    return Discriminator(
        tag, custom_error_type="source", custom_error_message=f"expected {offered}"
    )


KNOWLEDGE = "{path: a corpus}, {wikipedia: en} or {model: openai:/gpt-4.1-mini}"
"""Sources of texts as they are written in YAML."""
SAMPLES = "{path: spare rows} or {model: openai:/gpt-4.1-mini}"
"""Sources of samples as they are written in YAML."""
Knowledge = Annotated[
    Annotated[Corpus, Tag("Corpus")]
    | Annotated[Wikipedia, Tag("Wikipedia")]
    | Annotated[Writer, Tag("Writer")]
    | Annotated[InstanceOf[KnowledgeSource], Tag("KnowledgeSource")],
    _told({"path": Corpus, "wikipedia": Wikipedia, "model": Writer}, KnowledgeSource, KNOWLEDGE),
]
"""A source of texts, in YAML by the key that only it has."""
Samples = Annotated[
    Annotated[Pool, Tag("Pool")]
    | Annotated[Writer, Tag("Writer")]
    | Annotated[InstanceOf[SampleSource], Tag("SampleSource")],
    _told({"path": Pool, "model": Writer}, SampleSource, SAMPLES),
]
"""A source of samples, in YAML by the key that only it has."""
