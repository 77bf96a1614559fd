"""What commands print, and what libraries must not."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ilp_mlflow.config import Experiment


def print_result(document: Any, text: str, as_json: bool) -> None:
    """The document as JSON, or the text that says the same, on stdout."""
    click.echo(json.dumps(document, indent=2, default=str) if as_json else text)


def print_report(found: Any, as_json: bool, more: str = "") -> None:
    """A report with where to find it in MLflow; `more` is put behind its text."""
    text = "\n".join(["", report_text(found), *(["", more] if more else []), *links(found.run_id)])
    print_result(found.model_dump(mode="json"), text, as_json)


def report_text(found: Any) -> str:
    """A report as text for the terminal."""
    from ilp_mlflow import report

    return report.summary(found)


def links(run_id: str) -> list[str]:
    """Lines that say how to see a run in the MLflow UI."""
    from ilp_mlflow import tracking

    hint = tracking.serve_hint()
    return [
        "",
        *([f"open the MLflow UI:  {hint}"] if hint else []),
        f"then go to:  {tracking.link(run_id)}" if hint else tracking.link(run_id),
    ]


def quiet(experiment: Experiment | None = None) -> None:
    """Keep the libraries' own bars, banners and retries off the terminal, and a lab on one thread."""
    from ilp_mlflow import config

    if experiment and config.is_lab(experiment):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # its model is so small that threads wait for each other
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("transformers", "trl", "datasets", "huggingface_hub", "accelerate", "peft", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def load_libraries(experiment: Experiment | None = None) -> None:
    """Import what takes seconds to import, under a bar."""
    quiet(experiment)
    from ilp_mlflow.progress import task

    with task("load libraries"):
        import ilp_mlflow.pipeline  # noqa: F401
