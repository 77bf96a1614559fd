"""What is installed, and what this machine offers."""

from __future__ import annotations

from ilp_mlflow.cli.app import main
from ilp_mlflow.cli.console import load_libraries, print_result, printing


@main.command("plugins")
@printing
def plugins_command() -> None:
    """List diagnostics and mitigations with their options.

    Those that cannot be used are listed with the reason.
    """
    from ilp_mlflow.core import plugin_loader

    found = plugin_loader.installed("diagnostic") + plugin_loader.installed("mitigation")
    good = [
        {"name": p.name, "kind": p.kind, "distribution": p.distribution, "options": dict(p.options)}
        for p in found
        if p.error is None
    ]
    bad = [
        {"name": p.name, "distribution": p.distribution, "error": p.error}
        for p in found
        if p.error is not None
    ]
    print_result({"plugins": good, "failed": bad}, plugin_loader.format_listing(found))


@main.command("doctor")
@printing
def doctor_command() -> None:
    """Say what this machine offers, and what stands in the way."""
    import platform
    from importlib.metadata import version

    load_libraries()
    import torch

    from ilp_mlflow.core import plugin_loader
    from ilp_mlflow.core.terminal import wrap
    from ilp_mlflow.report.build import PACKAGES
    from ilp_mlflow.scoring import loading
    from ilp_mlflow.tracking import connection

    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    found |= {
        "device": loading.pick_device("auto"),
        "threads": str(torch.get_num_threads()),
        **connection.doctor(),
    }
    failed = [
        f"{p.name} ({p.distribution}): {p.error}"
        for k in ("diagnostic", "mitigation")
        for p in plugin_loader.installed(k)
        if p.error
    ]
    found["plugins"] = "; ".join(failed) or "all import"
    print_result(
        found,
        "\n".join(
            line for name, value in found.items() for line in wrap(f"{name:<14} {value}", hang=15)
        ),
    )
