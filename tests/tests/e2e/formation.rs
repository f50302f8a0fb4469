//! How a cluster comes to be, who may belong, and what a restart keeps.

use quorate_tests::{Cluster, Setup, eventually};

#[tokio::test]
async fn a_node_alone_is_a_cluster_and_keeps_its_data() {
    let mut cluster = Cluster::start(1, 1).await;
    let id = cluster.nodes[0].status().await.cluster_id;
    cluster.nodes[0].put("/v1/kv/k", "v").await.expect(200);
    cluster.nodes[0].stop().await;
    cluster.nodes[0].start();
    cluster.led_by(0).await;
    assert_eq!(cluster.nodes[0].get("/v1/kv/k").await.expect(200).text(), "v");
    assert_eq!(cluster.nodes[0].status().await.cluster_id, id);
}

#[tokio::test]
async fn six_nodes_form_one_cluster() {
    let cluster = Cluster::start(6, 4).await;
    cluster.all_ready().await;
    let status = cluster.leader().await.status().await;
    assert_eq!(
        (
            status.config.replicas,
            status.config.write_quorum,
            status.config.election_quorum,
            status.config.commit_quorum
        ),
        (6, 4, 4, 3)
    );
    assert_eq!(status.node.name, "node1", "the one told to form leads");
    for node in &cluster.nodes {
        node.put(&format!("/v1/kv/{}", node.name), "v").await.expect(200);
    }
    assert_eq!(cluster.converged().await.lines().count(), 6);
}

#[tokio::test]
async fn nothing_is_written_before_every_node_is_there() {
    let mut cluster = Setup::new(3, 2).prepare().await;
    cluster.nodes[0].start();
    cluster.nodes[1].start();
    for n in [0, 1] {
        eventually("the node answers", || async { cluster.nodes[n].try_status().await.map(|_| ()) }).await;
        let refused = cluster.nodes[n].put("/v1/kv/k", "v").await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(["forming", "no_leader"].contains(&refused.code().as_str()), "{}", refused.text());
        assert!(!refused.header("retry-after").is_empty());
        assert_eq!(cluster.nodes[n].get("/readyz").await.status, 503);
        assert_eq!(cluster.nodes[n].get("/livez").await.status, 200);
    }
    assert!(!cluster.nodes[0].status().await.formed);
    // The one that comes late is all that was missing.
    cluster.nodes[2].start();
    cluster.all_ready().await;
    cluster.write("k", "v").await;
    cluster.converged().await;
}

#[tokio::test]
async fn a_leader_to_be_that_dies_while_forming_goes_on_when_it_is_back() {
    let mut cluster = Setup::new(3, 2).prepare().await;
    for n in [1, 2] {
        cluster.nodes[n].start();
    }
    // At a different moment of the formation each time.
    for _ in 0..4 {
        cluster.nodes[0].start();
        eventually("it answers", || async { cluster.nodes[0].try_status().await.map(|_| ()) }).await;
        cluster.nodes[0].kill();
    }
    cluster.nodes[0].start();
    cluster.all_ready().await;
    cluster.write("k", "v").await;
    assert_eq!(cluster.converged().await.lines().count(), 1);
}

/// The followers introduce themselves with an address that leads nowhere, so the founder's disk is certainly the only one to hold the first
/// configuration when it is killed.
#[tokio::test]
async fn a_founder_killed_before_any_other_disk_knew_of_the_cluster_is_elected_by_blank_nodes() {
    let mut cluster = Setup::new(3, 2).prepare().await;
    let nowhere = ["--address", "127.0.0.9", "--bind", "127.0.0.1"].map(str::to_owned);
    for node in &mut cluster.nodes[1..] {
        node.args.extend(nowhere.clone());
    }
    cluster.start_all();
    // It dials nobody before the first configuration is on its own disk.
    eventually("the founder's disk holds the first configuration", || async {
        let log = cluster.nodes[0].log();
        if log.contains("cannot connect to node") { Ok(()) } else { Err(log) }
    })
    .await;
    let id = cluster.nodes[0].status().await.cluster_id;
    cluster.nodes[0].kill();
    for node in &mut cluster.nodes[1..] {
        assert_eq!(node.status().await.node.membership, quorate_api::Membership::Blank);
        node.kill();
        node.args.truncate(node.args.len() - nowhere.len());
    }
    cluster.start_all();
    cluster.all_ready().await;
    assert_eq!(cluster.leader().await.status().await.cluster_id, id, "the cluster that the founder began");
    cluster.write("k", "v").await;
    assert_eq!(cluster.converged().await.lines().count(), 1);
}

#[tokio::test]
async fn a_restart_of_the_whole_cluster_keeps_everything() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    for n in 0..50 {
        cluster.nodes[n % 3].put(&format!("/v1/kv/k{n}"), n.to_string()).await.expect(200);
    }
    let before = cluster.converged().await;
    let id = cluster.nodes[0].status().await.cluster_id;
    for node in &cluster.nodes {
        node.terminate();
    }
    for node in &mut cluster.nodes {
        assert!(node.ended().await.success());
    }
    cluster.start_all();
    cluster.all_ready().await;
    assert_eq!(cluster.converged().await, before);
    assert_eq!(cluster.nodes[2].status().await.cluster_id, id);
    cluster.write("new", "v").await;
}

#[tokio::test]
async fn status_tells_where_a_node_is_before_there_is_a_leader_to_record_it() {
    let mut cluster = Cluster::start(2, 2).await;
    cluster.all_ready().await;
    let spare = Setup::new(1, 1).prepare().await;
    for n in [0, 1] {
        cluster.nodes[n].terminate();
        assert!(cluster.nodes[n].ended().await.success());
    }
    let address = spare.nodes[0].peer.clone();
    let node = &mut cluster.nodes[1];
    let at = node.args.iter().position(|a| a == "--peer-port").expect("a port") + 1;
    node.args[at] = address.rsplit(':').next().expect("a port").to_owned();
    node.start();
    eventually("it answers", || async { cluster.nodes[1].try_status().await.map(|_| ()) }).await;
    let status = cluster.nodes[1].status().await;
    assert_eq!((status.leader.clone(), status.node.peer.clone()), (None, address.clone()));
    assert_eq!(status.members.iter().find(|m| m.name == "node2").expect("itself").peer, address);
}

#[tokio::test]
async fn nodes_that_are_given_a_cluster_id_never_form() {
    let id = "11111111-2222-4333-8444-555555555555";
    let mut cluster = Setup::new(3, 2).flag("--cluster-id", id).prepare().await;
    cluster.start_all();
    for node in &cluster.nodes {
        eventually("it answers", || async { node.try_status().await.map(|_| ()) }).await;
    }
    // When all have introduced themselves, nodes without the id form at once.
    eventually("the nodes have met", || async {
        let met = cluster.nodes.iter().filter(|n| n.log().contains("introduced this node")).count();
        if met == 2 { Ok(()) } else { Err(cluster.nodes.iter().map(|n| n.log_tail()).collect()) }
    })
    .await;
    for node in &cluster.nodes {
        let status = node.status().await;
        assert!(!status.formed && status.leader.is_none(), "{status:?}");
        assert_eq!(node.put("/v1/kv/k", "v").await.status, 503);
    }
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused() {
    let one = Cluster::start(1, 1).await;
    one.nodes[0].put("/v1/kv/k", "v").await.expect(200);
    let mut other = Setup::new(2, 2).flag("--cluster-id", "11111111-2222-4333-8444-555555555555").prepare().await;
    let at = other.nodes[1].args.iter().position(|a| a == "--leader-url").expect("a leader url") + 1;
    other.nodes[1].args[at] = one.nodes[0].url.clone();
    other.nodes[1].start();
    eventually("it is told that it is of another cluster", || async {
        let log = other.nodes[1].log();
        if log.contains("belongs to cluster") && log.contains("not to cluster 11111111") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(other.nodes[1].get("/v1/kv/k?consistency=local").await.status, 404, "nothing of that cluster came over");
    assert_eq!(one.nodes[0].status().await.members.len(), 1);
}
