// Ask every route at once and watch the answers come.

import { blob, get, post, stream } from "./api.js";
import { $, busy, duration, el, fill, plural, quietly, tell } from "./dom.js";
import { openDocument } from "./reader.js";

let routes = null;
let cards = new Map();
let asking = null;

export function setUp() {
  $("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (asking) asking.abort();
    else ask($("question").value.trim());
  });
  $("export").addEventListener("click", () => busy($("export"), $("ask-status"), exportFeedback));
}

export function enter() {
  $("question").focus({ preventScroll: true });
  if (!routes) quietly($("ask-status"), showRoutes);
}

async function showRoutes() {
  const { data } = await get("/v1/models");
  routes = data; // `auto` among them, if the service offers it
  if (!cards.size) deal("Waits for your question.");
}

function deal(text) {
  cards = new Map(routes.map((route) => [route.id, card(route, text)]));
  $("routes").replaceChildren(...[...cards.values()].map(({ article }) => article));
}

function card({ id, retrieve, adapter, routes: choices }, text) {
  const answer = el("p", { class: "answer waiting" }, text);
  const rest = el("div", { class: "rest" });
  const kind = choices
    ? `takes what fits: ${choices.join(", ")}`
    : `${retrieve ? "looks it up" : "from memory"} · ${adapter ? "trained" : "untrained"}`;
  const article = el(
    "article",
    { class: "panel route", "aria-labelledby": `route-${id}` },
    el("h2", { id: `route-${id}` }, id),
    el("p", { class: "muted small" }, kind),
    answer,
    rest,
  );
  return { id, article, answer, rest, text: "" };
}

async function ask(question) {
  if (!question) return;
  const button = $("ask-button");
  asking = new AbortController();
  button.textContent = "Stop";
  await busy(null, $("ask-status"), async () => {
    routes ?? (await showRoutes());
    deal("Waiting …");
    let open = routes.length;
    $("ask-status").textContent = `Asking ${plural(open, "route")} …`;
    $("ask-foot").hidden = true;
    const body = { question, routes: routes.map((route) => route.id), stream: true };
    await stream(
      "/v1/compare",
      body,
      (event) => {
        if (event.error && !event.route) throw new Error(event.error.message);
        if (HANDLERS[event.type](cards.get(event.route), event)) open -= 1;
        $("ask-status").textContent = open ? `Waiting for ${plural(open, "route")} …` : "";
      },
      asking.signal,
    );
    offerChoice();
  });
  if (asking.signal.aborted) {
    $("ask-status").textContent = "Stopped.";
    for (const { answer } of cards.values()) answer.classList.remove("running");
  }
  asking = null;
  button.textContent = "Ask";
}

const HANDLERS = {
  contexts({ answer, rest }, { contexts }) {
    answer.textContent = "";
    answer.className = "answer running";
    if (contexts.length) fill(rest, el("p", { class: "muted small" }, `Reads ${plural(contexts.length, "passage")}:`), passages(contexts));
  },
  text(card, event) {
    card.text += event.text;
    card.answer.textContent = card.text;
  },
  answer(card, event) {
    card.given = event.answer;
    finish(card);
    return true;
  },
  error(card, event) {
    card.answer.className = "answer problem";
    card.answer.textContent = event.error.message;
    return true;
  },
};

function finish(card) {
  const { answer: text, abstained, contexts, citations } = card.given;
  card.answer.className = abstained ? "answer abstained" : "answer";
  card.answer.textContent = text || "(an empty answer)";
  const cited = new Set(citations.map((citation) => citation.number));
  fill(
    card.rest,
    el("p", { class: "muted small" }, support(card.given)),
    contexts.length ? passages(contexts, cited, text) : null,
    facts(card),
    ratings(card),
  );
}

function support({ abstained, contexts, citations }) {
  if (abstained) return "The route says that it does not know.";
  if (!contexts.length) return "It was shown no passage: nothing here supports the answer.";
  if (!citations.length) return `None of the ${plural(contexts.length, "passage")} it was shown contains the answer.`;
  return `Found in ${citations.length} of ${plural(contexts.length, "passage")} it was shown:`;
}

function passages(contexts, cited = new Set(), answer = "") {
  return el("ol", { class: "passages" }, ...contexts.map((context) => passage(context, cited.has(context.number), answer)));
}

function passage(context, cites, answer) {
  const open = () => openDocument(context.document_id, context.title, context, cites ? answer : "");
  const button = el(
    "button",
    { type: "button", class: "passage", onclick: open },
    el("span", { class: "number" }, `[${context.number}]`),
    el(
      "span",
      {},
      el("span", { class: "name" }, context.title),
      cites ? el("span", { class: "tag" }, "cited") : null,
      el("span", { class: "excerpt" }, context.text.replace(/\s+/g, " ")),
    ),
  );
  return el("li", { class: cites ? "cites" : null }, button);
}

function facts({ id, given: { route, timings_ms: times, prompt_tokens: read, completion_tokens: written, adapter } }) {
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  return el(
    "dl",
    { class: "facts" },
    route === id ? null : fact("Took", route),
    fact("Time", duration(times.total / 1000)),
    fact("Read", plural(read, "token")),
    fact("Wrote", plural(written, "token")),
    adapter ? fact("Adapter", adapter) : null,
  );
}

function ratings(card) {
  const { id: route, given: { id } } = card;
  const rate = (rating) => async (event) => {
    const pressed = event.currentTarget;
    if (!(await say(pressed, { answer: id, rating }, "Thank you, kept."))) return;
    for (const button of pressed.parentElement.querySelectorAll("[data-rating]")) {
      button.setAttribute("aria-pressed", String(button === pressed));
    }
  };
  const button = (rating, label) =>
    el(
      "button",
      {
        type: "button",
        class: "quiet",
        "data-rating": rating,
        "aria-pressed": "false",
        "aria-label": `${label} answer of ${route}`,
        onclick: rate(rating),
      },
      label,
    );
  const best = el(
    "button",
    { type: "button", class: "quiet best", "aria-pressed": "false", hidden: true, onclick: () => prefer(card) },
    "Best of these",
  );
  best.setAttribute("aria-label", `${route} answered best`);
  card.best = best;
  return el("div", { class: "ratings", role: "group", "aria-label": `Rate the answer of ${route}` }, button("good", "Good"), button("bad", "Poor"), best);
}

function offerChoice() {
  const given = [...cards.values()].filter((card) => card.given);
  if (given.length > 1) for (const card of given) card.best.hidden = false;
  $("ask-foot").hidden = !given.length;
}

async function prefer(chosen) {
  const answers = new Set([...cards.values()].filter((card) => card.given).map((card) => card.given.id)); // two of one if `auto` took it
  answers.delete(chosen.given.id);
  await busy(chosen.best, $("ask-status"), async () => {
    for (const other of answers) {
      await post("/v1/feedback", { preferred: chosen.given.id, rejected: other });
    }
    for (const card of cards.values()) card.best?.setAttribute("aria-pressed", String(card === chosen));
    $("ask-status").textContent = `Kept: ${chosen.id} answered best.`;
  });
}

function say(button, body, thanks) {
  return busy(button, $("ask-status"), async () => {
    await post("/v1/feedback", body);
    tell($("ask-status"), thanks);
  });
}

async function exportFeedback() {
  save(await blob("/v1/feedback/export"), "preferences.jsonl");
  $("ask-status").textContent = "Saved as preferences.jsonl.";
}

export function save(content, name) {
  const url = URL.createObjectURL(content);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
