"""Texts about something, found in Wikipedia and, for what an article is about, in Wikidata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ilp_mitigations.sources.ranking import query, ranked
from ilp_mlflow.plugin import PluginError, Sample, Value, cached, prompt_text

if TYPE_CHECKING:
    from requests import Session

LONGEST = 300
"""Characters of a search, at most: the server refuses more."""
PATIENCE = 60
"""Seconds waited, at most, where the server says when to come again."""


class Wikipedia(Value):
    """An edition of Wikipedia, asked over HTTP, one question at a time; what it answered is kept on this machine."""

    wikipedia: str = Field(pattern=r"^[a-z][a-z-]*$")
    """Language of the edition, such as `en`."""
    articles: int = Field(default=3, ge=1)
    """Articles read for each sample, at most."""
    timeout: float = Field(default=10, gt=0)
    """Seconds to wait for the server to connect, and for each part of its answer."""
    endpoint: str | None = None
    """Address of the `api.php` of a mirror; left out, that of the edition."""
    contact: str | None = None
    """Your mail address or page, for the User-Agent: Wikimedia slows down and blocks whoever gives none."""

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample the `n` paragraphs that fit it best, of the articles that a search for its prompt finds.

        Raises PluginError when the server does not answer, or with something else than MediaWiki does.
        """
        with self._session() as session:
            return [
                ranked(self._paragraphs(session, prompt_text(s.prompt)), [query(s)], n)[0]
                for s in samples
            ]

    @property
    def url(self) -> str:
        """Address of the server's `api.php`."""
        return self.endpoint or f"https://{self.wikipedia}.wikipedia.org/w/api.php"

    def _paragraphs(self, session: Session, prompt: str) -> list[str]:
        """Of the articles that have all words of a prompt, or else any: what Wikidata says of them, and their paragraphs."""
        words = re.findall(
            r"\w[\w'-]*", prompt.lower()
        )  # lower case and bare: nothing that the search takes for an operator
        while words and len(" or ".join(words)) > LONGEST:
            words = words[1:]  # a prompt asks at its end
        hits: list[dict[str, Any]] = []
        for search in (" ".join(words), " OR ".join(words)) if words else ():
            hits = (
                hits
                or self._asked(session, list="search", srsearch=search, srlimit=str(self.articles))[
                    "search"
                ]
            )
        found = dict[str, None]()
        for hit in hits:
            wanted = {
                "prop": "extracts|pageterms",
                "explaintext": "1",
                "wbptterms": "label|alias|description",
            }
            for page in self._asked(session, pageids=str(hit["pageid"]), **wanted)["pages"]:
                terms = page.get("terms", {})
                names = ", ".join([*terms.get("label", ()), *terms.get("alias", ())])
                about = [f"{names}: {text}" for text in terms.get("description", ())]
                lines = [line.strip() for line in page.get("extract", "").split("\n")]
                found |= dict.fromkeys(
                    [*about, *(line for line in lines if line and not line.startswith("=="))]
                )
        return list(found)

    def _asked(self, session: Session, **wanted: str) -> dict[str, Any]:
        """What a query gives; asked once."""
        asked = {"action": "query", "format": "json", "formatversion": "2", **wanted}
        key = ("mediawiki", self.url, *(f"{name}={value}" for name, value in sorted(asked.items())))
        return cached(key, partial(self._fetched, session, asked))

    def _fetched(self, session: Session, asked: dict[str, str]) -> dict[str, Any]:
        import requests

        try:
            answer = session.get(self.url, params=asked, timeout=self.timeout)
            answer.raise_for_status()
            found = answer.json()
            if isinstance(found, dict) and "query" in found:
                return dict(found["query"])
            why = f"answers {answer.text[:100]!r}"
        except requests.Timeout:
            why = f"no answer in {self.timeout:g} s"
        except requests.JSONDecodeError:
            why = f"answers {answer.text[:100]!r}, which is not JSON"
        except requests.HTTPError:
            why = f"answers {answer.status_code}"
        except requests.RequestException:
            why = "cannot be reached, or breaks off"
        raise PluginError(
            f"{self.url}: {why}; try again later, or give the source another 'endpoint', 'contact' or 'timeout'"
        )

    def _session(self) -> Session:
        """A session that says who asks, and asks again where the server is busy."""
        from requests import Session
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        again = Retry(
            total=4,
            connect=1,
            read=False,
            status_forcelist=(429, 502, 503, 504),
            backoff_factor=0.5,
            retry_after_max=PATIENCE,
            raise_on_status=False,
        )
        session = Session()
        session.headers["User-Agent"] = (
            f"ilp-mitigations/{version('ilp-mitigations')} ({self.contact or 'no contact given'})"
        )
        session.mount("http://", HTTPAdapter(max_retries=again))
        session.mount("https://", HTTPAdapter(max_retries=again))
        return session
