// What changes the cluster: leadership, W, delays, and in `quorate local` the nodes themselves.

import { ask, at, setToken, show, showTrouble, Trouble } from "./ask.js";
import { millis } from "./words.js";

const $ = (id) => document.getElementById(id);
let model;

function leader() {
  if (!model.leader) throw new Trouble("refused", "There is no leader at the moment. Nothing was changed.");
  return model.leader;
}

// While something is under way its button says so, and does not take a second click. It is not disabled: that would take the keyboard away from it.
async function under(button, place, words, work) {
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  show(place, "", words);
  try {
    show(place, "good", await work());
  } catch (error) {
    showTrouble(place, error);
  } finally {
    button.ariaDisabled = "false";
  }
}

export function handOver(to, button, place) {
  return under(button, place, `Handing leadership to ${to} …`, async () => {
    const body = JSON.stringify({ to });
    const response = await ask("POST", at(leader().name, "/v1/cluster/transfer"), { body, admin: true });
    const { leader: now, term } = await response.json();
    return `${now} leads, term ${term}.`;
  });
}

const DOING = { stop: "Stopping", pause: "Pausing", resume: "Resuming", start: "Starting" };
const DONE = { stop: "is stopping: it hands leadership over first, if it leads.", pause: "is paused: it says nothing, and does not know it.", resume: "goes on.", start: "is up and catches up." };

export function order(node, act, button) {
  return under(button, $("member-result"), `${DOING[act]} ${node} …`, async () => {
    await ask("POST", `/local/nodes/${encodeURIComponent(node)}/${act}`, { admin: true });
    return `${node} ${DONE[act]}`;
  });
}

function changeW() {
  return under($("w-go"), $("w-result"), "Changing W …", async () => {
    const node = leader();
    const wanted = Number($("w").value);
    const response = await ask("PUT", at(node.name, "/v1/cluster/config"), {
      body: JSON.stringify({ write_quorum: wanted }),
      headers: { "If-Match": `"${node.status.config.version}"` },
      admin: true,
    });
    const { version } = await response.json();
    return `${wanted} copies must hold a write from now on. Configuration ${version}.`;
  });
}

function changeDelay() {
  return under($("delay-go"), $("delay-result"), "Changing the delays …", async () => {
    const [min_ms, max_ms] = [Number($("delay-min").value), Number($("delay-max").value)];
    await ask("PUT", "/local/delay", { body: JSON.stringify({ min_ms, max_ms }), admin: true });
    return max_ms === 0 ? "Appends arrive without delay." : `Appends arrive ${millis(min_ms)} to ${millis(max_ms)} ms later.`;
  });
}

// Offers what can be chosen now, without taking away what was chosen. Touched only when it differs: a list that is open stays open.
export function offer(select, choices, chosen) {
  const wanted = JSON.stringify(choices);
  if (select.dataset.offered !== wanted) {
    const before = select.value;
    select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    select.dataset.offered = wanted;
    const kept = choices.some(([value]) => value === before);
    select.value = kept ? before : (chosen ?? choices[0]?.[0] ?? "");
  }
}

let shownW = null;
let shownDelay = null;

// Called whenever something changed.
export function refresh() {
  const names = model.members.map((m) => m.name);
  const preferred = model.page?.node ?? model.leader?.name;
  for (const id of ["read-node", "list-node"]) offer($(id), names.map((n) => [n, n]), preferred);
  const config = model.authority?.status.config;
  const others = model.members.filter((m) => m.name !== model.leader?.name && m.member && m.member.role !== "learner");
  offer($("transfer-to"), others.map((m) => [m.name, m.name]));
  $("transfer-go").disabled = !model.leader || others.length === 0;
  for (const form of document.querySelectorAll(".local")) form.hidden = !model.local;
  if (!model.local || !config) return;
  offer($("w"), Array.from({ length: config.replicas }, (_, i) => [String(i + 1), `${i + 1} of ${config.replicas}`]), String(config.write_quorum));
  if (shownW !== config.write_quorum) $("w").value = String((shownW = config.write_quorum));
  const delay = `${model.local.min_delay_ms} ${model.local.max_delay_ms}`;
  if (shownDelay !== delay) {
    shownDelay = delay;
    [$("delay-min").value, $("delay-max").value] = [model.local.min_delay_ms, model.local.max_delay_ms];
  }
}

export function start(shared) {
  model = shared;
  const submitted = (id, work) =>
    $(id).addEventListener("submit", (event) => {
      event.preventDefault();
      work();
    });
  submitted("transfer", () => handOver($("transfer-to").value, $("transfer-go"), $("transfer-result")));
  submitted("w-form", changeW);
  submitted("delay-form", changeDelay);
  $("token").addEventListener("input", () => setToken($("token").value));
}
