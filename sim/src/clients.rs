//! Clients: each does one thing at a time at some node, waits a while, and notes what it was told. A timeout is an
//! unknown outcome, never a failure. Where the plan says so, some writes have idempotency keys: while their outcome is
//! unknown they are asked for again, at any node, and now and then also when it is long known.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate::handle::{ReadError, WriteError, Written};
use quorate::kv::{self, Command, Condition, Value};
use quorate_history::{Call, Consistency, History, Operation, Outcome};
use quorum::{Index, Role};

use crate::cluster::{Cargo, Cluster, Event};
use crate::dice::Dice;
use crate::host::Wait;
use crate::invariants::no_dirty_read;
use crate::plan::Plan;
use crate::truth::{Chronicle, Stored, Violation};

/// How often a write with an idempotency key is asked for at most.
const TRIES: u32 = 6;

/// What comes back to a client's node.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Of a write.
    Write(Result<Written, WriteError>),
    /// The index of a read.
    Barrier(Result<Index, ReadError>),
}

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Want {
    /// A write, and on how many disks at least.
    Write(Command, Option<usize>),
    /// A linearizable read.
    Read(Bytes),
    /// A read of whatever the node has.
    Local(Bytes),
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Op {
    client: usize,
    host: usize,
    want: Want,
    invoked: u64,
    /// What was known to someone when it began.
    floor: u64,
    /// How often it was asked for, this time included.
    tries: u32,
}

/// What clients were told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Writes acknowledged.
    pub written: u64,
    /// Linearizable reads answered.
    pub read: u64,
    /// Local reads answered.
    pub local: u64,
    /// Requests refused for certain.
    pub refused: u64,
    /// Unknown outcomes.
    pub unknown: u64,
    /// Writes that were asked for again and had been done.
    pub repeated: u64,
}

/// All clients.
pub struct Clients {
    dice: Dice,
    ops: BTreeMap<u64, Op>,
    next: u64,
    /// The last revision each client saw of each key.
    revisions: BTreeMap<(usize, Bytes), u64>,
    /// What a client asks for again, and how often it has.
    again: BTreeMap<usize, (Want, u32)>,
    retries: bool,
    /// Writes with idempotency keys that were acknowledged.
    known: Vec<Command>,
    /// What they were told.
    pub tally: Tally,
    /// What they asked and were told, one by one, but for increments, which histories do not have.
    pub history: History,
    /// Whether they send on.
    pub quiet: bool,
    think: u64,
    keys: u64,
}

impl Clients {
    /// The clients of a plan.
    #[must_use]
    pub fn new(plan: &Plan, dice: Dice) -> Clients {
        Clients {
            dice,
            ops: BTreeMap::new(),
            next: 0,
            revisions: BTreeMap::new(),
            again: BTreeMap::new(),
            retries: plan.retries,
            known: Vec::new(),
            tally: Tally::default(),
            history: History::default(),
            quiet: false,
            think: plan.think,
            keys: plan.keys as u64,
        }
    }

    /// The copies that a write asked for.
    #[must_use]
    pub fn copies_of(&self, op: u64) -> usize {
        match self.ops.get(&op).map(|o| &o.want) {
            Some(Want::Write(_, copies)) => copies.unwrap_or(0),
            _ => 0,
        }
    }

    /// What a client is told of a write must be what it led to.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_outcome(&mut self, op: u64, chronicle: &Chronicle, written: &Written) -> Result<(), Violation> {
        let Some(Want::Write(command, _)) = self.ops.get(&op).map(|o| &o.want) else { return Ok(()) };
        let truth = chronicle.at(written.revision);
        let same = truth.is_some_and(|t| {
            // A retry is answered by the term that it is asked in.
            let term = t.term == written.term || written.repeated;
            t.payload == command.encode() && t.outcome.as_ref() == Some(&written.outcome) && term
        });
        self.tally.repeated += u64::from(written.repeated);
        if let Command::Once { key, .. } = command
            && chronicle.done_at(key) != Some(written.revision)
        {
            let what =
                format!("{command:?} is acknowledged as {written:?}, and was done at {:?}", chronicle.done_at(key));
            return Violation::of("durability", what);
        }
        if same {
            return Ok(());
        }
        let what = format!("a write is acknowledged as {written:?}; committed there is {truth:?}");
        Violation::of("durability", what)
    }

    /// Whoever still waits will never know.
    pub fn end_history(&mut self) {
        let open: Vec<u64> = self.ops.keys().copied().collect();
        open.into_iter().for_each(|op| self.note(op, None, &Outcome::Unknown));
    }

    fn note_written(&mut self, number: u64, now: u64, written: &Written) {
        let outcome = match &written.outcome {
            kv::Outcome::ConditionFailed { current } => Outcome::Failed { revision: *current },
            kv::Outcome::Deleted { count: 0 } => Outcome::Failed { revision: None },
            _ => Outcome::Done { revision: Some(written.revision) },
        };
        self.note(number, Some(now), &outcome);
    }

    /// Notes what came of a request, for each of its keys. A read that nobody answered says nothing. Histories know no
    /// requests that are one: where clients ask again there are none.
    fn note(&mut self, number: u64, returned: Option<u64>, outcome: &Outcome) {
        let Some(op) = self.ops.get(&number).filter(|_| !self.retries) else { return };
        let read = |consistency| Call::Read { consistency };
        let calls: Vec<(&Bytes, Call)> = match &op.want {
            Want::Read(_) | Want::Local(_) if !matches!(outcome, Outcome::Found { .. }) => Vec::new(),
            Want::Read(key) => vec![(key, read(Consistency::Linearizable))],
            Want::Local(key) => vec![(key, read(Consistency::Local))],
            Want::Write(Command::Put { key, value, condition: c }, _) => {
                vec![(key, Call::Write { value: text(&value.data), condition: condition(*c) })]
            }
            Want::Write(Command::PutMany { pairs }, _) => {
                let write = |value: &Value| Call::Write { value: text(&value.data), condition: Default::default() };
                pairs.iter().map(|(key, value)| (key, write(value))).collect()
            }
            Want::Write(Command::Delete { key, condition: c }, _) => {
                vec![(key, Call::Delete { condition: condition(*c) })]
            }
            Want::Write(Command::DeleteMany { .. } | Command::Increment { .. } | Command::Once { .. }, _) => Vec::new(),
        };
        let noted = calls.into_iter().map(|(key, call)| Operation {
            // What is asked in the end, through every node at once, is asked by nobody twice.
            process: if op.client == usize::MAX { number + (1 << 32) } else { op.client as u64 },
            key: text(key),
            invoked: op.invoked,
            returned,
            call,
            outcome: outcome.clone(),
        });
        self.history.operations.extend(noted);
    }

    fn draw(&mut self, client: usize, voters: usize) -> Want {
        if self.retries && self.dice.chance(150) && !self.known.is_empty() {
            let which = self.dice.below(self.known.len() as u64) as usize;
            return Want::Write(self.known[which].clone(), None);
        }
        match self.draw_plain(client, voters) {
            Want::Write(command, copies) if self.retries && self.dice.chance(700) => {
                Want::Write(command.once(Bytes::from(format!("r{client}-{}", self.next))), copies)
            }
            want => want,
        }
    }

    /// What was done once cannot be done twice: whoever does not know asks again.
    fn plan_retry(&mut self, number: u64) {
        let Some(op) = self.ops.get(&number) else { return };
        if let Want::Write(Command::Once { .. }, _) = op.want
            && op.tries < TRIES
        {
            self.again.insert(op.client, (op.want.clone(), op.tries));
        }
    }

    fn draw_plain(&mut self, client: usize, voters: usize) -> Want {
        let key = Bytes::from(format!("k{}", self.dice.below(self.keys)));
        self.next += 1;
        let value = Value::bytes(Bytes::from(format!("c{client}-{}", self.next)));
        let seen = self.revisions.get(&(client, key.clone())).copied();
        let condition = match self.dice.below(10) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2..=4 => seen.map_or(Condition::None, Condition::Revision),
            _ => Condition::None,
        };
        let copies = (self.dice.chance(60)).then(|| self.dice.within(1, voters.max(1) as u64) as usize);
        match self.dice.below(20) {
            0..=7 => Want::Write(Command::Put { key, value, condition }, copies),
            8 => Want::Write(Command::Delete { key, condition }, copies),
            9 => Want::Write(Command::Increment { key: Bytes::from_static(b"n"), by: 1 }, copies),
            10 => {
                let other = Bytes::from(format!("m{}", self.dice.below(self.keys)));
                Want::Write(Command::PutMany { pairs: vec![(key, value.clone()), (other, value)] }, copies)
            }
            11..=16 => Want::Read(key),
            _ => Want::Local(key),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn condition(of: Condition) -> quorate_history::Condition {
    match of {
        Condition::None => quorate_history::Condition::None,
        Condition::Absent => quorate_history::Condition::Absent,
        Condition::Present => quorate_history::Condition::Present,
        Condition::Revision(revision) => quorate_history::Condition::Revision(revision),
    }
}

impl Cluster {
    /// A client's next request.
    pub(crate) fn client(&mut self, client: usize) -> Result<(), Violation> {
        if self.clients.quiet {
            return Ok(());
        }
        let host = self.clients.dice.below(self.hosts.len() as u64) as usize;
        let (want, tries) = match self.clients.again.remove(&client) {
            Some(again) => again,
            None => (self.clients.draw(client, self.plan.nodes), 0),
        };
        self.ask_again(client, host, want, tries)
    }

    /// Has a client ask something of a host.
    ///
    /// # Errors
    /// When the answer comes at once and must not be.
    pub fn ask(&mut self, client: usize, host: usize, want: Want) -> Result<(), Violation> {
        self.ask_again(client, host, want, 0)
    }

    fn ask_again(&mut self, client: usize, host: usize, want: Want, tries: u32) -> Result<(), Violation> {
        self.clients.next += 1;
        let number = self.clients.next;
        let floor = match want {
            Want::Read(_) => self.chronicle().map_or(0, |c| c.known),
            _ => 0,
        };
        let op = Op { client, host, want: want.clone(), invoked: self.now, floor, tries: tries + 1 };
        self.clients.ops.insert(number, op);
        let patience = self.plan.request_timeout * 5 / 4;
        self.after(patience, Event::Patience(number));
        if self.trace.is_kept() {
            self.say(host, || format!("client {client} asks {number}: {want:?}"));
        }
        self.asked(number)
    }

    /// A node reads a client's request.
    pub(crate) fn asked(&mut self, number: u64) -> Result<(), Violation> {
        let Some((host, want)) = self.clients.ops.get(&number).map(|op| (op.host, op.want.clone())) else {
            return Ok(());
        };
        if self.hosts[host].paused_until > self.now {
            // Meanwhile it waits in a socket, and may be given up like any other.
            self.when_it_goes_on(host, Event::Asked(number));
            return Ok(());
        }
        let Some(p) = &mut self.hosts[host].process else {
            return self.answered(number, host, Reply::Write(Err(WriteError::NoLeader)));
        };
        if let Want::Local(_) = want {
            p.waits.push(Wait::Read(number, 0));
            return self.pump(host, false);
        }
        let state = p.machine.state();
        if state.role == Role::Leader {
            self.serve(number, host, None);
            return self.pump(host, false);
        }
        let leader = state.leader.as_ref().and_then(|m| p.addresses.get(&m.id)).copied();
        match leader {
            Some(leader) if leader != host => {
                self.ship(host, leader, None, Cargo::Call(number));
                Ok(())
            }
            _ => self.answered(number, host, Reply::Write(Err(WriteError::NoLeader))),
        }
    }

    /// Puts a request to the node of a host, as the leader that it is taken for.
    pub(crate) fn serve(&mut self, op: u64, host: usize, back: Option<usize>) {
        let clock = self.clock(host);
        let Some(want) = self.clients.ops.get(&op).map(|o| o.want.clone()) else { return };
        let Some(p) = &mut self.hosts[host].process else { return };
        match want {
            Want::Write(command, copies) => {
                let answer = p.machine.write(&command, copies, clock);
                p.waits.push(Wait::Write(op, back, answer));
            }
            Want::Read(_) => match p.machine.barrier() {
                Ok(answer) => p.waits.push(Wait::Barrier(op, back, answer)),
                Err(_) => self.clients.tally.refused += 1,
            },
            Want::Local(_) => {}
        }
    }

    /// An answer has reached the node that a client asked.
    pub(crate) fn answered(&mut self, number: u64, host: usize, reply: Reply) -> Result<(), Violation> {
        let Some(op) = self.clients.ops.get(&number) else { return Ok(()) };
        match reply {
            Reply::Barrier(Ok(index)) => {
                if op.host == host
                    && let Some(p) = &mut self.hosts[host].process
                {
                    p.waits.push(Wait::Read(number, index.0));
                }
                return Ok(());
            }
            Reply::Write(Ok(written)) => {
                self.clients.tally.written += 1;
                if let Want::Write(command @ Command::Once { .. }, _) = &op.want
                    && !written.repeated
                {
                    self.clients.known.push(command.clone());
                }
                let client = op.client;
                if let Want::Write(command, _) = &op.want {
                    for key in command.keys() {
                        self.clients.revisions.insert((client, key.clone()), written.revision);
                    }
                }
                let command = match &self.clients.ops[&number].want {
                    Want::Write(command, _) => command.encode(),
                    _ => Bytes::new(),
                };
                self.clients.note_written(number, self.now, &written);
                self.learn(written.revision);
                if let Some(chronicle) = self.chronicles.values_mut().max_by_key(|c| c.last()) {
                    chronicle.acknowledged.insert(written.revision, command);
                }
                self.say(host, || format!("answers {number}: written at {}", written.revision));
            }
            Reply::Write(Err(WriteError::Unknown(_))) => {
                self.clients.tally.unknown += 1;
                self.clients.note(number, None, &Outcome::Unknown);
                self.clients.plan_retry(number);
            }
            Reply::Write(Err(_)) | Reply::Barrier(Err(_)) => {
                self.clients.tally.refused += 1;
                let tries = op.tries;
                self.clients.note(number, Some(self.now), &Outcome::Refused);
                // That this try was refused says nothing of the one before.
                if tries > 1 {
                    self.clients.plan_retry(number);
                }
            }
        }
        self.done(number);
        Ok(())
    }

    /// A client knows of this entry now.
    fn learn(&mut self, index: u64) {
        if let Some(chronicle) = self.chronicles.values_mut().max_by_key(|c| c.last()) {
            chronicle.known = chronicle.known.max(index);
        }
    }

    /// A node answers a read from what it has applied.
    pub(crate) fn read(&mut self, host: usize, number: u64, _index: u64) -> Result<(), Violation> {
        let Some(op) = self.clients.ops.get(&number).cloned() else { return Ok(()) };
        let (Want::Read(key) | Want::Local(key)) = &op.want else { return Ok(()) };
        let Some(p) = &self.hosts[host].process else { return Ok(()) };
        let store = p.machine.store();
        let Ok(item) = store.try_get(key) else { return Ok(()) };
        if store.failed().is_some() {
            return Ok(());
        }
        let applied = store.applied().index.0;
        let got = item.map(|i| Stored { value: i.value.data, revision: i.revision, version: i.version });
        if applied > 0
            && let Some(chronicle) = p.machine.state().cluster.and_then(|c| self.chronicles.get(&c.0))
        {
            no_dirty_read::check(chronicle, &self.hosts[host].name, key, got.as_ref(), applied, op.floor)?;
        }
        if let Some(got) = &got {
            self.clients.revisions.insert((op.client, key.clone()), got.revision);
        }
        if matches!(op.want, Want::Read(_)) {
            self.clients.tally.read += 1;
            // Whatever was shown is known.
            self.learn(got.as_ref().map_or(0, |g| g.revision));
        } else {
            self.clients.tally.local += 1;
        }
        let (value, revision) = got.as_ref().map(|g| (text(&g.value), g.revision)).unzip();
        self.clients.note(number, Some(self.now), &Outcome::Found { value, revision });
        self.say(host, || format!("answers {number}: {got:?} at {applied}"));
        self.done(number);
        Ok(())
    }

    /// A client waits no longer.
    pub(crate) fn client_gives_up(&mut self, number: u64) {
        if let Some(op) = self.clients.ops.get(&number) {
            debug_assert!(op.invoked <= self.now);
            if matches!(op.want, Want::Write(..)) {
                self.clients.tally.unknown += 1;
                self.clients.note(number, None, &Outcome::Unknown);
                self.clients.plan_retry(number);
            }
            self.done(number);
        }
    }

    /// Whoever waits at a host that is gone sees its connection break.
    pub(crate) fn clients_lost(&mut self, host: usize) {
        let ops: Vec<u64> = self.clients.ops.iter().filter(|(_, op)| op.host == host).map(|(n, _)| *n).collect();
        ops.into_iter().for_each(|op| self.client_gives_up(op));
    }

    fn done(&mut self, number: u64) {
        let Some(op) = self.clients.ops.remove(&number) else { return };
        if op.client < self.plan.clients {
            let think = self.clients.think;
            let pause = self.clients.dice.within(think / 4, think * 2);
            self.after(pause, Event::Client(op.client));
        }
    }
}
