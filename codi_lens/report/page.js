"use strict";
// Draws the report out of the JSON in #data.
const STEPS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], Enter: [0, 0], " ": [0, 0] };

class RunView {
  constructor(run, index) {
    this.run = run;
    this.id = `run-${index}`;
    this.state = {
      metric: run.metrics[0].name, panel: 0, group: Object.keys(run.groups)[0], pair: "", cell: null,
    };
    this.plot = make("div", { id: `${this.id}-map`, tabindex: "0", role: "application", class: "map" });
    this.plot.addEventListener("keydown", (event) => this.step(event));
    this.status = make("p", { role: "status" });
    this.pairBox = make("div", { id: `${this.id}-pair` });
    this.cellBox = make("div", { id: `${this.id}-cell` });
    this.note = make("p", { class: "note", id: `${this.id}-note` });
  }

  section() {
    const { run, id, state } = this;
    const choose = (key, convert = (v) => v) => (value) => { state[key] = convert(value); this.draw(); };
    const pairs = run.pairs.map((p, i) => [String(i), `${p.id}: ${p.clean.question.slice(0, 50)}`]);
    const groups = Object.entries(run.groups).map(([name, g]) => [name, `${name} (n = ${g.n})`]);
    const controls = make("div", { class: "controls" },
      menu(`${id}-metric-menu`, "metric", run.metrics.map((m) => [m.name, m.label]), choose("metric")),
      menu(`${id}-panel-menu`, "map", run.panels.map((p, i) => [String(i), p.title]), choose("panel", Number)),
      menu(`${id}-group-menu`, "pairs", groups, choose("group")),
      menu(`${id}-pair-menu`, "one pair", [["", "– mean over pairs –"], ...pairs], choose("pair")));
    const about = make("details", {}, make("summary", { text: "About this run" }), table(run.summary));
    const details = make("div", { class: "details" }, this.status, this.pairBox, this.cellBox);
    return make("section", { id }, make("h2", { text: run.title }), make("p", { text: run.brief }), about, controls,
      make("div", { class: "view" }, make("div", {}, this.plot, this.note), details),
      make("div", { class: "figures", id: `${id}-figures` }));
  }

  // [panel][row][column] of a metric for what is chosen: one pair, or the mean over a group.
  values(metric = this.state.metric) {
    const { pair, group } = this.state;
    return pair === "" ? this.run.groups[group].mean[metric] : this.run.pairs[Number(pair)].values[metric];
  }

  get metric() {
    return this.run.metrics.find((m) => m.name === this.state.metric);
  }

  // A layer-wise run has one column: it is drawn as a profile, layers rightward.
  get single() {
    return this.run.columns.length === 1;
  }

  draw() {
    const grid = this.values()[this.state.panel];
    const traces = this.single ? this.profile(grid) : [this.heat(grid)];
    Plotly.react(this.plot, traces, this.layout(), DATA.config).then(() => {
      this.plot.removeAllListeners("plotly_click");
      this.plot.on("plotly_click", (event) => {
        const where = event.points[0].pointNumber;
        this.choose(this.single ? [where, 0] : where);
      });
    });
    this.tell();
    this.showPair();
    this.showCell();
  }

  choose(cell) {
    this.state.cell = cell;
    this.draw();
  }

  // Arrow keys move the chosen cell; the first key chooses the first one.
  step(event) {
    const move = STEPS[event.key];
    if (!move || event.target !== this.plot || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { run, state } = this, within = (k, count) => Math.min(Math.max(k, 0), count - 1);
    const [up, right] = this.single ? [move[0] + move[1], 0] : move;
    const [i, j] = state.cell ?? [-up, -right];
    this.choose([within(i + up, run.rows.length), within(j + right, run.columns.length)]);
  }

  // Pairs behind a mean of the chosen group.
  count(metric) {
    const group = this.run.groups[this.state.group];
    return metric === "recovery" ? group.n_recovery : group.n;
  }

  place([i, j]) {
    return `${this.run.row_texts[i]}, ${this.run.axis} ${this.run.columns[j]}`;
  }

  // Value, and over pairs its interval and their number.
  said([i, j]) {
    const { run, state } = this, { metric, panel, pair, group } = state;
    const at = (values) => shown(values[panel][i][j]), name = metric.replaceAll("_", " ");
    const value = `${name}: ${at(this.values())}`;
    if (pair !== "") return [value, `pair ${run.pairs[Number(pair)].id}`];
    const { low, high } = run.groups[group];
    return [`${value} [${at(low[metric])}, ${at(high[metric])}]`, `n = ${this.count(metric)}`];
  }

  hover(grid) {
    return grid.map((row, i) => row.map((_, j) => [this.place([i, j]), ...this.said([i, j])].join("<br>")));
  }

  // Of the colours: the same in all maps of means on the page; one pair's values may go beyond it.
  range() {
    const { name, signed } = this.metric, ends = DATA.scales[name];
    if (this.state.pair === "") return ends;
    const all = [...ends, ...this.values().flat(2).filter((v) => v !== null)];
    const low = Math.min(...all), high = Math.max(...all), reach = Math.max(-low, high);
    return signed ? [-reach, reach] : [low, high];
  }

  heat(grid) {
    const { metric } = this, [low, high] = this.range();
    const { stops, black } = DATA.colours[metric.signed ? "diverging" : "sequential"];
    const text = (value) => {
      if (value === null || this.run.columns.length > 12) return "";
      const at = (value - low) / (high - low), ink = black[0] <= at && at <= black[1] ? "#000000" : "#ffffff";
      return `<span style="color:${ink}">${value.toFixed(2).replace("-0.00", "0.00")}</span>`;
    };
    return {
      type: "heatmap", z: grid, text: grid.map((row) => row.map(text)), texttemplate: "%{text}",
      textfont: { size: 12 }, xgap: 1, ygap: 1, hoverongaps: false,
      customdata: this.hover(grid), hovertemplate: "%{customdata}<extra></extra>",
      colorscale: stops, zmin: low, zmax: high, colorbar: { thickness: 14 },
    };
  }

  profile(grid) {
    const { state, run } = this;
    const y = grid.map((row) => row[0]);
    const trace = {
      type: "scatter", mode: "lines+markers", x: y.map((_, i) => i), y, line: { color: colour("accent") },
      customdata: this.hover(grid).flat(), hovertemplate: "%{customdata}<extra></extra>",
    };
    if (state.pair === "") {
      const bound = (side) => run.groups[state.group][side][state.metric][state.panel].map((row) => row[0]);
      trace.error_y = {
        type: "data", array: bound("high").map((v, i) => v - y[i]),
        arrayminus: bound("low").map((v, i) => y[i] - v), thickness: 1,
      };
    }
    return [trace];
  }

  layout() {
    const { run, single } = this;
    const ticks = (labels) => ({
      tickvals: labels.map((_, i) => i), ticktext: labels, range: [-0.5, labels.length - 0.5],
      showgrid: false, zeroline: false,
    });
    const layer = { ...ticks(run.rows), title: { text: run.row } };
    const value = {
      title: { text: this.metric.name.replaceAll("_", " ") }, gridcolor: colour("line"), zerolinecolor: colour("axis"),
    };
    const size = single ? { width: 620, height: 380 }
      : { width: 190 + Math.max(58 * run.columns.length, 200), height: 104 + Math.max(36 * run.rows.length, 120) };
    return {
      ...ground(), ...size, margin: { l: 80, r: 90, t: 34, b: 60 },
      plot_bgcolor: colour(single ? "paper" : "undefined"), shapes: this.marks(),
      xaxis: single ? layer : { ...ticks(run.columns), title: { text: run.axis } },
      yaxis: single ? value : layer,
    };
  }

  // Hatching on structural zeros, frames around cells that stand out, dots around the chosen.
  marks() {
    const { run, state, single } = this, shapes = [], strokes = [];
    const chosen = { color: colour("accent"), width: 3, dash: "dot" };
    if (single && state.cell)
      return [{ type: "line", x0: state.cell[0], x1: state.cell[0], yref: "paper", y0: 0, y1: 1, line: chosen }];
    if (single) return [];
    run.panels[state.panel].zeros.forEach((row, i) => row.forEach((zero, j) => {
      if (!zero) return;
      for (const [x0, y0, x1, y1] of [[0, 0.5, 0.5, 1], [0, 0, 1, 1], [0.5, 0, 1, 0.5]])
        strokes.push(`M ${j - 0.5 + x0},${i - 0.5 + y0} L ${j - 0.5 + x1},${i - 0.5 + y1}`);
    }));
    if (strokes.length) shapes.push({ type: "path", path: strokes.join(" "), line: { color: "#999999", width: 1 } });
    // On a seam of the page's colour, so that a frame is seen on every colour of cell.
    const frame = ([i, j], line, r) => {
      for (const under of [{ color: colour("paper"), width: line.width + 2.5 }, line])
        shapes.push({ type: "rect", x0: j - r, x1: j + r, y0: i - r, y1: i + r, line: under });
    };
    for (const cell of this.outlined()) frame(cell, { color: colour("ink"), width: 2.5 }, 0.46);
    if (state.cell) frame(state.cell, chosen, 0.38);
    return shapes;
  }

  outlined() {
    const { run, state } = this;
    return state.pair === "" ? run.groups[state.group].outlined[state.metric]?.[state.panel] ?? [] : [];
  }

  tell() {
    const { run, state, metric } = this, group = run.groups[state.group], parts = [];
    if (state.pair === "") parts.push(`n = ${this.count(metric.name)} pairs`);
    if (state.pair === "" && this.count(metric.name) < group.n)
      parts.push(`${group.n - group.n_recovery} left out: no recovery defined`);
    if (!this.values().flat(2).some((v) => v !== null)) parts.push("no cell has a value");
    const donor = group.threshold[metric.name];
    if (this.outlined().length && !this.single)
      parts.push(donor === null || donor === undefined ? "outlined: the five largest"
        : `outlined: the five largest above the donor control's largest, ${shown(donor)}`);
    if (run.panels[state.panel].zeros.flat().some(Boolean)) parts.push("hatched: zero by construction");
    parts.push("click a cell for its numbers, or reach the map by Tab: arrow keys move the chosen cell");
    this.note.textContent = parts.join("; ");
    const what = `${metric.label}, ${run.panels[state.panel].title}`;
    this.plot.setAttribute("aria-label", `Map of ${what}. Arrow keys move the chosen cell, Enter chooses.`);
  }

  showCell() {
    const { run, state } = this;
    if (!state.cell) {
      this.cellBox.replaceChildren(make("p", { class: "note", text: "No cell chosen." }));
      this.status.textContent = "";
      return;
    }
    const [i, j] = state.cell, group = run.groups[state.group];
    const at = (values) => values?.[state.panel]?.[i]?.[j] ?? null;
    const rows = run.metrics.map((m) => {
      const row = [m.label, at(this.values(m.name))];
      if (state.pair === "" && row[1] !== null)
        row.push(`[${shown(at(group.low[m.name]))}, ${shown(at(group.high[m.name]))}]`);
      return row;
    });
    this.status.textContent = [this.place(state.cell), ...this.said(state.cell)].join("; ");
    const whose = state.pair === "" ? `${state.group} (n = ${group.n}; recovery ${group.n_recovery})`
      : `pair ${run.pairs[Number(state.pair)].id}`;
    this.cellBox.replaceChildren(make("h3", { text: `Cell: ${this.place(state.cell)}` }),
      make("p", { class: "note", text: `${run.panels[state.panel].title}; ${whose}` }),
      table(rows, `${this.id}-numbers`));
    this.cellBox.querySelectorAll("tr").forEach((row, k) => row.setAttribute("data-metric", run.metrics[k].name));
    if (run.panels[state.panel].zeros[i][j])
      this.cellBox.append(make("p", { class: "note", text: "Zero by construction: this cell feeds nothing that is read." }));
  }

  showPair() {
    const { run, state } = this;
    if (state.pair === "") {
      this.pairBox.replaceChildren();
      return;
    }
    const pair = run.pairs[Number(state.pair)];
    const key = state.cell ? [state.panel, ...state.cell].join("/") : "";
    const patched = !state.cell ? "choose a cell" : pair.texts[key] ?? "not decoded at this cell";
    const said = (side) => `${pair[side].text} ${pair[side].correct ? "(right)" : "(wrong)"}`;
    this.pairBox.replaceChildren(make("h3", { text: `Pair ${pair.id}` }), table([
      ["clean question", pair.clean.question], ["clean answer", String(pair.clean.answer)],
      ["corrupted question", pair.corrupted.question], ["corrupted answer", String(pair.corrupted.answer)],
      ["clean run says", said("clean")], ["corrupted run says", said("corrupted")],
      ["patched run says", patched],
    ], `${this.id}-pair-table`));
  }
}

function comparison(found) {
  const section = make("section", { id: "comparison" }, make("h2", { text: "Comparison" }));
  if (found.refused) section.append(make("p", { class: "note", text: found.refused }));
  if (found.checks) {
    const rows = found.checks.map((c) => [c.passed ? "holds" : "FAILS", c.name, c.detail]);
    section.append(make("h3", { text: "Laws that bind these runs" }), table(rows, "checks"));
    const ranked = found.correlations.map(([name, rho, n]) => [name, rho, `n = ${n} layers`]);
    const heading = `Rank correlation (Spearman) of recovery over layers, mean over pairs; none for n < ${found.least}`;
    section.append(make("h3", { text: heading }), table(ranked, "correlations"));
  }
  section.append(make("div", { class: "figures", id: "comparison-figures" }));
  return section;
}

const sections = document.getElementById("sections"), contents = document.getElementById("contents");
const views = DATA.runs.map((run, index) => new RunView(run, index));
for (const view of views) {
  sections.append(view.section());
  contents.append(make("a", { href: `#${view.id}`, text: view.run.title }));
}
if (DATA.comparison) {
  sections.append(comparison(DATA.comparison));
  contents.append(make("a", { href: "#comparison", text: "Comparison" }));
}

function drawAll() {
  for (const view of views) {
    view.draw();
    drawFigures(document.getElementById(`${view.id}-figures`), view.run.figures);
  }
  if (DATA.comparison) drawFigures(document.getElementById("comparison-figures"), DATA.comparison.figures);
}

DARK.addEventListener("change", drawAll);
drawAll();
document.body.setAttribute("data-ready", "true");
