"""Texts about something, and more samples of a pattern, written by a language model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from ilp_mlflow.plugin import Message, Sample, Text, Value, cached, prompt_text, write_texts

MOST = 20
"""Texts asked for in one call, at most."""
SHOWN = 10
"""Samples of a pattern that are shown, at most."""
THEN = "<answer>"
"""What stands between prompt and completion in what is shown and written."""
# several wordings of each fact: one that is read in a single wording is memorised, but cannot be asked for (arXiv 2309.14316)
KNOWLEDGE = """\
texts for a language model to read, from which it learns what it takes to answer a question.
The question: {prompt}
Its right answer: {answer}
About one in five is background: what the question is about, as an encyclopedia explains it. Each of the others states, in full
and by itself, a fact that the answer follows from, and names what it is about. They come back to the same few facts again and
again: in other words, in another order, as another kind of text (statement, definition, dialogue, news, list, exercise).
None is the question followed by its answer.\
"""
PATTERN = """\
more training examples of the pattern that these have in common, written as they are: the prompt, {then}, the completion.
{examples}
The prompt of each has the word '{word}' in it and is in the form of these, but about something else than any of them. The
completion is right, follows from the prompt as theirs do and is no longer than theirs.\
"""


class Writer(Value):
    """A language model that writes. Nobody checks that what it writes is true.

    What it wrote is kept on this machine by model and instruction, so that the same is asked once and a plan can be made again.
    """

    model: str
    """MLflow judge model URI: `openai:/gpt-4.1-mini` (OPENAI_API_BASE: another server than OpenAI's), or `gateway:/name`."""

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample `n` texts or fewer: background, and what it asks in several wordings.

        Raises PluginError when the model cannot be reached or writes something else than a list.
        """
        return [
            self._written(
                KNOWLEDGE.format(prompt=prompt_text(s.prompt), answer=s.answer.strip()), n
            )
            for s in samples
        ]

    def samples(
        self, words: Collection[str], given: Mapping[str, Sample], stage: str, n: int
    ) -> dict[str, list[Sample]]:
        """By word, `n` samples or fewer that follow the given ones whose prompt has it, those of `stage` first.

        Raises PluginError, see `documents`.
        """
        having: dict[str, list[Sample]] = {word: [] for word in words}
        for sample in sorted(given.values(), key=lambda s: s.stage != stage):
            for word in set(prompt_text(sample.prompt).casefold().split()) & set(having):
                having[word].append(sample)
        return {
            word: self._following(examples[:SHOWN], word, stage, n)
            for word, examples in having.items()
            if examples
        }

    def _following(self, examples: Sequence[Sample], word: str, stage: str, n: int) -> list[Sample]:
        """Samples as the examples are, of what is written with a prompt and a completion."""
        rows = "\n".join(f"{_last(s.prompt)} {THEN} {s.answer.strip()}" for s in examples)
        pairs = [
            text.partition(THEN)
            for text in self._written(PATTERN.format(then=THEN, examples=rows, word=word), n)
        ]
        first = examples[0]
        return [
            Sample(
                id=f"written/{word}/{number}",
                stage=stage,
                prompt=_saying(first.prompt, prompt),
                completion=_saying(first.completion, completion),
                source=self.model,
            )
            for number, (prompt, _, completion) in enumerate(pairs, 1)
            if prompt.strip() and completion.strip()
        ]

    def _written(self, instruction: str, n: int) -> list[str]:
        """`n` distinct texts or fewer; each call is shown what the ones before brought."""
        found = dict[str, None]()
        for start in range(0, n, MOST):
            before = "\nOther than these:\n" + "\n".join(found) if found else ""
            told = f"{min(MOST, n - start)} {instruction}{before}"
            found |= dict.fromkeys(
                cached(("written", self.model, told), partial(write_texts, self.model, told))
            )
        return list(found)


def _last(text: Text) -> str:
    return text if isinstance(text, str) else text[-1].content


def _saying(text: Text, words: str) -> Text:
    """`text` with `words` in its last turn, between the white space that was there."""
    last = _last(text)
    put = last[: len(last) - len(last.lstrip())] + words.strip() + last[len(last.rstrip()) :]
    return put if isinstance(text, str) else (*text[:-1], Message(role=text[-1].role, content=put))
