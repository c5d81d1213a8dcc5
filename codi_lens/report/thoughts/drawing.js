// The parts that the page is made of.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function box(row, column) {
  const cell = shown(row, column);
  const value = cell.value === null ? "" : two(cell.value);
  const node = el("div", { class: "box" + marks(row, column) }, el("span", {}, cell.text), el("span", {}, value));
  node.style.background = cell.colour;
  if (cell.control !== null && cell.control !== undefined && row >= 0) {
    const tick = el("i", { class: "tick", title: `other questions: ${two(cell.control)}` });
    tick.style.left = `calc(${100 * cell.control}% - 1px)`;
    node.append(tick);
  }
  return node;
}

function bar(column) {
  const of = weights(column), node = el("div", { class: "bar" });
  const shares = Object.keys(KINDS).map((kind) => [kind, of.reduce((s, w, i) => s + (data.kinds[i] === kind ? w : 0), 0)]);
  for (const [kind, share] of shares) {
    const part = el("i");
    part.style.width = `${100 * share}%`;
    part.style.background = `var(--${kind})`;
    node.append(part);
  }
  node.title = shares.map(([kind, share]) => `${KINDS[kind]} ${two(share)}`).join(", ");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", `reads ${node.title}`);
  return node;
}

const header = (column) => document.querySelector(`thead [data-column="${column}"]`);

function arc(from, to, weight, kind) {
  const stage = byId("stage").getBoundingClientRect(), a = from.getBoundingClientRect(), b = to.getBoundingClientRect();
  const beside = to.tagName === "TH";
  const x0 = a.left + a.width / 2 - stage.left, y0 = a.top - stage.top;
  const x1 = b.left + b.width / 2 - stage.left, y1 = (beside ? b.top : b.bottom) - stage.top;
  const lift = beside ? y0 - 22 : (y0 + y1) / 2;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M${x0},${y0} C${x0},${lift} ${x1},${lift} ${x1},${y1}`);
  path.style.stroke = `var(--${kind})`;
  path.style.strokeWidth = `${1 + 9 * weight}px`;
  path.style.opacity = `${0.35 + 0.6 * weight}`;
  return path;
}

function listing(title, head, rows) {
  const cells = (tag, row) => row.map((text) => el(tag, {}, String(text)));
  const table = el("table", {}, el("tr", {}, ...cells("th", head)), ...rows.map((row) => el("tr", {}, ...cells("td", row))));
  return el("div", {}, el("h3", {}, title), table);
}

function chooser(id, label, options, onChange) {
  const select = el("select", { id });
  for (const [value, text] of options) select.append(el("option", { value }, text));
  select.addEventListener("change", () => onChange(select.value));
  return el("label", {}, `${label} `, select);
}

