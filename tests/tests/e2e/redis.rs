//! The Redis protocol: by hand, and with Redis's own programs.

use std::process::Command;
use std::time::Duration;

use quorate_tests::process::run;
use quorate_tests::{Cluster, Node, Resp, RespClient, Setup, eventually};

fn port(node: &Node) -> &str {
    node.tcp.rsplit(':').next().expect("a port")
}

async fn tool(name: &str, node: &Node, arguments: &[&str]) -> String {
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", port(node)]).args(arguments);
    let (code, out, err) = run(command, Duration::from_secs(60)).await;
    assert_eq!(code, 0, "{name} {arguments:?} (`make setup` installs it): {out}{err}");
    out
}

#[tokio::test]
async fn redis_cli_works_unchanged_on_any_node() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    for node in [cluster.leader().await, cluster.follower().await] {
        for (arguments, expected) in [
            (&["SET", "user:1", "Alice"][..], "OK"),
            (&["GET", "user:1"], "Alice"),
            (&["SET", "user:1", "Bob", "NX"], ""),
            (&["INCRBY", "counter", "5"], "5"),
            (&["DECR", "counter"], "4"),
            (&["MSET", "a", "1", "b", "2"], "OK"),
            (&["MGET", "a", "b", "none"], "1\n2"),
            (&["EXISTS", "a", "b", "none"], "2"),
            (&["TTL", "a"], "-1"),
            (&["TYPE", "a"], "string"),
            (&["DBSIZE"], "4"),
            (&["KEYS", "u*"], "user:1"),
            (&["DEL", "user:1", "a", "b", "counter", "none"], "4"),
            (&["GET", "user:1"], ""),
            (&["PING"], "PONG"),
        ] {
            assert_eq!(tool("redis-cli", node, arguments).await.trim(), expected, "{arguments:?}");
        }
        let three = tool("redis-cli", node, &["-3", "SET", "k", "v"]).await;
        assert_eq!(three.trim(), "OK", "RESP3");
        assert_eq!(tool("redis-cli", node, &["DEL", "k"]).await.trim(), "1");
    }
    let scanned = {
        for n in 0..25 {
            tool("redis-cli", &cluster.nodes[0], &["SET", &format!("scan-{n:02}"), "v"]).await;
        }
        tool("redis-cli", &cluster.nodes[0], &["--scan", "--pattern", "scan-*"]).await
    };
    assert_eq!(scanned.lines().count(), 25, "{scanned}");
    assert!(tool("redis-cli", &cluster.nodes[0], &["INFO", "replication"]).await.contains("role:master"));
}

#[tokio::test]
async fn redis_benchmark_runs_with_and_without_a_pipeline() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let leader = cluster.leader().await;
    for arguments in [
        &["-t", "set,get", "-n", "2000", "-c", "50", "-q", "--csv"][..],
        &["-t", "set,get", "-n", "5000", "-P", "16", "-q", "--csv"],
    ] {
        let out = tool("redis-benchmark", leader, arguments).await;
        assert!(out.contains("\"SET\"") && out.contains("\"GET\""), "{out}");
        assert!(!out.to_lowercase().contains("error"), "{out}");
    }
    cluster.converged().await;
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order_and_reads_see_the_writes_before_them() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    for node in [cluster.leader().await, cluster.follower().await] {
        let mut client = node.redis().await;
        let mut batch = Vec::new();
        for n in 0..500 {
            batch.extend(RespClient::frame(&["SET", &format!("p-{n}"), &n.to_string()]));
            batch.extend(RespClient::frame(&["GET", &format!("p-{n}")]));
            batch.extend(RespClient::frame(&["INCR", "p-counter"]));
        }
        client.send(&batch).await;
        let mut last = 0;
        for n in 0..500 {
            assert_eq!(client.reply().await, Resp::ok());
            assert_eq!(client.reply().await, Resp::bulk(&n.to_string()));
            let Resp::Integer(count) = client.reply().await else { panic!("a number") };
            assert!(count > last);
            last = count;
        }
        client.call(&["DEL", "p-counter"]).await;
    }
}

#[tokio::test]
async fn wait_tells_how_many_followers_hold_the_write() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let mut client = cluster.nodes[leader].redis().await;
    assert_eq!(client.call(&["SET", "k", "v"]).await, Resp::ok());
    assert_eq!(client.call(&["WAIT", "2", "5000"]).await, Resp::Integer(2));
    cluster.nodes[(leader + 1) % 3].kill();
    assert_eq!(client.call(&["SET", "k", "w"]).await, Resp::ok());
    assert_eq!(client.call(&["WAIT", "2", "300"]).await, Resp::Integer(1), "one of the followers is down");
}

#[tokio::test]
async fn errors_begin_with_the_word_that_clients_look_for() {
    let mut cluster = Setup::new(3, 3).flag("--request-timeout", "1s").start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let mut client = cluster.nodes[leader].redis().await;
    let word = |reply: Resp| match reply {
        Resp::Error(text) => text.split(' ').next().unwrap_or_default().to_owned(),
        other => format!("{other:?}"),
    };
    client.call(&["SET", "text", "abc"]).await;
    for command in
        [&["INCR", "text"][..], &["NONSENSE"], &["GET"], &["SET", "k", "v", "EX", "5"], &["FLUSHALL"], &["MULTI"]]
    {
        assert_eq!(word(client.call(command).await), "ERR", "{command:?}");
    }
    let [first, second] = [1, 2].map(|n| (leader + n) % 3);
    let refused = async |cluster: &Cluster, expected: &str| {
        eventually(expected, || async {
            let mut client = cluster.nodes[leader].redis().await;
            let word = word(client.call(&["SET", "k", "v"]).await);
            if word == expected { Ok(()) } else { Err(word) }
        })
        .await;
    };
    // Two of three confirm a leader in office, but do not hold a write three times.
    cluster.nodes[first].kill();
    refused(&cluster, "NOQUORUM").await;
    assert_eq!(cluster.nodes[leader].redis().await.call(&["GET", "text"]).await, Resp::bulk("abc"), "reads go on");
    cluster.nodes[second].kill();
    refused(&cluster, "NOLEADER").await;
    let mut client = cluster.nodes[leader].redis().await;
    assert!(matches!(client.call(&["GET", "text"]).await, Resp::Error(text) if text.starts_with("NOLEADER ")));
    assert_eq!(client.call(&["READONLY"]).await, Resp::ok());
    assert_eq!(client.call(&["GET", "text"]).await, Resp::bulk("abc"), "a local read goes on");
}
