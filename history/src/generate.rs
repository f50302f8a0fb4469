//! Histories made from a register in memory, healthy or with an injected fault: to test checkers
//! against, this one and others.
//!
//! The register is right by construction: each operation takes effect at one moment between its start and its end, or,
//! when the answer is lost, at any later moment or never. Everything follows from the seed.

use crate::{Call, Condition, Consistency, History, Operation, Outcome};

/// What a generated history is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Clients, one operation at a time each.
    pub clients: u64,
    /// Operations in all, besides what an injected fault adds.
    pub operations: usize,
    /// Keys.
    pub keys: u64,
    /// Of 100 writes so many lose their answer.
    pub unknown_percent: u64,
    /// Of 100 answers so many tell no revision, as the Redis protocol never does.
    pub untold_percent: u64,
}

/// A fault put into a history. Each makes it one that no linearizable store could have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read is answered with a value that was overwritten before it began.
    StaleRead,
    /// An acknowledged write is gone in the end.
    LostWrite,
    /// A value is read that nobody wrote.
    PhantomWrite,
    /// A write takes effect again after a later one.
    DoubleApply,
    /// A refused write is seen.
    RefusedSeen,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 5] =
        [Fault::StaleRead, Fault::LostWrite, Fault::PhantomWrite, Fault::DoubleApply, Fault::RefusedSeen];
}

/// A small generator of random numbers (splitmix64): good enough to choose by, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as the seed says.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Whether something of this chance in 100 happens.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// Where a client is with its operation.
enum Stage {
    Idle,
    Asked(usize),
    Answered(usize, Outcome),
}

struct Register {
    dice: Dice,
    shape: Shape,
    now: u64,
    revision: u64,
    state: Vec<Option<(String, u64)>>,
    operations: Vec<Operation>,
    /// Writes whose answer was lost before they took effect.
    astray: Vec<usize>,
}

/// A healthy history.
#[must_use]
pub fn healthy(seed: u64, shape: Shape) -> History {
    let state = vec![None; shape.keys as usize];
    let (operations, astray) = (Vec::new(), Vec::new());
    let mut register = Register { dice: Dice::new(seed), shape, now: 0, revision: 0, state, operations, astray };
    let mut clients: Vec<Stage> = (0..shape.clients).map(|_| Stage::Idle).collect();
    loop {
        let full = register.operations.len() >= shape.operations;
        if full && clients.iter().all(|stage| matches!(stage, Stage::Idle)) {
            break;
        }
        register.now += register.dice.below(3);
        if !register.astray.is_empty() && register.dice.percent(10) {
            let lot = register.dice.below(register.astray.len() as u64) as usize;
            let number = register.astray.swap_remove(lot);
            if register.dice.percent(50) {
                register.apply(number);
            }
        }
        let client = register.dice.below(shape.clients) as usize;
        clients[client] = match std::mem::replace(&mut clients[client], Stage::Idle) {
            Stage::Idle if full => Stage::Idle,
            Stage::Idle => Stage::Asked(register.ask(client as u64)),
            Stage::Asked(number) => register.take_effect(number),
            Stage::Answered(number, outcome) => {
                register.operations[number].returned = Some(register.now);
                register.operations[number].outcome = outcome;
                Stage::Idle
            }
        };
    }
    History { operations: register.operations }
}

impl Register {
    fn ask(&mut self, process: u64) -> usize {
        let number = self.operations.len();
        let key = self.dice.below(self.shape.keys);
        let at = |state: &Option<(String, u64)>| state.as_ref().map_or(1, |(_, revision)| *revision);
        let condition = match self.dice.below(10) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2..4 => Condition::Revision(at(&self.state[key as usize]).saturating_sub(self.dice.below(3))),
            _ => Condition::None,
        };
        let consistency = match self.dice.below(8) {
            0 => Consistency::Local,
            1 => Consistency::Session,
            _ => Consistency::Linearizable,
        };
        let call = match self.dice.below(10) {
            0 => Call::Delete { condition },
            1..5 => Call::Write { value: format!("v{number}"), condition },
            _ => Call::Read { consistency },
        };
        let (key, invoked, outcome) = (format!("k{key}"), self.now, Outcome::Unknown);
        self.operations.push(Operation { process, key, invoked, returned: None, call, outcome });
        number
    }

    fn place(&self, number: usize) -> usize {
        self.operations[number].key[1..].parse().unwrap_or(0)
    }

    fn take_effect(&mut self, number: usize) -> Stage {
        let reads = matches!(self.operations[number].call, Call::Read { .. });
        if !reads && self.dice.percent(5) {
            return Stage::Answered(number, Outcome::Refused);
        }
        let lost = !reads && self.dice.percent(self.shape.unknown_percent);
        if lost && self.dice.percent(50) {
            self.astray.push(number);
            return Stage::Idle;
        }
        let outcome = self.apply(number);
        if lost { Stage::Idle } else { Stage::Answered(number, outcome) }
    }

    fn apply(&mut self, number: usize) -> Outcome {
        let place = self.place(number);
        let current = self.state[place].clone();
        let told = !self.dice.percent(self.shape.untold_percent);
        let holds = |condition: &Condition| match condition {
            Condition::None => true,
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Revision(revision) => current.as_ref().is_some_and(|(_, r)| r == revision),
        };
        let to = match &self.operations[number].call {
            Call::Read { .. } => {
                let (value, revision) = current.unzip();
                return Outcome::Found { value, revision: revision.filter(|_| told) };
            }
            Call::Write { value, condition } if holds(condition) => Some(value.clone()),
            Call::Delete { condition } if holds(condition) && current.is_some() => None,
            _ => return Outcome::Failed { revision: current.map(|(_, r)| r).filter(|_| told) },
        };
        self.revision += 1;
        self.state[place] = to.map(|value| (value, self.revision));
        Outcome::Done { revision: told.then_some(self.revision) }
    }
}

/// Puts a fault into a history, at its end (a stale read: anywhere); `false` if there is no place for it.
pub fn inject(history: &mut History, fault: Fault, seed: u64) -> bool {
    let mut dice = Dice::new(seed);
    if fault == Fault::StaleRead {
        return inject_stale_read(history, &mut dice);
    }
    let operations = &mut history.operations;
    let Some(key) = operations.first().map(|o| o.key.clone()) else { return false };
    let mut now = operations.iter().flat_map(|o| [o.invoked, o.returned.unwrap_or(0)]).max().unwrap_or(0);
    let mut add = |call: Call, outcome: Outcome| {
        let operation =
            Operation { process: 0, key: key.clone(), invoked: now + 1, returned: Some(now + 2), call, outcome };
        now += 2;
        operations.push(operation);
    };
    let write = |value: &str| Call::Write { value: value.to_owned(), condition: Condition::None };
    let read = Call::Read { consistency: Consistency::Linearizable };
    let found = |value: &str| Outcome::Found { value: Some(value.to_owned()), revision: None };
    let done = Outcome::Done { revision: None };
    match fault {
        Fault::StaleRead => {}
        Fault::LostWrite | Fault::DoubleApply => {
            add(write("kept"), done.clone());
            add(write("lost"), done);
            if fault == Fault::DoubleApply {
                add(read.clone(), found("lost"));
            }
            add(read, found("kept"));
        }
        Fault::PhantomWrite => add(read, found("phantom")),
        Fault::RefusedSeen => {
            add(write("refused"), Outcome::Refused);
            add(read, found("refused"));
        }
    }
    true
}

/// Answers a linearizable read with a value that an acknowledged write had replaced before the read began.
pub fn inject_stale_read(history: &mut History, dice: &mut Dice) -> bool {
    let operations = &history.operations;
    let mut places = Vec::new();
    let done = |o: &&Operation| o.written().is_some() && matches!(o.outcome, Outcome::Done { .. });
    let mut keys: std::collections::BTreeMap<&str, (Vec<&Operation>, Vec<usize>)> = std::collections::BTreeMap::new();
    for (number, operation) in operations.iter().enumerate() {
        let (writes, reads) = keys.entry(&operation.key).or_default();
        if done(&operation) {
            writes.push(operation);
        } else if operation.call == (Call::Read { consistency: Consistency::Linearizable })
            && matches!(operation.outcome, Outcome::Found { .. })
        {
            reads.push(number);
        }
    }
    for (writes, reads) in keys.values() {
        for number in reads {
            let before = operations[*number].invoked;
            let Some(newer) = writes.iter().filter(|w| w.end() < before).max_by_key(|w| w.invoked) else { continue };
            if let Some(older) = writes.iter().filter(|w| w.end() < newer.invoked).max_by_key(|w| w.end()) {
                places.push((*number, (*older).clone()));
            }
        }
    }
    if places.is_empty() {
        return false;
    }
    let (number, older) = places.swap_remove(dice.below(places.len() as u64) as usize);
    let Outcome::Done { revision } = older.outcome else { return false };
    let value = older.written().map(str::to_owned);
    history.operations[number].outcome = Outcome::Found { value, revision };
    true
}
