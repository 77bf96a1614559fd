"""What the docs show is so: commands parse or run, snippets run, files are valid, messages are the ones that are printed."""

import functools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from ilp_mlflow.cli import main
from ilp_mlflow.core import config, plugin_loader
from ilp_mlflow.data.samples import sample_from_record
from tests.conftest import rows, write_jsonl
from tests.scoring import model_folders

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
TARGETS = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M)
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M"
SHOWN = "/home/you"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    file: str | None
    """The file that it is, as its first line says, or the line above it."""

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        own, above = (
            re.match(r"# (\S+\.\w+)\n", found[2]),
            re.search(r"`(\S+\.\w+)`:\n\n$", text[: found.start()]),
        )
        file = (own or above or [None, None])[1]
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2], file)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages):
    return pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in languages], ids=str)


def commands(text):
    """The commands of a shell block as words, without their comments."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:&&|\|)\s", line):
            if words := shlex.split(part, comments=True):
                yield words


def check(words, whole=True):
    """Fail for a command that there is not, or that does not take these arguments; `whole`: none may be missing."""
    name, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if name == "ilp":
        _parse(main, rest, whole)
    elif name == "mlflow":
        given = _parse(mlflow_commands(), rest, whole)
        if rest[0] == "run":
            entry = PROJECT[given.params["entry_point"]]
            values = dict(p.split("=", 1) for p in given.params["param_list"])
            named = {
                n: values.pop(n, p.get("default")) or "''" for n, p in entry["parameters"].items()
            }
            handed_on = [word for n, value in values.items() for word in (f"--{n}", value)]
            check([*shlex.split(entry["command"].format(**named)), *handed_on], whole)
    elif name == "make":
        assert {w for w in rest if not w.startswith("-") and "=" not in w} <= set(TARGETS)
    elif name == "pip":
        for word in rest:
            assert (
                not (word.startswith(".") or word.endswith(".txt"))
                or (ROOT / word.split("[")[0]).exists()
            )
    elif name in ("python", "python3"):
        assert rest[0] in ("-m", "-c") or (ROOT / rest[0]).exists()
    else:
        assert name in ("source", "pre-commit", "git", "pytest"), (
            f"no test knows the command {name}"
        )


@functools.cache
def mlflow_commands():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports warns of its own types
        import mlflow.cli

    return mlflow.cli.cli


def _parse(group, words, whole):
    if words[0] in ("--help", "--version"):
        return None
    command = group.get_command(click.Context(group), words[0])
    assert command, f"no command {words[0]}"
    try:
        return command.make_context(words[0], list(words[1:]))
    except click.exceptions.Exit:
        return None
    except click.UsageError as error:
        missing = (
            isinstance(error, click.MissingParameter)
            or "requires an argument" in str(error)
            or "'N'" in str(error)
        )
        if whole or not missing:
            raise
        return click.Context(group)


def test_there_is_no_block_that_no_test_looks_at():
    for block in BLOCKS:
        assert block.language in ("sh", "python", "yaml", "toml", "json", "text"), block
        if block.language == "text":
            assert not re.search(r"^(\$|ilp|make|pip|python|mlflow) ", block.text, re.M), (
                f"{block}: commands are no 'text'"
            )


@of("sh")
def test_commands_take_what_they_are_given(block):
    found = list(commands(block.text))
    assert found
    for words in found:
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_settings_in_sentences_are_right(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for code in re.findall(r"`([^`\n]+)`", text):
        if re.match(r"(ilp|make|mlflow|pip|python) [a-z-]", code):
            check(shlex.split(code.replace(" ...", "")), whole=False)
        elif (
            (key := re.match(r"(\w+): ", code))
            and key[1] in config.Experiment.model_fields
            and "..." not in code
        ):
            whole_file(code)


def whole_file(text):
    """The experiment that a file, or a part of one in an experiment, is; with plugins that there are and take these options."""
    given = {
        "name": "x",
        "model": "m",
        "stages": [{"name": "s", "data": "d.jsonl"}],
        **yaml.safe_load(text),
    }
    if "slower" in given.get("mitigations", {}):
        given["mitigations"].pop("slower")  # the tutorial's: tests/test_example_plugin.py
    experiment = config.parse(yaml.safe_dump(given), Path("my.yaml"))
    plugin_loader.configure("diagnostic", experiment.diagnostics)
    plugin_loader.configure("mitigation", experiment.mitigations)
    return experiment


@of("yaml")
def test_experiments_are_valid(block):
    assert whole_file(block.text)


@of("json", "toml")
def test_rows_and_project_files_are_valid(block):
    if block.language == "json":
        for number, line in enumerate(block.text.splitlines(), 1):
            assert sample_from_record(json.loads(line), "s", number, str(block))
    else:
        assert tomllib.loads(block.text)["project"]["name"]


def anchors(page):
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").glob("*.png")}
    assert sizes
    assert max(sizes.values()) < 150_000


def test_the_reference_is_that_of_the_types():
    page = ROOT / "docs" / "configuration.md"
    text = page.read_text(encoding="utf-8")
    assert runpy.run_path(page.with_suffix(".py"))["page"](text) == text, "run `make docs`"


@pytest.mark.parametrize(
    ("name", "draw"), runpy.run_path(ROOT / "docs" / "figures.py")["FIGURES"].items()
)
def test_the_figures_are_those_of_the_contract(name, draw):
    drawn = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    assert draw() == drawn, "run `make docs`"


@pytest.fixture
def desk(store, tiny_model, monkeypatch):
    """A user's folder, which the pages speak of: rows, a model trained elsewhere, and a clone's experiments, all tiny."""
    home = Path.cwd()
    for name in ("rows", "facts", "held_out", "a", "b"):
        write_jsonl(home / f"{name}.jsonl", [{**r, "id": f"{name} {r['id']}"} for r in rows()])
    write_jsonl(home / "style.jsonl", [{**r, "id": f"style {r['id']}"} for r in rows("style ")])
    shutil.copytree(tiny_model, home / "outputs")
    for name in ("first", "second"):
        model_folders.adapter(tiny_model, home / name)
    (home / "experiments").mkdir()
    training = {"num_train_epochs": 1, "bf16": False, "gradient_checkpointing": False}
    stages = [
        {
            "name": "s",
            "data": "../rows.jsonl",
            "training": training,
            "peft": {"r": 4, "target_modules": "all-linear"},
        }
    ]
    (home / "experiments" / "smoke.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "smoke",
                "model": str(tiny_model),
                "stages": stages,
                "mitigations": ["control"],
            }
        )
    )
    return home


def do(page, tiny_model, monkeypatch, elsewhere):
    """Do what a page says from top to bottom: write its files, run its snippets and commands but those that `elsewhere` names."""
    names, done = {}, []
    for block in blocks_of(page):
        text = functools.reduce(
            lambda text, hub: text.replace(hub, str(tiny_model)), HUB, block.text
        )
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(text, str(block), "exec"), names)
        elif block.language == "sh":
            for words in commands(text):
                if words[:2] == ["pip", "install"] and words[-1] == "my-remedy":
                    install(words[-1], monkeypatch)
                elif words[0] == "ilp" and not any(
                    part in " ".join([*words, ""]) for part in elsewhere
                ):
                    result = CliRunner().invoke(main, words[1:])
                    assert result.exit_code == 0, f"{block}: {words}: {result.stderr}"
                    done.append((" ".join(words[1:]), result.stdout))
    return names, done


def install(folder, monkeypatch):
    """Install a distribution as pip does it, but into a folder of its own beside this environment."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        "installed",
    ]
    subprocess.run([*pip, f"./{folder}"], check=True)
    monkeypatch.syspath_prepend(os.path.abspath("installed"))


@pytest.mark.slow
def test_the_quick_starts_do_what_they_say(desk, tiny_model, monkeypatch):
    names, done = do(ROOT / "README.md", tiny_model, monkeypatch, elsewhere=())
    assert names["trainer"].state.global_step == 3
    (followed,) = (c for c in names["trainer"].callback_handler.callbacks if hasattr(c, "report"))
    assert len(followed.report.verdicts) == 8
    said = dict(done)
    assert list(said)[-1] == "mitigate experiments/smoke.yaml --only longer"
    assert "samples by status:" in next(
        text for command, text in done if command.startswith("diagnose")
    )
    code = CliRunner().invoke(main, ["plugins"]).stdout
    assert "longer (my-remedy): Train the stages of samples that got too little signal" in code


@pytest.mark.slow
def test_the_guide_does_what_it_says(desk, tiny_model, monkeypatch):
    # not tried here: tests/lab, tests/test_project.py, tests/test_comparison.py, tests/mitigations
    others = "ilp lab", "--launch", "RUN_A", "--plan auto", "ilp mitigate my.yaml ", "--only repair"
    names, done = do(ROOT / "docs" / "guide.md", tiny_model, monkeypatch, elsewhere=others)
    assert 0 <= names["result"].metrics["unlearned_rate"] <= 1
    commands = {command.split()[0] for command, _ in done}
    assert {"run", "train", "diagnose", "report", "stages", "score"} <= commands


def test_the_schedule_of_the_tutorial_trains_the_worst_half_again():
    from ilp_mlflow.plugin import History, Round, SampleResult

    (block,) = (b for b in BLOCKS if "class HardestTwice" in b.text)
    names = {}
    exec(compile(block.text, str(block), "exec"), names)
    history = History(sample_ids=list("dcba"), subsets={}, batch_size=2, seed=0)
    first = names["HardestTwice"]().next_round(history)
    assert first == [["a", "b"], ["c", "d"]]
    results = {
        i: SampleResult(loss, 0.0) for i, loss in zip("abcd", (1.0, 4.0, 3.0, 2.0), strict=True)
    }
    later = History(list("dcba"), {}, 2, 0, rounds=[Round(first, results, {})])
    assert names["HardestTwice"]().next_round(later) == [["b", "c"]]


def test_the_citation_names_the_study_and_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["title"], cited["version"], cited["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    title, *_ = re.findall(
        r'"(Why .+?)", ACL',
        " ".join((ROOT / "docs" / "method.md").read_text(encoding="utf-8").split()),
    )
    assert cited["preferred-citation"]["title"] == title
