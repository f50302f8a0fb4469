// Requests to nodes, and what their answers mean. Everything goes to the port the page came from; a node other than its own is reached through it.

export class Trouble extends Error {
  // kind: "refused" (certain: nothing was done), "unknown" (it may or may not have happened), "token" (the admin token is missing).
  constructor(kind, message, code = "") {
    super(message);
    this.kind = kind;
    this.code = code;
  }
}

// A little longer than a node takes to say itself that it does not know.
const PATIENCE_MS = 12_000;

let token = "";
export function setToken(text) {
  token = text.trim();
}

// The path of a request to a node: without a detour if the page is that node's own.
let own = null;
export function setOwn(name) {
  own = name;
}
export function at(node, path) {
  return node === own ? path : `/v1/nodes/${encodeURIComponent(node)}${path}`;
}

export async function ask(method, path, { body, headers = {}, admin = false, patience = PATIENCE_MS } = {}) {
  const effect = method !== "GET";
  const all = { ...headers };
  if (admin && token) all.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method, body, headers: all, cache: "no-store", signal: AbortSignal.timeout(patience) });
  } catch {
    throw effect
      ? new Trouble("unknown", "No answer came. It may or may not have happened: read before you repeat it.")
      : new Trouble("refused", "No answer came.");
  }
  if (response.ok) return response;
  const { code = "", message = response.statusText } = (await response.json().catch(() => ({}))).error ?? {};
  if (code === "outcome_unknown") throw new Trouble("unknown", sentence(message), code);
  if (response.status === 401) throw new Trouble("token", `${sentence(message)} Enter it under “Admin token”.`, code);
  throw new Trouble("refused", sentence(message), code);
}

export function sentence(text) {
  const clean = text.trim();
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}

// Shows how something went, in a place that a screen reader reads out.
export function show(place, kind, text) {
  place.className = `result ${kind}`;
  place.textContent = text;
}

export function showTrouble(place, error) {
  if (!(error instanceof Trouble)) throw error;
  if (error.kind === "token") document.getElementById("token-box").open = true;
  show(place, error.kind === "unknown" ? "unknown" : "bad", error.kind === "unknown" ? `Unknown outcome: ${error.message}` : error.message);
}
