"""The command itself, without a subcommand: help, and what is no command."""

import subprocess
import sys

from tests.cli.commands import ilp


def test_help_is_quick_because_it_imports_nothing_heavy():
    heavy = "torch", "transformers", "trl", "peft", "datasets", "mlflow", "pyarrow", "rich", "numpy"
    code = (
        "import sys\nfrom ilp_mlflow.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_alone_it_says_what_it_can():
    code, out, err = ilp()
    assert (code, out) == (2, "")
    assert len(err.splitlines()) > 10
    assert "Commands:" in err


def test_an_unknown_command_is_told_in_one_line(refused):
    refused(["trian"], "trian")
