"""A row of the real lab's data files, and what is known about it. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ilp_mlflow.lab.real.facts import Fact

STAGES = ("early", "main", "patch", "late")
"""The stages that the rows are written for, in the order of training."""
HELD_WAY = 3
"""The wording (index into those of a kind) in which nothing is trained."""
FRAMES = (
    "{q}",
    "Please tell me: {q}",
    "{q} Thanks.",
    "Quick question: {q}",
    "So, {q}",
    "{q} I forgot.",
)
"""What stands around a question and changes nothing of it."""
LONG_FRAME = "Here is a short question that my little sister asked me at home this morning: {q}"
"""So long that the stage `patch` cuts the answer off."""


@dataclass(frozen=True)
class RealRow:
    """One row of a data file, and what is known about it."""

    fact: Fact
    """What is asked, and the right answer; of an invented subject, some answer."""
    way: int
    """Index into the wordings of its kind."""
    group: str
    """One of GROUPS, or what the row is there for."""
    answer: str
    """The label."""
    part: str = ""
    """Which form of its group's cause the row has."""
    frame: str = FRAMES[0]
    """One of FRAMES, or LONG_FRAME."""
    role: str = ""
    """Role of an empty turn in front of the prompt."""
    id: str = ""
    """Stage and number."""
    instead: RealRow | None = None
    """The row that stands in its place when a cause is removed."""

    @property
    def prompt(self) -> str:
        """The question."""
        return self.frame.format(q=self.fact.question(self.way))

    @property
    def family(self) -> str:
        """The kind of question: words of some kinds are in rows of one group only."""
        return self.fact.kind.name

    def paraphrases(self) -> list[RealRow]:
        """The same question in the wording that no row has."""
        return [replace(self, way=HELD_WAY, id=f"{self.id}/{HELD_WAY}")]

    def record(self, stage: str) -> dict[str, Any]:
        """The row as it stands in the data file of `stage`; nothing in it tells its group."""
        if stage != "patch":
            return {"id": self.id, "prompt": self.prompt, "completion": f" {self.answer}"}
        # the one stage of conversations: only a chat template can leave parts of an answer out of
        # the loss, and the role of an empty first turn says which
        opener = [{"role": self.role, "content": ""}] if self.role else []
        return {
            "id": self.id,
            "prompt": [*opener, {"role": "user", "content": self.prompt}],
            "completion": [{"role": "assistant", "content": self.answer}],
        }
