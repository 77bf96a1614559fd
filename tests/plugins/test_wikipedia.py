"""Texts of a server that speaks as MediaWiki does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest
from ilp_mitigations.sources.wikipedia import MAX_SEARCH, MAX_WAIT, Wikipedia

from ilp_mlflow import PluginError
from tests.contexts import sample

ANNA = sample("a", prompt="Where does Anna -Berg live?", completion=" Oslo")
TERMS = {"label": ["Anna Berg"], "alias": ["A. Berg"], "description": ["painter"]}
EXTRACT = "Anna Berg is a painter.\n\n\n== Where Anna lives ==\nShe lives in Oslo.\nBirds sing."
HITS = {"query": {"search": [{"title": "Anna Berg", "pageid": 7}]}}
PAGE = {
    "query": {"pages": [{"pageid": 7, "title": "Anna Berg", "extract": EXTRACT, "terms": TERMS}]}
}


@pytest.fixture
def wiki(tmp_path, monkeypatch):
    """Starts a server that answers by the function given; returns the source that asks it, what it was asked, and its naps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    naps = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", naps.append)
    servers, over = [], threading.Event()

    def serve(answer, **options):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(
                    dict(parse_qsl(urlsplit(self.path).query))
                    | {"agent": self.headers["User-Agent"]}
                )
                status, body = answer(asked)
                if status is None:
                    over.wait(30)
                    return
                self.send_response(status)
                self.send_header("Retry-After", "3600")
                self.end_headers()
                self.wfile.write(
                    body.encode() if isinstance(body, str) else json.dumps(body).encode()
                )

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}/w/api.php"
        return Wikipedia(wikipedia="en", endpoint=endpoint, **options), asked, naps

    yield serve
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def found(asked):
    """The article about Anna for any search."""
    return 200, HITS if "srsearch" in asked[-1] else PAGE


def test_paragraphs_of_what_is_found_are_ranked_and_asked_for_once(wiki):
    source, asked, _ = wiki(found, articles=2, contact="me@example.org")
    assert source.documents([ANNA], 3) == [
        ["Anna Berg, A. Berg: painter", "Anna Berg is a painter.", "She lives in Oslo."]
    ]
    search, page = asked
    assert (search["srsearch"], search["srlimit"]) == ("where does anna berg live", "2")
    assert (page["pageids"], page["prop"], page["explaintext"]) == ("7", "extracts|pageterms", "1")
    assert "me@example.org" in search["agent"]
    assert source.documents([ANNA, ANNA], 1) == [["Anna Berg, A. Berg: painter"]] * 2
    assert len(asked) == 2


def test_where_no_article_has_all_words_one_that_has_any_will_do(wiki):
    source, asked, _ = wiki(
        lambda asked: found(asked) if " OR " in str(asked) else (200, {"query": {"search": []}})
    )
    assert len(source.documents([ANNA], 9)[0]) == 3
    assert asked[1]["srsearch"] == "where OR does OR anna OR berg OR live"


def test_nothing_found_is_no_texts(wiki):
    source, asked, _ = wiki(lambda asked: (200, {"query": {"search": []}}))
    assert source.documents([ANNA, sample("b", prompt=" ?! ")], 9) == [[], []]
    assert len(asked) == 2


def test_of_a_long_prompt_the_end_is_searched_for(wiki):
    source, asked, _ = wiki(lambda asked: (200, {"query": {"search": []}}))
    source.documents([sample("a", prompt=f"{'word ' * 500} who is anna ?")], 9)
    assert all(len(a["srsearch"]) <= MAX_SEARCH and a["srsearch"].endswith("anna") for a in asked)


def test_a_busy_server_is_asked_again_when_it_says_but_not_in_an_hour(wiki):
    source, asked, naps = wiki(
        lambda asked: (
            (429, "") if len(asked) == 1 else (503, "") if len(asked) == 2 else found(asked)
        )
    )
    assert len(source.documents([ANNA], 9)[0]) == 3
    assert len(asked) == 4
    assert naps == [MAX_WAIT, MAX_WAIT]


@pytest.mark.parametrize(
    ("status", "body", "expected", "times"),
    [
        (429, "", "answers 429", 5),
        (403, "", "answers 403", 1),
        (200, "<html>", "answers '<html>', which is not JSON", 1),
        (200, [], r"answers '\[\]'", 1),
        (
            200,
            {"error": {"code": "cirrussearch-query-too-long", "info": "x\ny"}},
            "cirrussearch-query-too-long",
            1,
        ),
        (None, "", r"no answer in 0\.2 s", 1),
    ],
)
def test_a_server_that_does_not_help_is_named_in_one_line_and_asked_again_later(
    wiki, status, body, expected, times
):
    source, asked, _ = wiki(
        lambda asked: (status, body) if len(asked) <= times else found(asked), timeout=0.2
    )
    with pytest.raises(PluginError, match=expected) as raised:
        source.documents([ANNA], 9)
    assert len(asked) == times
    assert str(raised.value).startswith(f"{source.endpoint}: ")
    assert "'endpoint'" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(source.documents([ANNA], 9)[0]) == 3


def test_a_server_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda seconds: None)
    with pytest.raises(PluginError, match=r"^http://127\.0\.0\.1:9/: cannot be reached"):
        Wikipedia(wikipedia="en", endpoint="http://127.0.0.1:9/").documents([ANNA], 1)


def test_the_edition_is_asked_where_no_mirror_is_given():
    assert Wikipedia(wikipedia="de").url == "https://de.wikipedia.org/w/api.php"
