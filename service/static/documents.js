// Browse, add and delete documents; see whether the index is what the folder holds.

import { documentPath, get, post, put, remove } from "./api.js";
import { $, busy, confirmDeletion, el, plural, quietly, tell } from "./dom.js";
import { followed } from "./jobs.js";
import { openDocument } from "./reader.js";

const PAGE = 50;
const POLL_MS = 4000;
let timer = null;
let listed = 0;
let listing = 0;
let generation = null;
let told = "";
let syncing = null;

export function setUp() {
  let typing = null;
  $("find").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(list, 200);
  });
  $("find-form").addEventListener("submit", (event) => {
    event.preventDefault();
    list();
  });
  $("more-documents").addEventListener("click", () => list(listed));
  $("add-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy($("add-form").querySelector("button"), $("add-status"), addText);
  });
  $("add-files").addEventListener("change", () => busy($("add-files"), $("add-status"), addFiles));
}

export function enter() {
  refresh();
  timer = setInterval(refresh, POLL_MS);
}

export function leave() {
  clearInterval(timer);
}

async function refresh() {
  if (document.hidden) return;
  await quietly($("documents-status"), async () => {
    const status = await get("/v1/index");
    // Only what is new is put in place: it is read out, and a button in it may have the focus.
    const now = JSON.stringify(status);
    if (!syncing && now !== told) showStatus(status);
    if (!syncing) told = now;
    if (status.generation !== generation) {
      generation = status.generation;
      await list();
    }
  });
}

function showStatus(status) {
  const { documents, chunks, stale, problem, changed, removed } = status;
  const names = [...changed, ...removed];
  const found = [
    changed.length && `${plural(changed.length, "file")} new or changed`,
    removed.length && `${plural(removed.length, "file")} gone`,
  ].filter(Boolean);
  const state = problem ?? (stale ? `${found.join(", ")}: ${names.slice(0, 3).join(", ")}${names.length > 3 ? ", …" : ""}` : "The index is what the documents folder holds.");
  const button = el("button", { type: "button", onclick: sync, class: stale ? "primary" : null }, "Sync the folder");
  const kind = problem ? "bad" : stale ? "stale" : "fresh";
  $("index-status").replaceChildren(
    el(
      "div",
      { class: "heading" },
      el(
        "div",
        {},
        el("p", { class: `state ${kind}` }, problem ? "Folder cannot be read" : stale ? "Files have changed" : "Up to date"),
        el("p", { class: "muted small" }, state),
      ),
      button,
    ),
    el("p", { class: "small muted" }, `${plural(documents, "document")} · ${plural(chunks, "passage")} · generation ${status.generation}`),
  );
}

async function sync() {
  const box = $("index-status");
  await busy(box.querySelector("button"), $("documents-status"), async () => {
    syncing = await post("/v1/index/sync");
    const line = el("p", { class: "small" }, "Syncing …");
    box.append(line);
    try {
      const job = await followed(syncing, (job) => {
        line.textContent = job.total ? `Syncing: ${job.step} ${job.done} of ${job.total} …` : "Syncing …";
      });
      if (job.state === "failed") throw new Error(job.error);
      const { added, changed, removed, skipped } = job.result;
      const unread = skipped.length ? `; ${plural(skipped.length, "file")} could not be read (${skipped[0][0]}: ${skipped[0][1]})` : "";
      tell($("documents-status"), `Synced: ${added} added, ${changed} changed, ${removed} removed${unread}.`);
    } finally {
      syncing = null;
      told = "";
    }
  });
  await refresh();
}

async function list(offset = 0) {
  const from = typeof offset === "number" ? offset : 0;
  const turn = ++listing;
  await quietly($("documents-status"), async () => {
    const query = new URLSearchParams({ q: $("find").value.trim(), offset: from, limit: PAGE });
    const { documents, total } = await get(`/v1/documents?${query}`);
    if (turn !== listing) return; // somebody has typed on
    if (!from) $("document-list").replaceChildren();
    $("document-list").append(...documents.map(row));
    listed = from + documents.length;
    $("more-documents").hidden = listed >= total;
    if (!total) {
      $("document-list").append(
        el("li", { class: "empty" }, $("find").value.trim() ? "No document is called that. Try fewer letters." : "No documents yet. Paste a text or choose files to add the first."),
      );
    }
  });
}

function row(entry) {
  const title = entry.title || entry.id;
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: "row", onclick: () => openDocument(entry.id, title) },
      el("span", { class: "name" }, title),
      el("span", { class: "muted small" }, `${entry.id} · ${plural(entry.chunks, "passage")} · ${entry.owner === "api" ? "added here" : "from the folder"}`),
    ),
    entry.owner === "api"
      ? el("button", { type: "button", class: "quiet", "aria-label": `Delete ${title}`, onclick: (event) => discard(entry, event.currentTarget) }, "Delete")
      : null,
  );
}

async function discard(entry, button) {
  const sure = await confirmDeletion(`Delete “${entry.title}”?`, "Its passages, vectors and the feedback that quotes it go too. This cannot be undone.");
  if (!sure) return;
  await busy(button, $("documents-status"), async () => {
    await remove(documentPath(entry.id));
    tell($("documents-status"), `Deleted ${entry.id}.`);
    await refresh();
    $("find").focus();
  });
}

async function addText() {
  const text = $("add-text").value;
  const name = $("add-name").value.trim();
  if (!text.trim()) throw new Error("Paste some text first, or choose files.");
  if (!name) throw new Error("Give the document a name, like opening-hours.md.");
  $("add-status").textContent = "Adding …";
  await put(documentPath(name), JSON.stringify({ title: $("add-title-text").value.trim(), text }));
  $("add-form").reset();
  await report([name]);
}

async function addFiles() {
  const files = [...$("add-files").files];
  const added = [];
  try {
    for (const file of files) {
      $("add-status").textContent = `Adding ${file.name} …`;
      try {
        await put(documentPath(file.name), file, "application/octet-stream");
      } catch (error) {
        throw new Error(`${file.name}: ${error.message}`);
      }
      added.push(file.name);
    }
  } finally {
    $("add-files").value = "";
    if (added.length) await report(added);
  }
}

async function report(names) {
  $("add-status").textContent = `Added ${names.join(", ")}. Answers can use it now.`;
  await refresh();
}
