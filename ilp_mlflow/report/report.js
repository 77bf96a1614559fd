"use strict";
// Texts from data reach the page through textContent only.
(() => {
  const PAGE = 50;
  const ID = 0, PROMPT = 1, ANSWER = 2, STAGE = 3, FATE = 4, SIGNS = 5, REASON = 6, MARGIN = 7, CAUSE = 8, SECOND = 9, EVIDENCE = 10;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("samples-data").textContent);
  const spoken = JSON.parse(byId("fates-data").textContent);
  const signs = { "+": ["learned", "learned"], "-": ["lost", "unlearned"], "?": ["uncertain", "too close to call"], 0: ["unscored", "not scored"] };
  const first = data.fates.indexOf("recovered"); // fates before it are of samples that are not learned
  const texts = data.rows.map((row) => [row[ID], row[PROMPT], row[ANSWER], row[REASON], ...(row[EVIDENCE] || []).map((e) => e[2])]
    .join("\n").toLowerCase());
  let found = [];
  let page = 0;

  function make(tag, name, text, ...inside) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined && text !== null) element.textContent = text;
    element.append(...inside);
    return element;
  }
  const shape = (fate) => "f-" + fate.replace(" ", "-");
  const dot = (fate) => make("span", "dot " + shape(fate));
  const causeOf = (row) => (row[CAUSE] === undefined ? "" : data.causes[row[CAUSE]]);

  function choices(select, names) {
    for (const [value, text] of names) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  function filter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [status, cause, stage] = ["status", "cause", "stage"].map((id) => byId(id).value);
    found = [];
    data.rows.forEach((row, i) => {
      if (status === "open" ? row[FATE] >= first : status !== "all" && row[FATE] !== Number(status)) return;
      if (cause !== "all" && row[CAUSE] !== Number(cause)) return;
      if (stage !== "all" && row[STAGE] !== Number(stage)) return;
      if (words.every((word) => texts[i].includes(word))) found.push(row);
    });
    page = 0;
    show();
  }

  function show() {
    const start = page * PAGE;
    const rows = found.slice(start, start + PAGE);
    byId("rows").replaceChildren(...rows.map(item));
    const range = found.length ? `${(start + 1).toLocaleString("en")} to ${(start + rows.length).toLocaleString("en")} of ` : "";
    byId("found").textContent = `${range}${found.length.toLocaleString("en")} samples`;
    byId("before").disabled = page === 0;
    byId("after").disabled = start + PAGE >= found.length;
  }

  function item(row) {
    const fate = data.fates[row[FATE]];
    const line = make("span", "line", null, make("span", "", null, dot(fate), make("bdi", "id data", row[ID])));
    line.append(make("span", "chip", causeOf(row) || spoken[fate].split(":")[0]), make("bdi", "ask data soft", row[PROMPT]));
    const details = make("details", "", null, make("summary", "", null, line));
    details.addEventListener("toggle", () => details.children.length > 1 || details.append(body(row, fate)), { once: true });
    return make("li", "", null, details);
  }

  function body(row, fate) {
    const list = make("dl");
    const entry = (name, ...inside) => list.append(make("dt", "", name), make("dd", "", null, ...inside));
    entry("asked", make("bdi", "data", row[PROMPT]));
    entry("should say", make("bdi", "data", row[ANSWER]));
    entry("status", `${spoken[fate]}${row[MARGIN] === null ? "" : ` (${row[MARGIN]} nats from the line)`}`);
    if (row[REASON]) entry("what happens", make("bdi", "data", row[REASON]));
    entry("stage", make("bdi", "data", data.stages[row[STAGE]]));
    entry("timeline", timeline(row[SIGNS]));
    if (row[CAUSE] !== undefined) entry("cause", `${causeOf(row)}${row[SECOND] ? `, next: ${row[SECOND]}` : ""}`);
    for (const [cause, strength, reason, others, number] of row[EVIDENCE] || []) {
      entry(`${cause} ${strength.toFixed(2)}`, make("bdi", "data", reason), ...(others.length ? [sides(row, others, number)] : []));
    }
    return make("div", "body", null, list);
  }

  function timeline(history) {
    const steps = [...history].map((sign, i) => {
      const name = sign === "-" && !history.slice(0, i).includes("+") ? "never learned" : signs[sign][0];
      return make("li", shape(name), null, make("bdi", "", data.checkpoints[i]), `: ${signs[sign][1]}`);
    });
    return make("ol", "time", null, ...steps);
  }

  function sides(row, others, number) {
    const head = make("tr", "", null, ...["row", "asked", "should say", "stage", "status"].map((name) => {
      const cell = make("th", "", name);
      cell.scope = "col";
      return cell;
    }));
    const lines = [row, ...others.map((i) => data.others[i])].map((one) => make("tr", "", null, ...[
      [one[ID]], [one[PROMPT], "text"], [one[ANSWER]], [data.stages[one[STAGE]]], [spoken[data.fates[one[FATE]]].split(":")[0]],
    ].map(([text, name]) => make("td", name || "", null, make("bdi", "data", text)))));
    const caption = make("caption", "", `This row and ${others.length} of the ${number} that the evidence names`);
    const table = make("table", "", null, caption, make("thead", "", null, head), make("tbody", "", null, ...lines));
    const wide = make("div", "wide", null, table);
    wide.tabIndex = 0;
    wide.setAttribute("role", "group");
    wide.setAttribute("aria-label", "rows side by side");
    return wide;
  }

  function turn(by) {
    page += by;
    show();
    byId("samples").scrollIntoView();
  }

  const left = data.fates.map((name, i) => [i, spoken[name]]).filter(([i]) => data.rows.some((row) => row[FATE] === i));
  choices(byId("status"), [["open", "all that are not learned"], ["all", "all"], ...left]);
  choices(byId("cause"), [["all", "all"], ...data.causes.map((name, i) => [i, name])]);
  choices(byId("stage"), [["all", "all"], ...data.stages.map((name, i) => [i, name])]);
  for (const id of ["status", "cause", "stage"]) byId(id).addEventListener("change", filter);
  let waiting = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  byId("before").addEventListener("click", () => turn(-1));
  byId("after").addEventListener("click", () => turn(1));
  // in a frame made from text, a link to a place on the page would load the page around it
  document.addEventListener("click", (event) => {
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
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details.print").forEach((part) => { part.open = true; }));
  filter();
  byId("browser").hidden = false;
})();
