"use strict";
// Draws the report out of the JSON in #data. Text from questions and answers is only ever set as
// textContent, so that markup in it stays text.
const DATA = JSON.parse(document.getElementById("data").textContent);
const CONFIG = { displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };
const FONT = { family: "Helvetica, Arial, sans-serif", size: 14, color: "#222222" };

function make(tag, options = {}, ...children) {
  const { text, ...attributes } = options;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

function table(rows, id) {
  const cells = (row) => row.map((value) => {
    const number = typeof value === "number";
    return make("td", { text: number ? shown(value) : value ?? "–", class: number ? "number" : "text" });
  });
  return make("table", id ? { id } : {}, ...rows.map((row) => make("tr", {}, ...cells(row))));
}

function shown(value) {
  return value === null || value === undefined ? "–" : String(Number(value.toPrecision(5)));
}

function menu(id, name, options, change) {
  const select = make("select", { id });
  for (const [value, text] of options) select.append(make("option", { value, text }));
  select.addEventListener("change", () => change(select.value));
  return make("label", { text: name }, select);
}

class RunView {
  constructor(run, index) {
    this.run = run;
    this.id = `run-${index}`;
    this.state = {
      metric: run.metrics[0].name, panel: 0, group: Object.keys(run.groups)[0], pair: "", cell: null,
    };
    this.plot = make("div", { id: `${this.id}-map` });
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
    const details = make("div", { class: "details" }, this.pairBox, this.cellBox);
    return make("section", { id }, make("h2", { text: run.title }), make("p", { text: run.brief }), about, controls,
      make("div", { class: "view" }, make("div", {}, this.plot, this.note), details),
      make("div", { class: "figures", id: `${id}-figures` }));
  }

  // [panel][row][column] of a metric for what is chosen: one pair, or the mean over a group.
  values(metric = this.state.metric) {
    const { pair, group } = this.state;
    return pair === "" ? this.run.groups[group].mean[metric] : this.run.pairs[Number(pair)].values[metric];
  }

  draw() {
    const { run, state } = this;
    const metric = run.metrics.find((m) => m.name === state.metric);
    const grid = this.values()[state.panel];
    const single = run.columns.length === 1;
    const traces = single ? this.profile(grid) : [this.heat(grid, metric)];
    Plotly.react(this.plot, traces, this.layout(metric, single), CONFIG).then(() => {
      this.plot.removeAllListeners("plotly_click");
      this.plot.on("plotly_click", (event) => {
        const where = event.points[0].pointNumber;
        state.cell = single ? [where, 0] : where;
        this.draw();
      });
    });
    this.tell(metric);
    this.showPair();
    this.showCell();
  }

  heat(grid, metric) {
    const finite = this.values().flat(2).filter((v) => v !== null);
    const reach = Math.max(...finite.map(Math.abs), 1e-12);
    const text = grid.map((row) => row.map((v) => (v === null ? "" : v.toFixed(2).replace("-0.00", "0.00"))));
    return {
      type: "heatmap", z: grid, text, texttemplate: this.run.columns.length > 12 ? "" : "%{text}",
      xgap: 1, ygap: 1, hoverongaps: false, hovertemplate: "%{z:.4f}<extra></extra>",
      colorscale: metric.signed ? DATA.colours.diverging : DATA.colours.sequential,
      zmin: metric.signed ? -reach : Math.min(...finite), zmax: metric.signed ? reach : Math.max(...finite),
      colorbar: { thickness: 14 },
    };
  }

  profile(grid) {
    const { state, run } = this;
    const y = grid.map((row) => row[0]);
    const trace = { type: "scatter", mode: "lines+markers", x: y.map((_, i) => i), y, line: { color: "#0072B2" } };
    if (state.pair === "") {
      const bound = (side) => run.groups[state.group][side][state.metric][state.panel].map((row) => row[0]);
      trace.error_y = {
        type: "data", array: bound("high").map((v, i) => v - y[i]),
        arrayminus: bound("low").map((v, i) => y[i] - v), thickness: 1,
      };
    }
    return [trace];
  }

  layout(metric, single) {
    const { run, state } = this;
    const ticks = (labels) => ({
      tickvals: labels.map((_, i) => i), ticktext: labels, range: [-0.5, labels.length - 0.5],
      showgrid: false, zeroline: false,
    });
    const layer = { ...ticks(run.rows), title: { text: "layer" } };
    const size = single ? { width: 620, height: 380 }
      : { width: 190 + Math.max(58 * run.columns.length, 200), height: 104 + Math.max(36 * run.rows.length, 120) };
    return {
      ...size, font: FONT, margin: { l: 80, r: 90, t: 34, b: 60 },
      plot_bgcolor: single ? "white" : "#e4e4e4", paper_bgcolor: "white", shapes: this.marks(single),
      xaxis: single ? layer : { ...ticks(run.columns), title: { text: run.axis } },
      yaxis: single ? { title: { text: metric.name.replaceAll("_", " ") } } : layer,
    };
  }

  // Hatching on structural zeros, black frames around cells that stand out, orange around the chosen.
  marks(single) {
    if (single) return [];
    const { run, state } = this, shapes = [], strokes = [];
    run.panels[state.panel].zeros.forEach((row, i) => row.forEach((zero, j) => {
      if (!zero) return;
      for (const [x0, y0, x1, y1] of [[0, 0.5, 0.5, 1], [0, 0, 1, 1], [0.5, 0, 1, 0.5]])
        strokes.push(`M ${j - 0.5 + x0},${i - 0.5 + y0} L ${j - 0.5 + x1},${i - 0.5 + y1}`);
    }));
    if (strokes.length) shapes.push({ type: "path", path: strokes.join(" "), line: { color: "#999999", width: 1 } });
    const frame = ([i, j], line, r) => ({ type: "rect", x0: j - r, x1: j + r, y0: i - r, y1: i + r, line });
    for (const cell of this.outlined()) shapes.push(frame(cell, { color: "black", width: 2.5 }, 0.47));
    if (state.cell) shapes.push(frame(state.cell, { color: "#E69F00", width: 3, dash: "dot" }, 0.4));
    return shapes;
  }

  outlined() {
    const { run, state } = this;
    return state.pair === "" ? run.groups[state.group].outlined[state.metric]?.[state.panel] ?? [] : [];
  }

  tell(metric) {
    const { run, state } = this, group = run.groups[state.group], parts = [];
    if (state.pair === "") parts.push(`n = ${metric.name === "recovery" ? group.n_recovery : group.n} pairs`);
    if (metric.name === "recovery" && state.pair === "" && group.n_recovery < group.n)
      parts.push(`${group.n - group.n_recovery} left out: no recovery defined`);
    const donor = group.threshold[metric.name];
    if (this.outlined().length && run.columns.length > 1)
      parts.push(donor === null || donor === undefined ? "outlined: the five largest"
        : `outlined: the five largest above the donor control's largest, ${shown(donor)}`);
    if (run.panels[state.panel].zeros.flat().some(Boolean)) parts.push("hatched: zero by construction");
    parts.push("click a cell for its numbers");
    this.note.textContent = parts.join("; ");
  }

  showCell() {
    const { run, state } = this;
    if (!state.cell) {
      this.cellBox.replaceChildren(make("p", { class: "note", text: "No cell chosen." }));
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
    const place = `layer ${run.rows[i]}, ${run.axis} ${run.columns[j]}`;
    const whose = state.pair === "" ? `${state.group} (n = ${group.n}; recovery ${group.n_recovery})`
      : `pair ${run.pairs[Number(state.pair)].id}`;
    this.cellBox.replaceChildren(make("h3", { text: `Cell: ${place}` }),
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

function drawFigures(holder, figures) {
  for (const figure of figures) {
    const place = make("div");
    holder.append(place);
    Plotly.newPlot(place, figure.data, figure.layout, CONFIG);
  }
}

function comparison(found) {
  const section = make("section", { id: "comparison" }, make("h2", { text: "Comparison" }));
  if (found.refused) section.append(make("p", { class: "note", text: found.refused }));
  if (found.checks) {
    const rows = found.checks.map((c) => [c.passed ? "holds" : "FAILS", c.name, c.detail]);
    section.append(make("h3", { text: "Laws that bind these runs" }), table(rows, "checks"));
    section.append(make("h3", { text: "Rank correlation of layer profiles" }), table(found.correlations));
  }
  section.append(make("div", { class: "figures", id: "comparison-figures" }));
  return section;
}

const sections = document.getElementById("sections"), contents = document.getElementById("contents");
DATA.runs.forEach((run, index) => {
  const view = new RunView(run, index);
  sections.append(view.section());
  contents.append(make("a", { href: `#${view.id}`, text: run.title }));
  view.draw();
  drawFigures(document.getElementById(`${view.id}-figures`), run.figures);
});
if (DATA.comparison) {
  sections.append(comparison(DATA.comparison));
  contents.append(make("a", { href: "#comparison", text: "Comparison" }));
  drawFigures(document.getElementById("comparison-figures"), DATA.comparison.figures);
}
document.body.setAttribute("data-ready", "true");
