// A document in the side panel, with a passage marked.

import { documentPath, get } from "./api.js";
import { $, el } from "./dom.js";

let wanted = 0;

export function setUpReader() {
  $("reader-close").addEventListener("click", () => $("reader").close());
  $("reader").addEventListener("click", (event) => {
    if (event.target === $("reader")) $("reader").close();
  });
}

// `passage` has the `start`, `end` and `text` of a citation; `answer` is marked within it.
export async function openDocument(id, title, passage = null, answer = "") {
  const turn = ++wanted;
  $("reader-title").textContent = title;
  $("reader-id").textContent = id;
  $("reader-note").textContent = "Loading …";
  $("reader-note").classList.remove("problem");
  $("reader-text").replaceChildren();
  if (!$("reader").open) $("reader").showModal();
  try {
    const found = await get(documentPath(id));
    if (turn !== wanted) return;
    $("reader-title").textContent = found.title;
    $("reader-note").textContent = "";
    fill(found.text, passage, answer);
  } catch (error) {
    if (turn !== wanted) return;
    $("reader-note").textContent = error.message;
    $("reader-note").classList.add("problem");
  }
}

function fill(text, passage, answer) {
  const place = passage && find(text, passage);
  if (!place) {
    if (passage) $("reader-note").textContent = "The document has changed since; the passage is not in it any more.";
    $("reader-text").textContent = text;
    return;
  }
  const mark = el("mark", { tabindex: "-1" });
  mark.append(...withAnswer(text.slice(...place), answer));
  $("reader-text").replaceChildren(text.slice(0, place[0]), mark, text.slice(place[1]));
  mark.scrollIntoView({ block: "center" });
}

// The service counts characters, JavaScript counts the halves of those beyond the first 65,536.
function find(text, { start, end, text: wantedText }) {
  const characters = Array.from(text);
  const from = characters.slice(0, start).join("").length;
  const to = from + characters.slice(start, end).join("").length;
  if (text.slice(from, to) === wantedText) return [from, to];
  const elsewhere = text.indexOf(wantedText);
  return elsewhere < 0 ? null : [elsewhere, elsewhere + wantedText.length];
}

function withAnswer(text, answer) {
  const needle = answer.trim().replace(/[.!]$/, "").toLowerCase();
  const at = needle.length > 1 ? text.toLowerCase().indexOf(needle) : -1;
  if (at < 0) return [text];
  const end = at + needle.length;
  return [text.slice(0, at), el("strong", {}, text.slice(at, end)), text.slice(end)];
}
