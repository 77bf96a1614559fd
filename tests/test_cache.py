import pytest

from ilp_mlflow.cache import kept


def test_what_was_made_is_kept_by_what_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return {"ä": [len(made)]}

    assert [kept(("a", "b"), make), kept(("a", "b"), make), kept(("ab",), make)] == [{"ä": [1]}, {"ä": [1]}, {"ä": [2]}]
    assert not list(tmp_path.rglob("tmp*"))


def test_what_could_not_be_made_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        kept(("a",), lambda: 1 / 0)
    assert kept(("a",), lambda: 1) == 1
