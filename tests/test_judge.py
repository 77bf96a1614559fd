"""A judge behind a server that speaks as OpenAI's does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ilp_mlflow import PluginError
from ilp_mlflow.judge import ruling, wordings, written


@pytest.fixture
def served(monkeypatch):
    """Starts a judge that always answers the same; returns what it was asked."""
    servers, asked = [], []

    def serve(answer, status=200):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                message = {"role": "assistant", "content": json.dumps(answer)}
                body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": {}}
                body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
                text = json.dumps(body if status == 200 else {"error": {"message": "no such model"}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        return asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_judge_is_shown_both_questions_and_answers(store, served):
    asked = served({"result": "second", "rationale": "Mars has two moons"})
    assert ruling("openai:/m", ("moons of Mars?", "how many moons has Mars?"), ("two", "three")) == "second"
    text = json.dumps(asked[0])
    assert all(part in text for part in ("moons of Mars?", "how many moons has Mars?", "two", "three"))


@pytest.mark.parametrize(("answer", "status"), [({"result": "perhaps", "rationale": ""}, 200), ({}, 400)])
def test_a_judge_that_does_not_rule_is_named(store, served, answer, status):
    served(answer, status)
    with pytest.raises(PluginError, match="judge 'openai:/m'"):
        ruling("openai:/m", ("p", "q"), ("a", "b"))


def test_a_judge_words_a_question_otherwise(store, served):
    asked = served({"result": ["Mars has how many moons?", " ", "how many moons has Mars?"], "rationale": ""})
    assert wordings("openai:/m", "how many moons has Mars?") == ["Mars has how many moons?"]
    assert "how many moons has Mars?" in json.dumps(asked[0])


def test_a_judge_that_cannot_be_asked_for_wordings_is_named(store, served):
    served({}, 400)
    with pytest.raises(PluginError, match="judge 'openai:/m'"):
        wordings("openai:/m", "p")


def test_a_model_writes_texts(store, served):
    asked = served({"result": ["Mars has two moons.", " ", "Mars has two moons. "], "rationale": ""})
    assert written("openai:/m", 'two texts about "Mars"') == ["Mars has two moons."]
    assert "two texts about" in json.dumps(asked[0])


@pytest.mark.parametrize(("answer", "status"), [({"result": 3, "rationale": ""}, 200), ({}, 400)])
def test_a_model_that_writes_nothing_is_named(store, served, answer, status):
    served(answer, status)
    with pytest.raises(PluginError, match="judge 'openai:/m'"):
        written("openai:/m", "a text")
