// Plots drawn by hand: lines of the last two minutes, and bars of a write's stages.

import { millis, number } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [W, H, LEFT, BOTTOM, TOP] = [360, 160, 38, 18, 8];
const SECONDS = 120;

export function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function html(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// The axis: from what is low to what is high, as a place between 0 and 1, with lines worth drawing.
function logarithmic(values) {
  const known = values.filter((v) => v > 0);
  const low = Math.floor(Math.log10(Math.min(...known, 1)));
  const high = Math.max(Math.ceil(Math.log10(Math.max(...known, 1))), low + 2);
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  return { place: (v) => (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low), ticks };
}

function linear(values) {
  const most = Math.max(...values, 1);
  const unit = 10 ** Math.floor(Math.log10(most));
  const step = [1, 2, 5, 10].map((n) => n * unit / 2).find((s) => most / s <= 4) ?? unit * 5;
  const high = Math.ceil(most / step) * step;
  return { place: (v) => v / high, ticks: Array.from({ length: Math.round(high / step) + 1 }, (_, i) => i * step) };
}

// lines: [{ name, className, values, say }], the newest value last; marks: places of the log worth a line across.
function plot(place, lines, axis, marks, label) {
  const x = (i, length) => LEFT + (W - LEFT) * (1 - (length - 1 - i) / (SECONDS - 1));
  const y = (v) => TOP + (H - TOP - BOTTOM) * (1 - axis.place(v));
  const svg = element("svg", { viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true" });
  for (const tick of axis.ticks) {
    svg.append(element("line", { class: "grid", x1: LEFT, x2: W, y1: y(tick), y2: y(tick) }));
    svg.append(element("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
  }
  for (const [text, at, anchor] of [["2 min ago", LEFT, "start"], ["now", W, "end"]]) {
    svg.append(element("text", { x: at, y: H - 3, "text-anchor": anchor }, text));
  }
  if (lines.every((line) => line.values.every((v) => !v))) {
    svg.append(element("text", { class: "none", x: (LEFT + W) / 2, y: H / 2, "text-anchor": "middle" }, "nothing yet"));
  }
  const length = lines[0].values.length;
  for (const mark of marks) svg.append(element("line", { class: "mark", x1: x(mark, length), x2: x(mark, length), y1: TOP, y2: H - BOTTOM }));
  for (const { className, values } of lines) {
    let path = "";
    values.forEach((v, i) => {
      if (v === null) return;
      const starts = i === 0 || values[i - 1] === null;
      // A value that stands alone is a dot: a line of no length, with round ends.
      path += `${starts ? "M" : "L"}${x(i, length).toFixed(1)} ${y(v).toFixed(1)}${starts ? "h0" : ""}`;
    });
    svg.append(element("path", { class: `line ${className}`, d: path }));
  }
  const legend = html("p", "legend");
  for (const { name, className, values, say } of lines) {
    legend.append(html("span", "", html("span", `key ${className}`), `${name} `, html("b", "", say(values.findLast((v) => v !== null) ?? null))));
  }
  place.replaceChildren(svg, legend);
  place.setAttribute("aria-label", label);
}

export function drawAll(model) {
  const s = model.seconds;
  if (!s.length) return;
  const marks = s.flatMap((now, i) => (i > 0 && now.leader && now.leader !== s[i - 1].leader ? [i] : []));
  const of = (name) => s.map((second) => second[name]);
  const last = s.at(-1);
  const latency = ["p50", "p95", "p99"].map((name, i) => ({ name, className: `l${i}`, values: of(name), say: millis }));
  const spoken = last.p50 === null ? "No writes in the last second" : `Writes of the last second: half took up to ${millis(last.p50)} milliseconds, 99 of 100 up to ${millis(last.p99)}`;
  plot(document.getElementById("chart-latency"), latency, logarithmic(latency.flatMap((l) => l.values.filter((v) => v !== null))), marks, spoken);
  const rate = [
    { name: "writes", className: "l0", values: of("writes"), say: (v) => number(Math.round(v)) },
    { name: "reads", className: "reads", values: of("reads"), say: (v) => number(Math.round(v)) },
  ];
  plot(document.getElementById("chart-rate"), rate, linear(rate.flatMap((l) => l.values)), marks, `${number(Math.round(last.writes))} writes and ${number(Math.round(last.reads))} reads a second`);
  drawStages(model);
}

const STAGES = [
  ["queued", "in the leader's queue"],
  ["persisted", "on the leader's disk"],
  ["replicated", "on W disks"],
  ["committed", "committed"],
  ["applied", "applied and answered"],
];

// Mean time from a write's arrival to each stage. Stages may overtake each other: the own disk and the others' work side by side.
function drawStages(model) {
  const means = STAGES.map(([name]) => {
    const sums = model.stages.reduce((all, s) => ({ count: all.count + (s[name]?.count ?? 0), seconds: all.seconds + (s[name]?.seconds ?? 0) }), { count: 0, seconds: 0 });
    return sums.count > 0 ? (1000 * sums.seconds) / sums.count : null;
  });
  const most = Math.max(...means.map((m) => m ?? 0));
  const list = html("dl", "");
  STAGES.forEach(([, words], i) => {
    const share = most > 0 ? (100 * (means[i] ?? 0)) / most : 0;
    const bar = element("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, element("rect", { class: `s${i}`, width: share.toFixed(2), height: 1 }));
    list.append(html("dt", "", words), html("dd", "", bar), html("dd", "", means[i] === null ? "–" : `${millis(means[i])} ms`));
  });
  const about = html("p", "legend", most > 0 ? "Time from a write's arrival until it got there, on average." : "No writes in the last 10 seconds.");
  document.getElementById("chart-stages").replaceChildren(list, about);
}
