// Adapters: which one routes use, which are in memory, and how their training went.

import { get, post } from "./api.js";
import { curveChart } from "./chart.js";
import { $, busy, duration, el, quietly, tell } from "./dom.js";

export function setUp() {}

export function enter() {
  quietly($("adapters-status"), list);
}

async function list() {
  const { adapters } = await get("/v1/adapters");
  if (!adapters.length) {
    $("adapter-list").replaceChildren(
      el("p", { class: "panel empty" }, "No adapter yet. Train one with ", el("code", {}, "openbook tune"), "; it appears here with its training curve."),
    );
    return;
  }
  adapters.sort((a, b) => a.name.localeCompare(b.name) || b.version - a.version);
  $("adapter-list").replaceChildren(...adapters.map(card));
}

function card(adapter) {
  const key = `${adapter.name}@${adapter.version}`;
  const chart = el("div", { class: "chart" });
  get(`${path(adapter)}/curve`).then(
    ({ points }) => chart.replaceChildren(points.length ? curveChart(points, key) : el("p", { class: "muted small" }, "No training curve was recorded.")),
    (error) => chart.replaceChildren(el("p", { class: "problem small" }, error.message)),
  );
  const scores = Object.entries(adapter.dev_scores).map(([name, value]) => `${name} ${value.toFixed(3)}`).join(", ");
  const trained = adapter.seconds ? `${adapter.tokens.toLocaleString("en")} tokens in ${duration(adapter.seconds)}` : "";
  return el(
    "article",
    { class: "panel adapter", "aria-labelledby": `adapter-${key}` },
    el(
      "div",
      {},
      el(
        "h2",
        { id: `adapter-${key}` },
        key,
        adapter.promoted ? el("span", { class: "tag" }, "in use") : null,
        adapter.loaded ? el("span", { class: "tag plain" }, "in memory") : null,
      ),
      el("p", { class: "muted small" }, [`${adapter.recipe} ${adapter.method}`, trained, scores && `dev ${scores}`].filter(Boolean).join(" · ")),
      adapter.stale ? el("p", { class: "small warning" }, `${adapter.stale}.`) : null,
      adapter.gate_failures?.length ? el("p", { class: "small warning" }, `On dev, ${adapter.gate_failures.join("; ")}.`) : null,
      el(
        "div",
        { class: "line" },
        adapter.promoted ? null : action(adapter, "promote", "Use in routes", `Routes with adapter ${adapter.name} now use ${key}.`),
        adapter.loaded
          ? action(adapter, "unload", "Take out of memory", `${key} is out of memory; its next answer loads it again.`)
          : action(adapter, "load", "Load into memory", `${key} is in memory.`),
      ),
    ),
    chart,
  );
}

function action(adapter, verb, label, done) {
  const button = el("button", { type: "button", "aria-label": `${label}: ${adapter.name}@${adapter.version}` }, label);
  button.addEventListener("click", () =>
    busy(button, $("adapters-status"), async () => {
      await post(`${path(adapter)}/${verb}`);
      await list();
      tell($("adapters-status"), done);
      document.getElementById(`adapter-${adapter.name}@${adapter.version}`).closest("article").querySelector("button").focus();
    }),
  );
  return button;
}

const path = ({ name, version }) => `/v1/adapters/${name}/${version}`;
