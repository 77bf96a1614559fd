import sys
from pathlib import Path

import pyarrow as pa
import pytest

from ilp_mlflow import pipeline
from ilp_mlflow.core import cache, config
from ilp_mlflow.core.cache import cached
from ilp_mlflow.tracking import runs


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere platformdirs knows another place")
def test_the_folder_is_where_xdg_says_and_below_home_else(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "ilp_mlflow"
    assert not cache.folder().exists()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache" / "ilp_mlflow"


def test_what_was_made_is_kept_by_what_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return {"ä": [len(made)]}

    assert [cached(("a", "b"), make), cached(("a", "b"), make), cached(("ab",), make)] == [
        {"ä": [1]},
        {"ä": [1]},
        {"ä": [2]},
    ]
    assert not list(tmp_path.rglob("tmp*"))


def test_what_could_not_be_made_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        cached(("a",), lambda: 1 / 0)
    assert cached(("a",), lambda: 1) == 1


@pytest.mark.long
def test_what_cannot_be_kept_is_told_once_and_all_goes_on(
    experiment_file, store, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    for _ in range(2):
        cache.write(["a"], pa.table({"x": [1]}))
    assert cache.read(["a"]) is None
    run_id = pipeline.train(config.read(experiment_file), experiment_file)
    assert pipeline.diagnose(config.read(experiment_file), run_id)
    assert runs.tags(run_id)["ilp.trained"] == "true"
    assert caplog.text.count("cannot be written (Not a directory)") == 1
