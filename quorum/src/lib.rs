//! The replication protocol of Quorate: Raft, with the user's write quorum made part of it.
//!
//! This crate is pure. It has no clock, socket, file, random source or thread: [`Replica::step`] takes one
//! [`Input`] and the time, and leaves the [`Effect`]s that follow. The same inputs give the same effects, on a
//! server as in a simulator.
//!
//! # The log
//!
//! A cluster agrees on one thing only: a *log*, a growing list of entries. Every node that applies the same entries in
//! the same order holds the same data. An entry has an [`Index`] (its place) and a [`Term`] (the reign in which it was
//! written), and the two together, a [`Position`], name the whole log up to there: a follower takes entries only if it
//! has the entry right before them. The core sees entries as [`Head`]s; their payloads stay with the host.
//!
//! # Terms and elections
//!
//! Time is cut into *terms*. In each at most one node leads, orders all writes, and sends them to the others. A
//! follower that has heard nothing for an election timeout first asks whether it would be elected (a *pre-vote*, which
//! disturbs nobody), then enters the next term and asks for votes. Two who do so at once would split the votes, so
//! nodes give way to each other while it is only a question (`gives_way` in `replica/candidate.rs`). A voter gives one
//! vote a term, to a candidate whose log is at least as up to date as its own, and remembers it on disk before it
//! answers. A new leader appends an empty entry: entries of earlier terms commit only through one of its own.
//!
//! # Three quorums
//!
//! The user names N, the voters, and W, how many of them hold a write durably before it is
//! acknowledged. [`Quorum`] derives:
//!
//! - E, votes that elect: `max(N − W + 1, ⌊N/2⌋ + 1)`. Every election then meets a holder of every acknowledged write,
//!   and every other election.
//! - C, copies that commit: `N − E + 1`. Every election meets a holder of every committed entry. C voters also confirm
//!   a read, and keep a leader in office.
//!
//! Take N = 5 and W = 2. A write is acknowledged when two disks have it. To be sure to meet one of those two, a
//! candidate needs E = 4 votes: any four of five. C is 2 as well. Three nodes may fail and writes go on, as long as the
//! leader is not among them; to replace the leader, no more than one may be away. With N = 3 and W = 3, E and C are 2:
//! with one node away, leaders are elected and entries commit at two copies, but clients' writes wait for the third.
//! [`Effect::Commit`] and [`Effect::Acknowledge`] are therefore two things.
//!
//! Who votes and counts stands in the log too, as [`Config`] entries, the newest of which is in force at once. A
//! change of voters or of W goes through a *joint* configuration in which every decision needs the quorum of the old
//! half and that of the new one.
//!
//! # Nodes that hold nothing
//!
//! A *blank* node has no log and no configuration. It votes like any other, for whoever asks: a founder whose own disk
//! was the only one to hold the first configuration when it stopped could never lead again without the votes of the
//! blank nodes named in it. That is safe because a vote is counted by [`NodeId`], the name of a disk's contents, and
//! only if the *candidate's* configuration names that id as a voter:
//!
//! - *It has confirmed nothing.* Every argument for an election rests on a voter who holds what was confirmed and
//!   refuses a log without it. A node that is blank under an id has never confirmed anything under that id: a disk that
//!   was lost, or is found damaged, gets a new id (duty 1), which no configuration names before it has caught up as a
//!   learner. Votes of such a node reach no one's count, asked for or not.
//! - *One vote a term.* Term and vote are on its disk before the answer leaves, blank or not, and a lost
//!   vote is damage: a new id.
//! - *Two founders may court it.* Terms are shared between the clusters that court a blank node, so it votes once a
//!   term in all of them together. A vote binds it to neither; the first configuration it stores does, and from then on
//!   it is to the other cluster like a node that is gone. Since it never confirmed that cluster's first configuration,
//!   that cluster does not open without replacing it.
//! - *The founder's first term* is nobody else's: a candidate of this cluster holds the founder's entry, and
//!   campaigns in a later term.
//! - *Leases and pre-votes* hold for it as for others: it stands by a leader whose heartbeat it answered, and for an
//!   election timeout after it started.
//!
//! What remains is what remains for every node: a folder put back from a copy made earlier, blank or not, has
//! forgotten under its old id.
//!
//! # What the host must do
//!
//! 1. Start a [`Replica`] from what the disk holds ([`Recovered`]): term and vote, the log, the commit index as far as
//!    known. A disk that was lost or whose log is damaged gets a new [`NodeId`] and an empty log.
//! 2. Pass each event as an [`Input`] together with the time; [`Input::Tick`] every few milliseconds, before
//!    anything else after a pause.
//! 3. Carry out the effects of a step in order and before the next step.
//! 4. Make [`Effect::SaveVote`], [`Effect::Write`] and [`Effect::InstallSnapshot`] durable in the order given, and
//!    report the highest token done with [`Input::Persisted`]. Steps go on meanwhile: the core holds back every message
//!    that promises durability.
//! 5. Keep the records of the log. They come from the proposals or the message of the step that said [`Effect::Write`];
//!    send those of an append along with it.
//! 6. Apply entries up to [`Effect::Commit`] in order, and serve a read once what [`Effect::ReadReady`] names is
//!    applied. Tell clients at [`Effect::Acknowledge`]; what was appended and not acknowledged when leadership ends
//!    has an unknown outcome.
//! 7. Take snapshots of the applied state, and report [`Input::Compacted`] for what is in one, applied and durable in
//!    the log; leave the followers a tail of entries, so that a snapshot on its way is not outrun. Answer every
//!    [`Effect::SendSnapshot`] with [`Input::SnapshotSent`], failed or not. A snapshot received that is not answered by
//!    [`Effect::InstallSnapshot`] was not needed: drop it.
//! 8. Deliver messages of the cluster's own nodes only, under an id of the cluster drawn anew for every
//!    [`Input::Form`]. A node is bound to a cluster by the first configuration it stores. Loss, repetition
//!    and reordering are harmless; a broken connection is reported ([`Input::Unreachable`]) so that what was
//!    lost is sent again soon.
//! 9. Stop the process when a write or fsync fails, and set the data aside at [`Effect::SetAside`].
//!
//! # A cluster of one
//!
//! ```
//! use quorum::{Config, Effect, Index, Input, Member, NodeId, Recovered, Replica, Settings, Time};
//!
//! let text = String::new;
//! let me = Member { id: NodeId(1), name: "one".into(), peer: text(), http: text(), tcp: text() };
//! let mut replica = Replica::new(me.id, Settings::default(), Recovered::default(), Time(0));
//!
//! // A host whose disk is done at once, and who has nobody to talk to.
//! let mut acknowledged = Index(0);
//! let mut drive = |replica: &mut Replica, input: Input| {
//!     let mut inputs = vec![input];
//!     while let Some(input) = inputs.pop() {
//!         let mut effects = Vec::new();
//!         replica.step(Time(1), input, &mut effects);
//!         for effect in effects {
//!             match effect {
//!                 Effect::SaveVote { token, .. } | Effect::Write { token, .. } => inputs.insert(0, Input::Persisted { token }),
//!                 Effect::Acknowledge { index } => acknowledged = index,
//!                 _ => {}
//!             }
//!         }
//!     }
//!     acknowledged
//! };
//!
//! drive(&mut replica, Input::Form(Box::new(Config::first(vec![me], 1, None)?)));
//! // Entries 1 and 2 are the configuration, forming and formed; the client's write is the third.
//! assert_eq!(drive(&mut replica, Input::Propose { sizes: vec![100] }), Index(3));
//! # Ok::<(), quorum::QuorumError>(())
//! ```

pub mod bugs;
mod check;
mod chunks;
mod config;
mod effect;
mod input;
mod log;
mod message;
mod progress;
mod promise;
pub mod quorum;
mod read;
mod replica;
mod settings;
mod types;

pub use config::{Change, Config, Failover, Member, Outgoing, SharedConfig};
pub use effect::{Effect, Refusal};
pub use input::Input;
pub use message::{Body, Head, Kind, Message};
pub use quorum::{Quorum, QuorumError};
pub use replica::{Peer, Recovered, Replica};
pub use settings::Settings;
pub use types::{ClusterId, Index, InvalidId, NodeId, Position, Role, Term, Time, Token};
