import hashlib
import json
import os
import re
from base64 import b64decode
from functools import partial
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from markupsafe import Markup

from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Evidence,
    Finding,
    Guard,
    Outcome,
    Report,
    Request,
    Sample,
    Subject,
    Tally,
    Verdict,
)
from ilp_mlflow.report import html, sample_browser
from ilp_mlflow.report.html import render_html
from ilp_mlflow.report.summary import markdown_summary
from ilp_mlflow.report.token_view import TokenView
from tests.browser import browsing

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</SCRIPT\t><svg/onload=alert(1)>",
    "<!--<script>",
    "--><img src=x onerror=alert(1)>",
    "]]><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "` onerror=`alert(1)",
    '"><script>alert(1)</script>',
    "</td></tr></table><h1>out</h1>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</noscript><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<meta http-equiv=refresh content='0;url=//evil.invalid'>",
    "<base href='//evil.invalid/'>",
    "<link rel=stylesheet href='//evil.invalid/x.css'>",
    "<form action='//evil.invalid'><input type=submit>",
    "red; background: url(//evil.invalid/x)",
    "}*{display:none}",
    "{{7*7}}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{# comment #} ${7*7} #{7*7} <%= 7*7 %>",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    '\\"];alert(1);//',
    "'; alert(1); '",
    "__proto__",
    "constructor.prototype",
    "\u202eright to left\u202c \u2066isolated\u2069 \u200f\u200e \u061c",
    "line\u2028paragraph\u2029end",
    "nul\x00bell\x07escape\x1b[31m backspace\x08 del\x7f c1\x9b",
    "\r\n\t\x0b\x0c",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \ufeff \ufffe",
    "<<<<>>>>&&&&\"\"\"\"''''",
    "x" * 100_000,
    "<b>" * 33_000,
    "\u0e01\u0e49" + "\u0e49" * 500,
    "",
    " ",
    "half a pair \ud83d or \udc00",
]
CLEAN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Outline(HTMLParser):
    """Elements with the names of their attributes, and the contents of scripts."""

    def __init__(self):
        super().__init__()
        self.elements, self.scripts, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        if (tag, attributes) != ("wbr", []):  # where a name may break
            self.elements.append((tag, tuple(sorted(name for name, _ in attributes))))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)


def outline(page):
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def report(text, ids=("a", "b", "c", "d")):
    """A report that has `text` wherever data may put one, and its samples."""
    stage, other = f"s{text}", f"t{text}"
    checkpoints = tuple(
        Checkpoint(name=n, model_uri=f"u{text}") for n in ("base", f"{stage}@5", stage, other)
    )
    names = [c.name for c in checkpoints]
    a, b, c, d = (f"{i}{text}" for i in ids)
    samples = {
        i: Sample(
            id=i,
            stage=other if i == d else stage,
            prompt=f"p{text}",
            completion=f"q{text}",
            source=text,
            paraphrases=(text,),
        )
        for i in (a, b, c, d)
    }
    lost = Verdict(
        sample_id=a,
        status="unlearned",
        margin=-1.5,
        first_learned=stage,
        last_lost=other,
        reason=f"r{text}",
    )
    never = Verdict(sample_id=b, status="unlearned", reason=f"r{text}")
    rows = Evidence(
        cause="data_contradiction",
        strength=0.9,
        reason=f"e{text}",
        details={"rows": [b, d], "wrong": text},
    )
    tally = Tally(unlearned=1, recovered=1, by_control=0, paraphrased=1, held=1)
    tried = Outcome(
        mitigation=f"m{text}",
        run_id="r1",
        targets=(a,),
        recovered=(a,),
        still=(b,),
        regressed=(),
        control_run_id="r2",
        causes={
            "data_contradiction": tally,
            "unexplained": Tally(unlearned=1, recovered=0, by_control=0),
        },
        net_recovery=1.0,
        net_interval=(1.0, 1.0),
        p_value=0.001,
        regressed_by_control=1,
        guard=Guard(right=9, lost=1, lost_by_control=2),
        combines=(f"x{text}", "y"),
        model_uri=f"m{text}",
        tokens=1000,
        seconds=90.0,
    )
    found = Report(
        name=f"n{text}",
        run_id=f"i{text}",
        preset="default",
        checkpoints=checkpoints,
        retention={
            stage: dict(zip(names, (0.0, 0.5, 1.0, 0.5), strict=True)),
            other: dict.fromkeys(names, 0.0),
        },
        recognition={
            m: dict.fromkeys(names, 0.5) for m in ("sum", "mean", "corrected", "blank", "chance")
        },
        verdicts=(
            Verdict(sample_id=c, status="learned"),
            lost,
            never,
            Verdict(sample_id=d, status="uncertain", reason=text),
        ),
        histories={
            a: ("unlearned", "learned", "learned", "unlearned"),
            b: ("unlearned",) * 4,
            c: ("unlearned", "learned", "unlearned", "learned"),
            d: ("unlearned", "unscored", "unlearned", "uncertain"),
        },
        diagnoses=(
            Diagnosis(
                verdict=lost,
                cause="data_contradiction",
                strength=0.9,
                reason=f"e{text}",
                evidence={"data_contradiction": rows},
            ),
            Diagnosis(verdict=never),
        ),
        findings=(
            Finding(
                subject=Subject(kind="stage", name=stage),
                evidence=Evidence(cause="not_trained", strength=1, reason=f"f{text}"),
                samples=2,
            ),
        ),
        outcomes=(tried,),
        requests={f"k{text}": Request(targets=(a,), wanted={f"w{text}": 3}, reason=f"o{text}")},
        asked=2,
        unavailable=("signals",),
        settings=f"name: {text}",
        versions={f"v{text}": f"1{text}"},
    )
    return found, samples


def listed(page):
    data = outline(page).scripts[1]
    return json.loads(data)


@pytest.fixture(scope="module")
def plain():
    return outline(render_html(*report("plain")))


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_from_data_is_shown_and_adds_nothing_to_the_page(text, plain):
    page = render_html(*report(text))
    found = outline(page)
    assert found.elements == plain.elements
    assert found.scripts[2] == plain.scripts[2]
    assert not CLEAN.search(page)
    assert not re.search(r"[<>&\u2028\u2029]", found.scripts[1])
    shown = CLEAN.sub("\ufffd", f"p{text}".strip()[:300])
    prompts = {row["id"][0]: row["prompt"] for row in listed(page)["rows"]}
    assert prompts["a"].startswith(shown)
    if len(text) < 300:
        assert prompts["a"] == CLEAN.sub("\ufffd", f"p{text}".strip())
        assert any(shown in one for one in found.texts)
    else:
        assert len(prompts["a"]) < 1100


def adds_elements(text):
    """Whether a parser sees elements in a text that stands in a page as it is."""
    return outline(f"<p>p{text}</p>").elements != [("p", ())]


@pytest.fixture
def unescaped(monkeypatch):
    """A template that shows every text as markup."""
    monkeypatch.setattr(html, "_finalize", lambda value: Markup(value) if value else value)
    html._template.cache_clear()
    yield
    html._template.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("unescaped")
def test_only_escaping_keeps_what_is_markup_out_of_the_page(plain):
    markup = [text for text in set(HOSTILE) if adds_elements(text)]
    assert len(markup) >= 20
    for text in markup:
        assert outline(render_html(*report(text))).elements != plain.elements


def test_the_page_needs_nothing_else_and_lets_nothing_but_its_script_run():
    page = render_html(*report("plain"))
    assert not re.search(r"https?://|\bsrc=|@import|url\(", page)
    digest = re.search(r"script-src 'sha256-(\S+?)'", page)[1]
    assert b64decode(digest) == hashlib.sha256(outline(page).scripts[2].encode()).digest()
    assert "default-src 'none'" in page
    script = Path(render_html.__code__.co_filename).with_name("report.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|localStorage|cookie|fetch",
        script,
    )


def with_tallies(found, causes, **changes):
    (one,) = found.outcomes
    return found.model_copy(
        update={"outcomes": (one.model_copy(update={"causes": causes, **changes}),)}
    )


@pytest.mark.slow
def test_what_helps_is_said_where_that_is_beyond_chance_as_the_description_says_it():
    found, samples = report("plain")
    few = {"data_contradiction": Tally(unlearned=20, recovered=7, by_control=3)}
    assert "nothing beyond chance" in render_html(with_tallies(found, few), samples)
    assert "| data_contradiction | 1 | none |" in markdown_summary(with_tallies(found, few))
    many = {"data_contradiction": Tally(unlearned=20, recovered=15, by_control=2)}
    assert "| data_contradiction | 1 | mplain 15 (2) |" in markdown_summary(
        with_tallies(found, many)
    )
    alone = with_tallies(found, many, control_run_id=None).model_copy(update={"requests": {}})
    assert "nothing yet" in render_html(alone, samples)
    assert "No mitigation was tried." in render_html(alone, samples)
    assert "| data_contradiction | 1 | - |" in markdown_summary(alone)


def test_the_first_screen_says_how_many_why_and_what_to_do():
    found, samples = report("plain")
    sure = {"data_contradiction": Tally(unlearned=20, recovered=15, by_control=2)}
    first = render_html(with_tallies(found, sure), samples).split('<section id="when"')[0]
    assert '<p class="big">2</p>' in first
    assert "15 vs 2 of 20 with and without" in first
    assert "data contradiction" in first
    assert "Take mplain (xplain, y): net of its control it recovers 100% of its 1 targets" in first
    assert "kplain lacks data: oplain" in first
    assert "Picked on these same samples" in first


@pytest.mark.slow
def test_a_finding_about_a_stage_is_said_once_before_the_causes():
    found, samples = report("plain")
    page = render_html(found, samples)
    sentence = "Stage &#39;splain&#39;: fplain (2 unlearned samples)."
    assert page.count(sentence) == 1
    assert page.index(sentence) < page.index("data contradiction")
    without = render_html(found.model_copy(update={"findings": ()}), samples)
    assert without == page.replace(f'<p class="data">{sentence}</p>\n', "")


def test_a_step_inside_a_stage_has_a_short_head_that_is_read_in_full():
    page = render_html(*report("plain"))
    assert (
        page.count(
            '<th scope="col" class="num within"><bdi><span class="hide">splain</span>@5</bdi></th>'
        )
        == 3
    )


def test_every_cell_of_a_table_that_is_a_list_on_a_phone_says_what_it_is():
    page = render_html(*report("plain"))
    for table in re.findall(r'<table class="cards">.*?</table>', page, re.S):
        heads = len(re.findall("<th scope=.col.", table))
        for row in re.findall("<tr>(?!<th scope=.col.).*?</tr>", table, re.S):
            assert len(re.findall(r'scope="row"|data-is="|class="whole"', row)) == heads
    assert "accelerator hours" not in page  # nothing was trained on one


def test_a_cell_of_the_recovery_matrix_has_its_counts_its_interval_and_its_frame():
    page = render_html(*report("plain"))
    (cell,) = re.findall(
        r'<td class="share own" style="--p: 1.00"><strong>\+100</strong>.*?</td>', page
    )
    assert "<small>1 vs 0 of 1</small>" in cell
    assert "meant for these" in cell
    assert "1 of 9 <small" in page
    assert "control 2</small>" in page


def test_without_mitigations_or_unlearned_samples_it_says_so():
    found, samples = report("plain")
    bare = render_html(found.model_copy(update={"outcomes": (), "requests": {}}), samples)
    assert "No mitigation was tried." in bare
    assert 'id="recovery"' not in bare
    elsewhere = found.model_copy(update={"outcomes": (), "requests": {}, "repeatable": False})
    assert "No mitigation can be tried on models that were trained elsewhere" in render_html(
        elsewhere, samples
    )
    learned = tuple(Verdict(sample_id=i, status="learned") for i in samples)
    good = found.model_copy(
        update={"outcomes": (), "requests": {}, "diagnoses": (), "verdicts": learned}
    )
    assert "Nothing is unlearned" in render_html(good, samples)


@pytest.mark.slow
def test_a_page_that_cannot_hold_all_samples_says_where_the_rest_is(monkeypatch):
    found, samples = report("plain")
    assert "This page holds" not in render_html(found, samples)
    monkeypatch.setattr(
        sample_browser, "browser_data", partial(sample_browser.browser_data, limit=900)
    )
    assert re.search(
        r"This page holds [123] of 4 samples.*ilp/diagnosis.parquet", render_html(found, samples)
    )


BEFORE = """<script>
const seen = [];
window.alert = () => seen.push("alert");
addEventListener("error", (event) => seen.push(event.message || `not loaded: ${event.target.outerHTML}`), true);
addEventListener("unhandledrejection", (event) => seen.push(String(event.reason)));
</script>"""
AFTER = """<script>
addEventListener("load", () => {
  document.getElementById("status").value = "all";
  document.getElementById("status").dispatchEvent(new Event("change"));
  const texts = [];
  for (let more = true; more; ) {
    document.querySelectorAll("#rows details").forEach((part) => { part.open = true; });
    document.querySelectorAll("#rows details").forEach((part) => part.dispatchEvent(new Event("toggle")));
    texts.push(...[...document.querySelectorAll("#rows bdi")].map((part) => part.textContent));
    more = !document.getElementById("after").disabled;
    document.getElementById("after").click();
  }
  const events = ["mouseover", "focus", "toggle", "begin"];
  document.querySelectorAll("*").forEach((part) => events.forEach((name) => part.dispatchEvent(new Event(name))));
  const tags = [...new Set([...document.querySelectorAll("*")].map((part) => part.localName))].sort();
  const result = document.createElement("output");
  result.textContent = JSON.stringify({ seen, texts, tags });
  document.body.append(result);
});
</script>"""


def in_browser(page, tmp_path):
    """What a browser made of a page: alerts and errors, texts of the list of samples, names of elements."""
    start, end = page.index("<title>"), page.index("</body>")
    path = tmp_path / "page.html"
    path.write_text(page[:start] + BEFORE + page[start:end] + AFTER + page[end:], encoding="utf-8")
    with browsing() as browser:
        browser.goto(path.as_uri())
        return json.loads(browser.locator("output").text_content())


def tokens_of(text):
    """Tokens of an answer, from the sure one to the one that is never said."""
    tokens = []
    for p in (1.0, 0.5, 0.0):
        says = None if p == 1.0 else text
        tokens.append(
            TokenView(text=text, p=p, p_base=1 - p, first_choice=says, p_first_choice=p and 0.5)
        )
    return tuple(tokens)


@pytest.mark.slow
def test_in_a_browser_hostile_texts_are_shown_and_do_nothing(tmp_path):
    found, samples = report("plain")
    verdicts, histories, diagnoses = (
        list(found.verdicts),
        dict(found.histories),
        list(found.diagnoses),
    )
    for number, text in enumerate(HOSTILE):
        many, own = report(text, [f"{i}{number}" for i in "abcd"])
        own = {id_: s.model_copy(update={"stage": text or "none"}) for id_, s in own.items()}
        samples, histories = samples | own, histories | many.histories
        verdicts, diagnoses = [*verdicts, *many.verdicts], [*diagnoses, *many.diagnoses]
    changes = {
        "verdicts": tuple(verdicts),
        "histories": histories,
        "diagnoses": tuple(diagnoses),
        "name": HOSTILE[1],
    }
    tokens = {id_: tokens_of(sample.answer) for id_, sample in samples.items()}
    page = render_html(found.model_copy(update=changes), samples, {}, tokens)
    alone = re.sub(
        r"<meta http-equiv.*?>", "", page
    )  # the policy would stop what escaping let through
    shown = in_browser(alone, tmp_path)
    assert shown["seen"] == []
    assert not {"img", "iframe", "math", "form", "link", "base", "animate", "textarea", "b"} & set(
        shown["tags"]
    )
    texts = set(shown["texts"])
    for text in HOSTILE:
        if len(text) < 300:
            assert CLEAN.sub("\ufffd", f"p{text}".strip()).replace("\r\n", "\n") in {
                t.replace("\r\n", "\n") for t in texts
            }
    assert in_browser(alone.replace("<h1>", "<h1><img src=x onerror=alert(1)>"), tmp_path)[
        "seen"
    ]  # it would be seen


AUDIT = """
async () => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const { violations, testEngine } = await axe.run(document, { resultTypes: ["violations"] });
  return [testEngine.version, violations.map(({ id, impact, nodes }) => [id, impact, nodes[0].html])];
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(tmp_path, width, scheme):
    script = (
        os.environ.get("ILP_AXE") or files("axe_core_python") / "axe.min.js"
    )  # or a newer one from npm
    path = tmp_path / "report.html"
    found, samples = report("plain")
    tokens = {id_: tokens_of("word ") for id_ in samples}
    path.write_text(render_html(found, samples, {}, tokens), encoding="utf-8")
    with browsing() as browser:
        browser.set_viewport_size({"width": width, "height": 800})
        browser.emulate_media(color_scheme=scheme)
        browser.goto(path.as_uri())
        browser.evaluate(Path(script).read_text(encoding="utf-8"))
        version, violations = browser.evaluate(AUDIT)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert violations == []
