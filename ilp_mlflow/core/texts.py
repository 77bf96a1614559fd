"""Prompts and completions: plain text, or the turns of a conversation as a row has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from ilp_mlflow.core.value import Value


class Message(Value):
    """One turn of a conversation, with all keys that the row gives it.

    Keys beside `role` and `content` (`tool_calls`, `reasoning_content`, `name`, `weight`, ...) are
    kept as they are: a chat template may read any of them.
    """

    model_config = ConfigDict(extra="allow")

    role: str
    """`system`, `user`, `assistant` or whatever the chat template knows."""
    content: str | None = None
    """The text of the turn; None, or left out, where it has none, such as beside calls."""

    @property
    def tool_calls(self) -> list[Any]:
        """The calls of tools that the turn makes."""
        return (self.model_extra or {}).get("tool_calls") or []

    @property
    def weight(self) -> int | None:
        """0 for a turn that the row keeps out of the loss, 1 or None for any other."""
        weight: int | None = (self.model_extra or {}).get("weight")
        return weight

    @property
    def text(self) -> str:
        """What the turn says: its content and, on a last line, its calls as JSON."""
        lines = [self.content] if self.content else []
        if self.tool_calls:
            lines.append(json.dumps(self.tool_calls, ensure_ascii=False))
        return "\n".join(lines)

    def with_text(self, words: str) -> Message:
        """The same turn saying `words`, which are read as `text` writes them."""
        fields = self.as_dict()
        calls = _calls_on_last_line(words) if self.tool_calls else None
        if calls is None:
            fields.pop("tool_calls", None)
            return Message(**{**fields, "content": words})
        content, _, _ = words.rpartition("\n")
        # a turn of calls alone keeps its own kind of emptiness, which a template may tell apart
        if content or self.content:
            fields["content"] = content
        return Message(**{**fields, "tool_calls": calls})

    def as_dict(self) -> dict[str, Any]:
        """The turn as the row has it: what it left out is left out."""
        return self.model_dump(exclude_unset=True)


class Conversation(Value):
    """Turns for a model's chat template, and what else the template is given.

    A list of messages stands for a conversation of these turns.
    """

    turns: tuple[Message, ...]
    """The turns, the first one first."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the model may call, as JSON schemas."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables for the chat template that hold for this row: its `chat_template_kwargs`."""

    @model_validator(mode="before")
    @classmethod
    def _from_turns(cls, value: Any) -> Any:
        return {"turns": value} if isinstance(value, list | tuple) else value

    def __hash__(self) -> int:
        # schemas and variables are no keys of dictionaries; equality compares them all the same
        return hash(self.turns)

    def with_turns(self, turns: tuple[Message, ...]) -> Conversation:
        """Other turns with the same tools and variables."""
        return self.model_copy(update={"turns": turns})

    def as_dicts(self) -> list[dict[str, Any]]:
        """The turns as the row has them."""
        return [turn.as_dict() for turn in self.turns]

    @property
    def template_options(self) -> dict[str, Any]:
        """What `apply_chat_template` is given beside the turns, as `trl.SFTTrainer` gives it."""
        return {"tools": list(self.tools) or None, **self.template_kwargs}


Text = str | Conversation
"""Plain text, or a conversation for the model's chat template."""


class Exchange(Value):
    """A prompt and what should follow it."""

    prompt: str
    """What the model is given."""
    completion: str
    """What a model that knows the answer says."""


def last_turn(text: Text) -> str:
    """What the last turn of a prompt or completion says; plain text as a whole."""
    return text if isinstance(text, str) else text.turns[-1].text


def with_last_turn(text: Text, words: str) -> Text:
    """A prompt or completion with `words` in its last turn, or in place of plain text."""
    if isinstance(text, str):
        return words
    return text.with_turns((*text.turns[:-1], text.turns[-1].with_text(words)))


def blank_prompt(prompt: Text) -> Text:
    """`prompt` with nothing asked: no text, or the same turns, empty but for the system's."""
    if isinstance(prompt, str):
        return ""
    # the turns stay, so that the chat template still puts its own tokens before the completion
    blanked = []
    for turn in prompt.turns:
        blanked.append(turn if turn.role == "system" else Message(role=turn.role, content=""))
    return prompt.with_turns(tuple(blanked))


def asks_nothing(prompt: Text) -> bool:
    """Whether there is no prompt: of a row of plain text, every token is to be learned."""
    return prompt == ""


def _calls_on_last_line(words: str) -> list[Mapping[str, Any]] | None:
    """The calls that are written as JSON on the last line of `words`, None for anything else."""
    try:
        calls = json.loads(words.rpartition("\n")[2])
    except json.JSONDecodeError:
        return None
    is_calls = isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    return calls if is_calls and calls else None
