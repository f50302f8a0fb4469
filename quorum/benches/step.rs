//! What a batch costs the core alone: proposed, appended, acknowledged by two followers, committed. Disks and
//! network take no time here.
#![allow(missing_docs, clippy::expect_used)]

use std::collections::VecDeque;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorum::{Config, Effect, Index, Input, Member, Message, NodeId, Recovered, Replica, Role, Settings, Time};

/// Three replicas whose disks are done at once.
struct Cluster {
    replicas: Vec<Replica>,
    now: Time,
    mail: VecDeque<(NodeId, NodeId, Message)>,
    effects: Vec<Effect>,
}

impl Cluster {
    fn new() -> Cluster {
        let name = String::new;
        let member = |id| Member { id: NodeId(id), name: name(), peer: name(), http: name(), tcp: name() };
        let config = Config::first((0..3).map(member).collect(), 2, None).expect("legal");
        let blank = |id| Replica::new(NodeId(id), Settings::default(), Recovered::default(), Time(1));
        let mut cluster =
            Cluster { replicas: (0..3).map(blank).collect(), now: Time(1), mail: VecDeque::new(), effects: Vec::new() };
        cluster.step(0, Input::Form(Box::new(config)));
        cluster.settle();
        assert_eq!(cluster.replicas[0].role(), Role::Leader);
        cluster
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut effects = std::mem::take(&mut self.effects);
        self.replicas[at].step(self.now, input, &mut effects);
        let mut done = None;
        for effect in effects.drain(..) {
            match effect {
                Effect::Write { token, .. } | Effect::SaveVote { token, .. } => done = Some(token),
                Effect::Send { to, message } => self.mail.push_back((NodeId(at as u128), to, message)),
                _ => {}
            }
        }
        self.effects = effects;
        if let Some(token) = done {
            self.step(at, Input::Persisted { token });
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            self.step(to.0 as usize, Input::Receive { from, message });
        }
    }

    fn write(&mut self, sizes: Vec<u32>) -> Index {
        self.now = self.now.after(1);
        self.step(0, Input::Propose { sizes });
        self.settle();
        self.replicas[0].acknowledged()
    }

    /// What a host does now and then, so that the log does not grow without end.
    fn compact(&mut self) {
        for at in 0..3 {
            let upto = self.replicas[at].commit();
            self.step(at, Input::Compacted { upto });
        }
    }
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("propose, append, acknowledge");
    for batch in [1usize, 16, 256] {
        let mut cluster = Cluster::new();
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter_batched(|| vec![128u32; batch], |sizes| cluster.write(sizes), BatchSize::SmallInput);
            cluster.compact();
        });
    }
    group.finish();
}

criterion_group!(benches, batches);
criterion_main!(benches);
