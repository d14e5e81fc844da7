// The page of `resift serve`: sends what is typed or dropped to POST /rerank and shows the ranking.
// Every text enters the page as textContent. The API key stays in its field.

import { Fault, readDocuments, readFile } from "./documents.js";
import { asCurl, asPython } from "./snippets.js";

const SHOWN = 6000; // characters of a snippet on the page; Copy takes all of it
const LONG = 260; // characters from which a document is folded
const STAGES = { tokenize: "Tokenize", queue: "Queue", run: "Run", total: "Server total", trip: "Round trip" };

const find = (id) => document.getElementById(id);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const address = (path) => new URL(path, document.baseURI).href;

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// The server

async function ask(body, signal) {
  const headers = { "Content-Type": "application/json", ...authorization() };
  const began = performance.now();
  const response = await reach("rerank", { method: "POST", headers, body: JSON.stringify(body), signal });
  const results = await content(response);
  const seconds = { trip: performance.now() - began };
  for (const [, name, duration] of (response.headers.get("server-timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)) {
    seconds[name] = Number(duration);
  }
  return { results, seconds };
}

function authorization() {
  const key = find("key").value.trim();
  if (!/^[\x20-\x7e]*$/.test(key)) throw new Fault("The API key has characters that a header cannot carry.", "key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function reach(path, options) {
  try {
    return await fetch(address(path), { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("The server cannot be reached. Is it still running?");
  }
}

async function content(response) {
  let found;
  try {
    found = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault(`The answer is not JSON, with status ${response.status}; expected an answer of resift serve.`);
  }
  if (response.ok) return found;
  const wait = response.headers.get("retry-after");
  const retry = wait ? ` Try again in ${plural(Number(wait), "second")}.` : "";
  const reason = found?.message ?? found?.error ?? "the request was refused";
  if (response.status === 401) find("key-field").hidden = false;
  throw new Fault(`${response.status}: ${reason}.${retry}`, response.status === 401 ? "key" : undefined);
}

// What is shown

function say(message) {
  find("status").textContent = message;
}

function complain(error) {
  if (error.name === "AbortError") return say("Stopped.");
  find("fault").textContent = error.message;
  const field = error.field && find(error.field);
  if (!field) return undefined;
  field.setAttribute("aria-invalid", "true");
  return field.focus();
}

function forgive() {
  find("fault").textContent = "";
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

function show({ results, seconds }, documents) {
  const items = results.map((result, place) => item(result, place, documents[result.index]));
  find("results").replaceChildren(...items);
  const cut = results.filter((result) => result.tokens_cut > 0).length;
  const best = results.length ? ` Best: document ${results[0].index + 1}.` : "";
  say(`${plural(results.length, "document")} reranked in ${Math.round(seconds.trip)} ms.${best} ${cut ? plural(cut, "document") : "No document"} cut.`);
  find("timing").replaceChildren(...Object.keys(STAGES).filter((name) => name in seconds).map((name) => stage(name, seconds[name])));
  find("timing").hidden = false;
}

function stage(name, milliseconds) {
  const made = element("div", `stage ${name}`);
  made.append(element("dt", "", STAGES[name]), element("dd", "", `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`));
  return made;
}

function item({ index, score: logit, tokens_cut: cut }, place, text) {
  const score = 1 / (1 + Math.exp(-logit));
  const made = element("li", "result");
  const bar = element("span", "bar");
  bar.style.setProperty("--share", score);
  const figures = element("p", "figures");
  figures.append(bar, element("strong", "score", rounded(score)), element("span", "logit", `logit ${signed(logit)}`));
  if (cut > 0) figures.append(element("span", "cut", `${plural(cut, "token")} cut`));
  const passage = element("p", "text", text);
  passage.dir = "auto";
  made.append(element("span", "place", place + 1), movement(index, place), figures, passage);
  if (text.length > LONG || text.split("\n", 4).length > 3) made.append(unfolding(passage));
  return made;
}

function movement(from, to) {
  const by = from - to;
  const made = element("span", `move ${by > 0 ? "up" : by < 0 ? "down" : "same"}`);
  const arrow = element("span", "arrow", by > 0 ? `↑${by}` : by < 0 ? `↓${-by}` : "=");
  const seen = element("span", "path", by ? `${from + 1} → ${to + 1}` : "as given");
  arrow.ariaHidden = seen.ariaHidden = "true";
  const said = by ? `moved ${by > 0 ? "up" : "down"} ${Math.abs(by)}, from ${from + 1} to ${to + 1}` : "in the place it was given";
  made.append(arrow, seen, element("span", "unseen", said));
  return made;
}

function unfolding(passage) {
  passage.classList.add("folded");
  const button = element("button", "more plain", "Show all");
  button.type = "button";
  button.ariaExpanded = "false";
  button.addEventListener("click", () => {
    const folded = passage.classList.toggle("folded");
    button.textContent = folded ? "Show all" : "Show less";
    button.ariaExpanded = String(!folded);
  });
  return button;
}

const rounded = (score) => (score < 0.0005 ? "<0.001" : score > 0.9995 ? ">0.999" : score.toFixed(3));
const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;

const snippets = {};

function showCall(body) {
  const keyed = !find("key-field").hidden;
  snippets.curl = asCurl(address("rerank"), body, keyed);
  snippets.python = asPython(address("rerank"), body, keyed);
  for (const [name, text] of Object.entries(snippets)) {
    const more = text.length - SHOWN;
    find(name).textContent = more > 0 ? `${text.slice(0, SHOWN)}\n… and ${more.toLocaleString("en")} more characters, which Copy includes` : text;
  }
  find("call").hidden = false;
}

async function copy(button) {
  const text = snippets[button.dataset.copy];
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else { // a page that was loaded over plain HTTP from another machine
    const field = element("textarea", "unseen");
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    button.focus();
    if (!copied) throw new Fault("The browser does not let this page copy; select the text instead.");
  }
  say(`Copied as ${button.dataset.copy === "curl" ? "curl" : "Python"}.`);
}

// What the user does

let running = null; // the call in progress

async function take(file) {
  const text = await readFile(file);
  const { query, pools } = readDocuments(text);
  find("documents").value = pools > 1 ? text.slice(0, text.indexOf("\n", text.indexOf("{"))) : text;
  if (query !== undefined) find("query").value = query;
  count();
  say(pools > 1 ? `${file.name} has ${plural(pools, "candidate pool")}; the first is in the fields.` : `${file.name} is in the field.`);
}

async function rerank() {
  const { documents, query: given } = readDocuments(find("documents").value);
  if (!find("query").value.trim() && given) find("query").value = given;
  const query = find("query").value;
  if (!query.trim()) throw new Fault("There is no query; type what to rank the documents for.", "query");
  if (!documents.length) throw new Fault("There are no documents; paste some, or choose a file.", "documents");
  const body = { query, texts: documents, raw_scores: true, return_tokens_cut: true };
  if (!find("model-field").hidden) body.model = find("model").value;
  running = new AbortController();
  find("rerank").textContent = "Stop";
  find("ranking").ariaBusy = "true";
  say(`Reranking ${plural(documents.length, "document")}…`);
  showCall(body);
  try {
    show(await ask(body, running.signal), documents);
  } catch (error) {
    find("results").replaceChildren();
    find("timing").hidden = true;
    say("Not reranked.");
    throw error;
  } finally {
    running = null;
    find("rerank").textContent = "Rerank";
    find("ranking").ariaBusy = "false";
  }
  if (matchMedia("(max-width: 60rem)").matches) find("ranking").scrollIntoView();
}

function count() {
  const text = find("documents").value;
  try {
    const { documents, pools } = readDocuments(text);
    const among = pools > 1 ? `, the first of ${plural(pools, "pool")}` : "";
    find("count").textContent = documents.length ? plural(documents.length, "document") + among : "one per line";
  } catch {
    find("count").textContent = "cannot be read yet"; // Rerank says why
  }
}

async function introduce() {
  const needed = document.documentElement.dataset.key === "required";
  find("key-field").hidden = !needed;
  if (needed && !find("key").value.trim()) return;
  const info = await content(await reach("info", { headers: authorization() }));
  find("about").textContent = info.models.length > 1 ? plural(info.models.length, "model") : info.served_model_name;
  find("model").replaceChildren(...info.models.map((name) => element("option", "", name)));
  find("model-field").hidden = info.models.length < 2;
}

// Runs `act`, and shows what went wrong.
function trying(act) {
  return async (event) => {
    forgive();
    try {
      await act(event);
    } catch (error) {
      complain(error);
    }
  };
}

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else trying(rerank)();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  if (!running) trying(rerank)();
});
find("documents").addEventListener("input", count);
find("key").addEventListener("change", trying(introduce));
find("choose").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", trying(async ({ target }) => {
  const [file] = target.files;
  if (file) await take(file);
  target.value = ""; // so that the same file can be chosen again
}));
find("example").addEventListener("click", () => {
  find("query").value = find("example-query").content.textContent;
  find("documents").value = find("example-documents").content.textContent;
  count();
  find("rerank").focus();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("documents").classList.add("dropping");
});
document.addEventListener("dragleave", () => find("documents").classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  find("documents").classList.remove("dropping");
  if (!file) return; // text that is dropped into a field goes there
  event.preventDefault();
  trying(() => take(file))();
});
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", trying(() => copy(button)));
if (/Mac|iP(hone|ad)/.test(navigator.platform)) find("keys").textContent = "⌘ Enter";
find("call").open = matchMedia("(min-width: 60rem)").matches;
count();
trying(introduce)();
