// The shell: which view is shown, and what it does when it appears and goes.

import { offerKeyChange } from "./api.js";
import { $ } from "./dom.js";
import * as adapters from "./adapters.js";
import * as ask from "./ask.js";
import * as documents from "./documents.js";
import * as evaluations from "./evaluations.js";
import { setUpReader } from "./reader.js";

const VIEWS = { ask, documents, adapters, evaluations };
let shown = null;

function show() {
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "ask";
  if (name === shown) return;
  if (shown) VIEWS[shown].leave?.();
  const first = shown === null;
  shown = name;
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name === "ask" ? "openbook" : `${$(`${name}-title`).textContent} – openbook`;
  if (!first) $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
  VIEWS[name].enter();
}

// Elements have the names of views, and the browser would scroll to them.
history.scrollRestoration = "manual";
offerKeyChange();
setUpReader();
for (const view of Object.values(VIEWS)) view.setUp();
addEventListener("hashchange", show);
show();
