//! What varies between two models: the bounds, the rules (the right ones, or with one of them
//! broken), and the configurations.
//!
//! [`Table`] asks the product's [`quorum::Config`] once for every set of nodes and remembers the answers; nothing is
//! counted here, except for the rules that are wrong on purpose.

use quorum::{Config, Member, NodeId};

/// A set of nodes, a bit each.
pub type Set = u8;

/// A configuration: voters and W, and the half being left while it is joint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conf {
    /// The voters.
    pub voters: Set,
    /// W.
    pub w: u8,
    /// The voters and W before the change.
    pub old: Option<(Set, u8)>,
}

impl Conf {
    /// A configuration of its own, not joint.
    #[must_use]
    pub const fn new(voters: Set, w: u8) -> Conf {
        Conf { voters, w, old: None }
    }

    /// The configuration as the product has it, made by its own functions.
    #[must_use]
    pub fn real(self) -> Config {
        let Some((voters, w)) = self.old else { return simple(self.voters, self.w) };
        let before = simple(voters, w);
        let mut change = before.unchanged();
        change.voters = members(self.voters);
        change.write_quorum = usize::from(self.w);
        let joint = before.changed(change);
        assert!(joint.is_joint(), "a change of voters or W is joint");
        joint
    }
}

fn simple(voters: Set, w: u8) -> Config {
    Config::first(members(voters), usize::from(w), None).expect("a model has possible configurations alone")
}

fn members(voters: Set) -> Vec<Member> {
    let text = String::new;
    let member = |n: u32| Member { id: NodeId(n.into()), name: text(), peer: text(), http: text(), tcp: text() };
    (0..8).filter(|n| voters >> n & 1 == 1).map(member).collect()
}

/// How the size of an election's quorum is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// As the product does: `max(N − W + 1, ⌊N/2⌋ + 1)`.
    Real,
    /// Wrong: `N − W + 1` alone. Every election meets every acknowledged write, but two elections need not meet.
    MeetsWritesAlone,
}

/// The rules. [`Rules::REAL`] are the product's; every other value of a field is a mistake somebody could make.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The election quorum.
    pub election: Election,
    /// Whether a change goes through a joint configuration.
    pub joint: bool,
    /// Whether only entries of the leader's own term commit by counting.
    pub own_term_commits: bool,
    /// Whether a copy counts only when it is on disk.
    pub disk_before_ack: bool,
    /// Whether a wiped node is another node. If not, it comes back empty under its old identity.
    pub wiped_is_another: bool,
    /// Whether a node that holds nothing votes. It may, as long as a lost disk is a lost identity.
    pub blank_votes: bool,
    /// Whether a write is acknowledged at W copies, not at C.
    pub acknowledge_at_w: bool,
    /// Whether a change waits until an entry of the leader's own term is committed.
    pub own_entry_before_change: bool,
}

impl Rules {
    /// The product's rules.
    pub const REAL: Rules = Rules {
        election: Election::Real,
        joint: true,
        own_term_commits: true,
        disk_before_ack: true,
        wiped_is_another: true,
        blank_votes: true,
        acknowledge_at_w: true,
        own_entry_before_change: true,
    };
}

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nodes in all, voters or not.
    pub nodes: u8,
    /// The highest term.
    pub terms: u8,
    /// Clients' writes.
    pub writes: u8,
    /// Changes of the configuration that may be begun.
    pub changes: u8,
    /// Disks that may be lost.
    pub wipes: u8,
    /// Whether logs reach the disk by a step of their own (and may be lost before it), or at once. At
    /// once is far fewer states.
    pub slow_disks: bool,
}

/// All configurations of a model, and what every set of nodes can do under each.
#[derive(Debug)]
pub struct Table {
    confs: Vec<Conf>,
    powers: Vec<[Powers; 1 << 5]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Powers {
    elects: bool,
    commits: bool,
    acknowledges: bool,
}

impl Table {
    /// The configurations between any two of `simple`, and the joint ones from each to each.
    #[must_use]
    pub fn new(simple: &[Conf], election: Election) -> Table {
        let joint = simple.iter().flat_map(|from| {
            let others = simple.iter().filter(move |to| *to != from);
            others.map(|to| Conf { old: Some((from.voters, from.w)), ..*to })
        });
        let confs: Vec<Conf> = simple.iter().copied().chain(joint).collect();
        let powers = confs.iter().map(|conf| powers_of(&conf.real(), election)).collect();
        Table { confs, powers }
    }

    /// The configuration of this number.
    #[must_use]
    pub fn conf(&self, number: u8) -> Conf {
        self.confs[usize::from(number)]
    }

    /// How many configurations there are.
    #[must_use]
    pub fn count(&self) -> u8 {
        u8::try_from(self.confs.len()).unwrap_or(u8::MAX)
    }

    /// The number of a configuration, if the model has it.
    #[must_use]
    pub fn find(&self, conf: Conf) -> Option<u8> {
        self.confs.iter().position(|c| *c == conf).and_then(|at| u8::try_from(at).ok())
    }

    /// The number of a configuration.
    #[must_use]
    pub fn number(&self, conf: Conf) -> u8 {
        self.find(conf).expect("every configuration of the model is in its table")
    }

    /// Whether the nodes of `set` elect a leader.
    #[must_use]
    pub fn elects(&self, number: u8, set: Set) -> bool {
        self.power(number, set).elects
    }

    /// Whether copies on `set` commit.
    #[must_use]
    pub fn commits(&self, number: u8, set: Set) -> bool {
        self.power(number, set).commits
    }

    /// Whether copies on `set` acknowledge.
    #[must_use]
    pub fn acknowledges(&self, number: u8, set: Set) -> bool {
        self.power(number, set).acknowledges
    }

    fn power(&self, number: u8, set: Set) -> Powers {
        self.powers[usize::from(number)][usize::from(set)]
    }
}

fn powers_of(config: &Config, election: Election) -> [Powers; 1 << 5] {
    let mut powers = [Powers::default(); 1 << 5];
    for (set, power) in powers.iter_mut().enumerate() {
        let has = |id: NodeId| set >> id.0 & 1 == 1;
        power.elects = match election {
            Election::Real => config.elects(has),
            Election::MeetsWritesAlone => config
                .halves()
                .all(|(voters, quorum)| voters.iter().filter(|m| has(m.id)).count() > quorum.voters() - quorum.write()),
        };
        power.commits = config.committed(|id| u8::from(has(id))) == Some(1);
        assert_eq!(power.commits, config.confirms(has), "who commits also confirms");
        power.acknowledges = config.acknowledged(|id| u8::from(has(id))) == Some(1);
    }
    powers
}
