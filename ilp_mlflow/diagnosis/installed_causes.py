"""What the installed diagnostics say of their causes: order, meaning, colour and plant."""

from __future__ import annotations

from dataclasses import dataclass

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.interfaces import Diagnostic


@dataclass(frozen=True)
class CauseInfo:
    """A cause as its diagnostic describes it; see `Diagnostic` for the fields."""

    name: str
    """The cause, which has the name of its diagnostic."""
    order: int = Diagnostic.order
    """Place among the causes: lower ones are looked for first."""
    meaning: str = Diagnostic.meaning
    """The cause in a few words."""
    colour: str = Diagnostic.colour
    """CSS colour, or ""."""
    plant: str = Diagnostic.plant
    """How the lab plants it, or ""."""


FAULT_CAUSES = (
    CauseInfo(
        "faulty_checkpoint",
        order=5,
        meaning="the weights are not what training made of them",
        colour="#a3453f",
    ),
    # behind what is seen in rows and histories, before what is said of the base's knowledge: a
    # training that got nowhere shows nothing of that
    CauseInfo(
        "failed_optimization",
        order=35,
        meaning="the optimizer did not get anywhere: rate, warm-up, gradients",
        colour="#8f6b00",
    ),
)
"""Causes that only faults of a whole stage or checkpoint have; see `diagnosis/faults`."""


def cause_info(name: str, diagnostic: type) -> CauseInfo:
    """What the class of a diagnostic says; one without the base `Diagnostic` says nothing."""
    if not issubclass(diagnostic, Diagnostic):
        return CauseInfo(name)
    return CauseInfo(
        name, diagnostic.order, diagnostic.meaning, diagnostic.colour, diagnostic.plant
    )


def installed_causes() -> list[CauseInfo]:
    """The causes of faults and of all diagnostics that can be used, in their order."""
    causes = list(FAULT_CAUSES)
    for plugin in plugin_loader.installed("diagnostic"):
        # One that fails to import has no class.
        if plugin.cls is not None:
            causes.append(cause_info(plugin.name, plugin.cls))
    return sorted(causes, key=lambda cause: (cause.order, cause.name))
