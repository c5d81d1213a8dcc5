"use strict";
// Draws the report out of the JSON in #data: a view for each run, then the runs beside each other.
const STEPS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], Enter: [0, 0], " ": [0, 0] };
const MOST_TABS = 8, OF_MANY = 4;  // of effects; beyond, all but the first few go into a menu

// A run's tabs: what maps each can show, and what else can be chosen there.
function tabsOf(run) {
  const of = (kind) => run.panels.flatMap((panel, i) => (panel.kind === kind ? [i] : []));
  const effects = of("effect"), measured = [...effects, ...of("control")], groups = Object.keys(run.groups).slice(1);
  const alone = effects.slice(0, effects.length > MOST_TABS ? OF_MANY : MOST_TABS), rest = effects.slice(alone.length);
  const operands = groups.some((name) => name.startsWith("operand"));
  return [
    ...[...alone, ...of("interaction")].map((i) => ({ name: run.panels[i].name, panels: [i] })),
    { name: "more", panels: rest }, { name: "controls", panels: of("control") },
    { name: operands ? "by operand" : "by group", panels: groups.length ? measured : [], groups },
    { name: "by pair", panels: measured, pairs: true },
    { name: "in lines", panels: run.figures.length ? [0] : [], figures: true },
  ].filter(({ panels }) => panels.length);
}

class RunView {
  constructor(run, index) {
    this.run = run;
    this.id = `run-${index}`;
    this.tabs = tabsOf(run);
    this.base = Object.keys(run.groups)[0];
    this.open = false;
    this.state = { tab: 0, metric: run.metrics[0].name, panel: 0, group: this.base, pair: null, cell: run.best, figure: 0 };
    const { id } = this;
    this.plot = make("div", {
      id: `${id}-map`, class: "map", tabindex: "0", role: "application", "aria-describedby": `${id}-note`,
    });
    this.plot.addEventListener("keydown", (event) => this.step(event));
    this.status = make("p", { role: "status", class: "sr" });
    this.card = make("div", { class: "card", id: `${id}-cell` });
    this.note = make("p", { class: "note", id: `${id}-note` });
    this.figure = make("div", { id: `${id}-figure` });
    this.menus = this.makeMenus();
  }

  makeMenus() {
    const { run, id, state } = this;
    const of = (key, name, convert) =>
      menu(`${id}-${key}-menu`, name, (value) => { state[key] = convert(value); this.draw(); });
    const menus = {
      metric: of("metric", "metric", String), panel: of("panel", "map", Number), group: of("group", "pairs", String),
      pair: of("pair", "pair", Number), figure: of("figure", "figure", Number),
    };
    menus.metric.fill(run.metrics.map((m) => [m.name, m.label]), state.metric);
    menus.pair.fill(run.pairs.map((p, i) => [i, `${p.id}: ${p.clean.question.slice(0, 50)}`]), 0);
    menus.figure.fill(run.figures.map((figure, i) => [i, figure.layout.meta.title]), 0);
    return menus;
  }

  section() {
    const { run, id, menus } = this;
    this.table = make("div", { class: "wide" });
    this.asTable = make("details", {}, make("summary", { text: "The map as a table" }), this.table);
    this.asTable.addEventListener("toggle", () => this.fillTable());
    this.view = make("div", { class: "view" }, make("div", {}, this.plot, this.note, this.asTable), this.card);
    const panel = make("div", { role: "tabpanel", id: `${id}-panel` },
      make("div", { class: "menus" }, ...Object.values(menus).map(({ label }) => label)), this.view, this.figure);
    this.list = tabs(id, run.title, this.tabs.map(({ name }) => name), panel, (tab) => this.toTab(tab));
    const section = make("section", { id, "data-title": run.title }, make("h2", { text: run.title }));
    if (id !== "run-0") {  // the first run's stand at the top of the page
      section.append(make("p", { class: "sub", text: run.brief }));
      const found = make("p");
      found.innerHTML = run.found;  // escaped where it was made
      section.append(make("div", { class: "found" }, found));
    }
    section.append(this.list.list, panel, this.status);
    return section;
  }

  toTab(index) {
    const { state, menus, run } = this, tab = this.tabs[index];
    Object.assign(state, { tab: index, group: this.base, pair: null });
    if (!tab.panels.includes(state.panel)) state.panel = tab.panels[0];
    if (tab.groups) {
      [state.group] = [...tab.groups].sort((a, b) => b.startsWith("operand") - a.startsWith("operand"));
      menus.group.fill(tab.groups.map((name) => [name, `${name} (n = ${run.groups[name].n})`]), state.group);
    }
    if (tab.pairs) state.pair = Number(menus.pair.select.value);
    menus.panel.fill(tab.panels.map((i) => [i, run.panels[i].title]), state.panel);
    const used = {
      metric: !tab.figures, panel: tab.panels.length > 1, group: Boolean(tab.groups), pair: Boolean(tab.pairs),
      figure: Boolean(tab.figures) && run.figures.length > 1,
    };
    for (const [name, { label }] of Object.entries(menus)) label.hidden = !used[name];
    this.draw();
  }

  showPair(index) {
    this.menus.pair.select.value = index;
    this.list.select(this.tabs.findIndex(({ pairs }) => pairs));
  }

  // [panel][row][column] of a metric for what is chosen: one pair, or the mean over a group.
  values(metric = this.state.metric) {
    const { pair, group } = this.state;
    return pair === null ? this.run.groups[group].mean[metric] : this.run.pairs[pair].values[metric];
  }

  // The chosen map; the interaction of a metric that effects do not add up in has no values.
  grid() {
    return this.values()[this.state.panel] ?? this.run.rows.map(() => this.run.columns.map(() => null));
  }

  at(values, [i, j] = this.state.cell, panel = this.state.panel) {
    return values?.[panel]?.[i][j] ?? null;
  }

  get metric() {
    return this.run.metrics.find((m) => m.name === this.state.metric);
  }

  // A layer-wise run has one column: it is drawn as a profile, layers rightward.
  get single() {
    return this.run.columns.length === 1;
  }

  // What the donor control reaches anywhere, for a mean.
  get threshold() {
    const { pair, group, metric } = this.state;
    return pair === null ? this.run.groups[group].threshold[metric] ?? null : null;
  }

  outlined() {
    const { pair, group, metric, panel } = this.state;
    return pair === null ? this.run.groups[group].outlined[metric]?.[panel] ?? [] : [];
  }

  // Both ends of the intervals of the chosen map, where it has any.
  bounds() {
    const { pair, group, metric, panel } = this.state, { low, high } = this.run.groups[group];
    return pair === null && low[metric][panel] ? { low: low[metric][panel], high: high[metric][panel] } : null;
  }

  // Pairs behind a mean of the chosen group.
  count(metric) {
    const group = this.run.groups[this.state.group];
    return metric === "recovery" ? group.n_recovery : group.n;
  }

  place([i, j]) {
    return this.run.row_texts[i] + (this.single ? "" : `, ${this.run.axis} ${this.run.columns[j]}`);
  }

  // A value at the chosen cell, with its interval.
  valueText(metric) {
    const { pair, group } = this.state, { low, high } = this.run.groups[group], value = shown(this.at(this.values(metric)), 3);
    const ends = [low, high].map((side) => this.at(side[metric]));
    return pair === null && ends[0] !== null ? `${value} (${ends.map((end) => shown(end, 3)).join(" – ")})` : value;
  }

  // Value, and over pairs its interval and their number.
  said(cell) {
    const { run, state } = this, value = `${state.metric.replaceAll("_", " ")}: ${shown(this.at(this.values(), cell))}`;
    if (state.pair !== null) return [value, `pair ${run.pairs[state.pair].id}`];
    const ends = ["low", "high"].map((side) => shown(this.at(run.groups[state.group][side][state.metric], cell)));
    return [`${value} [${ends.join(", ")}]`, `n = ${this.count(state.metric)}`];
  }

  choose(cell) {
    this.state.cell = cell;
    this.draw();
    this.status.textContent = [this.place(cell), ...this.said(cell)].join("; ");
  }

  // Arrow keys move the chosen cell.
  step(event) {
    const move = STEPS[event.key];
    if (!move || event.target !== this.plot || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { run, state } = this, within = (k, count) => Math.min(Math.max(k, 0), count - 1);
    const [up, right] = this.single ? [move[0] + move[1], 0] : move, [i, j] = state.cell ?? [-up, -right];
    this.choose([within(i + up, run.rows.length), within(j + right, run.columns.length)]);
  }

  draw() {
    const { run, state, metric } = this, figure = this.tabs[state.tab].figures;
    this.view.hidden = Boolean(figure);
    this.figure.hidden = !figure;
    if (figure) {
      drawFigure(this.figure, run.figures[state.figure]);
      return;
    }
    drawMap(this);
    this.card.replaceChildren(...card(this));
    this.note.textContent = noteOf(this);
    this.fillTable();
    const what = `${metric.label}, ${run.panels[state.panel].title}`;
    this.plot.setAttribute("aria-label", `Map of ${what}. Arrow keys move the chosen cell.`);
  }

  fillTable() {
    if (this.asTable.open) this.table.replaceChildren(mapTable(this));
  }
}

function comparison(found) {
  const text = "Do the runs agree?";
  const section = make("section", { id: "comparison", "data-title": text }, make("h2", { text }));
  if (found.refused) section.append(make("p", { class: "note", text: found.refused }));
  if (found.checks) {
    const rows = found.checks.map((c) => [c.name, c.passed ? "holds" : "FAILS", c.detail]), laws = table(rows, { id: "checks" });
    found.checks.forEach((c, k) => c.passed || laws.rows[k].cells[1].classList.add("failed"));
    section.append(make("h3", { text: "Laws that bind these runs" }), make("div", { class: "wide" }, laws));
  }
  if (found.correlations?.length) {
    const ranked = found.correlations.map(([name, rho, n]) => [name, rho, `n = ${n} layers`]);
    section.append(make("h3", { text: "Rank correlation (Spearman) of recovery over layers, mean over pairs" }),
      make("div", { class: "wide" }, table(ranked, { id: "correlations" })));
  }
  section.append(...found.figures.map((_, i) => make("div", { id: `comparison-${i}` })));
  return section;
}

const views = DATA.runs.map((run, index) => new RunView(run, index));

function build() {
  const sections = document.getElementById("sections"), contents = document.getElementById("contents");
  sections.append(...views.map((view) => view.section()));
  if (DATA.comparison) sections.append(comparison(DATA.comparison));
  document.getElementById("summaries").append(...DATA.runs.map((run) => make("details", {},
    make("summary", { text: `${run.title}: ${run.name}` }), make("div", { class: "wide" }, table(run.summary)))));
  const links = new Map([...document.querySelectorAll("section")].map((section) => {
    const link = make("a", { href: `#${section.id}`, text: section.dataset.title });
    contents.append(make("li", {}, link));
    return [section, link];
  }));
  const observer = new IntersectionObserver((entries) => {
    const entered = entries.filter((entry) => entry.isIntersecting).at(-1);
    if (!entered) return;
    for (const [section, link] of links)
      if (section === entered.target) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
  }, { rootMargin: "-15% 0px -80% 0px" });
  for (const section of links.keys()) observer.observe(section);
}

function drawViews() {
  for (const view of views) view.draw();
}

function drawAll() {
  drawViews();
  drawFigures();
}

function drawFigures() {
  DATA.comparison?.figures.forEach((figure, i) => drawFigure(document.getElementById(`comparison-${i}`), figure));
}

build();
for (const view of views) view.list.select(0);  // which draws it
drawFigures();
DARK.addEventListener("change", drawAll);
addEventListener("beforeprint", () => { ROOT.classList.add("print"); drawAll(); });
addEventListener("afterprint", () => { ROOT.classList.remove("print"); drawAll(); });
let resized;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(drawViews, 150); });
document.body.setAttribute("data-ready", "true");
