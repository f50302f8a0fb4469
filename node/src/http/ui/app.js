// The page: one stream of events in, everything that is seen out.

import { setOwn } from "./ask.js";
import { drawAll } from "./charts.js";
import * as controls from "./controls.js";
import * as data from "./data.js";
import { Model } from "./model.js";
import { changes, health, leaderWords, marginWords, millis, number, quorumWords, roleOf } from "./words.js";

const $ = (id) => document.getElementById(id);
const LOG_LINES = 200;
const model = new Model();
let seen = null;

// Text is touched only when it changes: a screen reader reads live regions when they are, and a selection survives.
function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function listen() {
  const stream = new EventSource("/v1/events?scope=cluster");
  const on = (kind, hear) =>
    stream.addEventListener(kind, (event) => {
      hear(JSON.parse(event.data));
      later();
    });
  on("hello", (hello) => {
    model.page = hello;
    setOwn(hello.node ?? null);
    say("place", hello.page === "local" ? "on this machine" : hello.node);
    document.title = hello.page === "local" ? "Quorate" : `${hello.node} · Quorate`;
    $("token-box").open ||= hello.token === true;
  });
  on("node", (report) => model.hear(report));
  on("gone", (report) => model.lose(report));
  on("local", (situation) => (model.local = situation));
  stream.onopen = () => link("live", "live");
  stream.onerror = () => {
    link("broken", "The connection is lost; what is shown may be outdated. Trying again …");
    // The browser gives up after an answer that is no stream, as one gets from a node that is too busy.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  };
}

function link(state, text) {
  $("link").dataset.state = state;
  say("link-text", text);
}

// Events come in bunches: one drawing for each.
let asked = false;
function later() {
  if (asked) return;
  asked = true;
  setTimeout(() => {
    asked = false;
    draw();
  }, 30);
}

function draw() {
  say("leader", leaderWords(model));
  say("quorum", quorumWords(model));
  say("margins", marginWords(model));
  const members = model.members;
  $("ring").replaceChildren(...members.map(bead));
  rows(members);
  controls.refresh();
  note(members);
  const version = model.authority?.status.version;
  if (version) say("version", `Quorate ${version}`);
  const base = model.page?.page === "local" ? model.answering?.status.node.http : "";
  if (base !== undefined) linksTo(base);
}

function bead(m) {
  const { kind } = health(m, model);
  const li = document.createElement("li");
  li.textContent = m.name;
  li.className = roleOf(m, model) === "leader" ? "lead" : { good: "", warn: "paused", bad: "down" }[kind];
  return li;
}

// Rows are kept and filled in anew: whoever stands on a button with the keyboard stays there.
const kept = new Map();

function rows(members) {
  const names = members.map((m) => m.name);
  for (const [name, row] of kept) {
    if (!names.includes(name)) {
      row.tr.remove();
      kept.delete(name);
    }
  }
  members.forEach((m, i) => {
    const row = kept.get(m.name) ?? newRow(m.name);
    fill(row, m);
    const tbody = $("member-rows");
    if (tbody.children[i] !== row.tr) tbody.insertBefore(row.tr, tbody.children[i] ?? null);
  });
}

const COLUMNS = ["Role", "Health", "Term", "Applied", "Behind", "Heard"];

function newRow(name) {
  const tr = document.createElement("tr");
  const th = document.createElement("th");
  th.scope = "row";
  th.textContent = name;
  const cells = COLUMNS.map((column) => {
    const td = document.createElement("td");
    td.dataset.label = column;
    return td;
  });
  for (const td of cells.slice(0, 2)) td.append(document.createElement("span"));
  const more = document.createElement("span");
  more.className = "more";
  cells[1].append(more);
  const acts = document.createElement("td");
  acts.className = "acts-cell";
  const box = document.createElement("div");
  box.className = "acts";
  acts.append(box);
  tr.append(th, ...cells, acts);
  const buttons = {};
  for (const [act, text] of [["lead", "Make leader"], ["pause", "Pause"], ["resume", "Resume"], ["stop", "Stop"], ["start", "Start"]]) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: text });
    button.setAttribute("aria-label", act === "lead" ? `Make leader: ${name}` : `${text} ${name}`);
    button.addEventListener("click", () =>
      act === "lead" ? controls.handOver(name, button, $("member-result")) : controls.order(name, act, button),
    );
    buttons[act] = button;
    box.append(button);
  }
  const row = { tr, th, cells, buttons };
  kept.set(name, row);
  return row;
}

function fill(row, m) {
  const { word, kind, more } = health(m, model);
  const role = roleOf(m, model);
  const of = model.leader?.status.members.find((x) => x.name === m.name);
  const present = m.node && model.present(m.node);
  const status = m.node?.status;
  const heard = role === "leader" ? "–" : of?.last_heard_ms === null || !of ? "–" : of.last_heard_ms < 1000 ? `${of.last_heard_ms} ms ago` : `${(of.last_heard_ms / 1000).toFixed(0)} s ago`;
  const [roleCell, healthCell, ...numbers] = row.cells;
  badge(roleCell.firstChild, role, role === "leader" ? "lead" : "");
  badge(healthCell.firstChild, word, kind);
  if (healthCell.lastChild.textContent !== more) healthCell.lastChild.textContent = more;
  const texts = [present ? number(status.term) : "–", present ? number(status.applied) : "–", of?.lag === undefined || of.lag === null ? "–" : number(of.lag), heard];
  numbers.forEach((cell, i) => {
    if (cell.textContent !== texts[i]) cell.textContent = texts[i];
  });
  const how = m.standing?.standing;
  const { lead, pause, resume, stop, start } = row.buttons;
  const focused = document.activeElement;
  const shown = new Map([
    [lead, present && role === "follower" && Boolean(model.leader)],
    [pause, how === "running"],
    [resume, how === "paused"],
    [stop, how === "running" || how === "paused"],
    [start, how === "stopped"],
  ]);
  for (const [button, is] of shown) button.hidden = !is;
  // The button that was just used has gone: its counterpart takes the keyboard over.
  if (focused?.hidden && [lead, pause, resume, stop, start].includes(focused)) {
    [...shown].find(([button, is]) => is && button !== lead)?.[0].focus();
  }
}

function badge(span, text, kind) {
  if (span.textContent !== text) span.textContent = text;
  span.className = `badge ${kind}`;
}

// Lines for what changed since the last look.
function note(members) {
  const now = {
    leader: model.leader?.name ?? null,
    term: model.leader?.status.term ?? seen?.term ?? null,
    w: model.authority?.status.config.write_quorum,
    delay: model.local ? `${millis(model.local.min_delay_ms)} to ${millis(model.local.max_delay_ms)} ms` : null,
    health: new Map(members.map((m) => [m.name, health(m, model).word])),
  };
  const lines = seen ? changes(seen, now) : [];
  seen = now;
  if (!lines.length) return;
  const log = $("log");
  if (log.firstElementChild?.classList.contains("dim")) log.firstElementChild.remove();
  for (const line of lines) {
    const li = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = new Date().toLocaleTimeString("en-GB");
    li.append(time, line);
    log.prepend(li);
  }
  while (log.childElementCount > LOG_LINES) log.lastElementChild.remove();
}

function linksTo(base) {
  if ($("links").dataset.base === base) return;
  $("links").dataset.base = base;
  const links = [["/v1/status", "status"], ["/metrics", "metrics"], ["/keys", "keys"], ["/data", "data"]].map(([path, text]) => {
    const a = document.createElement("a");
    a.href = base + path;
    a.textContent = text;
    return a;
  });
  $("links").replaceChildren(...links.flatMap((a, i) => (i ? [" · ", a] : [a])));
}

data.start(model);
controls.start(model);
listen();

let ticked = performance.now();
setInterval(() => {
  const now = performance.now();
  model.tick((now - ticked) / 1000);
  ticked = now;
  if (!document.hidden) drawAll(model);
}, 1000);
