"""Details of evidence: stored as JSON values, read back as what they are."""

from typing import ClassVar

import pytest
from pydantic import ValidationError

from ilp_mlflow import Diagnosis, Evidence, Verdict
from ilp_mlflow.core.values import Details


class Weather(Details):
    cause: ClassVar[str] = "rain"
    towns: tuple[str, ...] = ()
    """Where it rains."""
    depth: float | None = None
    """How much, mm."""
    heavy: bool = False


def diagnosis(**evidence):
    return Diagnosis(verdict=Verdict(sample_id="a", status="unlearned"), evidence=evidence)


def rain(details):
    return Evidence(cause="rain", strength=1, reason="r", details=details)


def test_what_is_set_is_stored_as_json_values_and_nothing_else():
    stored = rain(Weather(towns=("Bergen",), depth=None)).details
    assert stored == {"towns": ["Bergen"], "depth": None}
    assert rain({"towns": ["Bergen"]}).details == {"towns": ["Bergen"]}


def test_details_come_back_as_they_were_whichever_diagnostic_has_them():
    before = Weather(towns=("Bergen", "Cork"), depth=2.5)
    stored = diagnosis(somebody=rain(before)).model_dump_json()
    assert Diagnosis.model_validate_json(stored).details(Weather) == before


def test_there_are_none_without_evidence_for_their_cause():
    assert diagnosis().details(Weather) is None
    assert diagnosis(x=Evidence(cause="snow", strength=1, reason="r")).details(Weather) is None
    assert diagnosis(x=rain({})).details(Weather) == Weather()


def test_several_diagnostics_add_up_and_what_nobody_knows_is_left_out():
    both = diagnosis(one=rain(Weather(depth=1.0)), two=rain({"towns": ["Cork"], "wind": 3}))
    assert both.details(Weather) == Weather(towns=("Cork",), depth=1.0)


def test_details_of_another_type_are_an_error():
    with pytest.raises(ValidationError, match="depth"):
        diagnosis(x=rain({"depth": "much"})).details(Weather)
