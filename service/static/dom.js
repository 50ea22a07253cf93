// Elements are built here, and text only ever becomes text: documents and answers are never read as HTML.

export const $ = (id) => document.getElementById(id);

// el("button", { type: "button", class: "quiet", onclick: f }, "Delete") with children as text or elements.
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

export const fill = (element, ...children) => element.replaceChildren(...present(children));

const present = (children) => children.filter((child) => child !== null && child !== undefined && child !== false);

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

export const moment = (seconds) =>
  new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

// Runs `work`, which the user asked for with `button`; an error is told in `status` in words. Whether it worked.
export async function busy(button, status, work) {
  if (button) button.disabled = true;
  tell(status, "");
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name !== "AbortError") tell(status, error.message, "problem");
    return false;
  } finally {
    if (button) button.disabled = false;
  }
}

// Runs `work`, which nobody asked for: what `status` says stays, unless it was of an earlier failure of such work.
export async function quietly(status, work) {
  try {
    await work();
    if (status.dataset.kind === "poll") tell(status, "");
  } catch (error) {
    tell(status, error.message, "poll");
  }
}

export function tell(status, text, kind = "") {
  status.textContent = text;
  status.dataset.kind = kind;
  status.classList.toggle("problem", kind !== "");
}

export function confirmDeletion(title, text) {
  const dialog = $("confirm-dialog");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
