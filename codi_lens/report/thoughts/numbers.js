"use strict";
// The page's own data, what is chosen, and every number that is shown.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SCALE = 10000; // attention is stored in ten-thousandths
const LEAST = 0.03; // of attention: what an arc is drawn for
const WORDS = "no one two three four five six seven eight nine ten eleven twelve".split(" ");
const KINDS = { numbers: "numbers", words: "words", frame: "BOS, bot", thoughts: "thoughts", eot: "eot" };
const FED = "the thought that is fed: made of the last layer at the step before";
const layers = data.attention.length, heads = data.attention[0].length;
const columns = data.steps.map((step, i) => ({
  index: i,
  latent: /^\d+$/.test(step) ? Number(step) : null,
  name: /^\d+$/.test(step) ? `thought ${step}` : step,
}));
const latents = columns.filter((c) => c.latent !== null).length;
const state = { lens: Object.keys(data.readings)[0], view: "says", layer: null, head: null, row: 0, column: 0 };
const reading = () => data.readings[state.lens];
const two = (x) => (x === null || x === undefined ? "–" : x.toFixed(2));
const mean = (rows) => rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);

/** Attention from a column's step to every position, by the chosen layer and head or their mean. */
function weights(column) {
  const chosen = state.layer === null ? data.attention : [data.attention[state.layer]];
  const rows = chosen.flatMap((layer) => (state.head === null ? layer : [layer[state.head]]));
  return mean(rows.map((head) => head[column])).map((x) => x / SCALE);
}

const visible = (token) => token.replaceAll("\n", "⏎").replace(/^ /, "␣") || "∅";
const short = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);
const answer = short(data.answer);
const answerAfter = (k) => short(data.stops[k].answer ?? data.stops[k].text);
const recovery = (row, column) => {
  const k = columns[column].latent;
  return data.recovery && k !== null ? data.recovery[row + 1][k] : null; // row −1 is the thought that is fed
};

/** Where in the readings a cell is read; nowhere where no thought is fed. */
const place = (row, column) => (row >= 0 ? [row, column] : columns[column].latent === null ? [-1, -1] : [layers - 1, column - 1]);

/** What a cell shows, and how strongly: the most likely token, or what patching it recovers. */
function shown(row, column) {
  if (state.view === "recovery") {
    const value = recovery(row, column);
    const size = Math.min(1, Math.abs(value ?? 0));
    return { text: "", value, colour: `rgb(var(${value < 0 ? "--minus" : "--plus"}) / ${0.75 * size})` };
  }
  const from = place(row, column);
  const top = reading().said[from[0]]?.[from[1]]?.[0];
  if (!top) return { text: "", value: null, colour: "none" };
  const [text, value, control] = top;
  return { text: visible(text), value, control, colour: `rgb(var(--cell) / ${row < 0 ? 0 : 0.62 * value})` };
}

const firstOf = (result) => (result.readable ? result.readable.join() : null);
function marks(row, column) {
  if (row < 0 || state.view !== "says") return "";
  const there = reading().results.filter((result) => result.rank[row][column] === 1);
  if (!there.length) return "";
  return there.some((result) => firstOf(result) === `${row},${column}`) ? " known first" : " known";
}

