"use strict";
// What is said of the chosen cell, pair and map, beside and below it. `view` is a RunView.
const MOST_OF_A_CARD = 9;  // maps of which a card has the cell's value

function card(view) {
  const { run, state } = view, { cell, pair } = state;
  if (!cell) return [make("p", { class: "note", text: "No cell has a value." })];
  const whose = pair === null ? `${state.group}, n = ${view.count(state.metric)} pairs` : `pair ${run.pairs[pair].id}`;
  const parts = [
    make("h3", { text: view.place(cell).replace(/^./, (first) => first.toUpperCase()) }),
    make("p", { class: "note", text: `${run.panels[state.panel].title}; ${whose}` }), numbersFirst(view),
  ];
  if (run.panels[state.panel].zeros[cell[0]][cell[1]])
    parts.push(make("p", { class: "note", text: "Zero by construction: this cell feeds nothing that is read." }));
  parts.push(pair === null ? strongestPairs(view) : pairTable(view), everyMetric(view));
  return parts;
}

// The value, the same cell on the other maps, and by the metrics that come first.
function numbersFirst(view) {
  const { run, state } = view, rows = [[state.metric.replaceAll("_", " "), view.valueText(state.metric)]];
  const others = run.panels.map((panel, i) => ({ ...panel, i })).filter(({ i }) => i !== state.panel);
  if (run.panels.length <= MOST_OF_A_CARD)
    for (const { title, i } of others) {
      const value = view.at(view.values(), state.cell, i);
      if (value !== null) rows.push([title.split(":")[0], shown(value, 3)]);
    }
  const first = ["recovery", "kl_divergence", "flipped"].filter((name) => name !== state.metric);
  for (const metric of run.metrics.filter(({ name }) => first.includes(name)))
    if (view.at(view.values(metric.name)) !== null)
      rows.push([metric.name.replaceAll("_", " "), view.valueText(metric.name)]);
  return make("dl", {}, ...rows.flatMap(([name, text]) => [make("dt", { text: name }), make("dd", { text })]));
}

// Buttons that go to the pairs in which the cell does most and least.
function strongestPairs(view) {
  const { run, state } = view;
  const values = run.pairs.map((pair, i) => [view.at(pair.values[state.metric]), i]).filter(([v]) => v !== null);
  if (values.length < 2 || state.group !== view.base) return "";
  const order = values.sort((a, b) => b[0] - a[0]).map(([, i]) => i), half = Math.floor(order.length / 2);
  const buttons = (chosen) => chosen.map((i) => {
    const button = make("button", { type: "button", text: run.pairs[i].id, "aria-label": `pair ${run.pairs[i].id}` });
    button.addEventListener("click", () => view.showPair(i));
    return button;
  });
  return make("p", { class: "pairs" }, "most in pairs", ...buttons(order.slice(0, Math.min(3, half))),
    " · least in", ...buttons(order.slice(-Math.min(3, half)).reverse()));
}

function pairTable(view) {
  const { run, state } = view, pair = run.pairs[state.pair];
  const patched = pair.texts[[state.panel, ...state.cell].join("/")] ?? "not decoded at this cell";
  const said = (side) => `${pair[side].text} ${pair[side].correct ? "(right)" : "(wrong)"}`;
  return table([
    ["clean question", pair.clean.question], ["clean answer", String(pair.clean.answer)],
    ["corrupted question", pair.corrupted.question], ["corrupted answer", String(pair.corrupted.answer)],
    ["clean run says", said("clean")], ["corrupted run says", said("corrupted")], ["patched run says", patched],
  ], { id: `${view.id}-pair-table` });
}

// Kept open or closed from cell to cell.
function everyMetric(view) {
  const { run, state } = view, bounds = (side, name) => view.at(run.groups[state.group][side][name]);
  const rows = run.metrics.map(({ name, label }) => {
    const row = [label, view.at(view.values(name))];
    if (state.pair === null && bounds("low", name) !== null)
      row.push(`[${shown(bounds("low", name))}, ${shown(bounds("high", name))}]`);
    return row;
  });
  const numbers = table(rows, { id: `${view.id}-numbers` });
  numbers.querySelectorAll("tr").forEach((row, k) => row.setAttribute("data-metric", run.metrics[k].name));
  const details = make("details", {},
    make("summary", { text: "Every metric of this cell" }), make("div", { class: "wide" }, numbers));
  details.open = view.open;
  details.addEventListener("toggle", () => { view.open = details.open; });
  return details;
}

// What the map shows and its marks mean.
function noteOf(view) {
  const { run, state, metric, threshold: limit } = view, { n, n_recovery: kept } = run.groups[state.group], parts = [];
  if (state.pair === null) {
    parts.push(`${run.panels[state.panel].title}; ${state.group}, n = ${view.count(metric.name)} pairs`);
    if (view.count(metric.name) < n) parts.push(`${n - kept} left out: no recovery defined`);
  } else parts.push("colours as on the maps of means; what goes beyond them has the colour of the end");
  if (!view.grid().flat().some((value) => value !== null)) parts.push("no cell has a value");
  if (view.single && limit !== null) parts.push(`dashed: the donor control’s largest, ${shown(limit, 3)}`);
  const above = limit === null ? "" : ` above the donor control’s largest, ${shown(limit, 3)}`;
  if (!view.single && view.outlined().length) parts.push(`outlined: the five largest${above}`);
  if (run.panels[state.panel].zeros.flat().some(Boolean)) parts.push("hatched: zero by construction");
  const said = parts.map((part) => `${part[0].toUpperCase()}${part.slice(1)}.`).join(" ");
  return `${said} ${view.single ? "Dotted" : "Blue frame"}: chosen; click, or Tab and arrow keys, to choose another.`;
}

// The map as a table, for those who cannot see it, and to copy.
function mapTable(view) {
  const { run } = view, grid = view.grid();
  const rows = run.rows.map((_, i) => [run.row_texts[i], ...grid[i]]).reverse();
  return table([[`${run.row} \\ ${run.axis}`, ...run.columns], ...rows], { head: true });
}
