"use strict";
// Texts from data reach the page through textContent only.
// The data is what sample_browser.py makes: data.rows are the listed samples, data.others those that
// evidence names; stage, fate and cause of a sample are places in data.stages, data.fates, data.causes.
(() => {
  const PAGE_SIZE = 50;
  const SEARCH_DELAY = 120; // ms after the last key
  const MAX_MISSES = 12;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("samples-data").textContent);
  const fateWords = JSON.parse(byId("fates-data").textContent);
  // a sign of a history: its fate, which gives the colour, and the status in words
  const statusOfSign = {
    "+": { fate: "learned", words: "learned" },
    "-": { fate: "lost", words: "unlearned" },
    "?": { fate: "uncertain", words: "too close to call" },
    0: { fate: "unscored", words: "not scored" },
  };
  const firstLearned = data.fates.indexOf("recovered"); // fates before it are of samples that are not learned
  const searchTexts = data.rows.map(searchText);
  let matches = [];
  let page = 0;

  function searchText(row) {
    const evidence = row.diagnosis ? row.diagnosis.evidence : [];
    const reasons = evidence.map(({ reason }) => reason);
    return [row.id, row.prompt, row.answer, row.reason, ...reasons].join("\n").toLowerCase();
  }

  function make(tag, name, text, ...inside) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined && text !== null) element.textContent = text;
    element.append(...inside);
    return element;
  }
  const fateClass = (fate) => "f-" + fate.replace(" ", "-");
  const dot = (fate) => make("span", "dot " + fateClass(fate));
  const shortWords = (fate) => fateWords[fate].split(":")[0];
  const causeName = (row) => (row.diagnosis ? data.causes[row.diagnosis.cause] : "");

  function addOptions(select, options) {
    for (const [value, text] of options) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  function statusMatches(row, status) {
    if (status === "open") return row.fate < firstLearned;
    return status === "all" || row.fate === Number(status);
  }

  function filter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = byId("status").value;
    const cause = byId("cause").value;
    const stage = byId("stage").value;
    matches = data.rows.filter((row, i) =>
      statusMatches(row, status)
      && (cause === "all" || row.diagnosis?.cause === Number(cause))
      && (stage === "all" || row.stage === Number(stage))
      && words.every((word) => searchTexts[i].includes(word)));
    page = 0;
    show();
  }

  function show() {
    const start = page * PAGE_SIZE;
    const rows = matches.slice(start, start + PAGE_SIZE);
    byId("rows").replaceChildren(...rows.map(listItem));
    const count = (number) => number.toLocaleString("en");
    const range = matches.length ? `${count(start + 1)} to ${count(start + rows.length)} of ` : "";
    byId("found").textContent = `${range}${count(matches.length)} samples`;
    byId("before").disabled = page === 0;
    byId("after").disabled = start + PAGE_SIZE >= matches.length;
  }

  function listItem(row) {
    const fate = data.fates[row.fate];
    const line = make("span", "line", null, make("span", "", null, dot(fate), make("bdi", "id data", row.id)));
    line.append(make("span", "chip", causeName(row) || shortWords(fate)), make("bdi", "ask data soft", row.prompt));
    const details = make("details", "", null, make("summary", "", null, line));
    details.addEventListener("toggle", () => details.children.length > 1 || details.append(body(row, fate)), { once: true });
    return make("li", "", null, details);
  }

  function body(row, fate) {
    const list = make("dl");
    const entry = (name, ...inside) => list.append(make("dt", "", name), make("dd", "", null, ...inside));
    const margin = row.margin === null ? "" : ` (${row.margin} from the line)`;
    entry("asked", make("bdi", "data", row.prompt));
    entry("should say", make("bdi", "data", row.answer));
    entry("status", `${fateWords[fate]}${margin}`);
    if (row.reason) entry("what happens", make("bdi", "data", row.reason));
    if (row.tokens.length) {
      entry("token by token", ...row.tokens.map((token) => answerToken(token, token.p)), misses(row.tokens));
      entry("by the base", ...row.tokens.map((token) => answerToken({ text: token.text, says: null }, token.base)));
    }
    if (row.seen.length) entry("the model saw", ...row.seen.map(segment), make("p", "soft", row.training));
    entry("stage", make("bdi", "data", data.stages[row.stage]));
    entry("timeline", timeline(row.history));
    if (row.diagnosis) {
      const next = row.diagnosis.runner_up ? `, next: ${row.diagnosis.runner_up}` : "";
      entry("cause", `${causeName(row)}${next}`);
      if (row.diagnosis.confirmation) entry("tried out", make("bdi", "data", row.diagnosis.confirmation));
      for (const evidence of row.diagnosis.evidence) {
        const table = evidence.others.length ? [sideBySide(row, evidence)] : [];
        entry(`${evidence.cause} ${evidence.strength.toFixed(2)}`, make("bdi", "data", evidence.reason), ...table);
        if (evidence.change) entry("to mend it", make("bdi", "data", evidence.change));
      }
    }
    return make("div", "body", null, list);
  }

  // What was in the loss is marked, what was kept out of it or cut away is struck through; words say so, too.
  function segment({ kind, text }) {
    const tags = { prompt: "span", supervised: "mark", masked: "s", cut: "s" };
    const words = { supervised: "in the loss", masked: "in no loss", cut: "cut away" }[kind];
    const part = make(tags[kind], `data seen ${kind}`, text);
    if (words) part.title = words;
    return part;
  }

  // The less probable a token, the darker its ground; one that the model would not say is underlined, and listed in words.
  function answerToken({ text, says }, p) {
    const token = make(says === null ? "span" : "mark", says === null ? "data token" : "data token missed", text);
    token.style.setProperty("--miss", (1 - p).toFixed(2));
    token.title = says === null ? p.toFixed(2) : `${p.toFixed(2)}; the model says ${says}`;
    return token;
  }

  function misses(tokens) {
    const missed = tokens.filter((token) => token.says !== null);
    const lines = missed.slice(0, MAX_MISSES).map(({ text, p, base, says }) =>
      make("li", "", null, make("bdi", "data", text), ` (${p.toFixed(2)}, base ${base.toFixed(2)}): the model says `, make("bdi", "data", says)));
    if (missed.length > lines.length) lines.push(make("li", "soft", `and ${missed.length - lines.length} more`));
    return make("ul", "misses", null, ...lines);
  }

  function timeline(history) {
    const steps = [...history].map((sign, i) => {
      const status = statusOfSign[sign];
      const neverLearned = sign === "-" && !history.slice(0, i).includes("+");
      const fate = neverLearned ? "never learned" : status.fate;
      return make("li", fateClass(fate), null, make("bdi", "", data.checkpoints[i]), `: ${status.words}`);
    });
    return make("ol", "time", null, ...steps);
  }

  function sideBySide(row, evidence) {
    const others = evidence.others.map((place) => data.others[place]);
    const head = make("tr", "", null, ...["row", "asked", "should say", "stage", "status"].map(headCell));
    const caption = make("caption", "", `This row and ${others.length} of the ${evidence.others_total} that the evidence names`);
    const lines = [row, ...others].map(sampleLine);
    const table = make("table", "", null, caption, make("thead", "", null, head), make("tbody", "", null, ...lines));
    const wide = make("div", "wide", null, table);
    wide.tabIndex = 0;
    wide.setAttribute("role", "group");
    wide.setAttribute("aria-label", "rows side by side");
    return wide;
  }

  function headCell(name) {
    const cell = make("th", "", name);
    cell.scope = "col";
    return cell;
  }

  function sampleLine(sample) {
    const cell = (text, name) => make("td", name, null, make("bdi", "data", text));
    return make("tr", "", null,
      cell(sample.id, ""),
      cell(sample.prompt, "text"),
      cell(sample.answer, ""),
      cell(data.stages[sample.stage], ""),
      cell(shortWords(data.fates[sample.fate]), ""));
  }

  function turnPage(by) {
    page += by;
    show();
    byId("samples").scrollIntoView();
  }

  function fillSelects() {
    const listedFates = new Set(data.rows.map((row) => row.fate));
    const fates = data.fates.map((name, i) => [i, fateWords[name]]).filter(([i]) => listedFates.has(i));
    addOptions(byId("status"), [["open", "all that are not learned"], ["all", "all"], ...fates]);
    addOptions(byId("cause"), [["all", "all"], ...data.causes.map((name, i) => [i, name])]);
    addOptions(byId("stage"), [["all", "all"], ...data.stages.map((name, i) => [i, name])]);
  }

  // in a frame made from text, a link to a place on the page would load the page around it
  function followLink(event) {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault();
    const cause = data.causes.indexOf(link.dataset.cause);
    if (cause >= 0) {
      byId("cause").value = String(cause);
      filter();
    }
    const place = byId(link.getAttribute("href").slice(1));
    place.scrollIntoView();
    place.focus({ preventScroll: true });
  }

  fillSelects();
  for (const id of ["status", "cause", "stage"]) byId(id).addEventListener("change", filter);
  let waiting = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, SEARCH_DELAY);
  });
  byId("before").addEventListener("click", () => turnPage(-1));
  byId("after").addEventListener("click", () => turnPage(1));
  document.addEventListener("click", followLink);
  addEventListener("beforeprint", () => document.querySelectorAll("details.print").forEach((part) => { part.open = true; }));
  filter();
  byId("browser").hidden = false;
})();
