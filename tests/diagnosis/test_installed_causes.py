"""What is said of a cause stands on its diagnostic."""

from importlib.metadata import EntryPoint

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.diagnosis.installed_causes import (
    FAULT_CAUSES,
    CauseInfo,
    cause_info,
    installed_causes,
)
from ilp_mlflow.plugin import Diagnostic

BUILT_IN = [
    "not_trained",
    "data_contradiction",
    "left_side_forgetting",
    "insufficient_optimization",
    "knowledge_conflict",
    "missing_knowledge",
]


class Early(Diagnostic):
    """Comes before all others."""

    order = 5
    meaning = "it is early"
    colour = "#123456"

    def examine(self, unlearned, context):
        return {}


class Bare:
    def examine(self, unlearned, context):
        return {}


def test_each_built_in_cause_has_an_order_a_meaning_and_a_colour_of_its_own():
    causes = [cause for cause in installed_causes() if cause.name in BUILT_IN]
    assert [cause.name for cause in causes] == BUILT_IN
    for field in ("order", "meaning", "colour"):
        assert len({getattr(cause, field) for cause in causes} - {""}) == len(BUILT_IN)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_colours_stand_out_from_the_light_and_the_dark_page():
    """WCAG asks for 3:1 in what is not text; the page's cards are #fff and #1a202a."""
    for cause in installed_causes():
        if cause.name in BUILT_IN:
            colour = luminance(cause.colour)
            assert 1.05 / (colour + 0.05) >= 3
            assert (colour + 0.05) / (luminance("#1a202a") + 0.05) >= 3


def test_a_diagnostic_without_the_base_comes_behind_and_says_nothing():
    assert cause_info("bare", Bare) == CauseInfo("bare", 1000, "", "")
    assert cause_info("early", Early) == CauseInfo("early", 5, "it is early", "#123456")


def test_causes_of_other_plugins_stand_where_their_order_says(monkeypatch):
    real = plugin_loader.entry_points
    more = [
        EntryPoint(kind.__name__.lower(), f"{__name__}:{kind.__name__}", "g")
        for kind in (Bare, Early)
    ]
    monkeypatch.setattr(plugin_loader, "entry_points", lambda group: [*real(group=group), *more])
    names = [cause.name for cause in installed_causes() if cause not in FAULT_CAUSES]
    assert names == ["early", *BUILT_IN, "bare"]
