// What is known of the cluster: the newest word of every node, put together.

const HISTORY = 120;

export class Model {
  constructor() {
    this.page = null; // { page: "node" | "local", node }
    this.nodes = new Map(); // name → { name, status, figures, at, gone }
    this.local = null; // of `quorate local`: { nodes: [{ name, http, standing, reason }], min_delay_ms, max_delay_ms }
    this.seconds = []; // { t, writes, reads, p50, p95, p99, refused, unknown }
    this.stages = []; // { t, name → { count, seconds } }
    this.pending = blank();
  }

  hear(report) {
    const before = this.nodes.get(report.name);
    if (before?.figures && report.figures) this.count(before, report);
    this.nodes.set(report.name, { ...report, heard: performance.now(), gone: null });
  }

  lose({ name, http, reason }) {
    const before = this.nodes.get(name) ?? { name, http };
    this.nodes.set(name, { ...before, figures: null, gone: reason });
  }

  // Figures are sums since a node's start: what counts is what was added. A node that started anew begins at zero.
  count(before, now) {
    const anew = now.status.node.incarnation !== before.status.node.incarnation;
    const old = anew ? null : before.figures;
    for (const what of ["writes", "reads"]) {
      const sum = this.pending[what];
      sum.count += now.figures[what].count - (old?.[what].count ?? 0);
      now.figures[what].buckets.forEach(([bound, count], i) => {
        const added = count - (old?.[what].buckets[i]?.[1] ?? 0);
        sum.buckets[i] = [bound, (sum.buckets[i]?.[1] ?? 0) + added];
      });
    }
    for (const what of ["refused", "unknown"]) this.pending[what] += now.figures[what] - (old?.[what] ?? 0);
    now.figures.stages.forEach(({ stage, count, seconds }, i) => {
      const sum = (this.pending.stages[stage] ??= { count: 0, seconds: 0 });
      sum.count += count - (old?.stages[i]?.count ?? 0);
      sum.seconds += seconds - (old?.stages[i]?.seconds ?? 0);
    });
  }

  // Closes a second of history.
  tick(seconds) {
    const { writes, reads, refused, unknown, stages } = this.pending;
    this.seconds.push({
      writes: writes.count / seconds,
      reads: reads.count / seconds,
      p50: percentile(writes, 0.5),
      p95: percentile(writes, 0.95),
      p99: percentile(writes, 0.99),
      refused,
      unknown,
      leader: this.leader?.name ?? null,
    });
    this.stages.push(stages);
    if (this.seconds.length > HISTORY) this.seconds.shift();
    if (this.stages.length > 10) this.stages.shift();
    this.pending = blank();
  }

  standing(name) {
    return this.local?.nodes.find((n) => n.name === name);
  }

  // Whether a node can be believed now.
  present(node) {
    const standing = this.standing(node.name)?.standing;
    return Boolean(!node.gone && node.status && (standing === undefined || standing === "running" || standing === "stopping"));
  }

  // Who leads: of those who say so, the one of the highest term. A leader that is held still believes in itself for longer than the others do.
  get leader() {
    const leading = [...this.nodes.values()].filter((n) => this.present(n) && n.status.node.role === "leader");
    return leading.sort((a, b) => b.status.term - a.status.term)[0] ?? null;
  }

  // Whoever knows the configuration best.
  get authority() {
    const known = [...this.nodes.values()].filter((n) => n.status);
    const by = (n) => [this.present(n) ? 1 : 0, n.status.config.version, n.status.term];
    known.sort((a, b) => by(b).reduce((d, x, i) => d || x - by(a)[i], 0));
    return this.leader ?? known[0] ?? null;
  }

  // Every member and every node of this machine, by name.
  get members() {
    const known = new Map();
    for (const m of this.authority?.status.members ?? []) known.set(m.name, { name: m.name, member: m });
    for (const n of this.local?.nodes ?? []) if (!known.has(n.name)) known.set(n.name, { name: n.name });
    for (const n of this.nodes.values()) if (!known.has(n.name)) known.set(n.name, { name: n.name });
    const all = [...known.values()].map((k) => ({ ...k, node: this.nodes.get(k.name), standing: this.standing(k.name) }));
    return all.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  }

  // A node that answers requests: the leader if there is one.
  get answering() {
    return this.leader ?? [...this.nodes.values()].find((n) => this.present(n)) ?? null;
  }
}

function blank() {
  return { writes: { count: 0, buckets: [] }, reads: { count: 0, buckets: [] }, stages: {}, refused: 0, unknown: 0 };
}

// A percentile in milliseconds out of a histogram: even within its bucket, as Prometheus takes it. null if nothing was counted.
export function percentile({ count, buckets }, p) {
  if (count <= 0) return null;
  const rank = p * count;
  let [low, below] = [0, 0];
  for (const [bound, upTo] of buckets) {
    if (upTo >= rank) return 1000 * (low + (bound - low) * (upTo > below ? (rank - below) / (upTo - below) : 1));
    [low, below] = [bound, upTo];
  }
  return 1000 * low;
}
