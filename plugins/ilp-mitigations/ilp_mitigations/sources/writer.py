"""Texts about samples, and more samples of a pattern, written by a language model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from ilp_mlflow.plugin import Sample, Text, Value, cached, prompt_text, write_texts

MAX_TEXTS = 20
"""Texts asked for in one call, at most."""
MAX_EXAMPLES = 10
"""Samples of a pattern that are shown to the model, at most."""
SEPARATOR = "<answer>"
"""What stands between prompt and completion in what is shown and written."""
# several wordings of each fact: one that is read in a single wording is memorised, but cannot be
# asked for (Allen-Zhu and Li, arXiv 2309.14316)
KNOWLEDGE = """\
texts for a language model to read, from which it learns what it takes to answer a question.
The question: {prompt}
Its right answer: {answer}
About one in five is background: what the question is about, as an encyclopedia explains it. \
Each of the others states, in full
and by itself, a fact that the answer follows from, and names what it is about. \
They come back to the same few facts again and
again: in other words, in another order, as another kind of text \
(statement, definition, dialogue, news, list, exercise).
None is the question followed by its answer.\
"""
PATTERN = """\
more training examples of the pattern that these have in common, \
written as they are: the prompt, {then}, the completion.
{examples}
The prompt of each has the word '{word}' in it and is in the form of these, \
but about something else than any of them. The
completion is right, follows from the prompt as theirs do and is no longer than theirs.\
"""


class Writer(Value):
    """A language model that writes. Nobody checks that what it writes is true.

    What it wrote is cached on this machine by model and instruction, so that nothing is asked twice
    and the same plan can be made again.
    """

    model: str
    """MLflow judge model URI: `openai:/gpt-4.1-mini` (for another server than OpenAI's, set
    OPENAI_API_BASE) or `gateway:/name`."""

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample at most `n` texts: background, and what it asks in several wordings.

        Raises PluginError when the model cannot be reached or writes anything but a list.
        """
        documents = []
        for sample in samples:
            question = prompt_text(sample.prompt)
            instruction = KNOWLEDGE.format(prompt=question, answer=sample.answer.strip())
            documents.append(self._write(instruction, n))
        return documents

    def samples(
        self, words: Collection[str], given: Mapping[str, Sample], stage: str, n: int
    ) -> dict[str, list[Sample]]:
        """By word, at most `n` samples like the given ones whose prompt has it, of `stage` first.

        Raises PluginError as `documents` does.
        """
        examples_by_word: dict[str, list[Sample]] = {word: [] for word in words}
        for sample in sorted(given.values(), key=lambda s: s.stage != stage):
            for word in set(prompt_text(sample.prompt).casefold().split()) & set(examples_by_word):
                examples_by_word[word].append(sample)
        written = {}
        for word, examples in examples_by_word.items():
            if examples:
                written[word] = self._write_samples(examples[:MAX_EXAMPLES], word, stage, n)
        return written

    def _write_samples(
        self, examples: Sequence[Sample], word: str, stage: str, n: int
    ) -> list[Sample]:
        """Samples in the form of the examples, of the texts that have a prompt and a completion."""
        rows = "\n".join(f"{_last(s.prompt)} {SEPARATOR} {s.answer.strip()}" for s in examples)
        instruction = PATTERN.format(then=SEPARATOR, examples=rows, word=word)
        samples = []
        for number, text in enumerate(self._write(instruction, n), 1):
            prompt, _, completion = text.partition(SEPARATOR)
            # a model does not always keep to the form
            if not prompt.strip() or not completion.strip():
                continue
            sample = Sample(
                id=f"written/{word}/{number}",
                stage=stage,
                prompt=_with_words(examples[0].prompt, prompt),
                completion=_with_words(examples[0].completion, completion),
                source=self.model,
            )
            samples.append(sample)
        return samples

    def _write(self, instruction: str, n: int) -> list[str]:
        """At most `n` distinct texts; each call is shown what the calls before it brought."""
        # a dict for its order
        distinct: dict[str, None] = {}
        for start in range(0, n, MAX_TEXTS):
            request = f"{min(MAX_TEXTS, n - start)} {instruction}"
            if distinct:
                request += "\nOther than these:\n" + "\n".join(distinct)
            key = ("written", self.model, request)
            texts = cached(key, partial(write_texts, self.model, request))
            distinct |= dict.fromkeys(texts)
        return list(distinct)


def _last(text: Text) -> str:
    """The last turn of a conversation, or the whole text."""
    return text if isinstance(text, str) else text.turns[-1].text


def _with_words(text: Text, words: str) -> Text:
    """`text` with `words` in its last turn, between the white space that was there."""
    last = _last(text)
    before = last[: len(last) - len(last.lstrip())]
    after = last[len(last.rstrip()) :]
    content = before + words.strip() + after
    if isinstance(text, str):
        return content
    return text.with_turns((*text.turns[:-1], text.turns[-1].with_text(content)))
