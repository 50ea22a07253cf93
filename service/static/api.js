// Calls of the service. Its key, if it asks for one, lives as long as the tab.

import { $ } from "./dom.js";

const KEY = "openbook-key";
const NOT_REACHED = "The service cannot be reached. Is `openbook serve` still running?";

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export async function get(path) {
  return (await request("GET", path)).json();
}

export async function post(path, body) {
  return (await request("POST", path, body === undefined ? undefined : JSON.stringify(body))).json();
}

export async function put(path, body, type = "application/json") {
  return (await request("PUT", path, body, type)).json();
}

export async function remove(path) {
  return (await request("DELETE", path)).json();
}

export async function blob(path) {
  return (await request("GET", path)).blob();
}

// Calls `onEvent` with every server-sent event of the answer.
export async function stream(path, body, onEvent, signal) {
  const response = await request("POST", path, JSON.stringify(body), "application/json", signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (pending + value).split("\n");
    pending = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") onEvent(JSON.parse(line.slice(6)));
    }
  }
}

export const documentPath = (id) => `/v1/documents/${id.split("/").map(encodeURIComponent).join("/")}`;

async function request(method, path, body, type = "application/json", signal = undefined) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = type;
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(NOT_REACHED);
  }
  if (response.ok) return response;
  if (response.status === 401 && !declined && (await askForKey())) return request(method, path, body, type, signal);
  throw new Error(await explanation(response));
}

async function explanation(response) {
  try {
    const { error } = await response.json();
    return error.message.charAt(0).toUpperCase() + error.message.slice(1);
  } catch {
    return `The service answered with status ${response.status}.`;
  }
}

let asking = null;
let declined = false;

// Whether a key was given; several requests that need one wait for the same dialog.
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    $("key-note").textContent = hasKey()
      ? "The key was not accepted. Try another one."
      : "It is sent to this service only, and forgotten when you close the tab.";
    const done = (given) => {
      asking = null;
      $("key-form").removeEventListener("submit", use);
      dialog.removeEventListener("close", cancel);
      resolve(given);
    };
    const use = () => {
      sessionStorage.setItem(KEY, $("key").value.trim());
      $("key").value = "";
      $("key-button").hidden = false;
      done(true);
    };
    const cancel = () => {
      declined = true;
      $("key-button").hidden = false;
      done(false);
    };
    $("key-form").addEventListener("submit", use);
    dialog.addEventListener("close", cancel);
    dialog.showModal();
  });
  return asking;
}

export function offerKeyChange() {
  $("key-button").hidden = !hasKey();
  $("key-button").addEventListener("click", async () => {
    if (await askForKey()) location.reload();
  });
  $("key-cancel").addEventListener("click", () => $("key-dialog").close());
}
