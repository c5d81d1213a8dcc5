"use strict";
// What the page is put together from: elements, tabs, tables, figures, and the colours of light and dark. Text
// from questions and answers is only ever set as textContent, so that markup in it stays text.
const DATA = JSON.parse(document.getElementById("data").textContent);
const ROOT = document.documentElement;
const DARK = matchMedia("(prefers-color-scheme: dark)");
const COARSE = matchMedia("(pointer: coarse)");

function make(tag, options = {}, ...children) {
  const { text, ...attributes } = options;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

function shown(value, digits = 5) {
  return value === null || value === undefined ? "–" : String(Number(value.toPrecision(digits)));
}

// The first cell of each row is its heading; so is the first row, if `head` says so.
function table(rows, { id, head = false } = {}) {
  const cells = (row, top) => row.map((value, k) => {
    if (top || k === 0) return make("th", { scope: top ? "col" : "row", text: value });
    const number = typeof value === "number";
    return make("td", { text: number ? shown(value) : value ?? "–", class: number ? "number" : "text" });
  });
  return make("table", id ? { id } : {}, ...rows.map((row, i) => make("tr", {}, ...cells(row, head && i === 0))));
}

// A menu: its label, and `fill`, which gives it options, value -> text.
function menu(id, name, change) {
  const select = make("select", { id });
  select.addEventListener("change", () => change(select.value));
  const fill = (options, value) => {
    select.replaceChildren(...options.map(([key, text]) => make("option", { value: key, text })));
    select.value = value;
  };
  return { label: make("label", { text: name }, select), select, fill };
}

// Tabs over one panel, as ARIA has them: arrow keys go from tab to tab.
function tabs(id, name, names, panel, choose) {
  const buttons = names.map((text, i) =>
    make("button", { id: `${id}-tab-${i}`, type: "button", role: "tab", "aria-controls": panel.id, text }));
  const select = (chosen) => {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", String(i === chosen));
      button.tabIndex = i === chosen ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", buttons[chosen].id);
    choose(chosen);
  };
  const list = make("div", { class: "tabs", role: "tablist", "aria-label": name }, ...buttons);
  buttons.forEach((button, i) => button.addEventListener("click", () => select(i)));
  list.addEventListener("keydown", (event) => {
    const i = buttons.indexOf(event.target), last = buttons.length - 1;
    const next = { ArrowRight: i === last ? 0 : i + 1, ArrowLeft: i ? i - 1 : last, Home: 0, End: last }[event.key];
    if (i < 0 || next === undefined) return;
    event.preventDefault();
    buttons[next].focus();
    select(next);
  });
  return { list, select };
}

// The page's colours, as the style sheet has them for the reader's scheme, or for paper.
function colour(name) {
  return getComputedStyle(ROOT).getPropertyValue(`--${name}`).trim();
}

// What every figure's layout has in common. A finger's drag scrolls; a mouse's zooms.
function ground() {
  return {
    font: { family: "system-ui, Helvetica, Arial, sans-serif", size: 13, color: colour("ink") },
    paper_bgcolor: colour("paper"), dragmode: COARSE.matches ? false : "zoom",
  };
}

// A colour of lines and points, brighter on dark ground.
function bright(name) {
  const brush = make("canvas").getContext("2d");
  brush.fillStyle = name;
  const channels = [1, 3, 5].map((at) => parseInt(brush.fillStyle.slice(at, at + 2), 16));
  return `rgb(${channels.map((c) => Math.round(c + 0.4 * (255 - c))).join(",")})`;
}

// A figure that was drawn for white paper, in the page's colours.
function themed(figure) {
  const { data, layout } = structuredClone(figure), { font, ...rest } = ground();
  Object.assign(layout, rest, { font: { ...layout.font, family: font.family, color: font.color } });
  layout.plot_bgcolor = layout.plot_bgcolor === "white" ? colour("paper") : colour("undefined");
  for (const axis of Object.values(layout))
    if (axis?.gridcolor)  // axes of lines and points; maps have no grid
      Object.assign(axis, { gridcolor: colour("line"), linecolor: colour("axis"), zerolinecolor: colour("axis") });
  const shapes = (layout.shapes ?? []).filter((shape) => shape.type !== "path");  // hatching lies on cells
  const lines = [...data.flatMap((t) => [t.line, t.marker]), ...shapes.map((s) => s.line)];
  for (const line of lines.filter((l) => typeof l?.color === "string"))
    if (line.color === "black") line.color = colour("ink");
    else if (DARK.matches && !ROOT.classList.contains("print")) line.color = bright(line.color);
  return { data, layout };
}

// A figure's title and subtitle become the page's text, which wraps; the figure itself may have to scroll.
function drawFigure(holder, figure) {
  const { data, layout } = themed(figure), { title, subtitle, height } = layout.meta;
  const place = make("div", { class: "map" });
  holder.replaceChildren(make("h3", { text: title }), make("p", { class: "note", text: subtitle }), place);
  delete layout.title;
  layout.height -= height;
  layout.margin.t -= height;
  Plotly.newPlot(place, data, layout, DATA.config);
}
