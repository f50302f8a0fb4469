//! States and paths in words, and states under other names.

use std::fmt::Write;

use crate::model::Model;
use crate::rules::{Conf, Set};
use crate::state::{Action, Entry, Kind, Log, NODES, Node, Role, State};

impl Model {
    /// A path, each action with the state after it.
    #[must_use]
    pub fn tell(&self, path: &[(State, Option<Action>)]) -> String {
        let mut text = String::new();
        for (number, (state, action)) in path.iter().enumerate() {
            let _ = writeln!(text, "{}", self.show(state));
            if let Some(action) = action {
                let _ = writeln!(text, "{:>3}. {}", number + 1, self.say(*action));
            }
        }
        let _ = write!(text, "     configurations:");
        for number in 0..self.table().count() {
            let _ = write!(text, " c{number} = {};", conf(self.table().conf(number)));
        }
        text
    }

    fn say(&self, action: Action) -> String {
        match action {
            Action::Campaign(n) => format!("n{n} campaigns"),
            Action::AskVote { voter, candidate } => format!("n{candidate} asks n{voter} for its vote"),
            Action::Append { leader, follower } => format!("n{follower} hears from n{leader}"),
            Action::Sync(n) => format!("the disk of n{n} catches up"),
            Action::Write(n) => format!("a client writes at n{n}"),
            Action::Change { leader, to } => format!("n{leader} is told to change to c{to}"),
            Action::Crash(n) => format!("n{n} crashes and starts again"),
            Action::Wipe(n) => format!("n{n} loses its disk"),
        }
    }

    fn show(&self, state: &State) -> String {
        let nodes = state.nodes.iter().zip(0..self.nodes());
        let mut lines: Vec<String> = nodes.map(|(node, n)| self.line(node, n)).collect();
        if !state.committed.is_empty() {
            let entries: Vec<Entry> = state.committed.iter().map(|c| c.entry).collect();
            let acked =
                state.acked.iter().zip(0..).filter_map(|(a, w): (_, u8)| a.map(|a| format!("w{w} at {}", a.index)));
            let acked: Vec<String> = acked.collect();
            lines.push(format!("       committed {}  acknowledged {}", log(&entries), acked.join(" ")));
        }
        lines.join("\n")
    }

    fn line(&self, node: &Node, n: u8) -> String {
        let role = match node.role {
            _ if node.gone => "gone",
            Role::Follower => "follower",
            Role::Candidate { .. } => "candidate",
            Role::Leader { .. } => "leader",
        };
        let mut line = format!("       n{n} t{} {role:<9} log {:<24}", node.term, log(node.log.entries()));
        if node.disk != node.log {
            let _ = write!(line, " disk {:<24}", log(node.disk.entries()));
        }
        match node.role {
            Role::Leader { commit, copies, .. } => {
                let _ = write!(line, " commit {commit}  copies {:?}", &copies[..usize::from(self.nodes())]);
            }
            Role::Candidate { granted } => {
                let _ = write!(line, " votes {}", set(granted));
            }
            Role::Follower => {}
        }
        line.trim_end().to_owned()
    }
}

fn log(entries: &[Entry]) -> String {
    let words = entries.iter().map(|e| match e.kind {
        Kind::Empty => format!("{}:-", e.term),
        Kind::Write(w) => format!("{}:w{w}", e.term),
        Kind::Config(c) => format!("{}:c{c}", e.term),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn set(set: Set) -> String {
    let names: Vec<String> = (0..8).filter(|n| set >> n & 1 == 1).map(|n| format!("n{n}")).collect();
    format!("{{{}}}", names.join(" "))
}

fn conf(conf: Conf) -> String {
    let new = format!("{} W={}", set(conf.voters), conf.w);
    conf.old.map_or(new.clone(), |(voters, w)| format!("joint of {} W={w} and {new}", set(voters)))
}

fn rename_set(old: Set, names: &[u8; NODES]) -> Set {
    names.iter().zip(0..).filter(|(_, n)| old >> n & 1 == 1).map(|(to, _): (&u8, u8)| 1 << to).sum()
}

impl Conf {
    /// The same configuration of nodes with other names.
    #[must_use]
    pub(crate) fn renamed(self, names: &[u8; NODES]) -> Conf {
        let old = self.old.map(|(voters, w)| (rename_set(voters, names), w));
        Conf { voters: rename_set(self.voters, names), w: self.w, old }
    }
}

impl State {
    /// The same state with node `n` called `names[n]`, and configuration `c` numbered `numbers[c]`.
    #[must_use]
    pub(crate) fn renamed(&self, names: &[u8; NODES], numbers: &[u8]) -> State {
        let number = |c: u8| numbers[usize::from(c)];
        let log = |mut log: Log| {
            log.map_configs(number);
            log
        };
        let mut next = self.clone();
        for (node, to) in self.nodes.iter().zip(names) {
            let role = match node.role {
                Role::Follower => Role::Follower,
                Role::Candidate { granted } => Role::Candidate { granted: rename_set(granted, names) },
                Role::Leader { first_own, commit, copies } => {
                    let mut renamed = [0; NODES];
                    for (copy, to) in copies.iter().zip(names) {
                        renamed[usize::from(*to)] = *copy;
                    }
                    Role::Leader { first_own, commit, copies: renamed }
                }
            };
            let vote = node.vote.map(|n| names[usize::from(n)]);
            next.nodes[usize::from(*to)] = Node { vote, role, log: log(node.log), disk: log(node.disk), ..*node };
        }
        for committed in &mut next.committed {
            if let Kind::Config(c) = &mut committed.entry.kind {
                *c = number(*c);
            }
        }
        for set in &mut next.leaders {
            *set = rename_set(*set, names);
        }
        next
    }
}
