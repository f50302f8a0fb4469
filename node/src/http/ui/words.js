// The cluster in sentences.

const few = ["no", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const count = (n) => few[n] ?? String(n);

export function leaderWords(model) {
  const { leader, authority } = model;
  if (leader) return `${leader.name} leads, term ${leader.status.term}`;
  if (model.local?.nodes.every((n) => n.standing === "stopped")) return "No node is running";
  if (!authority) return "Looking for the cluster …";
  if (authority.status.node.membership === "blank") return "The cluster is forming";
  return "No leader at the moment";
}

export function quorumWords(model) {
  const { leader, authority } = model;
  const config = authority?.status.config;
  if (!config?.replicas) return authority ? "This node belongs to no cluster yet." : "";
  const must = `${config.write_quorum} of ${config.replicas} copies must hold a write`;
  if (!leader) return `${must}. Until a node is elected, nothing is written.`;
  const { writes, failover } = leader.status.tolerates;
  if (writes === null || failover === null) return `${must}.`;
  const more = Math.min(writes, failover);
  const live = leader.status.tolerates.live;
  if (live < config.write_quorum) return `${must}; ${live} are up, so writes are refused until more come back.`;
  const what = more === 1 ? "failure is" : "failures are";
  return more === 0 ? `${must}; no more failures are survived.` : `${must}; ${count(more)} more ${what} survived.`;
}

export function marginWords(model) {
  const leader = model.leader;
  const t = leader?.status.tolerates;
  if (!t || t.writes === null || t.failover === null) {
    const e = model.authority?.status.config.election_quorum;
    return e ? `An election needs ${e} nodes that answer.` : "";
  }
  const fail = (n) => (n === 1 ? "at most 1 more node fails" : `at most ${n} more nodes fail`);
  const writes = t.writes === 0 ? "One more failure stops writes" : `Writes go on while ${fail(t.writes)}`;
  const failover = t.failover === 0 ? "after one more, no leader could be elected" : `a new leader can be elected while ${fail(t.failover)}`;
  const changing = leader.status.config.changing ? " A change of the members is under way." : "";
  return `${writes}; ${failover}.${changing}`;
}

// A member's health: a word, a kind (good, warn, bad) and more for whoever wants to know.
export function health({ node, member, standing }, model) {
  const how = standing?.standing;
  if (how && how !== "running") {
    const kind = { stopped: "bad", paused: "warn" }[how] ?? "warn";
    return { word: how, kind, more: standing.reason ?? "" };
  }
  const seen = model.leader?.status.members.find((m) => m.name === member?.name);
  if (node?.gone || !node) return { word: node ? "away" : "unknown", kind: node ? "bad" : "warn", more: node?.gone ?? "" };
  if (node.status.disk_full) return { word: "disk full", kind: "bad", more: "its disk is nearly full: deletes are still taken" };
  if (seen && seen.healthy === false) return { word: "silent", kind: "bad", more: "the leader does not hear from it" };
  if (!node.status.node.ready) return { word: "catching up", kind: "warn", more: "" };
  return { word: "healthy", kind: "good", more: "" };
}

export function roleOf({ node, member, standing }, model) {
  if (model.leader && model.leader.name === (member?.name ?? node?.name)) return "leader";
  if ((standing && standing.standing !== "running") || !node?.status || node.gone) return member?.role === "learner" ? "learner" : "–";
  const { role, membership } = node.status.node;
  if (membership === "blank" || membership === "removed" || membership === "learner") return membership;
  return role === "leader" ? "was leader" : role;
}

export function number(n) {
  return n === null || n === undefined ? "–" : n.toLocaleString("en");
}

export function millis(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2);
}

// What is worth a line in the log, between two moments.
export function changes(before, now) {
  const lines = [];
  if (before.leader !== now.leader) {
    if (now.leader) lines.push(before.leader || before.term ? `${now.leader} leads now, term ${now.term}` : `${now.leader} leads, term ${now.term}`);
    else lines.push(`${before.leader} no longer leads; nobody does`);
  }
  for (const [name, word] of now.health) {
    const was = before.health.get(name);
    if (was && was !== "unknown" && was !== word) lines.push(`${name} is ${word}, was ${was}`);
  }
  if (before.w && now.w && before.w !== now.w) lines.push(`${now.w} copies must hold a write now, not ${before.w}`);
  if (before.delay && now.delay && before.delay !== now.delay) lines.push(`The simulated delay is ${now.delay} now`);
  return lines;
}
