// Show the samples. The state is the address's hash (#stage=sft&verdict=wrong&problem=ID), so that a
// view can be shared. The text of models enters the page only as textContent.
"use strict";
(() => {
  const browser = document.getElementById("browser");
  if (!browser) return;
  const data = JSON.parse(document.getElementById("data-samples").textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const detail = document.getElementById("detail");
  const FILTERS = ["source", "stage", "verdict", "difficulty", "q"];
  const NAMES = { correct: "right", incorrect: "wrong", undecided: "undecided" };
  const SIGNS = { right: "✓", wrong: "✗", undecided: "?", mixed: "◐" };

  function element(tag, text, name) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  }

  // Entries of both sources have id, problem, answer, difficulty and columns of verified responses.
  const evaluated = data.problems.map((p) => ({
    ...p,
    columns: data.stages.map((s) => ({ ...s, ...p.stages[s.name] })),
  }));
  const trained = data.training.map((t) => t.samples.map((s, i) => ({
    id: `${t.stage}-${i + 1}`,
    step: s.step,
    problem: s.problem,
    answer: s.answer,
    columns: [{
      name: t.stage,
      label: `${t.label}, step ${s.step}`,
      of: 1,
      responses: [{ ...s, text: s.response }],
    }],
  })));

  function verdict(response) {
    return NAMES[response.verdict] || "undecided";
  }

  // Return the outcome of a problem at a stage, over all its samples, also those not shown.
  function course(column) {
    if (!column.responses) return "missing";
    const seen = new Set(column.responses.map(verdict));
    if (column.accuracy > 0 && column.accuracy < 1) return "mixed";
    return seen.size === 1 ? [...seen][0] : "mixed";
  }

  function options(name, pairs) {
    const select = form.elements[name];
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
    select.value = pairs.some(([value]) => value === before) ? before : pairs[0][0];
    select.parentElement.hidden = pairs.length < 2;
  }

  function entries() {
    const stage = data.training.findIndex((t) => t.stage === form.elements.source.value);
    return stage < 0 ? evaluated : trained[stage];
  }

  function fillOptions() {
    const ofEvaluation = entries() === evaluated;
    const found = new Set(entries().map((e) => e.difficulty).filter(Boolean));
    options("stage", [["", "any"], ...(ofEvaluation ? data.stages.map((s) => [s.name, s.label]) : [])]);
    options("difficulty", [["", "any"], ...[...found].sort().map((d) => [d, d])]);
    const changes = ofEvaluation && data.stages.length > 1
      ? [["gained", "newly right"], ["lost", "no longer right"]] : [];
    options("verdict", [["", "any"], ["right", "right"], ["wrong", "wrong"],
      ["undecided", "undecided"], ...changes]);
  }

  function changed(columns, index, want) {
    const [a, b] = [columns[index - 1], columns[index]].map((c) => c && course(c));
    return want === "gained" ? b === "right" && a && a !== "right" : a === "right" && b !== "right";
  }

  function matches(entry) {
    const { stage, verdict: want, difficulty, q } = Object.fromEntries(
      FILTERS.map((name) => [name, form.elements[name].value]));
    if (difficulty && entry.difficulty !== difficulty) return false;
    const chosen = entry.columns.map((c, i) => i).filter((i) => !stage || entry.columns[i].name === stage);
    if (want === "gained" || want === "lost") {
      if (!chosen.some((i) => changed(entry.columns, i, want))) return false;
    } else if (want && !chosen.some((i) => (entry.columns[i].responses || []).some((r) => verdict(r) === want))) {
      return false;
    }
    const texts = [entry.problem, ...chosen.flatMap((i) => (entry.columns[i].responses || []).map((r) => r.text))];
    return !q || texts.some((t) => (t ?? "").toLowerCase().includes(q.toLowerCase()));
  }

  function shortened(text) {
    if (!text) return "(no text)";
    return text.length > 90 ? `${text.slice(0, 90)}…` : text;
  }

  function item(entry, selected) {
    const button = element("button");
    button.type = "button";
    button.append(element("span", (entry.step ? `${entry.step}: ` : "") + shortened(entry.problem)));
    const marks = element("span", undefined, "marks");
    for (const column of entry.columns) {
      const what = course(column);
      const mark = element("span", SIGNS[what] || "·", what);
      mark.title = `${column.label}: ${what}`;
      marks.append(mark);
    }
    button.append(marks);
    if (entry === selected) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => show(entry.id, true));
    const row = element("li");
    row.append(button);
    return row;
  }

  function responseOf(r) {
    const what = verdict(r);
    const size = r.num_tokens ? `${r.num_tokens} tokens`
      : Number.isFinite(r.length) && `${r.length} characters`;
    const facts = [r.reason, r.prediction !== undefined && `answer ${r.prediction ?? "none"}`, size,
      r.finish_reason === "length" && "cut off",
      // A number that is not finite is null in a run's files.
      r.advantage !== undefined && `advantage ${r.advantage?.toFixed(2) ?? "not finite"}`].filter(Boolean);
    const badge = element("p", `${SIGNS[what]} ${what} `, `badge ${what}`);
    badge.append(element("small", facts.join(" · ")));
    return [badge, element("pre", r.text)];
  }

  function showDetail(entry, found) {
    detail.replaceChildren();
    if (!entry) return;
    const place = found.indexOf(entry);
    const steps = element("div", undefined, "steps");
    for (const [text, to] of [["‹ previous", place - 1], ["next ›", place + 1]]) {
      const button = element("button", text);
      button.type = "button";
      button.disabled = !found[to] || place < 0;
      button.addEventListener("click", () => show(found[to].id, true));
      steps.append(button);
    }
    const about = [entry.id, entry.difficulty].filter(Boolean).join(" · ");
    detail.append(steps, element("small", about), element("pre", entry.problem));
    const gold = element("p", "Gold answer: ");
    gold.append(element("strong", String(entry.answer ?? "none")));
    detail.append(gold);
    const columns = element("div", undefined, "columns");
    for (const column of entry.columns) {
      const section = element("section");
      section.append(element("h4", column.label));
      const responses = column.responses || [];
      if (column.of > 1) {
        const right = Number.isFinite(column.accuracy) ? `${Math.round(100 * column.accuracy)} %` : "?";
        const share = `${right} of ${column.of} samples right`;
        section.append(element("small", `${share}; ${responses.length} shown`));
      }
      if (!responses.length) section.append(element("small", "not evaluated"));
      section.append(...responses.flatMap(responseOf));
      columns.append(section);
    }
    detail.append(columns);
  }

  function show(id, chosen) {
    const found = entries().filter(matches);
    const entry = entries().find((e) => e.id === id) || found[0];
    const all = entries().length;
    document.getElementById("count").textContent = found.length === all
      ? `${all} shown` : `${found.length} of ${all} shown match`;
    list.replaceChildren(...found.map((e) => item(e, entry)));
    showDetail(entry, found);
    const state = new URLSearchParams(FILTERS.map((name) => [name, form.elements[name].value]).filter(([, v]) => v));
    if (entry && chosen) state.set("problem", entry.id);
    if (chosen !== undefined) history.replaceState(null, "", `#${state.toString() || "samples"}`);
    if (chosen && matchMedia("(max-width: 44rem)").matches) detail.scrollIntoView({ block: "start" });
    const current = list.querySelector("[aria-current]");
    if (current) list.scrollTop = current.parentElement.offsetTop - list.offsetTop - 80;
  }

  function fromHash() {
    const state = new URLSearchParams(location.hash.slice(1));
    const ours = [...FILTERS, "problem"].some((name) => state.has(name));
    if (!ours && location.hash.length > 1) return show();
    const set = (name) => {
      const field = form.elements[name];
      field.value = state.get(name) || "";
      if (field.tagName === "SELECT" && field.selectedIndex < 0) field.selectedIndex = 0;
    };
    set("source");
    fillOptions();
    FILTERS.slice(1).forEach(set);
    show(state.get("problem"));
    if (ours) document.getElementById("samples").scrollIntoView();
  }

  const sources = evaluated.length ? [["", "evaluation"]] : [];
  options("source", [...sources, ...data.training.map((t) => [t.stage, `training, ${t.label}`])]);
  fillOptions();
  browser.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.name === "source") fillOptions();
    show(undefined, false);
  });
  addEventListener("hashchange", fromHash);
  fromHash();
})();
