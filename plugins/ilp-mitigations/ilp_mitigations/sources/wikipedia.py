"""Texts about samples, found in Wikipedia and, for what an article is about, in Wikidata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ilp_mitigations.sources.ranking import rank_texts, sample_query
from ilp_mlflow.plugin import PluginError, Sample, Value, cached, prompt_text

if TYPE_CHECKING:
    from requests import Session

MAX_SEARCH = 300
"""Characters of a search, at most: the server refuses more."""
MAX_WAIT = 60
"""Seconds waited, at most, where the server says when to come again."""
ARTICLE_FIELDS = {
    "prop": "extracts|pageterms",
    "explaintext": "1",
    "wbptterms": "label|alias|description",
}
"""What is asked of an article: its plain text, and the terms that Wikidata has for it."""


class Wikipedia(Value):
    """An edition of Wikipedia, asked over HTTP, one question at a time; its answers are cached."""

    wikipedia: str = Field(pattern=r"^[a-z][a-z-]*$")
    """Language of the edition, such as `en`."""
    articles: int = Field(default=3, ge=1)
    """Articles read for each sample, at most."""
    timeout: float = Field(default=10, gt=0)
    """Seconds to wait for the server to connect, and for each part of its answer."""
    endpoint: str | None = None
    """Address of the `api.php` of a mirror; left out, that of the edition."""
    contact: str | None = None
    """Your mail address or page, for the User-Agent: Wikimedia slows down and blocks clients
    without one."""

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample the `n` paragraphs that fit it best, of articles found for its prompt.

        Raises PluginError when the server does not answer, or not as MediaWiki does.
        """
        documents = []
        with self._open_session() as session:
            for sample in samples:
                paragraphs = self._find_paragraphs(session, prompt_text(sample.prompt))
                documents += rank_texts(paragraphs, [sample_query(sample)], n)
        return documents

    @property
    def url(self) -> str:
        """Address of the server's `api.php`."""
        return self.endpoint or f"https://{self.wikipedia}.wikipedia.org/w/api.php"

    def _find_paragraphs(self, session: Session, prompt: str) -> list[str]:
        """Distinct paragraphs of the articles found for a prompt, after what Wikidata says."""
        paragraphs: dict[str, None] = {}
        for page_id in self._search(session, prompt):
            for page in self._query(session, pageids=page_id, **ARTICLE_FIELDS)["pages"]:
                paragraphs |= dict.fromkeys([*_descriptions(page), *_paragraphs(page)])
        return list(paragraphs)

    def _search(self, session: Session, prompt: str) -> list[str]:
        """Ids of the articles that have all words of a prompt, or where none has, any of them."""
        words = _search_words(prompt)
        if not words:
            return []
        for search in (" ".join(words), " OR ".join(words)):
            limit = str(self.articles)
            answer = self._query(session, list="search", srsearch=search, srlimit=limit)
            if answer["search"]:
                return [str(hit["pageid"]) for hit in answer["search"]]
        return []

    def _query(self, session: Session, **fields: str) -> dict[str, Any]:
        """What the server answers to a query; asked once, then read from the cache."""
        parameters = {"action": "query", "format": "json", "formatversion": "2", **fields}
        # sorted, so that the order of arguments makes no other cache entry
        pairs = [f"{name}={value}" for name, value in sorted(parameters.items())]
        return cached(("mediawiki", self.url, *pairs), partial(self._fetch, session, parameters))

    def _fetch(self, session: Session, parameters: dict[str, str]) -> dict[str, Any]:
        """What the server answers. Raises PluginError for anything but an answer to a query."""
        import requests

        # timeouts and bad JSON are both RequestExceptions, so they are told apart first
        try:
            response = session.get(self.url, params=parameters, timeout=self.timeout)
            response.raise_for_status()
            answer = response.json()
            if isinstance(answer, dict) and "query" in answer:
                return dict(answer["query"])
            fault = f"answers {response.text[:100]!r}"
        except requests.Timeout:
            fault = f"no answer in {self.timeout:g} s"
        except requests.JSONDecodeError:
            fault = f"answers {response.text[:100]!r}, which is not JSON"
        except requests.HTTPError:
            fault = f"answers {response.status_code}"
        except requests.RequestException:
            fault = "cannot be reached, or breaks off"
        raise PluginError(
            f"{self.url}: {fault}; try again later, "
            "or give the source another 'endpoint', 'contact' or 'timeout'"
        )

    def _open_session(self) -> Session:
        """A session that says who asks, and asks again where the server is busy."""
        from requests import Session
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        retry = Retry(
            total=4,
            connect=1,
            read=False,
            status_forcelist=(429, 502, 503, 504),
            backoff_factor=0.5,
            retry_after_max=MAX_WAIT,
            raise_on_status=False,
        )
        session = Session()
        contact = self.contact or "no contact given"
        agent = f"ilp-mitigations/{version('ilp-mitigations')} ({contact})"
        session.headers["User-Agent"] = agent
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        return session


def _search_words(prompt: str) -> list[str]:
    """The words of a prompt to search for; of a long one the last, since it asks at its end."""
    # lower case and bare, so that the search takes none of them for an operator
    words = re.findall(r"\w[\w'-]*", prompt.lower())
    while len(" or ".join(words)) > MAX_SEARCH:
        words = words[1:]
    return words


def _descriptions(page: dict[str, Any]) -> list[str]:
    """What Wikidata says an article is about, behind its names."""
    terms = page.get("terms", {})
    names = ", ".join([*terms.get("label", ()), *terms.get("alias", ())])
    return [f"{names}: {text}" for text in terms.get("description", ())]


def _paragraphs(page: dict[str, Any]) -> list[str]:
    """The paragraphs of an article, without its headings."""
    paragraphs = []
    for line in page.get("extract", "").split("\n"):
        paragraph = line.strip()
        if paragraph and not paragraph.startswith("=="):
            paragraphs.append(paragraph)
    return paragraphs
