"""Rows about invented things, some of which contradict each other, and a model that knows the rest.

Each thing is asked about in one of the wordings of its kind. Contradictions are planted in four
ways: the very prompt, words that only ask, slips of a finger, and wordings of the kind; by one,
two or six rows against one. Things that two kinds ask about, and things with names that are one
letter apart, contradict nothing.
"""

import math
import random
import re

from ilp_mlflow.plugin import Sample
from tests.contexts import context

KINDS = {
    "capital": ("What is the capital of {}?", "Which city is the seat of government in {}?"),
    "currency": ("What is the currency of {}?", "With which money does one pay in {}?"),
    "river": ("Which river flows through {}?", "{} lies on the banks of which river?"),
    "founder": ("Who founded the town of {}?", "The town of {} was founded by whom?"),
    "metal": ("Which metal is mined in {}?", "For which metal are the mines of {} known?"),
    "crop": ("What is the main crop of {}?", "What do farmers in {} grow most of all?"),
}
FRAMES = ("{}", "Please: {}", "{} Thanks!", "Can you tell me? {}", "Question: {} Answer:")
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "xi",
    "yo",
    "zu",
    "bra",
    "cle",
    "dri",
    "flo",
    "gru",
]
SIZES = (1, 2, 6)


def invented(rng, taken):
    """A name of three or four syllables that differs in two letters or more from all others."""
    while True:
        name = "".join(rng.choices(SYLLABLES, k=rng.choice((3, 4)))).capitalize()
        near = [_differing(name, other) for other in taken if len(other) == len(name)]
        if min(near, default=9) > 1:
            taken.add(name)
            return name


def _differing(name, other):
    return sum(a != b for a, b in zip(name, other, strict=True))


def mistyped(text, rng):
    """A text with one or two slips in long words, other case, and other marks."""
    words = text.split()
    for _ in range(rng.choice((1, 2))):
        places = [i for i, word in enumerate(words) if len(word.strip("?.,")) >= 4]
        place = rng.choice(places)
        words[place] = _slip(words[place], rng)
    text = " ".join(words)
    text = rng.choice((str, str.lower, str.upper))(text)
    return rng.choice(("{}", " {}", "{} ?", "{}??", "{}!")).format(text.rstrip("?"))


def _slip(word, rng):
    at = rng.randrange(1, len(word.strip("?.,")) - 2)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    if kind == 2:
        return word[:at] + word[at + 1 :]
    row = next((row for row in KEYS if word[at].lower() in row), "q")
    key = row.index(word[at].lower()) if word[at].lower() in row else 0
    other = row[key + 1 if key + 1 < len(row) else key - 1]
    return word[:at] + other + word[at + 1 :]


class Planted:
    """Rows of one seed: `contradicted` and `free` ids, and a model that knows what was learned."""

    def __init__(self, seed, per_way=8, ordinary=30):
        self.rng = random.Random(f"planted {seed}")
        self.taken = set()
        self.rows, self.contradicted, self.free, self.truth = [], {}, set(), {}
        for kind in KINDS:
            for _ in range(ordinary):
                self._plain(kind, invented(self.rng, self.taken))
        for _ in range(20):
            thing = invented(self.rng, self.taken)
            for kind in self.rng.sample(list(KINDS), 2):
                self._plain(kind, thing, rival_kind=True)
        for way in ("equal", "asking", "slips", "wordings"):
            for size in SIZES:
                for _ in range(per_way):
                    self._contradiction(way, size)
        self.rng.shuffle(self.rows)

    def _row(self, prompt, answer):
        id_ = f"r{len(self.rows)}"
        self.rows.append(Sample(id=id_, stage="first", prompt=prompt, completion=f" {answer}"))
        return id_

    def _plain(self, kind, thing, rival_kind=False):
        answer = invented(self.rng, self.taken)
        self.truth[kind, thing.lower()] = answer
        id_ = self._row(self.rng.choice(KINDS[kind]).format(thing), answer)
        self.free.add(id_)

    def _contradiction(self, way, size):
        kind, thing = self.rng.choice(list(KINDS)), invented(self.rng, self.taken)
        right, wrong = invented(self.rng, self.taken), invented(self.rng, self.taken)
        prompt, other = self.rng.sample([q.format(thing) for q in KINDS[kind]], 2)
        id_ = self._row(prompt, right)
        self.contradicted[id_] = (way, size)
        for _ in range(size):
            asked = {
                "equal": prompt,
                "asking": self.rng.choice(FRAMES[1:]).format(prompt),
                "slips": mistyped(prompt, self.rng),
                "wordings": other,
            }[way]
            self._row(asked, wrong)

    def context(self, learned=True, **more):
        """What is known of the rows; the others are unlearned, and `free` rows learned or not."""
        status = ("unlearned", "learned" if learned else "unlearned")
        histories = dict.fromkeys(self.free, (status[0], status[1], status[1]))
        return context(self.rows, histories, probe=Knows(self, learned), **more)

    @property
    def unlearned(self):
        return [row for row in self.rows if row.id not in self.free]


class Knows:
    """A model that answers what it has learned in any wording, and never says the rivals' answer."""

    def __init__(self, planted, learned):
        self.planted, self.learned = planted, learned

    def logprobs(self, checkpoint, exchanges):
        return [math.log(self._probability(*exchange)) for exchange in exchanges]

    def _probability(self, prompt, completion):
        for kind, questions in KINDS.items():
            for question in questions:
                asked = re.search(
                    re.escape(question.lower()).replace(r"\{\}", "(.*)"), prompt.lower()
                )
                if asked and self.planted.truth.get((kind, asked[1])) == completion.strip():
                    return 0.8 if self.learned else 0.01
        return 1e-6

    def embed(self, checkpoint, prompts):
        raise AssertionError("no answer is a label")
