"""What is installed, and what this machine offers."""

from __future__ import annotations

from ilp_mlflow.cli.app import main
from ilp_mlflow.cli.console import load_libraries, output_options, print_result


@main.command("plugins")
@output_options
def plugins_command() -> None:
    """List diagnostics and mitigations with their options.

    Those that cannot be used are listed with the reason.
    """
    from ilp_mlflow.core import plugin_loader

    plugins = plugin_loader.installed("diagnostic") + plugin_loader.installed("mitigation")
    usable = [
        {"name": p.name, "kind": p.kind, "distribution": p.distribution, "options": dict(p.options)}
        for p in plugins
        if p.error is None
    ]
    failed = [
        {"name": p.name, "distribution": p.distribution, "error": p.error}
        for p in plugins
        if p.error is not None
    ]
    document = {"plugins": usable, "failed": failed}
    print_result(document, plugin_loader.format_listing(plugins))


@main.command("doctor")
@output_options
def doctor_command() -> None:
    """Say what this machine offers, and what stands in the way."""
    import platform
    from importlib.metadata import version

    load_libraries()
    # under the bar of load_libraries, and not with --help
    import torch

    from ilp_mlflow.core.terminal.text import wrap
    from ilp_mlflow.report.build import PACKAGES
    from ilp_mlflow.scoring.models import loading
    from ilp_mlflow.tracking import connection

    facts = {"python": platform.python_version()}
    for package in PACKAGES:
        facts[package] = version(package)
    facts["device"] = loading.pick_device("auto")
    facts["threads"] = str(torch.get_num_threads())
    facts.update(connection.doctor())
    facts["plugins"] = _failed_plugins() or "all import"
    lines: list[str] = []
    for name, value in facts.items():
        lines += wrap(f"{name:<14} {value}", hang=15)
    print_result(facts, "\n".join(lines))


def _failed_plugins() -> str:
    """Plugins that cannot be used, and why; "" where all can."""
    from ilp_mlflow.core import plugin_loader

    plugins = plugin_loader.installed("diagnostic") + plugin_loader.installed("mitigation")
    return "; ".join(f"{p.name} ({p.distribution}): {p.error}" for p in plugins if p.error)
