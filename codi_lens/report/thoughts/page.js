// The page: read-outs by layer and step, with what each column reads and does.
function drawCells() {
  for (const td of document.querySelectorAll("td[data-row]")) {
    const row = Number(td.dataset.row), column = Number(td.dataset.column);
    td.replaceChildren(box(row, column));
    const at = row < 0 ? "fed" : `layer ${row}`;
    td.setAttribute("aria-label", `${columns[column].name}, ${at}: ${td.textContent}`);
  }
}

const HURT = 0.1; // of the answer's probability, lost: shown in orange

/** Rows below the read-outs: [name, what it is, column -> its cell's content]. */
function facts() {
  const whole = data.stops.at(-1).own;
  const after = (values) => (c) => (c.latent === null || !values ? "" : changed(values[c.latent], whole));
  const stopped = (c) => {
    if (c.name === "eot") return [el("b", {}, answer), ` ${two(whole)}`];
    const k = c.latent === null ? 0 : c.latent + 1;
    return [el("b", {}, answerAfter(k)), ` ${two(data.stops[k].own)}`];
  };
  const best = (c) => (c.latent === null ? "" : el("b", {}, two(Math.max(...data.recovery.map((row) => row[c.latent])))));
  return [
    ["reads", "attention, by kind of token", (c) => bar(c.index)],
    ...(data.recovery ? [["best recovery", "of the pair's answer, patched at one layer", best]] : []),
    ["if zeroed", "probability of the answer with this thought set to zero", after(data.zero)],
    ...(data.resample ? [["if swapped", "probability of the answer with this thought from another question", after(data.resample)]] : []),
    ["stop here", "what it answers when the loop is cut here, and the probability of that behind the stem", stopped],
  ];
}

function changed(value, whole) {
  const node = el("b", {}, two(value));
  if (whole - value > HURT) node.style.color = "rgb(var(--minus))";
  return node;
}

function drawTable() {
  const head = el("tr", {}, el("th"));
  for (const c of columns) head.append(el("th", { scope: "col", "data-column": `${c.index}` }, el("button", { type: "button" }, c.name)));
  const body = el("tbody");
  const rows = [...Array(layers).keys()].reverse().concat(-1);
  for (const row of rows) {
    const tr = el("tr", { class: row === layers - 1 ? "first" : "" }, el("th", { scope: "row", title: row < 0 ? FED : "" }, row < 0 ? "fed" : `layer ${row}`));
    for (const c of columns) {
      tr.append(el("td", { class: "cell", role: "gridcell", "data-row": `${row}`, "data-column": `${c.index}`, tabindex: "-1" }));
    }
    body.append(tr);
  }
  facts().forEach(([name, title, content], i, all) => {
    const tr = el("tr", { class: i === all.length - 1 ? "last" : "" }, el("th", { scope: "row", title }, name));
    for (const c of columns) {
      tr.append(el("td", { class: "cell fact", "data-column": `${c.index}`, "data-fact": name, title }, ...[content(c)].flat()));
    }
    body.append(tr);
  });
  byId("grid").replaceChildren(el("thead", {}, head), body);
  byId("grid").classList.toggle("dense", layers > 12);
  drawCells();
}

function drawQuestion() {
  const spaced = data.labels.some((label) => /^\s|\s$/.test(label));
  data.labels.slice(0, data.positions[0] + 1).forEach((label, i) => {
    const kind = data.kinds[i];
    byId("question").append(el("span", { class: `token ${kind}`, "data-position": `${i}` }, label), spaced ? "" : " ");
  });
}

/** Glow and arcs: what a column reads, in the question and in the thoughts before it. */
function drawAttention(column) {
  const of = weights(column), top = Math.max(...of, LEAST);
  for (const token of document.querySelectorAll(".token")) {
    const weight = of[Number(token.dataset.position)];
    token.style.background = `rgb(var(--glow) / ${(0.75 * weight) / top})`;
    token.title = two(weight);
  }
  const paths = [];
  data.positions.forEach((position, i) => {
    if (i && i < column && of[position] > LEAST) paths.push([header(i), of[position], "thoughts"]);
  });
  for (const token of document.querySelectorAll(".token")) {
    const i = Number(token.dataset.position);
    if (of[i] > LEAST) paths.push([token, of[i], data.kinds[i]]);
  }
  byId("arcs").replaceChildren(...paths.map(([node, weight, kind]) => arc(header(column), node, weight, kind)));
}

function lookAt(column) {
  for (const node of document.querySelectorAll("#grid [data-column]")) {
    node.classList.toggle("at", Number(node.dataset.column) === column);
  }
  drawAttention(column);
}

function select(row, column, focus = false) {
  for (const td of document.querySelectorAll("td[data-row]")) {
    const own = Number(td.dataset.row) === row && Number(td.dataset.column) === column;
    td.setAttribute("aria-selected", own);
    td.tabIndex = own ? 0 : -1;
    if (own && focus) td.focus();
    if (own && focus) td.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  Object.assign(state, { row, column });
  lookAt(column);
  drawDetail();
}

function drawDetail() {
  const { row, column } = state, c = columns[column];
  const from = place(row, column);
  const parts = [el("h2", {}, `${c.name}, ${row < 0 ? "what is fed" : `layer ${row}`}`)];
  const said = reading().said[from[0]]?.[from[1]];
  if (said) {
    parts.push(listing(`says (${state.lens})`, ["token", "p", "others"], said.map(([t, p, o]) => [visible(t), two(p), two(o)])));
    const known = reading().results.map((r) => [short(r.value), r.rank[from[0]][from[1]], two(r.share[from[0]][from[1]]), two(r.control?.[from[0]][from[1]])]);
    parts.push(listing("known results", ["result", "rank", "p", "others"], known));
  }
  const of = weights(column).map((w, i) => [w, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  parts.push(listing(`reads (${byId("source").selectedOptions[0].text})`, ["token", "weight"], of.map(([w, i]) => [named(i), two(w)])));
  if (c.latent !== null) {
    const rows = [["set to zero", two(data.zero[c.latent])]];
    if (data.resample) rows.push(["another question's", two(data.resample[c.latent])]);
    if (data.recovery) rows.push([`recovery, patched ${row < 0 ? "as fed" : `at layer ${row}`}`, two(recovery(row, column))]);
    parts.push(listing(`does: p(${answer}) is ${two(data.stops.at(-1).own)}`, ["changed", "then"], rows));
  }
  byId("detail").replaceChildren(...parts);
}

const named = (i) => (data.kinds[i] === "thoughts" ? `thought ${i - data.positions[0] - 1}` : `${visible(data.labels[i])} (${i})`);

function drawChoices() {
  const redraw = () => {
    drawTable();
    drawResults();
    select(state.row, state.column);
  };
  const lenses = Object.keys(data.readings).map((name) => [name, name]);
  const views = [["says", "what it says"], ...(data.recovery ? [["recovery", "recovery if patched"]] : [])];
  const sources = [["", "all layers, all heads"]];
  for (let layer = 0; layer < layers; layer++) {
    sources.push([`${layer}`, `layer ${layer}, all heads`]);
    for (let head = 0; head < heads; head++) sources.push([`${layer}.${head}`, `layer ${layer}, head ${head}`]);
  }
  const fromHead = (value) => {
    const [layer, head] = value.split(".");
    Object.assign(state, { layer: layer ? Number(layer) : null, head: head === undefined ? null : Number(head) });
    redraw();
  };
  byId("choices").append(
    chooser("lens", "read by", lenses, (value) => (state.lens = value, redraw())),
    chooser("view", "cells show", views, (value) => (state.view = value, redraw())),
    chooser("source", "attention of", sources, fromHead),
  );
}

function drawLegend() {
  const kinds = Object.entries(KINDS).map(([kind, text]) => {
    const swatch = el("i");
    swatch.style.background = `var(--${kind})`;
    return el("li", {}, swatch, text);
  });
  byId("legend").replaceChildren(el("li", {}, "attention to"), ...kinds);
}

/** Where each known result becomes readable. */
function drawResults() {
  const entries = reading().results.map((result) => {
    const where = result.readable;
    const text = where
      ? ` first most likely at ${columns[where[1]].name}, layer ${where[0]}: ${two(result.share[where[0]][where[1]])}` +
        (result.control ? `, other questions ${two(result.control[where[0]][where[1]])}` : "")
      : " is nowhere the most likely token";
    const button = el("button", { type: "button" }, el("b", {}, short(result.value)), text);
    if (where) button.addEventListener("click", () => select(where[0], where[1], true));
    return el("li", { "data-result": result.value }, button);
  });
  byId("results").replaceChildren(...entries);
}

function drawWords() {
  byId("title").textContent = `One question, ${WORDS[latents] ?? latents} thought${latents === 1 ? "" : "s"}`;
  const right = data.expected === null ? "" : data.expected === data.answer ? ", right" : `, wrong: it is ${data.expected}`;
  const less = latents ? ` · without thoughts it says ${answerAfter(0)} (${two(data.stops[0].own)})` : "";
  byId("about").append(`${data.model} · answer `, el("b", {}, answer), ` (${two(data.stops.at(-1).own)})${right}${less}`);
  const controls = data.others.length
    ? `Grey tick, and "others": the same read-out on ${data.others.length} questions with other numbers and answers, such as “${data.others[0]}”. What is as likely there is no evidence. `
    : "There are no other questions to compare with. ";
  const pair = data.corrupted ? `Recovery: this question's activation, put into “${data.corrupted}”. ` : "";
  const swapped = data.resample ? ["If zeroed, if swapped", "set to zero, or from another question"] : ["If zeroed", "set to zero"];
  const without = latents ? `${swapped[0]}: probability of the answer with this thought ${swapped[1]}; orange: lower by more than ${HURT}. Stop here: what is answered when the loop is cut there. ` : "";
  byId("how").append(
    `${controls}${pair}${without}The last layer of a column is what the next thought is made of. Hover a column to see what it reads; click a cell for its numbers; `,
    el("kbd", {}, "←"), el("kbd", {}, "→"), el("kbd", {}, "↑"), el("kbd", {}, "↓"), " move.",
  );
}

function listen() {
  const grid = byId("grid");
  const columnOf = (event) => event.target.closest("[data-column]")?.dataset.column;
  grid.addEventListener("mouseover", (event) => columnOf(event) && lookAt(Number(columnOf(event))));
  grid.addEventListener("mouseleave", () => lookAt(state.column));
  grid.addEventListener("click", (event) => {
    if (columnOf(event) === undefined) return;
    const row = event.target.closest("td")?.dataset.row;
    select(row === undefined ? state.row : Number(row), Number(columnOf(event)), row !== undefined);
  });
  grid.addEventListener("keydown", (event) => {
    const [up, right] = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!up && !right) return;
    event.preventDefault();
    const keep = (x, low, high) => Math.min(high, Math.max(low, x));
    select(keep(state.row + up, -1, layers - 1), keep(state.column + right, 0, columns.length - 1), true);
  });
  for (const [node, event] of [[window, "resize"], [byId("scroll"), "scroll"]]) node.addEventListener(event, () => drawAttention(state.column));
}

/** Where to begin: the thought whose loss costs the answer most, at its last layer. */
function strongest() {
  const values = data.resample ?? data.zero;
  const worst = values.indexOf(Math.min(...values));
  return columns.findIndex((c) => c.latent === worst);
}

drawWords();
drawQuestion();
drawChoices();
drawResults();
drawLegend();
drawTable();
listen();
select(layers - 1, Math.max(0, strongest()));
byId("scroll").scrollLeft = header(state.column).offsetLeft - 200;
