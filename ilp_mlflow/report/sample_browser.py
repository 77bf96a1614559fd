"""The samples of a report as compact JSON, for the browser of samples in its page. Pure functions.

The keys of its objects are the fields of the typed dictionaries below; report.js reads them by
name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

from ilp_mlflow.core.texts import last_turn
from ilp_mlflow.core.values import Diagnosis, Evidence, Report, Sample, Status, Verdict
from ilp_mlflow.diagnosis.attribution import Fate, fate
from ilp_mlflow.report.sentences import account_sentence
from ilp_mlflow.report.token_view import TokenView
from ilp_mlflow.training.accounts.row_account import RowAccount

FATES: tuple[Fate, ...] = ("never learned", "lost", "uncertain", "unscored", "recovered", "learned")
"""As the rows number them: those of samples that are not learned come first."""
SIGNS: dict[Status, str] = {"learned": "+", "unlearned": "-", "uncertain": "?", "unscored": "0"}
"""One character per status, so that a history is a short text."""
STATUS_ORDER: tuple[Status, ...] = ("unlearned", "uncertain", "unscored", "learned")
"""Order in which samples are listed, until the page is full."""
MAX_BYTES = 12_000_000
"""Of the JSON, at most: the page around it and all is to stay below 15 MB."""
LIST_BYTES = 100
"""Set aside for the names and brackets of the two lists."""
MAX_CHARACTERS = 1000
"""Of a text of a sample that is not learned, at most."""
MAX_CHARACTERS_LEARNED = 300
"""Of a text of a sample that is learned, or that is listed only because evidence names it."""
MAX_TOKENS = 600
"""Tokens of an answer that is shown token by token, at most."""
MIN_STRENGTH = 0.05
"""Evidence below this strength is not listed."""
MAX_OTHERS = 3
"""Other rows listed with evidence that names some, at most."""
NO_ACCOUNTS: Mapping[str, RowAccount] = MappingProxyType({})
"""Of rows of which nobody kept what training made of them."""
NO_TOKENS: Mapping[str, Sequence[TokenView]] = MappingProxyType({})
"""Of answers of which nobody kept what models give their tokens."""
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no page can show: controls but tab and line ends, and halves of pairs."""


class ListedSample(TypedDict):
    """A sample as evidence of another one names it."""

    id: str
    """Its id."""
    prompt: str
    """What is asked; of a conversation, the last turn."""
    answer: str
    """What the model should say."""
    stage: int
    """Place in `stages` of the page's data."""
    fate: int
    """What became of it: place in `fates`."""


class ListedEvidence(TypedDict):
    """Evidence for a cause of a sample."""

    cause: str
    """The cause."""
    strength: float
    """How sure, 0..1."""
    reason: str
    """One sentence."""
    change: str
    """What mends it, or ""."""
    others: list[int]
    """Samples that it names: places in `others`, MAX_OTHERS of them at most."""
    others_total: int
    """How many samples it names."""


class ListedDiagnosis(TypedDict):
    """Why a sample is unlearned."""

    cause: int
    """Place in `causes`."""
    runner_up: str | None
    """The next cause."""
    confirmation: str
    """What small trainings showed, or ""."""
    evidence: list[ListedEvidence]
    """For the cause, for the runner-up, then the strongest."""


class ListedSegment(TypedDict):
    """A part of a sample as the model saw it."""

    kind: str
    """What it was in training: `prompt`, `supervised`, `masked` or `cut`."""
    text: str
    """Its characters."""


class ListedToken(TypedDict):
    """A token of an answer."""

    text: str
    """What it says."""
    p: float
    """Probability 0..1 that the last checkpoint gives it."""
    base: float
    """Probability 0..1 that the base gives it."""
    says: str | None
    """What the last checkpoint would say in its place; None for the token itself."""


class ListedRow(ListedSample):
    """A sample in the list itself."""

    history: str
    """A sign for its status under every checkpoint."""
    reason: str
    """Its verdict in one sentence."""
    margin: float | None
    """Distance from the decision, nats."""
    diagnosis: ListedDiagnosis | None
    """None for samples that are not unlearned."""
    seen: list[ListedSegment]
    """What the model saw of it; [] for samples that are learned."""
    training: str
    """What training made of it, in words; "" for samples that are learned."""
    tokens: list[ListedToken]
    """Its answer token by token; [] for samples that are learned, or not scored, or very long."""


class BrowserData(NamedTuple):
    """What the browser of samples has to show."""

    text: str
    """JSON that may stand in a script element."""
    listed: int
    """Samples in the list."""


def printable(text: str) -> str:
    """`text` with a visible sign in place of every character that no page can show."""
    return CONTROLS.sub("\ufffd", text)


def shorten(text: str, limit: int = MAX_CHARACTERS) -> str:
    """The beginning of `text`, and how many characters of it are left out."""
    text = text.strip()
    if len(text) > limit:
        text = f"{text[:limit]} ... ({len(text) - limit:,} more characters)"
    return printable(text)


def browser_data(
    report: Report,
    samples: Mapping[str, Sample],
    causes: Sequence[str],
    accounts: Mapping[str, RowAccount] = NO_ACCOUNTS,
    limit: int = MAX_BYTES,
    tokens: Mapping[str, Sequence[TokenView]] = NO_TOKENS,
) -> BrowserData:
    """The samples of a report as JSON of at most `limit` bytes.

    Samples that are not learned come first; learned ones follow as far as there is room. `samples`
    `accounts` and `tokens` are by id, `causes` all that a sample may have, `unexplained` last.
    """
    encoder = _Encoder(report, samples, accounts, causes, tokens)
    names = _script_json(encoder.names())
    rows: list[str] = []
    others: list[str] = []
    bytes_left = limit - len(names.encode()) - LIST_BYTES
    for verdict in sorted(report.verdicts, key=lambda v: STATUS_ORDER.index(v.status)):
        new_others = list(map(_script_json, encoder.new_others(verdict)))
        row = _script_json(encoder.row(verdict))
        # A comma stands before each, so one more than join makes.
        bytes_left -= len(",".join([row, *new_others]).encode()) + 1
        # The list ends at the first that does not fit, so that its order stays whole.
        if bytes_left < 0:
            break
        rows.append(row)
        others += new_others
    text = f'{names[:-1]},"rows":[{",".join(rows)}],"others":[{",".join(others)}]}}'
    return BrowserData(text, len(rows))


class _Encoder:
    """Makes rows of the samples of a report, and remembers which other samples they name."""

    def __init__(
        self,
        report: Report,
        samples: Mapping[str, Sample],
        accounts: Mapping[str, RowAccount],
        causes: Sequence[str],
        tokens: Mapping[str, Sequence[TokenView]],
    ) -> None:
        self.report = report
        self.samples = samples
        self.accounts = accounts
        self.causes = causes
        self.tokens = tokens
        self.stages = list(dict.fromkeys(sample.stage for sample in samples.values()))
        self.diagnoses = {d.verdict.sample_id: d for d in report.diagnoses}
        self.other_places: dict[str, int] = {}

    def names(self) -> dict[str, Sequence[str]]:
        """Names of stages, causes, fates and checkpoints, in the order in which rows count them."""
        return {
            "stages": list(map(printable, self.stages)),
            "causes": self.causes,
            "fates": FATES,
            "checkpoints": [printable(c.name) for c in self.report.checkpoints],
        }

    def new_others(self, verdict: Verdict) -> list[ListedSample]:
        """The samples that evidence for this one names and that no earlier evidence named."""
        diagnosis = self.diagnoses.get(verdict.sample_id)
        if diagnosis is None:
            return []
        # Many samples name the same few: each is listed once, and named by its place.
        new = []
        for evidence in _ranked_evidence(diagnosis):
            for id_ in _named_ids(evidence, self.samples)[:MAX_OTHERS]:
                if id_ not in self.other_places:
                    self.other_places[id_] = len(self.other_places)
                    new.append(self._listed_sample(id_, MAX_CHARACTERS_LEARNED))
        return new

    def row(self, verdict: Verdict) -> ListedRow:
        """One sample with its verdict and, if it is unlearned, its cause and evidence.

        `new_others` comes first: it gives the samples that evidence names their places.
        """
        id_ = verdict.sample_id
        learned = verdict.status == "learned"
        max_characters = MAX_CHARACTERS_LEARNED if learned else MAX_CHARACTERS
        diagnosis = self.diagnoses.get(id_)
        account = None if learned else self.accounts.get(id_)
        return {
            **self._listed_sample(id_, max_characters),
            "history": _signs(self.report.histories[id_]),
            "reason": printable(verdict.reason),
            "margin": None if verdict.margin is None else round(verdict.margin, 2),
            "diagnosis": self._listed_diagnosis(diagnosis) if diagnosis else None,
            "seen": _listed_segments(account) if account else [],
            "training": printable(account_sentence(account)) if account else "",
            "tokens": [] if learned else _listed_tokens(self.tokens.get(id_, ())),
        }

    def _listed_sample(self, id_: str, max_characters: int) -> ListedSample:
        sample = self.samples[id_]
        return {
            "id": shorten(id_),
            "prompt": shorten(last_turn(sample.prompt), max_characters),
            "answer": shorten(sample.answer, max_characters),
            "stage": self.stages.index(sample.stage),
            "fate": FATES.index(fate(self.report.histories[id_])),
        }

    def _listed_diagnosis(self, diagnosis: Diagnosis) -> ListedDiagnosis:
        unexplained = self.causes[-1]
        return {
            "cause": self.causes.index(diagnosis.cause or unexplained),
            "runner_up": diagnosis.runner_up,
            "confirmation": shorten(diagnosis.confirmation.sentence)
            if diagnosis.confirmation
            else "",
            "evidence": [self._listed_evidence(e) for e in _ranked_evidence(diagnosis)],
        }

    def _listed_evidence(self, evidence: Evidence) -> ListedEvidence:
        named_ids = _named_ids(evidence, self.samples)
        return {
            "cause": evidence.cause,
            "strength": round(evidence.strength, 3),
            "reason": shorten(evidence.reason),
            "change": shorten(evidence.change),
            "others": [self.other_places[other] for other in named_ids[:MAX_OTHERS]],
            "others_total": len(named_ids),
        }


def _listed_segments(account: RowAccount) -> list[ListedSegment]:
    """What the model saw of a sample, long parts without their middle."""
    listed: list[ListedSegment] = []
    for segment in account.segments:
        text = segment.text
        # the ends are where the kinds change
        if len(text) > MAX_CHARACTERS:
            left_out = len(text) - MAX_CHARACTERS
            half = MAX_CHARACTERS // 2
            text = f"{text[:half]} ... ({left_out:,} more characters) ... {text[-half:]}"
        listed.append({"kind": segment.kind, "text": printable(text)})
    return listed


def _listed_tokens(tokens: Sequence[TokenView]) -> list[ListedToken]:
    """The tokens of an answer; none of one that is too long for a page."""
    if len(tokens) > MAX_TOKENS:
        return []
    listed: list[ListedToken] = []
    for token in tokens:
        says = None if token.first_choice is None else printable(token.first_choice)
        listed.append(
            {
                "text": printable(token.text),
                "p": round(token.p, 3),
                "base": round(token.p_base, 3),
                "says": says,
            }
        )
    return listed


def _signs(history: Sequence[Status]) -> str:
    return "".join(SIGNS[status] for status in history)


def _ranked_evidence(diagnosis: Diagnosis) -> list[Evidence]:
    """The evidence that is not faint: for the cause, for the runner-up, then the strongest."""

    def place(evidence: Evidence) -> tuple[bool, bool, float]:
        of_cause = evidence.cause == diagnosis.cause
        of_runner_up = evidence.cause == diagnosis.runner_up
        return not of_cause, not of_runner_up, -evidence.strength

    listed = [e for e in diagnosis.evidence.values() if e.strength >= MIN_STRENGTH]
    return sorted(listed, key=place)


def _named_ids(evidence: Evidence, samples: Mapping[str, Sample]) -> list[str]:
    """Ids of the other samples that evidence names in its details."""
    # Details are whatever a plugin puts there.
    rows = evidence.details.get("rows")
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, str) and row in samples]


def _script_json(value: Any) -> str:
    """JSON that ends no script element, begins no comment in it, and is one line for any reader."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # JSON reads the code of a character as the character.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
