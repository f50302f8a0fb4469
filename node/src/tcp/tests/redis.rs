//! The Redis protocol: shapes, words and order of its answers.

use super::*;
use crate::handle::{ChangeError, ReadError, WriteError};

#[tokio::test]
async fn redis_commands_about_data_are_answered_as_by_redis() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    for (words, reply) in [
        ("GET k", "$-1\r\n"),
        ("SET k v", "+OK\r\n"),
        ("get k", "$1\r\nv\r\n"),
        ("SET k w NX", "$-1\r\n"),
        ("SET k w XX", "+OK\r\n"),
        ("SET absent w xx", "$-1\r\n"),
        ("SET k w EX 10", "-ERR expiry of keys is not supported yet\r\n"),
        ("SET k w KEEPTTL", "-ERR expiry of keys is not supported yet\r\n"),
        ("SET k w NX XX", "-ERR syntax error\r\n"),
        ("SET k w GET", "-ERR the GET option of SET is not supported yet\r\n"),
        ("SETEX k 10 v", "-ERR expiry of keys is not supported yet\r\n"),
        ("SETNX k x", ":0\r\n"),
        ("SETNX m x", ":1\r\n"),
        ("STRLEN k", ":1\r\n"),
        ("STRLEN nothing", ":0\r\n"),
        ("TYPE k", "+string\r\n"),
        ("TYPE nothing", "+none\r\n"),
        ("TTL k", ":-1\r\n"),
        ("TTL nothing", ":-2\r\n"),
        ("MSET a 1 b 2 c 3", "+OK\r\n"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command\r\n"),
        ("MGET a nothing c", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n3\r\n"),
        ("EXISTS a b nothing a", ":3\r\n"),
        ("DBSIZE", ":5\r\n"),
        ("KEYS [ab]", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("DEL a b nothing", ":2\r\n"),
        ("UNLINK c", ":1\r\n"),
        ("DEL c", ":0\r\n"),
        ("INCR n", ":1\r\n"),
        ("INCRBY n 41", ":42\r\n"),
        ("DECR n", ":41\r\n"),
        ("DECRBY n 1", ":40\r\n"),
        ("GET n", "$2\r\n40\r\n"),
        ("INCR k", "-ERR value is not an integer or out of range\r\n"),
        ("INCRBY n x", "-ERR value is not an integer or out of range\r\n"),
        ("DECRBY n -9223372036854775808", "-ERR decrement would overflow\r\n"),
        ("FLUSHALL", "-ERR removing all data at once is not supported: delete the keys one by one\r\n"),
        ("NOSUCH a b", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' \r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("GET a b", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("WAIT 1 100", ":2\r\n"),
        ("WAIT x 100", "-ERR value is not an integer or out of range\r\n"),
    ] {
        peer.redis(words, reply).await;
    }
}

#[tokio::test]
async fn redis_commands_about_the_connection_are_answered_as_by_redis() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    for (words, reply) in [
        ("PING", "+PONG\r\n"),
        ("PING hello", "$5\r\nhello\r\n"),
        ("ECHO hello", "$5\r\nhello\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("SELECT 1", "-ERR DB index is out of range\r\n"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("CONFIG GET appendonly", "*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n"),
        ("CONFIG GET append*", "*4\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$11\r\nappendfsync\r\n$6\r\nalways\r\n"),
        ("CONFIG GET nothing", "*0\r\n"),
        ("CLIENT ID", ":1\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CLIENT SETINFO LIB-NAME test", "+OK\r\n"),
        ("CLIENT NO-EVICT on", "+OK\r\n"),
        ("CLIENT FROBNICATE", "-ERR unknown subcommand 'FROBNICATE'. Try CLIENT HELP.\r\n"),
        ("COMMAND COUNT", &format!(":{}\r\n", commands::COMMANDS.len())),
        ("COMMAND DOCS get", "*0\r\n"),
        ("COMMAND INFO get", "*1\r\n*6\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n"),
        ("READONLY", "+OK\r\n"),
        ("READWRITE", "+OK\r\n"),
        (
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?\r\n",
        ),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("HELLO 3 NONSENSE", "-ERR Syntax error in HELLO option 'NONSENSE'\r\n"),
        ("RESET", "+RESET\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("QUIT", "+OK\r\n"),
    ] {
        peer.redis(words, reply).await;
    }
    peer.ended().await;
}

#[tokio::test]
async fn hello_three_switches_to_maps_and_a_null_of_their_own() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    let fields = |proto: u8| {
        format!(
            "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:{proto}\r\n$2\r\nid\r\n:1\r\n\
             $4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
        )
    };
    peer.redis("HELLO", &format!("*14\r\n{}", fields(2))).await;
    peer.redis("HELLO 3 SETNAME me", &format!("%7\r\n{}", fields(3))).await;
    peer.redis("GET nothing", "_\r\n").await;
    peer.redis("MGET nothing", "*1\r\n_\r\n").await;
    peer.redis("CONFIG GET save", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n").await;
    peer.redis("CLIENT GETNAME", "$2\r\nme\r\n").await;
    peer.redis("INFO keyspace", "=16\r\ntxt:# Keyspace\r\n\r\n").await;
    peer.redis("HELLO 2", &format!("*14\r\n{}", fields(2))).await;
    peer.redis("GET nothing", "$-1\r\n").await;
}

#[tokio::test]
async fn info_tells_role_and_keys() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    peer.redis("SET a 1", "+OK\r\n").await;
    peer.redis("INFO keyspace", "$44\r\n# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n\r\n").await;
    let text = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_repl_offset:0\r\n";
    peer.redis("INFO replication", &format!("${}\r\n{text}\r\n", text.len())).await;
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order_and_see_each_other() {
    let server = server(Role::Leader).await;
    let peer = server.connect().await;
    let (mut input, mut replies) = (Vec::new(), String::new());
    // More writes in a row than may be under way at once.
    for n in 1..=3000 {
        input.extend(encode("INCR n"));
        replies += &format!(":{n}\r\n");
        if n % 100 == 0 {
            for words in ["GET n", "PING", "NOSUCH"] {
                input.extend(encode(words));
            }
            let digits = n.to_string().len();
            replies += &format!("${digits}\r\n{n}\r\n+PONG\r\n");
            replies += "-ERR unknown command 'NOSUCH', with args beginning with: \r\n";
        }
    }
    let (mut reader, mut writer) = peer.0.into_split();
    let sending = tokio::spawn(async move {
        // In pieces that end anywhere.
        for piece in input.chunks(1009) {
            writer.write_all(piece).await.expect("send");
        }
        writer
    });
    let mut got = vec![0; replies.len()];
    tokio::time::timeout(PATIENCE, reader.read_exact(&mut got)).await.expect("in time").expect("all replies");
    assert_eq!(String::from_utf8_lossy(&got), replies);
    drop(sending.await);
}

#[tokio::test]
async fn scan_walks_over_every_key_once_even_over_several_connections() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    for n in 0..25 {
        peer.redis(&format!("SET key:{n:02} v"), "+OK\r\n").await;
    }
    let page = |cursor: u64, from: usize, to: usize| {
        let keys: String = (from..to).map(|n| format!("$6\r\nkey:{n:02}\r\n")).collect();
        format!("*2\r\n$1\r\n{cursor}\r\n*{}\r\n{keys}", to - from)
    };
    peer.redis("SCAN 0", &page(1, 0, 10)).await;
    let mut other = server.connect().await;
    other.redis("SCAN 1 MATCH key:* COUNT 10", &page(2, 10, 20)).await;
    peer.redis("SCAN 2 COUNT 10", &page(0, 20, 25)).await;
    peer.redis("SCAN 0 MATCH key:07 COUNT 100", &page(0, 7, 8)).await;
    peer.redis("SCAN 0 TYPE hash COUNT 100", "*2\r\n$1\r\n0\r\n*0\r\n").await;
    peer.redis("SCAN 7", "-ERR invalid cursor: it is of another node or too old, start again at 0\r\n").await;
    peer.redis("SCAN x", "-ERR invalid cursor\r\n").await;
    peer.redis("SCAN 0 COUNT 0", "-ERR syntax error\r\n").await;
}

#[tokio::test]
async fn a_stranger_may_not_stop_the_node_without_the_token() {
    const WHY: &str = "SHUTDOWN is taken from this machine only, or after AUTH with the admin token";
    let handle = testing::handle(Role::Leader, |o| o.admin_token = Some("secret".into()));
    let face = Arc::new(Face::new(handle.clone(), STALL_MAX));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let stranger = async || {
        let peer = Peer(TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect"));
        let (stream, _) = listener.accept().await.expect("accept");
        let from = "10.0.0.1:50000".parse().expect("an address");
        (peer, tokio::spawn(Session::new(Arc::clone(&face), stream, from, 1).run()))
    };
    let (mut lines, session) = stranger().await;
    let refused = format!("{{\"status\":\"ERROR\",\"message\":\"{WHY}\"}}\n");
    lines.ask("SHUTDOWN\n", &refused).await;
    lines.ask("AUTH guess\n", "{\"status\":\"ERROR\",\"message\":\"wrong token\"}\n").await;
    lines.ask("SHUTDOWN\n", &refused).await;
    assert!(!*handle.stopping().borrow());
    lines.ask("AUTH secret\n", "{\"status\":\"OK\"}\n").await;
    drop(lines);
    session.await.expect("no panic").expect("it ends with the client");

    let (mut redis, session) = stranger().await;
    redis.redis("SHUTDOWN NOSAVE", &format!("-NOPERM {WHY}\r\n")).await;
    redis.redis("AUTH secret", "+OK\r\n").await;
    redis.redis("RESET", "+RESET\r\n").await;
    redis.redis("SHUTDOWN", &format!("-NOPERM {WHY}\r\n")).await;
    assert!(!*handle.stopping().borrow());
    redis.redis("AUTH secret", "+OK\r\n").await;
    redis.send(encode("SHUTDOWN")).await;
    redis.ended().await;
    session.await.expect("no panic").expect("an end in order");
    assert!(*handle.stopping().borrow());
}

#[tokio::test]
async fn every_refusal_has_the_word_that_redis_clients_look_for() {
    let refusing =
        async |write, read| server_of(testing::refusing(write, read, ChangeError::NoLeader), STALL_MAX).await;
    for (error, word, outcome) in [
        (WriteError::NoLeader, "NOLEADER", "no_leader"),
        (WriteError::NotLeader { leader: Some(testing::member(2)) }, "NOLEADER", "no_leader"),
        (WriteError::NotFormed { waits_for: Some(2) }, "NOLEADER", "no_leader"),
        (WriteError::Stopping, "NOLEADER", "stopping"),
        (WriteError::Forming, "NOQUORUM", "forming"),
        (WriteError::NoQuorum { live: 1, needed: 2 }, "NOQUORUM", "no_quorum"),
        (WriteError::Overloaded, "BUSY", "overloaded"),
        (WriteError::NoSpace, "NOSPACE", "no_space"),
        (WriteError::TooManyCopies { wanted: 4, voters: 3 }, "ERR", "too_many_copies"),
        (WriteError::NotTaken("it is too long".into()), "ERR", "bad_request"),
        (WriteError::Unknown("time".into()), "UNKNOWN", "outcome_unknown"),
        (WriteError::MixedVersions { behind: "node2".into() }, "ERR", "mixed_versions"),
    ] {
        let server = refusing(error.clone(), ReadError::Timeout).await;
        let mut peer = server.connect().await;
        peer.redis("SET k v", &format!("-{word} {error}\r\n")).await;
        peer.redis("INCR k", &format!("-{word} {error}\r\n")).await;
        let seconds = &server.handle.metrics().request_seconds;
        assert_eq!(seconds.with_label_values(&["tcp_set", outcome]).get_sample_count(), 1, "{outcome}");
    }
    for (error, word, outcome) in [
        (ReadError::Stopping, "NOLEADER", "stopping"),
        (ReadError::Timeout, "NOQUORUM", "no_quorum"),
        (ReadError::Overloaded, "BUSY", "overloaded"),
    ] {
        let server = refusing(WriteError::NoLeader, error.clone()).await;
        let mut peer = server.connect().await;
        let text = error.to_string().replace("consistency=local", "READONLY");
        for command in ["GET k", "MGET k", "SCAN 0", "DBSIZE"] {
            peer.redis(command, &format!("-{word} {text}\r\n")).await;
        }
        let seconds = &server.handle.metrics().request_seconds;
        assert_eq!(seconds.with_label_values(&["tcp_get", outcome]).get_sample_count(), 1, "{outcome}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_no_short_list() {
    let home = crate::kv::MemoryHome::default();
    let (handle, store) = testing::handle_on(&home);
    let server = server_of(handle, STALL_MAX).await;
    let mut peer = server.connect().await;
    peer.redis("MSET a 1 b 2 c 3", "+OK\r\n").await;
    store.persist().expect("all of it is in the engine");
    peer.redis("KEYS *", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n").await;
    home.damage_from("c");
    for command in ["KEYS *", "SCAN 0", "SCAN 0 COUNT 10 MATCH c"] {
        peer.redis(command, "-ERR the keys could not be read\r\n").await;
    }
}

#[tokio::test]
async fn a_follower_reports_no_leader_and_reads_its_own_copy_if_asked() {
    let server = server(Role::Follower).await;
    let mut peer = server.connect().await;
    // The stand-in's way to the leader refuses everything.
    peer.redis("SET k v", "-NOLEADER no leader is known at the moment: try again\r\n").await;
    let refusal = "-NOLEADER no leader is known at the moment: try again, or read with READONLY\r\n";
    peer.redis("GET k", refusal).await;
    peer.redis("READONLY", "+OK\r\n").await;
    peer.redis("GET k", "$-1\r\n").await;
    peer.redis("READWRITE", "+OK\r\n").await;
    peer.redis("GET k", refusal).await;
    peer.redis(
        "INFO replication",
        "$151\r\n# Replication\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:6380\r\nmaster_link_status:up\r\n\
         slave_repl_offset:0\r\nslave_read_only:0\r\nconnected_slaves:0\r\n\r\n",
    )
    .await;
}
