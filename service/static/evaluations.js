// Evaluations: start one, watch it, and read what came of it.

import { blob, get, hasKey, post } from "./api.js";
import { save } from "./ask.js";
import { $, busy, el, moment, plural, quietly, tell } from "./dom.js";
import { cancel, ended, progressBar } from "./jobs.js";

const POLL_MS = 1500;
let timer = null;
let known = "";
const bars = new Map();

export function setUp() {
  $("start-evaluation").addEventListener("click", () =>
    busy($("start-evaluation"), $("evaluations-status"), async () => {
      await post("/v1/evaluations");
      tell($("evaluations-status"), "Every route is asked the test questions. You may close this page meanwhile.");
      await refresh();
    }),
  );
}

export function enter() {
  known = "";
  refresh();
  timer = setInterval(refresh, POLL_MS);
}

export function leave() {
  clearInterval(timer);
}

async function refresh() {
  if (document.hidden) return;
  await quietly($("evaluations-status"), async () => {
    const jobs = (await get("/v1/jobs")).jobs.filter((job) => job.kind === "evaluation");
    const now = JSON.stringify(jobs.map(({ id, state }) => [id, state === "queued" ? "running" : state]));
    for (const job of jobs) bars.get(job.id)?.(job);
    if (now === known) return;
    known = now;
    const shown = jobs.filter((job, place) => !ended(job) || (place === 0 && job.state !== "done"));
    $("job-list").replaceChildren(...shown.map(jobPanel));
    await list();
  });
}

function jobPanel(job) {
  if (job.state === "failed") {
    return el("p", { class: "panel problem" }, `The evaluation of ${moment(job.created)} failed: ${job.error}`);
  }
  if (job.state === "cancelled") {
    return el("p", { class: "panel muted" }, `The evaluation of ${moment(job.created)} was cancelled; the next one goes on with its answers.`);
  }
  const button = el("button", { type: "button" }, "Cancel");
  button.addEventListener("click", () =>
    busy(button, $("evaluations-status"), async () => {
      await cancel(job);
      tell($("evaluations-status"), "Cancelled; the answers given so far are kept.");
      await refresh();
    }),
  );
  const { element, update } = progressBar();
  bars.set(job.id, update);
  update(job);
  return el("div", { class: "panel heading" }, element, button);
}

async function list() {
  const { evaluations } = await get("/v1/evaluations");
  if (!evaluations.length) {
    $("evaluation-list").replaceChildren(
      el("p", { class: "panel empty" }, "No evaluation yet. Start one to see, with error bars, which route answers your test questions best."),
    );
    return;
  }
  $("evaluation-list").replaceChildren(...evaluations.map(panel));
}

function panel({ name, finished, questions, recommended, reason }) {
  const details = el("div", { class: "scores" });
  get(`/v1/evaluations/${name}`).then(
    ({ result }) => details.replaceChildren(scores(result)),
    (error) => details.replaceChildren(el("p", { class: "problem small" }, error.message)),
  );
  return el(
    "article",
    { class: "panel", "aria-labelledby": `evaluation-${name}` },
    el(
      "div",
      { class: "heading" },
      el(
        "div",
        {},
        el("h2", { id: `evaluation-${name}` }, `Use ${recommended}`),
        el("p", { class: "muted small" }, `${moment(finished)} · ${plural(questions, "question")} · ${name}`),
      ),
      reportLink(name),
    ),
    el("p", {}, reason),
    details,
  );
}

// A link cannot carry a key: then the report is fetched and saved instead.
function reportLink(name) {
  const path = `/v1/evaluations/${name}/report`;
  const label = `Report of evaluation ${name}`;
  if (!hasKey()) {
    return el("a", { class: "button", href: path, target: "_blank", rel: "noopener", "aria-label": `${label}, opens in a new tab` }, "Open report");
  }
  const button = el("button", { type: "button", "aria-label": `${label}, saves a file` }, "Save report");
  button.addEventListener("click", () =>
    busy(button, $("evaluations-status"), async () => save(await blob(path), `report-${name}.html`)),
  );
  return button;
}

function scores(result) {
  const metrics = ["f1", "exact_match"].filter((metric) => Object.values(result.routes).some((route) => route.metrics?.[metric]));
  const head = ["Route", ...metrics.map((metric) => ({ f1: "F1 (95 % interval)", exact_match: "Exact" })[metric]), "Median time"];
  const rows = Object.entries(result.routes).map(([name, route]) =>
    el(
      "tr",
      { class: name === result.verdict.recommended ? "winner" : null },
      el("th", { scope: "row" }, name),
      ...metrics.map((metric) => el("td", {}, measure(route.metrics?.[metric], metric === "f1"))),
      el("td", {}, route.latency_ms ? `${Math.round(route.latency_ms.p50)} ms` : "–"),
    ),
  );
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows),
  );
}

function measure(found, withInterval) {
  if (!found) return "–";
  const mean = found.mean.toFixed(3);
  return withInterval && found.ci ? `${mean} [${found.ci.map((end) => end.toFixed(3)).join(", ")}]` : mean;
}
