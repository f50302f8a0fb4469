//! What was wrong once, message by message: too rare for the random runs to meet every time.
#![allow(clippy::expect_used)]

use std::sync::Arc;

use quorum::{
    Body, Config, Effect, Head, Index, Input, Kind, Member, Message, NodeId, Position, Recovered, Refusal, Replica,
    Settings, Term, Time,
};

const LEADER: NodeId = NodeId(2);

fn config() -> Config {
    let text = String::new;
    let member = |id| Member { id: NodeId(id), name: text(), peer: text(), http: text(), tcp: text() };
    let config = Config::first((1..=3).map(member).collect(), 2, None).expect("legal");
    Config { formed: true, ..config }
}

fn command(term: u64) -> Head {
    Head { term: Term(term), kind: Kind::Command, bytes: 10 }
}

/// Node 1 in `term` with the configuration and `commands` more entries of term 1, of which one
/// is known to be committed.
fn follower(term: u64, commands: usize) -> Replica {
    let mut heads = vec![Head { kind: Kind::Config(Arc::new(config())), ..command(1) }];
    heads.extend((0..commands).map(|_| command(1)));
    let recovered = Recovered { term: Term(term), heads, commit: Index(1), ..Recovered::default() };
    Replica::new(NodeId(1), Settings::default(), recovered, Time(0))
}

fn step(replica: &mut Replica, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    replica.step(Time(1), input, &mut effects);
    effects
}

/// The follower had acknowledged entries behind the snapshot's end while it was on its way. Installing it dropped them.
#[test]
fn a_late_snapshot_leaves_the_acknowledged_entries_behind_it_in_place() {
    let mut replica = follower(1, 9);
    let last = Position::new(6, 1);
    let snapshot = Input::SnapshotReceived { from: LEADER, term: Term(1), last, config: Box::new(config()) };
    let effects = step(&mut replica, snapshot);
    assert!(!effects.iter().any(|e| matches!(e, Effect::InstallSnapshot { .. })), "{effects:?}");
    assert_eq!((replica.last(), replica.commit(), replica.durable()), (Position::new(10, 1), Index(6), Index(10)));
}

/// Its end was taken for durable at once, so that the next empty append was acknowledged before the disk had anything.
#[test]
fn a_snapshot_is_not_durable_before_the_disk_says_so() {
    let mut replica = follower(1, 0);
    let last = Position::new(6, 1);
    step(&mut replica, Input::SnapshotReceived { from: LEADER, term: Term(1), last, config: Box::new(config()) });
    let append = Body::Append { prev: last, entries: Vec::new(), commit: Index(6) };
    let message = Message { term: Term(1), body: append };
    let effects = step(&mut replica, Input::Receive { from: LEADER, message });
    assert!(!effects.iter().any(|e| matches!(e, Effect::Send { .. })), "{effects:?}");
}

/// The answer named the old reign's round, and a node that leads again took it for a round of this reign: a
/// read confirmed by nobody.
#[test]
fn an_answer_to_a_past_reign_confirms_no_round_of_the_present_one() {
    let mut replica = follower(5, 0);
    let message = Message { term: Term(3), body: Body::Heartbeat { round: 50, commit: Index(0) } };
    let effects = step(&mut replica, Input::Receive { from: LEADER, message });
    let answer = Message { term: Term(5), body: Body::HeartbeatReply { round: 0 } };
    assert_eq!(effects, [Effect::Send { to: LEADER, message: answer }]);
}

/// A rotten last batch looks like a torn tail, so the node cannot know by itself. It used to be offered the same
/// entries for ever, and it still voted.
#[test]
fn a_node_that_lost_what_it_had_confirmed_says_so_and_confirms_nothing_more() {
    let mut replica = follower(1, 2);
    let beat = |commit| Input::Receive {
        from: LEADER,
        message: Message { term: Term(1), body: Body::Heartbeat { round: 7, commit: Index(commit) } },
    };
    let answers = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Send { .. }));
    assert!(answers(&step(&mut replica, beat(3))), "it holds that much");
    let effects = step(&mut replica, beat(4));
    assert!(effects.contains(&Effect::Forgot { confirmed: Index(4) }) && !answers(&effects), "{effects:?}");
}

/// Who is told to lead by a person keeps leading: the preferred node does not get leadership back by itself.
#[test]
fn a_campaign_by_hand_suspends_the_hand_back() {
    let preferring = Config { preferred: Some(LEADER), ..config() };
    let heads = vec![Head { kind: Kind::Config(Arc::new(preferring)), ..command(1) }];
    let recovered = Recovered { term: Term(1), heads, commit: Index(1), ..Recovered::default() };
    let mut replica = Replica::new(NodeId(1), Settings::default(), recovered, Time(0));
    let mut now = 2_000_000;
    let mut token = 0;
    let mut handed_over = false;
    let mut step = |replica: &mut Replica, input: Input, now: u64| {
        let mut effects = Vec::new();
        replica.step(Time(now), input, &mut effects);
        for effect in &effects {
            match effect {
                Effect::SaveVote { token: t, .. } | Effect::Write { token: t, .. } => token = t.0,
                Effect::Send { message: Message { body: Body::TransferNow { .. }, .. }, .. } => handed_over = true,
                _ => {}
            }
        }
        (token, handed_over)
    };
    let from_leader = |term, body| Input::Receive { from: LEADER, message: Message { term: Term(term), body } };
    step(&mut replica, Input::Campaign, now);
    let (token, _) = step(&mut replica, from_leader(2, Body::PreVoteReply { granted: true }), now);
    step(&mut replica, Input::Persisted { token: quorum::Token(token) }, now);
    let (token, _) = step(&mut replica, from_leader(2, Body::VoteReply { granted: true }), now);
    assert_eq!(replica.role(), quorum::Role::Leader);
    step(&mut replica, Input::Persisted { token: quorum::Token(token) }, now);
    let mut last = false;
    for round in 1..200 {
        now += 50_000;
        step(&mut replica, from_leader(2, Body::Appended { durable: Index(2) }), now);
        step(&mut replica, from_leader(2, Body::HeartbeatReply { round }), now);
        last = step(&mut replica, Input::Tick, now).1;
    }
    assert!(!last && replica.role() == quorum::Role::Leader, "leadership stays where a person put it");
}

/// The one that found no room was told that this node does not lead: a client asks such a node again at once.
#[test]
fn a_read_too_many_hears_of_that_and_not_of_another_leader() {
    let mut leader = Replica::new(NodeId(1), Settings::default(), Recovered::default(), Time(0));
    step(&mut leader, Input::Form(Box::new(config())));
    let refused = (0..100_000).find_map(|id| {
        step(&mut leader, Input::Read { id }).into_iter().find(|e| matches!(e, Effect::ReadRefused { .. }))
    });
    assert!(matches!(refused, Some(Effect::ReadRefused { why: Refusal::TooManyReads, .. })), "{refused:?}");
}
