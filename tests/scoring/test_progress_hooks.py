import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
from transformers.utils import logging

from ilp_mlflow.core import progress
from ilp_mlflow.scoring import loading, progress_hooks
from ilp_mlflow.scoring.progress_hooks import Download
from ilp_mlflow.tracking import model_digest
from tests.core.test_progress import Terminal

PART = b"x" * 10_485_760  # what the library reads at a time
FILE = 3 * PART


class Hub(BaseHTTPRequestHandler):
    """Has one file in one repository."""

    def do_HEAD(self):
        self.send_response(200)
        for name, value in {
            "ETag": '"e"',
            "X-Repo-Commit": "c" * 40,
            "Content-Length": len(FILE),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        for _ in range(3):
            self.wfile.write(PART)
            time.sleep(0.2)  # in which the bar is drawn

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def on_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", found := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "AFTER", 0)
    return found


def test_a_download_of_the_hub_shows_what_is_left(hub, monkeypatch, tmp_path):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    path = huggingface_hub.hf_hub_download(
        "a/b", "model.safetensors", endpoint=hub, cache_dir=tmp_path, tqdm_class=Download
    )
    with open(path, "rb") as file:
        assert file.read() == FILE
    assert re.search(
        r"download model.safetensors .*[12]./31 MB  0:00:0\d, 0:00:0\d left", terminal.getvalue()
    )
    assert progress._shown is None


def test_a_total_may_grow_and_files_that_are_counted_are_not_shown(monkeypatch):
    terminal = on_terminal(monkeypatch)
    files, held = Download(total=2, desc="Fetching"), Download(total=0, unit="B", desc="weights")
    held.total = 8_000_000
    held.update(4_000_000)
    files.update(1)
    progress._shown.refresh()
    files.close()
    held.close()
    assert re.search(r"download weights .*4/8 MB ", terminal.getvalue())
    assert "Fetching" not in terminal.getvalue()


def test_weights_that_are_loaded_are_counted(tiny_model, monkeypatch):
    terminal, real = on_terminal(monkeypatch), progress_hooks.track

    def slowly(*given):
        for item in real(*given):
            yield item
            progress._shown.refresh()

    monkeypatch.setattr(progress_hooks, "track", slowly)
    before = logging._tqdm_hook
    loading.load_model([str(tiny_model)])
    assert re.search(r"load weights .*[1-9]\d*/\d+  0:00:0\d, 0:00:0\d left", terminal.getvalue())
    assert "Loading weights" not in terminal.getvalue()
    assert logging._tqdm_hook is before


def test_what_is_hashed_written_and_stored_is_told_in_megabytes(tiny_model, monkeypatch, tmp_path):
    told = []

    @contextlib.contextmanager
    def task(description, total=None, unit=""):
        told.append((description, unit))
        yield lambda n, total=None: None

    for module in (model_digest, progress):
        monkeypatch.setattr(module, "task", task)
    loaded = loading.load_model([str(tiny_model)])
    loading.save_model(loaded, tmp_path / "copy", "", True)
    assert model_digest.model_digest(str(tmp_path / "copy"))
    assert told[-2:] == [("write copy", "MB"), ("hash model files", "MB")]
