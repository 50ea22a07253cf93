"use strict";

// What the page can do beyond being read: sort, filter, show passages, and save plots and answers as files.
// Texts of documents and answers are only ever set as text, never as HTML.

const table = document.getElementById("answers");
const body = table.tBodies[0];
const rows = [...body.rows];
const tools = document.getElementById("tools");
const heads = [...table.querySelectorAll("th[data-key]")];
const routes = heads.slice(2).map((head) => head.textContent);
const { passages, shown, cut } = JSON.parse(document.getElementById("passages").textContent);
const asked = new Map(rows.map((row, place) => [row, place]));
const details = new Map();
const order = { key: "", descending: false };

function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const cellsOf = (row) => [...row.cells].slice(2);
const saidIn = (cell) => cell.querySelector(".said").textContent;
const goldOf = (row) => [...row.querySelectorAll(".gold")].map((gold) => gold.textContent);

// Sorting

function keyOf(row) {
  if (order.key === "") return asked.get(row);
  if (order.key === "question") return saidIn(row.cells[0]);
  if (order.key === "gold") return row.cells[1].textContent.trim();
  return Number(cellsOf(row)[Number(order.key)].dataset.score);
}

const inWords = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

function compare(a, b) {
  const [left, right] = [keyOf(a), keyOf(b)];
  const found = typeof left === "number" ? left - right : inWords.compare(left, right);
  return (order.descending ? -found : found) || asked.get(a) - asked.get(b);
}

function sortBy(key, descending) {
  Object.assign(order, { key, descending });
  tools.elements.sort.value = key === "" ? "" : `${key} ${descending ? "down" : "up"}`;
  for (const head of heads) {
    if (head.dataset.key === key) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  body.append(...[...rows].sort(compare).flatMap((row) => [row, details.get(row)].filter(Boolean)));
}

for (const head of heads) {
  const button = el("button", { type: "button", class: "head" }, head.textContent);
  button.addEventListener("click", () => sortBy(head.dataset.key, order.key === head.dataset.key && !order.descending));
  head.replaceChildren(button);
  for (const [direction, words] of [["up", "ascending"], ["down", "descending"]]) {
    tools.elements.sort.append(el("option", { value: `${head.dataset.key} ${direction}` }, `${button.textContent}, ${words}`));
  }
}

// Filtering

for (const outcome of new Set(rows.flatMap((row) => cellsOf(row).map((cell) => cell.dataset.outcome)))) {
  tools.elements.outcome.append(el("option", { value: outcome }, outcome.replaceAll("_", " ")));
}

function fits(cell, outcome) {
  if (outcome === "" || cell.dataset.outcome === outcome) return true;
  return (outcome === "right" && cell.classList.contains("good")) || (outcome === "wrong" && cell.classList.contains("bad"));
}

function isWanted(row) {
  const { words, route, outcome, differs, asked: real } = tools.elements;
  if (real?.checked && "synthetic" in row.dataset) return false;
  const cells = cellsOf(row);
  const chosen = route.value === "" ? cells : [cells[Number(route.value)]];
  const rights = cells.filter((cell) => cell.classList.contains("good")).length;
  if (differs.checked && (rights === 0 || rights === cells.length)) return false;
  const terms = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [row.cells[0], row.cells[1], ...chosen].map((cell) => cell.textContent).join(" ").toLowerCase();
  return chosen.some((cell) => fits(cell, outcome.value)) && terms.every((term) => text.includes(term));
}

function filter() {
  let count = 0;
  for (const row of rows) {
    row.hidden = !isWanted(row);
    if (details.has(row)) details.get(row).hidden = row.hidden;
    count += !row.hidden;
  }
  document.getElementById("count").value = `${count} of ${rows.length} questions`;
}

tools.addEventListener("submit", (event) => event.preventDefault());
tools.addEventListener("reset", () => setTimeout(() => { filter(); sortBy("", false); }));
tools.addEventListener("input", (event) => {
  if (event.target.name !== "sort") return filter();
  const [key = "", direction] = event.target.value.split(" ");
  return sortBy(key, direction === "down");
});

// Passages

const [GOLD, CITED] = [1, 2];

function passageItem(place, holds, citing) {
  const [document_, title, start, end, text] = passages[place];
  const item = el("li", {}, el("span", { class: "where" }, `${title || document_} (${document_}, ${start} to ${end})`));
  if (holds) item.append(" ", el("span", { class: "holds" }, "holds the answer"));
  if (citing.length) item.append(" ", el("span", { class: "where" }, `cited by ${citing.join(" and ")}`));
  item.append("\n", text);
  return item;
}

function passagesOf(row) {
  const cell = el("td", { colspan: row.cells.length });
  const seen = new Map();
  shown[asked.get(row)].forEach((given, route) => {
    if (!given.length) return;
    const key = given.map(([place]) => place).join();
    seen.set(key, [...(seen.get(key) ?? []), { route: routes[route], given }]);
  });
  for (const alike of seen.values()) {
    const items = alike[0].given.map(([place, marks], rank) => {
      const citing = alike.filter(({ given }) => given[rank][1] & CITED).map(({ route }) => route);
      return passageItem(place, marks & GOLD, citing);
    });
    cell.append(el("h4", {}, `Shown to ${alike.map(({ route }) => route).join(" and ")}`), el("ol", {}, ...items));
  }
  if (cut !== null) cell.append(el("p", { class: "soft" }, `Passages are cut to ${cut} characters; answers.jsonl has them whole.`));
  return el("tr", { class: "passages" }, cell);
}

function togglePassages(row, button) {
  const open = details.has(row);
  button.setAttribute("aria-expanded", String(!open));
  if (open) {
    details.get(row).remove();
    details.delete(row);
  } else {
    details.set(row, passagesOf(row));
    row.after(details.get(row));
  }
}

for (const row of rows) {
  if (!shown[asked.get(row)].some((given) => given.length)) continue;
  const button = el("button", { type: "button", class: "more", "aria-expanded": "false" }, "Passages");
  button.addEventListener("click", () => togglePassages(row, button));
  row.cells[0].append(button);
}

// Files

function save(name, url) {
  const link = el("a", { href: url, download: name });
  link.click();
}

// A spreadsheet would run a text that starts like a formula.
const harmless = (text) => (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text);
const csvLine = (values) => values.map((value) => `"${harmless(String(value)).replaceAll('"', '""')}"`).join(",");

function csv() {
  const metric = table.dataset.metric;
  const header = ["id", "question", "synthetic", "accepted answers", "documents", "route", "answer", "outcome", metric,
    "prompt tokens", "completion tokens", "milliseconds", "passages"];
  const lines = [...body.rows].filter((row) => asked.has(row) && !row.hidden).flatMap((row) =>
    cellsOf(row).map((cell, route) => csvLine([
      row.dataset.id, saidIn(row.cells[0]), "synthetic" in row.dataset ? "yes" : "no", goldOf(row).join(" / "),
      [...row.querySelectorAll(".document")].map((name) => name.textContent).join(" / "),
      routes[route], saidIn(cell), cell.dataset.outcome, cell.dataset.score, ...cell.dataset.use.split(" "),
      shown[asked.get(row)][route].map(([place]) => passages[place].slice(0, 4)).map(([name, , start, end]) => `${name}:${start}-${end}`).join(" / "),
    ])));
  return [csvLine(header), ...lines].join("\r\n") + "\r\n";
}

document.getElementById("csv").addEventListener("click", () => {
  // The mark at the start tells spreadsheets that this is UTF-8.
  const url = URL.createObjectURL(new Blob(["\ufeff", csv()], { type: "text/csv" }));
  save("openbook-answers.csv", url);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
});

const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order",
  "font-family", "font-size", "font-weight"];
const EDGE = 16;

// An image cannot see the page's style sheet, so every element carries its own.
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((element, place) => {
    const style = getComputedStyle(originals[place]);
    for (const name of PAINT) element.setAttribute(name, style.getPropertyValue(name));
  });
  const { width, height } = svg.viewBox.baseVal;
  copy.setAttribute("viewBox", `${-EDGE} ${-EDGE} ${width + 2 * EDGE} ${height + 2 * EDGE}`);
  copy.setAttribute("width", 2 * (width + 2 * EDGE));
  copy.setAttribute("height", 2 * (height + 2 * EDGE));
  return new XMLSerializer().serializeToString(copy);
}

async function png(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(svg))}`;
  await image.decode();
  const canvas = el("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}

for (const button of document.querySelectorAll("[data-png]")) {
  const name = button.dataset.png;
  button.addEventListener("click", async () => {
    save(`openbook-${name}.png`, await png(document.querySelector(`#${name} svg`)));
  });
  button.hidden = false;
}

tools.hidden = false;
filter();
