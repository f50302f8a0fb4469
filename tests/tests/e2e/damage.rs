//! Disks that lost or changed something.

use std::path::Path;

use quorate_tests::load::Load;
use quorate_tests::{Cluster, Setup, damage, eventually};

/// Names and ids of the members, in the order of the names.
async fn members(cluster: &Cluster) -> Vec<(String, String)> {
    let status = cluster.leader().await.status().await;
    let mut members: Vec<_> = status.members.into_iter().map(|m| (m.name, m.id)).collect();
    members.sort();
    members
}

async fn fill(cluster: &Cluster, prefix: &str) {
    for n in 0..60 {
        cluster.nodes[n % cluster.nodes.len()].put(&format!("/v1/kv/{prefix}-{n}"), n.to_string()).await.expect(200);
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_node_stays_who_it_was() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let before = members(&cluster).await;
    let hurts: [fn(&Path); 2] = [damage::tear_tail, damage::garbage_at_end];
    for (round, hurt) in hurts.into_iter().enumerate() {
        fill(&cluster, &format!("round-{round}")).await;
        cluster.converged().await;
        let victim = (cluster.leader_number().await + 1) % 3;
        cluster.nodes[victim].kill();
        hurt(&cluster.nodes[victim].dir);
        cluster.nodes[victim].start();
        cluster.all_ready().await;
        let contents = cluster.converged().await;
        assert_eq!(contents.lines().count(), 60 * (round + 1));
        assert_eq!(members(&cluster).await, before, "nobody is a new node");
    }
}

// What a rotten last batch leaves behind looks like a torn tail. The leader's heartbeat tells the node what it had confirmed.
#[tokio::test]
async fn a_follower_that_lost_what_it_had_confirmed_becomes_a_new_node_and_is_brought_up_to_date() {
    let setup = Setup::new(3, 2).expect_error("the disk has lost entries").expect_error("damaged");
    let mut cluster = setup.start().await;
    cluster.all_ready().await;
    fill(&cluster, "k").await;
    cluster.converged().await;
    let victim = (cluster.leader_number().await + 1) % 3;
    cluster.nodes[victim].kill();
    damage::lose_tail(&cluster.nodes[victim].dir);
    cluster.nodes[victim].start();
    cluster.write("after", "v").await;
    assert_eq!(cluster.converged().await.lines().count(), 61);
}

/// Hurts one node's disk while it is down; it must come back as a new node under its old name, by itself.
async fn a_new_self(cluster: &mut Cluster, victim: usize, hurt: impl FnOnce(&mut quorate_tests::Node)) {
    let before = members(cluster).await;
    let name = cluster.nodes[victim].name.clone();
    cluster.nodes[victim].kill();
    cluster.leader_number().await;
    hurt(&mut cluster.nodes[victim]);
    cluster.nodes[victim].start();
    eventually(&format!("{name} is a voter under its name with a new id"), || async {
        let leader = cluster.leader().await.try_status().await?;
        let mut now: Vec<_> = leader.members.iter().map(|m| (m.name.clone(), m.id.clone())).collect();
        now.sort();
        let names = |list: &[(String, String)]| list.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        let own = |list: &[(String, String)]| list.iter().find(|(n, _)| *n == name).map(|(_, id)| id.clone());
        let settled = names(&now) == names(&before) && own(&now) != own(&before) && !leader.config.changing;
        let learner = leader.members.iter().any(|m| m.role == "learner");
        if settled && !learner { Ok(()) } else { Err(format!("{:?}", leader.members)) }
    })
    .await;
    cluster.all_ready().await;
    let config = cluster.leader().await.status().await.config;
    assert_eq!((config.replicas, config.write_quorum), (3, 2));
}

/// A cluster of three, one follower of which has become a new node because of this damage, and nothing is lost.
async fn renewed_after(setup: Setup, hurt: fn(&Path)) -> Cluster {
    let mut cluster = setup.expect_error("data is damaged: it is set aside").start().await;
    cluster.all_ready().await;
    fill(&cluster, "k").await;
    let before = cluster.converged().await;
    let victim = (cluster.leader_number().await + 1) % 3;
    a_new_self(&mut cluster, victim, |node| hurt(&node.dir)).await;
    assert_eq!(cluster.converged().await, before);
    cluster
}

#[tokio::test]
async fn corruption_in_the_middle_makes_a_new_node_that_takes_the_place_of_its_old_self() {
    let cluster = renewed_after(Setup::new(3, 2), damage::corrupt_middle).await;
    fill(&cluster, "more").await;
    assert_eq!(cluster.converged().await.lines().count(), 120);
}

#[tokio::test]
async fn a_damaged_engine_makes_a_new_node_that_takes_the_place_of_its_old_self() {
    renewed_after(Setup::new(3, 2).expect_error("the engine is damaged"), damage::rot_engine).await;
}

#[tokio::test]
async fn a_follower_with_an_empty_disk_comes_back_under_load() {
    let mut cluster = Setup::new(3, 2).peers().start().await;
    cluster.all_ready().await;
    let load = Load::start(&cluster, 4);
    load.more(200).await;
    let victim = (cluster.leader_number().await + 1) % 3;
    a_new_self(&mut cluster, victim, quorate_tests::Node::wipe).await;
    load.more(200).await;
    let record = load.stop().await;
    println!("a wiped follower: {}", record.summary());
    record.verify(&cluster.converged().await);
}

#[tokio::test]
async fn the_first_leader_with_an_empty_disk_joins_again_instead_of_forming_a_second_cluster() {
    let mut cluster = Setup::new(3, 2).peers().start().await;
    cluster.all_ready().await;
    fill(&cluster, "k").await;
    let before = cluster.converged().await;
    let id = cluster.nodes[1].status().await.cluster_id;
    a_new_self(&mut cluster, 0, quorate_tests::Node::wipe).await;
    assert_eq!(cluster.converged().await, before);
    assert_eq!(cluster.nodes[0].status().await.cluster_id, id);
    // Preferred by name, not by disk: it gets leadership back.
    cluster.led_by(0).await;
}
