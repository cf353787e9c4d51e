"use strict";
const D = JSON.parse(document.getElementById("data").textContent), C = D.columns, N = D.feature.length;
const $ = id => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const bytes = text => text === undefined ? null : Uint8Array.from(atob(text), c => c.charCodeAt(0));
const number = x => x === null || x === undefined ? "" : x === 0 ? "0" : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5 ? x.toExponential(1) : String(+x.toPrecision(3));
const percent = x => x === null || x === undefined ? "" : (100 * x).toFixed(x && x < 0.1 ? 2 : 0) + "%";

// how many recipes use a feature is a column as well
const used = D.recipes.length ? new Array(N).fill(0) : null;
for (const recipe of D.recipes) for (const row of Object.keys(recipe.theta)) used[row] += 1;
const SHOWN = [
  ["feature", "#", "4rem", String, D.feature], ["label", "label", "minmax(9rem, 2fr)"], ["label_q", "q", "4.5rem", number],
  ["terms", "terms", "minmax(6rem, 1.5fr)"], ["genes", "genes", "minmax(8rem, 2fr)"], ["cell_types", "cell types", "minmax(6rem, 1.2fr)"],
  ["density", "density", "4.5rem", percent], ["pr", "PR", "3.6rem", number], ["stability", "seeds", "3.8rem", percent],
  ["recipes", "recipes", "4.5rem", String, used],
].map(([name, title, width, show, values]) => ({ name, title, width, show, values: values === undefined ? C[name] : values })).filter(c => c.values);
const column = name => SHOWN.find(c => c.name === name);

const SEARCHED = ["label", "terms", "direct_terms", "cell_types", "genes"].filter(name => C[name]);
const TEXT = D.feature.map((f, i) => ("#" + f + "\n" + SEARCHED.map(name => C[name][i]).join("\n")).toLowerCase());
const row_of = new Map(D.feature.map((f, i) => [f, i]));

let state = { q: "", s: "", f: null }, order = [], shown = [], selected = 0, opened_from = null;

function sort() {
  const down = state.s.startsWith("-"), by = column(state.s.replace(/^-/, ""));
  order = D.feature.map((_, i) => i);
  if (!by) return;
  const missing = x => x === null || x === "", values = by.values, text = new Intl.Collator("en", { numeric: true });
  order.sort((a, b) => {
    const x = values[a], y = values[b];
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
    return (by.show ? x - y : text.compare(x, y)) * (down ? -1 : 1) || a - b;
  });
}

function search() {
  // words in quotes stand together: "t cell", and not every text with a t and a cell
  const words = (state.q.toLowerCase().match(/"[^"]+"?|[^\s"]+/g) || []).map(word => word.replaceAll('"', "")).filter(Boolean);
  // "#12" is that feature alone; a bare number finds it beside texts that hold it
  const hit = (i, word) => /^#\d+$/.test(word) ? TEXT[i].startsWith(word + "\n") : TEXT[i].includes(word);
  shown = words.length ? order.filter(i => words.every(word => hit(i, word))) : order;
  selected = Math.max(0, state.f === null ? 0 : shown.indexOf(row_of.get(state.f)));
  $("count").textContent = words.length ? shown.length.toLocaleString("en") + " of " + N.toLocaleString("en") : "";
  $("list").setAttribute("aria-rowcount", shown.length + 1);
  $("space").style.height = shown.length * height() + "px";
  $("scroll").scrollTop = 0;
  reveal();
}

const narrow = matchMedia("(max-width: 760px)"), height = () => narrow.matches ? 64 : 30;

function draw() {
  const h = height(), box = $("scroll"), first = Math.max(0, Math.floor(box.scrollTop / h) - 8);
  const last = Math.min(shown.length, Math.ceil((box.scrollTop + box.clientHeight) / h) + 8), rows = [];
  for (let at = first; at < last; at++) {
    const i = shown[at], row = make("div", { role: "row", class: "row", id: "r" + at, "aria-rowindex": at + 2, "aria-selected": at === selected });
    row.style.top = at * h + "px";
    row.style.gridTemplateColumns = template();
    for (const c of columns()) row.append(make("div", { role: "gridcell", class: "c-" + c.name + (c.show ? " number" : "") }, c.show ? c.show(c.values[i]) : c.values[i] || (c.name === "label" ? "–" : "")));
    row.addEventListener("click", () => { selected = at; open(i); });
    rows.push(row);
  }
  if (!rows.length) rows.push(make("p", { class: "empty" }, "No feature has all of these words."));
  $("space").replaceChildren(...rows);
  if (shown.length) box.setAttribute("aria-activedescendant", "r" + selected); else box.removeAttribute("aria-activedescendant");
}
// beside an open card there is room for the columns that it does not repeat first
const columns = () => SHOWN.filter(c => state.f === null || narrow.matches || !["terms", "label_q", "density"].includes(c.name));
const template = () => columns().map(c => c.width).join(" ");

function reveal() {
  const h = height(), box = $("scroll"), top = selected * h;
  if (top < box.scrollTop) box.scrollTop = top;
  if (top + h > box.scrollTop + box.clientHeight) box.scrollTop = top + h - box.clientHeight;
  draw();
}

function move(by) {
  if (!shown.length) return;
  selected = Math.min(shown.length - 1, Math.max(0, selected + by));
  reveal();
  if (state.f !== null && !narrow.matches) open(shown[selected], false);
}

function set_sort(name, down) {
  state.s = (down ? "-" : "") + name;
  sort(); search(); heads(); save();
}

function heads() {
  const there = columns();
  $("head").style.gridTemplateColumns = template();
  $("head").style.paddingRight = `calc(1rem + ${$("scroll").offsetWidth - $("scroll").clientWidth}px)`;  // the rows' scrollbar
  for (const head of $("head").children) {
    head.hidden = !there.some(c => c.name === head.dataset.name);
    const on = state.s.replace(/^-/, "") === head.dataset.name;
    head.setAttribute("aria-sort", on ? (state.s.startsWith("-") ? "descending" : "ascending") : "none");
  }
  $("order").value = state.s;
}

function save() {
  const parts = new URLSearchParams();
  if (state.f !== null) parts.set("f", state.f);
  if (state.q) parts.set("q", state.q);
  if (state.s) parts.set("s", state.s);
  history.replaceState(null, "", "#" + parts);
}

function load() {
  const parts = new URLSearchParams(location.hash.slice(1)), f = parts.get("f");
  const s = parts.get("s") || "";
  state = { q: parts.get("q") || "", s: column(s.replace(/^-/, "")) ? s : "", f: f !== null && row_of.has(+f) ? +f : null };
  $("query").value = state.q;
  sort(); search(); heads();
  if (state.f === null) close(false); else open(row_of.get(state.f), false);
}

function close(keep = true) {
  $("card").hidden = true;
  state.f = null;
  heads();
  draw();
  if (keep) { save(); (opened_from || $("scroll")).focus(); }
}

function open(i, focus = true) {
  if (focus) opened_from = document.activeElement === document.body ? $("scroll") : document.activeElement;
  state.f = D.feature[i];
  const card = $("card");
  card.hidden = false;
  card.replaceChildren(...describe(i));
  card.scrollTop = 0;
  card.setAttribute("aria-label", "Feature " + state.f);
  card.querySelector(".close").addEventListener("click", () => close());
  paint(i);
  if (focus) card.focus();
  heads();
  draw();
  save();
}

function describe(i) {
  const parts = [make("button", { class: "close", type: "button", "aria-label": "Close" }, "✕"), make("h2", {}, "Feature " + D.feature[i])];
  parts.push(make("p", {}, (C.label && C.label[i]) || "no label: no gene set is enriched"));
  const facts = make("dl", { class: "facts" });
  const fact = (name, title, show) => C[name] && C[name][i] !== null && facts.append(make("dt", {}, title), make("dd", {}, show(C[name][i])));
  if (C.label && C.label[i]) fact("label_q", "q of the label", number);
  fact("density", "fires on", x => percent(x) + " of gene tokens");
  fact("pr", "PR", x => number(x) + " genes (participation ratio)");
  fact("expressed", "expressed", x => percent(x) + " of |z| where the gene has a count");
  fact("stability", "stability", x => percent(x) + " of the other seeds have it");
  fact("module", "module", x => x < 0 ? "none" : String(x));
  parts.push(facts);
  const genes = C.genes && C.genes[i] ? C.genes[i].split(", ") : [];
  if (genes.length && D.weights) parts.push(make("h3", {}, "Top genes, mean |z|"), bars(genes.slice(0, 15).map((gene, k) => [gene, D.weights[i][k]])));
  else if (genes.length) parts.push(make("h3", {}, "Top genes"), make("p", {}, genes.slice(0, 15).join(", ")));
  if (genes.length > 15) parts.push(make("p", { class: "soft" }, "and " + genes.slice(15).join(", ")));
  if (D.pairs && D.pairs[i].length) {
    const list = make("ul", { class: "plain" }), pairs = D.pairs[i];
    for (let k = 0; k < pairs.length; k += 4) list.append(make("li", {}, make("span", {}, D.term_names[pairs[k]]), make("span", {}, pairs[k + 2] + " of " + pairs[k + 3] + ", q " + number(pairs[k + 1]))));
    parts.push(make("h3", {}, "Gene sets, genes shared"), list);
  }
  if (D.profile) {
    const T = D.profile.types.length, top = D.profile.top[i];
    const rows = D.profile.types.map((name, t) => [name, PROFILE[i * T + t] / 255 * top]).sort((a, b) => b[1] - a[1]);
    parts.push(make("h3", {}, "Cell types, mean |z|"), bars(rows));
  }
  if (D.cells) {
    const n = D.cells.x.length, top = number(D.cells.top[i]);
    parts.push(make("h3", {}, n + " cells, by their mean |z|"), make("canvas", { role: "img", "aria-label": "Layout of " + n + " cells coloured by the feature's mean |z|, at most " + top }));
    parts.push(make("p", { class: "scale" }, "0", make("i"), top));
  }
  const dose = D.doses[i];
  if (dose) parts.push(make("h3", {}, "Dose response"), make("p", { class: "soft" }, dose.title + "; genes that rise (up) and fall (down) by what its code is multiplied by. Solid: this feature; dashed: mean of nulls."), plot(dose.rows));
  const recipes = D.recipes.filter(recipe => recipe.theta[i] !== undefined);
  if (D.recipes.length) parts.push(make("h3", {}, recipes.length ? "Recipes that use it, theta" : "No recipe here uses it"));
  if (recipes.length) parts.push(make("ul", { class: "plain" }, ...recipes.map(r => make("li", {}, r.href ? make("a", { href: r.href }, r.name) : make("span", {}, r.name), make("span", {}, (r.theta[i] > 0 ? "+" : "") + number(r.theta[i]))))));
  return parts;
}

function bars(rows) {
  const top = Math.max(...rows.map(row => row[1]), 1e-300), box = make("div", { class: "bars" });
  for (const [name, value] of rows) {
    const bar = make("i");
    bar.style.width = 100 * value / top + "%";
    box.append(make("span", {}, name), make("span", { "aria-hidden": "true" }, bar), make("span", {}, number(value)));
  }
  return box;
}

function plot(rows) {
  const W = 400, H = 190, left = 36, right = 10, base = 160, roof = 14, ns = "http://www.w3.org/2000/svg";
  const alphas = rows.map(r => r.alpha), lo = Math.min(...alphas), hi = Math.max(...alphas), most = Math.max(1, ...rows.map(r => Math.max(r.up, r.down)));
  const x = a => left + (a - lo) / (hi - lo || 1) * (W - left - right), y = v => base - v / most * (base - roof);
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`); svg.setAttribute("role", "img"); svg.setAttribute("aria-label", "Genes moved by dose, at most " + number(most));
  const add = (tag, attributes, text) => { const node = document.createElementNS(ns, tag); for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v); if (text !== undefined) node.textContent = text; svg.append(node); };
  add("path", { d: `M${left} ${roof}V${base}H${W - right}`, stroke: "var(--soft)", fill: "none" });
  for (const v of [0, most]) add("text", { x: left - 4, y: y(v) + 4, "text-anchor": "end" }, number(v));
  for (const a of [lo, 1, hi]) add("text", { x: x(a), y: base + 14, "text-anchor": "middle" }, number(a));
  add("text", { x: (left + W) / 2, y: H - 2, "text-anchor": "middle" }, "alpha (1: no change)");
  for (const kind of [...new Set(rows.map(r => r.kind))]) for (const way of ["up", "down"]) {
    const some = rows.filter(r => r.kind === kind), own = kind === "feature";
    add("path", { d: "M" + some.map(r => `${x(r.alpha)} ${y(r[way])}`).join("L"), fill: "none", stroke: `var(--${way})`, "stroke-width": own ? 2 : 1, "stroke-dasharray": own ? "none" : kind.includes("direction") ? "1 3" : "5 4" });
  }
  add("text", { x: left + 8, y: roof + 2, style: "fill: var(--up)" }, "up"); add("text", { x: left + 30, y: roof + 2, style: "fill: var(--down)" }, "down");
  return svg;
}

const PROFILE = bytes(D.profile && D.profile.values), CELLS = bytes(D.cells && D.cells.values);

function paint(i) {
  const canvas = document.querySelector("#card canvas");
  if (!canvas) return;
  const scale = devicePixelRatio || 1, w = canvas.clientWidth, h = w * 3 / 4, pen = canvas.getContext("2d"), n = D.cells.x.length, pad = 12;
  canvas.width = w * scale; canvas.height = h * scale; pen.scale(scale, scale);
  const style = getComputedStyle(document.documentElement), rgb = name => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/g).map(x => parseInt(x, 16));
  const low = rgb("--low"), high = rgb("--high"), x = k => pad + D.cells.x[k] * (w - 2 * pad), y = k => h - pad - D.cells.y[k] * (h - 2 * pad);
  const value = k => CELLS[i * n + k] / 255, byValue = [...Array(n).keys()].sort((a, b) => value(a) - value(b));
  for (const k of byValue) {  // the strongest on top
    pen.fillStyle = `rgb(${low.map((c, d) => Math.round(c + (high[d] - c) * Math.sqrt(value(k))))})`;
    pen.beginPath(); pen.arc(x(k), y(k), 3, 0, 7); pen.fill();
  }
  const groups = new Map();
  D.cells.type.forEach((type, k) => groups.set(type, [...(groups.get(type) || []), k]));
  const mean = cells => cells.reduce((sum, k) => sum + value(k), 0) / cells.length, middle = list => list.sort((a, b) => a - b)[list.length >> 1], placed = [];
  pen.font = "11px system-ui, sans-serif"; pen.textAlign = "center"; pen.lineJoin = "round";
  for (const [type, cells] of [...groups].sort((a, b) => mean(b[1]) - mean(a[1])).slice(0, 3)) {
    const half = pen.measureText(type).width / 2 + 3, at = Math.min(w - half, Math.max(half, middle(cells.map(x))));
    let down = middle(cells.map(y)) - 6;
    while (placed.some(([a, d]) => Math.abs(d - down) < 14 && Math.abs(a - at) < 2 * half)) down += 14;
    placed.push([at, down]);
    pen.lineWidth = 3; pen.strokeStyle = style.getPropertyValue("--card"); pen.strokeText(type, at, down);
    pen.fillStyle = style.getPropertyValue("--fg"); pen.fillText(type, at, down);
  }
}

for (const c of SHOWN) {
  const button = make("button", { type: "button" }, c.title), head = make("div", { role: "columnheader", "aria-sort": "none", "data-name": c.name, class: c.show ? "number" : undefined }, button);
  button.addEventListener("click", () => {
    const first = ["density", "pr", "stability", "recipes"].includes(c.name);  // their large ones are looked for
    set_sort(c.name, state.s.replace(/^-/, "") === c.name ? !state.s.startsWith("-") : first);
  });
  $("head").append(head);
}
$("order").append(make("option", { value: "" }, "number"), ...SHOWN.slice(1).flatMap(c => [make("option", { value: c.name }, c.title + " ↑"), make("option", { value: "-" + c.name }, c.title + " ↓")]));
$("order").addEventListener("change", event => set_sort(event.target.value.replace(/^-/, ""), event.target.value.startsWith("-")));
$("query").addEventListener("input", event => { state.q = event.target.value; search(); save(); });
$("scroll").addEventListener("scroll", draw);
narrow.addEventListener("change", search);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.f !== null && paint(row_of.get(state.f)));
addEventListener("resize", () => { draw(); if (state.f !== null) paint(row_of.get(state.f)); });
addEventListener("hashchange", load);
addEventListener("keydown", event => {
  const typing = event.target === $("query"), tag = event.target.tagName;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const page = Math.max(1, Math.floor($("scroll").clientHeight / height()) - 1);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, ...(typing ? {} : { Home: -N, End: N }) };
  if (event.key === "/" && !typing) { $("query").focus(); $("query").select(); }
  else if (event.key === "Escape") {
    if (state.f !== null) close();
    else if (typing && state.q) { $("query").value = state.q = ""; search(); save(); }
    else { $("scroll").focus(); }
  } else if (event.key in steps && tag !== "SELECT" && !(narrow.matches && state.f !== null)) move(steps[event.key]);
  else if (event.key === "Enter" && (typing || event.target === $("scroll")) && shown.length) open(shown[selected]);
  else return;
  event.preventDefault();
});
load();
