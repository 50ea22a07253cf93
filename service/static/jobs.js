// Long work of the service, watched until it ends.

import { get, post } from "./api.js";
import { el } from "./dom.js";

const POLL_MS = 1000;

export const ended = (job) => !["queued", "running"].includes(job.state);

// Resolves with the job once it has ended; `onChange` sees it on the way.
export async function followed(job, onChange) {
  while (!ended(job)) {
    onChange(job);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    job = await get(`/v1/jobs/${job.id}`);
  }
  return job;
}

export const cancel = (job) => post(`/v1/jobs/${job.id}/cancel`);

// An element for a job under way, and a function that brings it up to date.
export function progressBar() {
  const bar = el("progress", { "aria-label": "Progress" });
  const words = el("span", { class: "small muted" });
  const update = (job) => {
    const step = job.state === "queued" ? "waits for its turn" : job.step || "starting";
    words.textContent = job.total ? `${step}: ${job.done} of ${job.total}` : step;
    if (!job.total) return;
    bar.max = job.total;
    bar.value = job.done;
  };
  return { element: el("div", { class: "progress" }, bar, words), update };
}
