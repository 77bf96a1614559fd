"""The command group: what went wrong as one line and an exit code, and options that several commands take."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ilp_mlflow.cli.console import printing
from ilp_mlflow.core.errors import IlpError, StepFailed
from ilp_mlflow.core.interrupts import sigterm_as_interrupt
from ilp_mlflow.core.progress import LAUNCHED_ENV

FULL = "the disk is full; free some space, or move MLflow's store (tracking.uri) or the cache (XDG_CACHE_HOME)"


class _Group(click.Group):
    """Turns what a user can repair into one line and exit code 2, and keeps the traceback of everything else (3)."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with sigterm_as_interrupt():
                return super().main(
                    *args, **{**kwargs, "prog_name": "ilp", "standalone_mode": False}
                )
        except IlpError as error:
            code, text = 2, FULL if _disk_full(error) else _line(str(error))
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.UsageError as error:
            context = error.ctx.command_path if error.ctx else "ilp"
            code, text = 2, _line(f"{error.format_message().rstrip('.')}; see '{context} --help'")
        except click.ClickException as error:
            code, text = 2, _line(error.format_message())
        except StepFailed as error:
            code, text = 3, _line(str(error.args[0]))
        except (KeyboardInterrupt, click.Abort):
            code, text = (
                130,
                self._interrupted(list(args[0] if args else kwargs.get("args") or sys.argv[1:])),
            )
        except Exception as error:
            if _disk_full(error):
                code, text = 2, FULL
            elif (
                isinstance(error, OSError)
                and error.errno in (errno.EROFS, errno.EACCES)
                and error.filename
            ):
                code, text = (
                    2,
                    f"{error.filename}: {error.strerror}; make it writable, or choose another place",
                )
            else:
                traceback.print_exc()
                code, text = (
                    3,
                    "this is a fault in ilp or in a library below it; please report it with the lines above",
                )
        if code != 130 or LAUNCHED_ENV not in os.environ:  # whoever launched it says what to do
            print(f"ilp: {text}", file=sys.stderr)
        sys.exit(code)

    def _interrupted(self, given: list[str]) -> str:
        """What an interrupt left behind, and the command that goes on."""
        runs = sys.modules.get("ilp_mlflow.tracking.runs")
        killed = runs.killed_runs[-1] if runs and runs.killed_runs else ""
        words = [
            a for a, after in zip(given, [*given[1:], None], strict=True) if a and after != ""
        ]  # MLflow gives empty options
        command = self.commands.get(words[0])
        # of a single stage it is another run, and models trained elsewhere have none to go on from
        own = (
            command
            and words[0] != "stage"
            and "--checkpoint" not in words
            and any(p.name == "run_id" for p in command.params)
        )
        if killed and own and "--run-id" not in words:
            words += ["--run-id", killed]
        left = f"run {killed} is marked KILLED in MLflow" if killed else "no run was open"
        left += "; to go on" if killed and own else "; to start again"
        return f"interrupted; {left}: {_ourselves()} {shlex.join(words)}"


def _disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error; each library has its own words for it."""
    if error is None:
        return False
    said = any(
        words in str(error) for words in ("No space left on device", "database or disk is full")
    )
    return said or _disk_full(error.__cause__ or error.__context__)


def _line(text: str) -> str:
    return " ".join(text.split())


def _ourselves() -> str:
    """How this command was called, to be typed again."""
    if Path(sys.argv[0]).name != "ilp":
        return f"{shlex.quote(sys.executable)} -m ilp_mlflow"
    return "ilp" if shutil.which("ilp") == sys.argv[0] else shlex.quote(sys.argv[0])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ilp-mlflow")
def main() -> None:
    """Find the fine-tuning samples a model did not learn, since when, why, and what fixes it."""


GO_ON = click.option(
    "--run-id", default="", help="Go on with this run: what is finished in it is not trained again."
)
RUN_ID = click.option(
    "--run-id", default="", help="MLflow run of the experiment (default: its newest)."
)
SEED = click.option("--seed", default="", help="Seed in place of the experiment's.")
MODEL = click.option(
    "--model", default="", help="Model in place of the experiment's: Hub id, folder or MLflow URI."
)
CHECKPOINTS = click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=LOCATION",
    help="A model trained anywhere, or a trainer's output folder (its checkpoint-N are NAME@N); the first is the base.",
)
LAUNCH = click.option(
    "--launch", default="", help="'inline', or 'project' for one MLflow project run per stage."
)


def experiment_command(
    name: str, *options: Callable[..., Any], required: bool = True
) -> Callable[..., Any]:
    """A command that takes EXPERIMENT, --json and --quiet besides its own options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        decorated: Any = printing(function)
        for option in reversed(options):
            decorated = option(decorated)
        decorated = click.argument(
            "experiment", type=click.Path(path_type=Path), required=required
        )(decorated)
        return main.command(name)(decorated)

    return decorate


def scoring_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `config.ScoringConfig`, "" for its default."""
    function = click.option("--device", default="", help="'auto', 'cpu', 'cuda', ...")(function)
    dtypes = "'float32', 'bfloat16', or 'mixed': decide in float32 what is close in bfloat16."
    function = click.option("--dtype", default="", help=dtypes)(function)
    function = click.option(
        "--options", default="", help="Wrong options chosen for a sample that gives none."
    )(function)
    return click.option("--preset", default="", help="'default' or 'paper'.")(function)
