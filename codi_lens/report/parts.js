"use strict";
// What the page is put together from: elements, tables, and the colours of light and dark. Text from
// questions and answers is only ever set as textContent, so that markup in it stays text.
const DATA = JSON.parse(document.getElementById("data").textContent);
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

// The page's colours, as the style sheet has them for the reader's scheme.
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// What every figure's layout has in common. A finger's drag scrolls; a mouse's zooms.
function ground() {
  return {
    font: { family: "Helvetica, Arial, sans-serif", size: 14, color: colour("ink") },
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
  Object.assign(layout, rest, { font: { ...layout.font, color: font.color } });
  layout.plot_bgcolor = layout.plot_bgcolor === "white" ? colour("paper") : colour("undefined");
  for (const axis of Object.values(layout))
    if (axis?.gridcolor)  // axes of lines and points; maps have no grid
      Object.assign(axis, { gridcolor: colour("line"), linecolor: colour("axis"), zerolinecolor: colour("axis") });
  const shapes = (layout.shapes ?? []).filter((shape) => shape.type !== "path");  // hatching lies on cells
  const lines = [...data.flatMap((t) => [t.line, t.marker]), ...shapes.map((s) => s.line)];
  for (const line of lines.filter((l) => typeof l?.color === "string"))
    if (line.color === "black") line.color = colour("ink");
    else if (DARK.matches) line.color = bright(line.color);
  return { data, layout };
}

// A figure's title and subtitle become the page's text, which wraps; the figure itself may have to scroll.
function drawFigures(holder, figures) {
  holder.replaceChildren();
  for (const figure of figures) {
    const { data, layout } = themed(figure), { title, subtitle, height } = layout.meta;
    const place = make("div", { class: "map" });
    holder.append(make("div", { style: `width: ${layout.width}px` },
      make("h3", { text: title }), make("p", { class: "note", text: subtitle }), place));
    delete layout.title;
    layout.height -= height;
    layout.margin.t -= height;
    Plotly.newPlot(place, data, layout, DATA.config);
  }
}
