"use strict";
// How a run's map is drawn: cells of layers upward and steps rightward, or, of a single column, a profile.
// `view` is a RunView: what of which run is chosen.
const CELL_WIDTH = 34;  // pixels, at least, for two decimals
const BAR = 62, TOP = 30, RIGHT = 14;  // of the colour bar, and margins
const MOST_HEIGHT = 1500, MANY_COLUMNS = 12, MANY_ROWS = 90;

function drawMap(view) {
  const grid = view.grid(), traces = view.single ? [profileTrace(view, grid)] : [heatTrace(view, grid)];
  return Plotly.react(view.plot, traces, mapLayout(view), DATA.config).then(() => {
    view.plot.removeAllListeners("plotly_click");
    view.plot.on("plotly_click", (event) => {
      const where = event.points[0].pointNumber;
      view.choose(view.single ? [where, 0] : where);
    });
  });
}

function hovers(view, grid) {
  return grid.map((row, i) => row.map((_, j) => [view.place([i, j]), ...view.said([i, j])].join("<br>")));
}

// Black or white, whichever reads better on the colour of a value.
function inked(value, metric) {
  const [low, high] = DATA.scales[metric.name], { black } = DATA.colours[metric.signed ? "diverging" : "sequential"];
  const at = Math.min(Math.max((value - low) / (high - low), 0), 1);
  const ink = black[0] <= at && at <= black[1] ? "#000000" : "#ffffff";
  return `<span style="color:${ink}">${value.toFixed(2).replace("-0.00", "0.00")}</span>`;
}

function heatTrace(view, grid) {
  const { metric, run } = view, [low, high] = DATA.scales[metric.name], { below, high: cells } = measures(view);
  const many = run.columns.length > MANY_COLUMNS || run.rows.length > MANY_ROWS;
  const text = (value) => (value === null || many ? "" : inked(value, metric));
  return {
    type: "heatmap", z: grid, text: grid.map((row) => row.map(text)), texttemplate: "%{text}",
    textfont: { size: 13 }, xgap: 2, ygap: 2, hoverongaps: false,
    customdata: hovers(view, grid), hovertemplate: "%{customdata}<extra></extra>",
    colorscale: DATA.colours[metric.signed ? "diverging" : "sequential"].stops, zmin: low, zmax: high,
    colorbar: {
      orientation: "h", thickness: 10, len: 1, outlinewidth: 0, y: -(below + 2) / cells, yanchor: "top",
      xpad: 0, ypad: 0,
      title: { text: metric.label, side: "top", font: { size: 12 } }, tickfont: { size: 12 },
    },
  };
}

function profileTrace(view, grid) {
  const y = grid.map((row) => row[0]), { low, high } = view.bounds() ?? {};
  const trace = {
    type: "scatter", mode: "lines+markers", x: y.map((_, i) => i), y, line: { color: colour("accent") },
    marker: { size: 8 }, customdata: hovers(view, grid).flat(), hovertemplate: "%{customdata}<extra></extra>",
  };
  if (low)
    trace.error_y = {
      type: "data", array: high.map((row, i) => row[0] - y[i]), arrayminus: low.map((row, i) => y[i] - row[0]),
      thickness: 1.5,
    };
  return trace;
}

// Of a profile's values: one range for all maps of the metric.
function profileRange(view) {
  const { name } = view.metric, group = view.run.groups[view.state.group];
  const all = [group.mean, group.low, group.high].map((side) => side[name]).concat([view.values()]);
  const values = [0, ...all.flat(3).filter((value) => value !== null)];
  const low = Math.min(...values), high = Math.max(...values), room = 0.06 * (high - low || 1);
  return [low < 0 ? low - room : 0, high + room];
}

// A map's measures, in pixels. Names of columns that are wider than a column stand upright.
function measures({ run, single, plot }) {
  const longest = (labels) => 7.5 * Math.max(...labels.map((label) => label.length));
  const left = single ? 64 : Math.max(56, 34 + longest(run.rows)), count = run.columns.length;
  const least = single ? 300 : left + RIGHT + (count > MANY_COLUMNS ? 14 : CELL_WIDTH) * count;
  const width = Math.max(plot.parentElement.clientWidth || 560, least);
  const upright = !single && longest(run.columns) > (width - left - RIGHT) / count;
  const below = single ? 52 : 50 + (upright ? Math.max(0, longest(run.columns) - 14) : 0);
  const each = Math.min(50, Math.max(24, 520 / run.rows.length), Math.max(5, MOST_HEIGHT / run.rows.length));
  const high = Math.max(140, each * run.rows.length);
  return { left, width, upright, below, high: single ? 280 : high };
}

function mapLayout(view) {
  const { run, single, metric } = view, { left, width, upright, below, high } = measures(view);
  const many = Math.ceil(run.rows.length / MANY_ROWS), bottom = below + (single ? 0 : BAR);
  const ticks = (labels, every = 1) => ({
    tickvals: labels.map((_, i) => i).filter((i) => i % every === 0), ticktext: labels.filter((_, i) => i % every === 0),
    range: [-0.5, labels.length - 0.5], showgrid: false, zeroline: false,
  });
  const title = (text) => ({ title: { text, standoff: 6, font: { size: 13 } } });
  const layer = { ...ticks(run.rows, many), ...title(run.row) };
  const value = { ...title(metric.name.replaceAll("_", " ")), gridcolor: colour("line"), zerolinecolor: colour("axis") };
  return {
    ...ground(), width, height: TOP + high + bottom, margin: { l: left, r: RIGHT, t: TOP, b: bottom },
    plot_bgcolor: colour(single ? "paper" : "undefined"), shapes: single ? profileMarks(view) : mapMarks(view),
    xaxis: single ? layer : { ...ticks(run.columns), ...title(run.axis), tickangle: upright ? -90 : 0 },
    yaxis: single ? { ...value, range: profileRange(view) } : layer,
  };
}

// A line through the chosen row, and one at what the donor control reaches anywhere.
function profileMarks(view) {
  const { cell } = view.state, shapes = [], limit = view.threshold;
  const across = (value, line) => shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line });
  if (limit !== null) across(limit, { color: colour("axis"), width: 1.5, dash: "dash" });
  if (cell)
    shapes.push({
      type: "line", x0: cell[0], x1: cell[0], yref: "paper", y0: 0, y1: 1,
      line: { color: colour("accent"), width: 2, dash: "dot" },
    });
  return shapes;
}

// Hatching on structural zeros, frames around cells that stand out, and one around the chosen.
function mapMarks(view) {
  const { run, state } = view, shapes = [], strokes = [];
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
  for (const cell of view.outlined()) frame(cell, { color: colour("ink"), width: 2 }, 0.45);
  if (state.cell) frame(state.cell, { color: colour("accent"), width: 4 }, 0.47);
  return shapes;
}
