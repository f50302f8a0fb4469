//! The command line: verbs, output for programs, exit codes, and what is wrong in one sentence.

use std::time::Duration;

use quorate_tests::process::{command, run};
use quorate_tests::{Cluster, Node, Setup, eventually, ports};
use serde_json::{Value, json};

async fn quorate(arguments: &[&str]) -> (i32, String, String) {
    let mut command = command();
    command.args(arguments);
    run(command, Duration::from_secs(90)).await
}

async fn on(node: &Node, arguments: &[&str]) -> (i32, String, String) {
    quorate(&[arguments, &["--url", &node.url]].concat()).await
}

async fn json_of(node: &Node, arguments: &[&str]) -> Value {
    let (code, out, err) = on(node, &[arguments, &["--output", "json"]].concat()).await;
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
}

#[tokio::test]
async fn the_verbs_do_what_they_say_on_any_node() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let put = json_of(follower, &["put", "hello", "world"]).await;
    assert_eq!((&put["version"], put["copies"].as_u64() >= Some(2)), (&json!(1), true), "{put}");
    assert_eq!(on(leader, &["get", "hello"]).await, (0, "world".into(), String::new()));
    let get = json_of(leader, &["get", "hello"]).await;
    assert_eq!((&get["key"], &get["value"], &get["revision"]), (&json!("hello"), &json!("world"), &put["revision"]));
    let (code, out, err) = on(leader, &["put", "hello", "again", "--if-absent"]).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    let list = json_of(follower, &["list", "--prefix", "he"]).await;
    assert_eq!(list["items"][0]["key"], "hello");
    assert!(on(follower, &["list"]).await.1.contains("hello"));
    assert_eq!(on(follower, &["delete", "hello"]).await.0, 0);
    let (code, out, err) = on(follower, &["get", "hello"]).await;
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("does not exist"), "{err}");

    let status = json_of(follower, &["status"]).await;
    assert_eq!(status["leader"], leader.name.as_str());
    let (code, out, _) = on(follower, &["status"]).await;
    assert!(code == 0 && out.contains("write 2 of 3"), "{out}");
    assert_eq!(on(follower, &["status", "--ready"]).await.0, 0);
    let members = json_of(follower, &["members"]).await;
    assert_eq!(members.as_array().map(Vec::len), Some(3));
    assert!(members.as_array().is_some_and(|m| m.iter().all(|m| m["healthy"] == true)), "{members}");
    let config = json_of(follower, &["config", "set", "--write-quorum", "3"]).await;
    assert!(config["version"].as_u64().is_some(), "{config}");
    eventually("W is 3", || async {
        let config = json_of(follower, &["config"]).await;
        if config["write_quorum"] == 3 { Ok(()) } else { Err(config.to_string()) }
    })
    .await;
    assert_eq!(on(follower, &["transfer", "--to", &follower.name]).await.0, 0);
    eventually("the follower leads", || async {
        let status = json_of(leader, &["status"]).await;
        if status["leader"] == follower.name.as_str() { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    for protocol in ["http", "resp"] {
        let target = if protocol == "http" { &leader.url } else { &leader.tcp };
        let arguments = [
            "bench",
            "--protocol",
            protocol,
            "--clients",
            "8",
            "-n",
            "500",
            "--warm-up",
            "100ms",
            "--output",
            "json",
            "--url",
            target,
        ];
        let (code, out, err) = quorate(&arguments).await;
        assert_eq!(code, 0, "{out}{err}");
        let figures: Value = serde_json::from_str(&out).expect("JSON");
        assert!(figures.as_object().is_some_and(|f| !f.is_empty()), "{figures}");
    }
}

#[tokio::test]
async fn an_outcome_that_is_not_known_has_an_exit_code_of_its_own() {
    // It stands still: the leader does not know yet, appends, and waits for it in vain. It would know after the longest election timeout.
    let setup = Setup::new(3, 3).flag("--request-timeout", "500ms").elections_after(20);
    let mut cluster = setup.start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    cluster.nodes[(leader + 1) % 3].pause();
    let (code, out, err) = on(&cluster.nodes[leader], &["put", "k", "v"]).await;
    assert_eq!((code, out.as_str()), (4, ""), "{err}");
    assert!(err.contains("may or may not"), "{err}");
    cluster.nodes[(leader + 1) % 3].resume();
    cluster.nodes[leader].kill();
    let (code, _, err) = quorate(&["get", "k", "--timeout", "1s", "--url", &cluster.nodes[leader].url]).await;
    assert_eq!(code, 1);
    assert!(err.contains("no node answered"), "{err}");
}

#[tokio::test]
async fn settings_that_cannot_be_are_told_in_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("its address").port().to_string();
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("d").display().to_string();
    let free = ports::free(3).iter().map(ToString::to_string).collect::<Vec<_>>();
    for (arguments, word) in [
        (&["serve", "--node-type", "leader", "--replicas", "3", "--write-quorum", "4"][..], "--write-quorum"),
        (&["serve", "--node-type", "leader", "--replicas", "0"], "--replicas"),
        (&["serve"], "--leader-url"),
        (&["serve", "--node-type", "king"], "--node-type"),
        (&["serve", "--no-such-flag"], "--no-such-flag"),
        (&["serve", "--node-type", "leader", "--min-delay", "2s", "--max-delay", "1s"], "--max-delay"),
        (&["serve", "--node-type", "leader", "--heartbeat-interval", "2s"], "--heartbeat-interval"),
        (&["serve", "--node-type", "leader", "--http-port", "7400"], "7400"),
        (&["serve", "--node-type", "leader", "--request-timeout", "2"], "--request-timeout"),
        (
            &["serve", "--node-type", "leader", "--http-port", &taken, "--tcp-port", &free[0], "--peer-port", &free[1]],
            "--http-port",
        ),
        (
            &["serve", "--node-type", "leader", "--http-port", &free[0], "--tcp-port", &taken, "--peer-port", &free[1]],
            "--tcp-port",
        ),
        (
            &["serve", "--node-type", "leader", "--http-port", &free[0], "--tcp-port", &free[1], "--peer-port", &taken],
            "--peer-port",
        ),
        (&["local", "--http-port", &taken], &taken),
        (&["local", "--nodes", "3", "--write-quorum", "5"], "--write-quorum"),
        (&["local", "--nodes", "30"], "--replicas"),
    ] {
        let with_dir = [arguments, &["--data-dir", &dir]].concat();
        let (code, out, err) = quorate(&with_dir).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(word), "{arguments:?} should name {word}: {err}");
        let told: Vec<&str> = err.lines().filter(|l| l.starts_with("quorate:") || l.starts_with("error:")).collect();
        assert_eq!(told.len(), 1, "{arguments:?}: {err}");
    }
    let (code, out, _) = quorate(&["serve", "--check", "--node-type", "leader", "--data-dir", &dir]).await;
    assert!(code == 0 && out.contains("write quorum 2"), "{out}");
    assert!(!std::path::Path::new(&dir).join("meta").exists(), "a check starts nothing");
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_process() {
    let cluster = Cluster::start(1, 1).await;
    let free = ports::free(3).iter().map(ToString::to_string).collect::<Vec<_>>();
    let dir = cluster.nodes[0].dir.display().to_string();
    let arguments = [
        "serve",
        "--node-type",
        "leader",
        "--data-dir",
        &dir,
        "--http-port",
        &free[0],
        "--tcp-port",
        &free[1],
        "--peer-port",
        &free[2],
    ];
    let (code, _, err) = quorate(&arguments).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.lines().any(|l| l.starts_with("quorate:") && l.contains(&dir)), "{err}");
    cluster.nodes[0].put("/v1/kv/k", "v").await.expect(200);
}

#[tokio::test]
async fn every_verb_asks_the_nodes_that_the_environment_names() {
    let cluster = Cluster::start(1, 1).await;
    cluster.all_ready().await;
    let named = async |arguments: &[&str]| {
        let mut command = command();
        command.args(arguments).env("QUORATE_URL", &cluster.nodes[0].url);
        let (code, out, err) = run(command, Duration::from_secs(40)).await;
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    };
    let verbs: [&[&str]; 10] = [
        &["put", "k", "v"],
        &["get", "k"],
        &["list"],
        &["status"],
        &["members"],
        &["config"],
        &["config", "set", "--failover", "automatic"],
        &["bench", "--requests", "10", "--clients", "1", "--warm-up", "0"],
        &["bench", "--requests", "10", "--clients", "1", "--warm-up", "0", "--protocol", "resp"],
        &["delete", "k"],
    ];
    for verb in verbs {
        named(verb).await;
    }
}

/// Clearing two mebibytes holds up whoever touches them first, the driver as likely as any.
#[tokio::test]
async fn a_node_has_no_huge_pages_whatever_the_machine_gives_others() {
    let cluster = Cluster::start(1, 1).await;
    assert_eq!(cluster.nodes[0].system_says("THP_enabled"), "0");
}
