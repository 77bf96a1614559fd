from importlib.metadata import EntryPoint
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Mitigation
from ilp_mlflow.core.value import Value


class Part(Value):
    """A value that is an option."""

    path: str
    """Where it is, in words that are too many for one line of a terminal, so that they go on in the next one."""


class Good(Value):
    """A mitigation.

    More about it.
    """

    share: float = 0.5
    """How much."""
    parts: dict[str, float] | None = None
    source: Part | None = None

    def plan(self, diagnoses, context):
        return None


class NoMethod(Value):
    """Not a mitigation."""


class Plain:
    """A mitigation that derives from nothing."""

    def plan(self, diagnoses, context):
        return None


MADE = Good()


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    points = [
        EntryPoint("good", "tests.core.test_plugin_loader:Good", "g"),
        EntryPoint("twice", "tests.core.test_plugin_loader:Good", "g"),
        EntryPoint("twice", "tests.core.test_plugin_loader:Good", "g"),
        EntryPoint("broken", "no_such_module:X", "g"),
        EntryPoint("empty", "tests.core.test_plugin_loader:NoMethod", "g"),
        EntryPoint("plain", "tests.core.test_plugin_loader:Plain", "g"),
        EntryPoint("made", "tests.core.test_plugin_loader:MADE", "g"),
    ]
    monkeypatch.setattr(
        plugin_loader,
        "entry_points",
        lambda group: points if group == "ilp_mlflow.mitigations" else [],
    )


def test_a_plugin_gets_its_options():
    found = plugin_loader.configure("mitigation", {"good": {"share": 0.1}})
    assert found["good"].share == 0.1


@pytest.mark.parametrize("kind", [Good, Plain])
def test_a_class_without_our_base_is_a_plugin_if_it_has_the_method(kind):
    assert not issubclass(kind, Mitigation)
    made = plugin_loader.configure("mitigation", {kind.__name__.lower(): {}})
    assert [type(one) for one in made.values()] == [kind]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"god": {}}, r"mitigation 'god' is not installed; did you mean 'good'\?"),
        ({"good": {"shar": 1}}, r"has no option 'shar'; did you mean 'share'\?"),
        ({"good": {"share": "much"}}, r"share: .*got 'much'"),
        ({"twice": {}}, "claimed by unknown and unknown"),
        ({"broken": {}}, r"cannot be used: ModuleNotFoundError: No module named 'no_such_module'"),
        ({"empty": {}}, "is no class with a method 'plan'"),
        ({"plain": {"share": 1}}, "mitigation 'plain' has no option 'share'"),
        ({"made": {}}, "is no class with a method 'plan'"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_named(wanted, expected):
    with pytest.raises(PluginError, match=expected):
        plugin_loader.configure("mitigation", wanted)


def test_a_broken_plugin_is_listed_and_not_swallowed():
    found = {p.name: p for p in plugin_loader.installed("mitigation")}
    assert "no_such_module" in found["broken"].error
    assert found["good"].options == {"share": 0.5, "parts": None, "source": None}
    assert plugin_loader.configure("diagnostic", None) == {}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (float, "float"),
        (dict[str, Annotated[float, Field(ge=0)]] | None, "dict[str, float] | None"),
        (tuple[Part, ...], "tuple[Part, ...]"),
        (Literal["a.b", "c"], "'a.b' | 'c'"),
        (Any, "Any"),
    ],
)
def test_a_type_is_written_as_one_would(kind, expected):
    assert plugin_loader._type_text(kind) == expected


def test_the_listing_says_what_plugins_do_and_take_and_what_is_wrong_with_others():
    lines = plugin_loader.format_listing(plugin_loader.installed("mitigation")).splitlines()
    assert lines[0] == "mitigations"
    start = lines.index("  good (unknown): A mitigation.")
    assert lines[start + 1 : start + 6] == [
        "      share: float = 0.5 - How much.",
        "      parts: dict[str, float] | None = None",
        "      source: Part | None = None",
        "      source.path: str - Where it is, in words that are too many for one line of",
        "          a terminal, so that they go on in the next one.",
    ]
    failed = lines[lines.index("failed") :]
    assert "  broken (unknown): ModuleNotFoundError: No module named 'no_such_module'" in failed
    assert max(map(len, lines)) <= 80
    assert plugin_loader.format_listing([]) == "no plugins installed"
