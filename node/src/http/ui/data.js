// Writing, reading, listing, deleting; and the steady writer that shows what a failure does to clients.

import { ask, at, sentence, show, showTrouble, Trouble } from "./ask.js";
import { millis, number } from "./words.js";

const $ = (id) => document.getElementById(id);
const PAGE = 10;

let model;
let reached = []; // where each page before this one began
let nextAfter = null;

const keyPath = (key) => `/v1/kv/${encodeURIComponent(key)}`;

// Writes go to whoever answers, as a client's would: any node passes them on to the leader.
async function write(method, key, value, patience) {
  const node = model.answering;
  if (!node) throw new Trouble("refused", "No node answers. Nothing was written.");
  const begun = performance.now();
  const headers = value === undefined ? {} : { "Content-Type": isJson(value) ? "application/json" : "text/plain; charset=utf-8" };
  const response = await ask(method, at(node.name, keyPath(key)), { body: value, headers, patience });
  return { ...(await response.json()), took: performance.now() - begun };
}

// Numbers, objects and the like keep their kind; anything else is text.
function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

async function put() {
  const key = $("key").value;
  show($("one-result"), "", "Writing …");
  try {
    const done = await write("PUT", key, $("value").value);
    show($("one-result"), "good", `Written: ${done.copies} copies hold it. Revision ${done.revision}, version ${done.version}, ${millis(done.took)} ms.`);
  } catch (error) {
    showTrouble($("one-result"), error);
  }
}

async function remove(key, place) {
  show(place, "", "Deleting …");
  try {
    const done = await write("DELETE", key);
    show(place, "good", done.deleted ? `Deleted ${key}: ${done.copies} copies know. Revision ${done.revision}.` : `There was no key ${key}.`);
    return true;
  } catch (error) {
    showTrouble(place, error);
    return false;
  }
}

async function read() {
  const [node, consistency, place] = [$("read-node").value, $("read-consistency").value, $("one-result")];
  $("one-value").hidden = true;
  show(place, "", "Reading …");
  try {
    const begun = performance.now();
    const response = await ask("GET", at(node, `${keyPath($("key").value)}?consistency=${consistency}`));
    const took = performance.now() - begun;
    const text = (response.headers.get("content-type") ?? "").startsWith("application/octet-stream")
      ? inBytes(new Uint8Array(await response.arrayBuffer()))
      : await response.text();
    $("one-value").textContent = text;
    $("one-value").hidden = false;
    const seen = consistency === "local" ? "its own copy, which may be a moment behind" : "confirmed by the cluster";
    show(place, "good", `Read from ${node}, ${seen}: revision ${response.headers.get("x-quorate-revision")}, version ${response.headers.get("x-quorate-version")}, ${millis(took)} ms.`);
  } catch (error) {
    if (error.code === "key_not_found") show(place, "", `${node} has no key ${$("key").value}.`);
    else showTrouble(place, error);
  }
}

function inBytes(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return [...bytes.slice(0, 256)].map((b) => b.toString(16).padStart(2, "0")).join(" ") + (bytes.length > 256 ? ` … (${number(bytes.length)} bytes)` : "");
  }
}

async function list(after) {
  const [node, prefix, place] = [$("list-node").value, $("prefix").value, $("list-result")];
  show(place, "", "Reading …");
  try {
    const from = after === null ? "" : `&after=${encodeURIComponent(after)}`;
    const response = await ask("GET", at(node, `/v1/kv?consistency=local&limit=${PAGE}&prefix=${encodeURIComponent(prefix)}${from}`));
    const page = await response.json();
    $("key-rows").replaceChildren(...page.items.map(row));
    nextAfter = page.next ?? null;
    $("next").disabled = nextAfter === null;
    $("first").disabled = reached.length === 0;
    const count = page.items.length;
    show(place, "", count === 0 ? `${node} has no such keys.` : `Page ${reached.length + 1}: ${count} ${count === 1 ? "key" : "keys"}, as ${node} had them at revision ${number(page.revision)}.`);
  } catch (error) {
    showTrouble(place, error);
  }
}

function row({ key, value, revision, version }) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const choose = Object.assign(document.createElement("button"), { type: "button", className: "link-like", textContent: key, title: key });
  choose.addEventListener("click", () => {
    $("key").value = key;
    $("value").value = text;
    $("key").focus();
  });
  const drop = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: "Delete" });
  drop.setAttribute("aria-label", `Delete ${key}`);
  drop.addEventListener("click", async () => {
    if (!(await remove(key, $("list-result")))) return;
    // The keyboard goes on with the next row, or back to the list's button.
    const next = (tr.nextElementSibling ?? tr.previousElementSibling)?.querySelector("button.small") ?? $("list");
    if (document.activeElement === drop) next.focus();
    tr.remove();
  });
  const tr = document.createElement("tr");
  for (const cell of [choose, text, number(revision), number(version), drop]) {
    const td = document.createElement("td");
    td.append(cell);
    tr.append(td);
  }
  tr.children[1].title = text.slice(0, 400);
  return tr;
}

// One write after the other, ten a second, and what became of each.
const steady = { on: false, done: 0, refused: 0, unknown: 0, last: null, longest: 0 };
const STRIP = 120;
// Shorter than a node takes to give up: a client that waits that long for a node that stands still sees nothing of the others' taking over.
const STEADY_PATIENCE_MS = 1_500;

async function keepWriting() {
  while (steady.on) {
    const begun = performance.now();
    let kind = "done";
    try {
      const done = await write("PUT", "steady/writes", String(steady.done + 1), STEADY_PATIENCE_MS);
      steady.say = `the last is on ${done.copies} disks, after ${millis(done.took)} ms`;
      if (steady.last !== null) steady.longest = Math.max(steady.longest, performance.now() - steady.last);
      steady.last = performance.now();
    } catch (error) {
      if (!(error instanceof Trouble)) throw error;
      kind = error.kind === "unknown" ? "unknown" : "refused";
      steady.say = sentence(error.message).replace(/\.$/, "");
    }
    steady[kind] += 1;
    const mark = document.createElement("li");
    if (kind !== "done") mark.className = kind;
    $("steady-strip").append(mark);
    if ($("steady-strip").childElementCount > STRIP) $("steady-strip").firstElementChild.remove();
    const gap = steady.longest >= 250 ? ` Longest wait between two: ${(steady.longest / 1000).toFixed(1)} s.` : "";
    $("steady-text").textContent = `${number(steady.done)} acknowledged, ${number(steady.refused)} refused, ${number(steady.unknown)} unknown: ${steady.say}.${gap}`;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 100 - (performance.now() - begun))));
  }
}

export function start(shared) {
  model = shared;
  $("one").addEventListener("submit", (event) => {
    event.preventDefault();
    put();
  });
  $("delete").addEventListener("click", () => $("key").reportValidity() && remove($("key").value, $("one-result")));
  $("read").addEventListener("click", () => $("key").reportValidity() && read());
  $("find").addEventListener("submit", (event) => {
    event.preventDefault();
    reached = [];
    list(null);
  });
  $("first").addEventListener("click", () => {
    reached = [];
    list(null);
  });
  $("next").addEventListener("click", () => {
    reached.push(nextAfter);
    list(nextAfter);
  });
  $("steady").addEventListener("click", () => {
    steady.on = !steady.on;
    $("steady").setAttribute("aria-pressed", String(steady.on));
    if (!steady.on) return;
    steady.last = null;
    keepWriting();
  });
}
