"""What is installed, and what this machine offers."""

from __future__ import annotations

from ilp_mlflow.cli.group import main
from ilp_mlflow.cli.output import load_libraries, print_result, printing


@main.command("plugins")
@printing
def plugins_command() -> None:
    """List diagnostics and mitigations with their options.

    Those that cannot be used are listed with the reason.
    """
    from ilp_mlflow import registry

    found = registry.installed("diagnostic") + registry.installed("mitigation")
    good = [
        {"name": p.name, "kind": p.kind, "distribution": p.distribution, "options": dict(p.options)}
        for p in found
        if p.error is None
    ]
    bad = [{"name": p.name, "distribution": p.distribution, "error": p.error} for p in found if p.error is not None]
    print_result({"plugins": good, "failed": bad}, registry.listing(found))


@main.command("doctor")
@printing
def doctor_command() -> None:
    """Say what this machine offers, and what stands in the way."""
    import platform
    from importlib.metadata import version

    load_libraries()
    import torch

    from ilp_mlflow import models, registry, tracking
    from ilp_mlflow.layout import wrapped
    from ilp_mlflow.pipeline import PACKAGES

    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    found |= {"device": models.pick_device("auto"), "threads": str(torch.get_num_threads()), **tracking.doctor()}
    failed = [
        f"{p.name} ({p.distribution}): {p.error}" for k in ("diagnostic", "mitigation") for p in registry.installed(k) if p.error
    ]
    found["plugins"] = "; ".join(failed) or "all import"
    print_result(found, "\n".join(line for name, value in found.items() for line in wrapped(f"{name:<14} {value}", hang=15)))
