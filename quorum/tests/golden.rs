//! The protocol's specification by scenario: one file in `tests/scripts/` each, whose name says what must happen.
//!
//! Commands drive the test host by hand; what they print is every input and effect, a line each. `UPDATE_GOLDENFILES=1`
//! writes the outputs anew; read the difference before you keep it.
//!
//! - `cluster n=3 w=2 [lead=1] [preferred=1] [lease] [manual]`: a formed cluster; `lead` has been
//!   elected and all is quiet
//! - `blank 4`, `form 1 voters=1,2 w=2`
//! - `deliver [FROM TO]`, `drop [FROM TO]`: everything under way (between two); `persist N…`: all that
//!   the disk was asked for
//! - `settle`: deliver and persist until quiet; `run MS`, `pass MS`: time passes, with or without deliveries
//! - `cut A B`: nothing arrives at B from A; `apart A`: nor to or from A at all; `heal`
//! - `slow N`, `quick N`: whether `settle` and `run` persist; `crash N`, `restart N`, `wipe N`
//! - `propose N [count]`, `read N`, `transfer N [to=M] [by_hand]`, `campaign N`, `compact N UPTO`, `unreachable
//!   N PEER`, `stray N PEER`
//! - `change N voters=1,2 [learners=3] [w=2] [base=7] [preferred=1]`
//! - `status`: a line a node
//!
//! In `(parentheses)` a command prints nothing.

mod host;

use std::error::Error;

use goldenscript::{Command, Context};
use host::{Host, member, node};
use quorum::{Change, Config, Failover, Input, NodeId, Replica, Settings};
use std::path::Path;

struct Script(Host);

type Outcome = Result<(), Box<dyn Error>>;

fn ids(text: &str) -> Result<Vec<u64>, Box<dyn Error>> {
    Ok(text.split(',').filter(|t| !t.is_empty()).map(str::parse).collect::<Result<_, _>>()?)
}

/// Small numbers, to be reached in a few steps; more than one append under way, unless a script asks for short lines.
fn settings() -> Settings {
    Settings { append_entries_max: 3, promotion_lag_max: 3, window: 2, long_lines: true, ..Settings::default() }
}

impl Script {
    fn cluster(&mut self, c: &Command) -> Outcome {
        let mut args = c.consume_args();
        let n: u64 = args.take_key("n").unwrap_or("3").parse()?;
        let w: usize = args.take_key("w").unwrap_or("2").parse()?;
        let lead: Option<u64> = args.take_key("lead").map(str::parse).transpose()?;
        let preferred = args.take_key("preferred").map(str::parse).transpose()?.map(node);
        let mut settings = settings();
        let mut config = Config::first((1..=n).map(member).collect(), w, preferred)?;
        while let Some(word) = args.next_pos() {
            match word {
                "lease" => settings.lease_reads = true,
                "short" => settings.long_lines = false,
                "manual" => config.failover = Failover::Manual,
                _ => return Err(format!("unknown word {word}").into()),
            }
        }
        self.0.add_formed(&config, &settings);
        if let Some(lead) = lead {
            // Just before anyone's own patience ends; the chosen one is told to. Where leadership is to go back by
            // itself, its patience ends first.
            self.0.pass(490);
            self.0.now += 10_000;
            if preferred.is_none() {
                self.0.step(node(lead), Input::Campaign, &[]);
            } else {
                self.0.now += settings.election_max;
                self.0.tick(node(lead));
            }
            self.0.settle();
            self.0.run(10);
        }
        Ok(())
    }

    fn status(&self) -> Vec<String> {
        let one = |n: &host::Node| match &n.replica {
            None if n.gone => format!("n{} gone", n.id),
            None => format!("n{} down", n.id),
            Some(r) => {
                let config = r.config().map_or("blank".to_owned(), |c| host::show::config(c));
                format!(
                    "n{} {} t{} leader={} last={} durable={} commit={} {config}",
                    n.id,
                    r.role(),
                    r.term(),
                    r.leader().map_or("?".to_owned(), |l| format!("n{l}")),
                    r.last(),
                    r.durable(),
                    r.commit()
                )
            }
        };
        self.0.nodes.values().map(one).collect()
    }

    fn change(&mut self, c: &Command) -> Outcome {
        let mut args = c.consume_args();
        let id = node(args.next_pos().ok_or("which node")?.parse()?);
        let config = self.0.nodes[&id].replica.as_ref().and_then(Replica::config).cloned().ok_or("blank")?;
        let members = |text: &str| ids(text).map(|v| v.into_iter().map(member).collect::<Vec<_>>());
        let change = Change {
            base_version: args.take_key("base").map_or(Ok(config.version), str::parse)?,
            voters: args.take_key("voters").map_or(Ok(config.voters.clone()), members)?,
            learners: args.take_key("learners").map_or(Ok(config.learners.clone()), members)?,
            write_quorum: args.take_key("w").map_or(Ok(config.write_quorum), str::parse)?,
            preferred: args.take_key("preferred").map(str::parse).transpose()?.map(node).or(config.preferred),
            failover: config.failover,
        };
        args.reject_next()?;
        self.0.step(id, Input::ChangeConfig(Box::new(change)), &[]);
        Ok(())
    }

    fn packets(&mut self, between: &[u64], deliver: bool) {
        let matches = |p: &host::Packet| between.len() < 2 || (p.from == node(between[0]) && p.to == node(between[1]));
        let (now, later) = self.0.net.drain(..).partition(matches);
        self.0.net = later;
        let now: std::collections::VecDeque<host::Packet> = now;
        for packet in now {
            if deliver {
                self.0.arrive(packet);
            } else {
                self.0.lose(packet);
            }
        }
    }

    fn simple(&mut self, name: &str, n: &[u64]) -> Outcome {
        let h = &mut self.0;
        let first = n.first().copied();
        let id = node(first.unwrap_or(0));
        let all: Vec<NodeId> = h.nodes.keys().copied().collect();
        match name {
            "blank" => h.add_blank(id.0 as u64, settings()),
            "deliver" => self.packets(n, true),
            "drop" => self.packets(n, false),
            "persist" => n.iter().for_each(|i| h.persist(node(*i), usize::MAX)),
            "settle" => h.settle(),
            "run" => h.run(first.ok_or("how long")?),
            "pass" => h.pass(first.ok_or("how long")?),
            "cut" => drop(h.cuts.insert((id, node(n[1])))),
            "apart" => all.into_iter().for_each(|o| h.cuts.extend([(id, o), (o, id)])),
            "heal" => h.cuts.clear(),
            "slow" => h.nodes.get_mut(&id).ok_or("who")?.slow = true,
            "quick" => h.nodes.get_mut(&id).ok_or("who")?.slow = false,
            "crash" => h.crash(id, 0),
            "restart" => h.restart(id),
            "wipe" => h.wipe(id),
            "propose" => h.propose(id, n.get(1).map_or(1, |c| *c as usize)),
            "read" => drop(h.read(id)),
            "campaign" => h.step(id, Input::Campaign, &[]),
            "compact" => h.compact(id, n[1]),
            "stray" => h.step(id, Input::Stray { peer: node(n[1]) }, &[]),
            "unreachable" => h.step(id, Input::Unreachable { peer: node(n[1]) }, &[]),
            _ => return Err(format!("unknown command {name}").into()),
        }
        Ok(())
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        self.0.trace = Some(Vec::new());
        match command.name.as_str() {
            "cluster" => self.cluster(command)?,
            "status" => return Ok(self.status().join("\n")),
            "change" => self.change(command)?,
            "transfer" => {
                let mut args = command.consume_args();
                let id = node(args.next_pos().ok_or("which node")?.parse()?);
                let to = args.take_key("to").map(str::parse).transpose()?.map(node);
                let by_hand = args.next_pos().is_some();
                self.0.step(id, Input::Transfer { to, by_hand }, &[]);
            }
            "form" => {
                let mut args = command.consume_args();
                let id = node(args.next_pos().ok_or("which node")?.parse()?);
                let voters = ids(args.take_key("voters").ok_or("voters")?)?.into_iter().map(member).collect();
                let w = args.take_key("w").ok_or("w")?.parse()?;
                self.0.form(id, Config::first(voters, w, None)?);
            }
            name => {
                let mut args = command.consume_args();
                let mut numbers = Vec::new();
                while let Some(n) = args.next_pos() {
                    numbers.push(n.parse()?);
                }
                self.simple(name, &numbers)?;
            }
        }
        Ok(self.0.trace.take().unwrap_or_default().join("\n"))
    }
}

#[test]
fn every_script_prints_what_it_says() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut names: Vec<_> = std::fs::read_dir(&scripts).expect("scripts").map(|e| e.expect("entry").path()).collect();
    names.sort();
    assert!(names.len() >= 35, "some scripts are missing");
    for name in names {
        eprintln!("{}", name.display());
        goldenscript::run(&mut Script(Host::new()), &name).expect("readable");
    }
}
