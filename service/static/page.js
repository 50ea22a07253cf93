// Everything from the service is put in place with textContent: documents and answers are never read as HTML.

const form = document.querySelector("#ask");
const status = document.querySelector("#status");
const results = document.querySelector("#results");
const card = document.querySelector("#card");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  status.textContent = "Asking every route …";
  results.replaceChildren();
  try {
    const question = form.question.value;
    const [models, comparison] = await Promise.all([
      call("/v1/models"),
      call("/v1/compare", { question }),
    ]);
    const routes = new Map(models.data.map((route) => [route.id, route]));
    results.replaceChildren(...comparison.results.map((result) => show(result, routes.get(result.route))));
    status.textContent = "";
  } catch (error) {
    status.textContent = error.message;
  } finally {
    button.disabled = false;
  }
});

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  const key = document.querySelector("#key").value;
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  const content = await response.json();
  if (!response.ok) throw new Error(content.error.message);
  return content;
}

function show({ route, answer, error }, how) {
  const article = card.content.cloneNode(true).querySelector("article");
  const put = (selector, text) => { article.querySelector(selector).textContent = text; };
  put("h2", route);
  put(".kind", `${how.retrieve ? "looks it up" : "from memory"}, ${how.adapter ? `adapter ${how.adapter}` : "no adapter"}`);
  if (error) {
    article.classList.add("failed");
    put(".answer", error.message);
    return article;
  }
  article.classList.toggle("abstained", answer.abstained);
  put(".answer", answer.answer || "(empty answer)");
  put(".support", support(answer));
  const cited = new Set(answer.citations.map((citation) => citation.number));
  article.querySelector(".passages").append(...answer.contexts.map((context) => passage(context, cited.has(context.number))));
  put("footer", facts(answer));
  return article;
}

function support(answer) {
  if (answer.abstained) return "The route says that it does not know.";
  if (!answer.contexts.length) return "No passage was shown: nothing here supports the answer.";
  const count = answer.citations.length;
  if (!count) return "None of the passages shown contains this answer.";
  return `Contained in ${count} of ${answer.contexts.length} passages shown:`;
}

function passage(context, cites) {
  const item = document.createElement("li");
  item.classList.toggle("cites", cites);
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = `[${context.number}] ${context.title}`;
  const text = document.createElement("p");
  text.textContent = context.text;
  details.append(summary, text);
  item.append(details);
  return item;
}

function facts(answer) {
  const seconds = (answer.timings_ms.total / 1000).toFixed(2);
  const parts = [`${seconds} s`, `${answer.prompt_tokens} + ${answer.completion_tokens} tokens`];
  if (answer.adapter) parts.push(answer.adapter);
  return parts.join(" · ");
}
