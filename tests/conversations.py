"""Conversations for tests, in one line."""

from ilp_mlflow.core.texts import Conversation, Message


def chat(**turns):
    """A conversation with a turn per role, in the order given: `chat(system="s", user="u")`."""
    return Conversation(turns=[Message(role=role, content=text) for role, text in turns.items()])
