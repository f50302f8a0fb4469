//! The port on real sockets, in front of a node without a log.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use quorum::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::session::READ_BYTES;
use super::*;
use crate::handle::{ChangeError, ReadError, WriteError};
use crate::options::NodeOptions;
use crate::testing;

/// Longer than anything takes on the slowest machine that builds this.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    handle: Handle,
    task: JoinHandle<()>,
}

async fn server_with(role: Role, stall: Duration, adjust: impl FnOnce(&mut NodeOptions)) -> Server {
    server_of(testing::handle(role, adjust), stall).await
}

async fn server_of(handle: Handle, stall: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let task = tokio::spawn(serve_until_stopped(listener, handle.clone(), stall));
    Server { address, handle, task }
}

async fn server(role: Role) -> Server {
    server_with(role, STALL_MAX, |_| {}).await
}

struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("send");
    }

    async fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            let mut buffer = vec![0; expected.len() - got.len()];
            let count = tokio::time::timeout(PATIENCE, self.0.read(&mut buffer)).await;
            match count {
                Ok(Ok(count)) if count > 0 => got.extend_from_slice(&buffer[..count]),
                other => panic!("wanted {}, got {} and then {other:?}", expected.escape_ascii(), got.escape_ascii()),
            }
            assert!(expected.starts_with(&got), "wanted {}, got {}", expected.escape_ascii(), got.escape_ascii());
        }
    }

    async fn ask(&mut self, request: &str, reply: &str) {
        self.send(request).await;
        self.expect(reply).await;
    }

    /// A Redis command given as words.
    async fn redis(&mut self, words: &str, reply: &str) {
        self.send(encode(words)).await;
        self.expect(reply).await;
    }

    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the connection ends");
        // A reset is an end too.
        let _ = read;
        rest
    }

    async fn ended(&mut self) {
        assert_eq!(self.rest().await, b"");
    }
}

impl Server {
    async fn connect(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.expect("connect"))
    }

    async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server ends").expect("without a panic");
    }
}

fn encode(words: &str) -> Vec<u8> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut out = Vec::new();
    resp::array(&mut out, words.len());
    words.iter().for_each(|word| resp::bulk(&mut out, word.as_bytes()));
    out
}

#[tokio::test]
async fn lines_are_answered_with_the_exact_documented_json() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    for (line, reply) in [
        (r#"SET user:1 {"name":"Alice","age":30}"#, r#"{"status":"OK","message":"Key 'user:1' set"}"#),
        ("GET user:1", r#"{"status":"OK","value":{"name":"Alice","age":30}}"#),
        ("DELETE user:1", r#"{"status":"OK"}"#),
        ("GET user:1", r#"{"status":"ERROR","message":"Key 'user:1' not found"}"#),
        ("DELETE user:1", r#"{"status":"ERROR","message":"Key 'user:1' not found"}"#),
        ("PING", r#"{"status":"OK","message":"PONG"}"#),
        ("ping\r", r#"{"status":"OK","message":"PONG"}"#),
        ("STATUS", r#"{"status":"OK","node_id":"node1","role":"primary","election_term":1}"#),
        ("set k no json, \"two\" words", r#"{"status":"OK","message":"Key 'k' set"}"#),
        ("get k", r#"{"status":"OK","value":"no json, \"two\" words"}"#),
        ("SET n 30", r#"{"status":"OK","message":"Key 'n' set"}"#),
        ("GET n", r#"{"status":"OK","value":30}"#),
        ("SET s \"30\"", r#"{"status":"OK","message":"Key 's' set"}"#),
        ("GET s", r#"{"status":"OK","value":"30"}"#),
        ("SET z null", r#"{"status":"OK","message":"Key 'z' set"}"#),
        ("GET z", r#"{"status":"OK","value":null}"#),
        ("FLY away", r#"{"status":"ERROR","message":"Unknown command 'FLY'"}"#),
        ("GET", r#"{"status":"ERROR","message":"Usage: GET <key>"}"#),
        ("AUTH x", r#"{"status":"ERROR","message":"no token is set on this node"}"#),
        ("QUIT", r#"{"status":"OK"}"#),
    ] {
        peer.ask(&format!("{line}\n"), &format!("{reply}\n")).await;
    }
    peer.ended().await;
}

#[tokio::test]
async fn lines_in_one_packet_are_answered_in_order() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    let (mut lines, mut replies) = (String::new(), String::new());
    for n in 0..200 {
        lines += &format!("SET k {n}\nGET k\nPING\n");
        replies += &format!(
            "{{\"status\":\"OK\",\"message\":\"Key 'k' set\"}}\n{{\"status\":\"OK\",\"value\":{n}}}\n\
             {{\"status\":\"OK\",\"message\":\"PONG\"}}\n"
        );
    }
    peer.ask(&lines, &replies).await;
}

#[tokio::test]
async fn a_line_in_pieces_is_one_line() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    for byte in b"PING\r\nGET x" {
        peer.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    peer.expect("{\"status\":\"OK\",\"message\":\"PONG\"}\n").await;
    peer.ask("\n", "{\"status\":\"ERROR\",\"message\":\"Key 'x' not found\"}\n").await;
}

#[tokio::test]
async fn bad_lines_get_an_error_and_overlong_ones_end_the_connection() {
    let server = server_with(Role::Leader, STALL_MAX, |o| (o.limits.value_bytes, o.limits.key_bytes) = (100, 10)).await;
    let mut peer = server.connect().await;
    peer.send(b"GET \xff\n").await;
    peer.expect("{\"status\":\"ERROR\",\"message\":\"the line is not valid UTF-8\"}\n").await;
    peer.ask("SET 12345678901 v\n", "{\"status\":\"ERROR\",\"message\":\"the key is longer than 10 bytes\"}\n").await;
    let long = "x".repeat(101);
    let error = "{\"status\":\"ERROR\",\"message\":\"the value is larger than 100 bytes\"}\n";
    peer.ask(&format!("SET k {long}\n"), error).await;
    peer.send("y".repeat(200_000)).await;
    let bound = 110 + OVERHEAD_BYTES;
    let error = format!("{{\"status\":\"ERROR\",\"message\":\"the line is longer than {bound} bytes\"}}\n");
    peer.expect(error).await;
    peer.ended().await;
}

#[tokio::test]
async fn a_web_page_cannot_speak_to_the_port() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    peer.send("POST / HTTP/1.1\r\nHost: x\r\n\r\nSHUTDOWN\n").await;
    peer.expect("{\"status\":\"ERROR\",\"message\":\"this is not an HTTP port\"}\n").await;
    peer.ended().await;
    assert!(!*server.handle.stopping().borrow());
}

#[tokio::test]
async fn a_secondary_names_the_primary_in_line_mode() {
    let server = server(Role::Follower).await;
    let mut peer = server.connect().await;
    let refusal = "{\"status\":\"ERROR\",\"message\":\"this node is a secondary: reads and writes are answered by the \
                   primary\",\"primary\":\"127.0.0.1:6380\"}\n";
    peer.ask("SET k v\n", refusal).await;
    peer.ask("GET k\n", refusal).await;
    peer.ask("DELETE k\n", refusal).await;
    let status = "{\"status\":\"OK\",\"node_id\":\"node1\",\"role\":\"secondary\",\"election_term\":1}\n";
    peer.ask("STATUS\n", status).await;
    peer.ask("PING\n", "{\"status\":\"OK\",\"message\":\"PONG\"}\n").await;
}

#[tokio::test]
async fn shutdown_from_this_machine_answers_and_stops_the_node() {
    let server = server(Role::Leader).await;
    let mut idle = server.connect().await;
    idle.ask("PING\n", "{\"status\":\"OK\",\"message\":\"PONG\"}\n").await;
    let mut peer = server.connect().await;
    peer.ask("SHUTDOWN\n", "{\"status\":\"OK\",\"message\":\"Shutting down\"}\n").await;
    peer.ended().await;
    idle.ended().await;
    assert!(*server.handle.stopping().borrow());
    server.ended().await;
}

#[tokio::test]
async fn redis_shutdown_ends_the_connection_without_a_reply() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    peer.send(encode("SHUTDOWN NOSAVE")).await;
    peer.ended().await;
    server.ended().await;
}

#[tokio::test]
async fn tokens_are_checked_in_both_protocols() {
    let server = server_with(Role::Leader, STALL_MAX, |o| o.admin_token = Some("secret".into())).await;
    let mut lines = server.connect().await;
    lines.ask("AUTH wrong\n", "{\"status\":\"ERROR\",\"message\":\"wrong token\"}\n").await;
    lines.ask("AUTH secret\n", "{\"status\":\"OK\"}\n").await;
    let mut redis = server.connect().await;
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    redis.redis("AUTH secreT", wrong).await;
    redis.redis("AUTH default secre", wrong).await;
    redis.redis("AUTH default secret", "+OK\r\n").await;
    redis.redis("SET k v", "+OK\r\n").await;
    redis.redis("HELLO 3 AUTH default no", wrong).await;
}

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

#[tokio::test]
async fn limits_on_keys_values_and_counts_are_kept_without_losing_the_connection() {
    let adjust = |o: &mut NodeOptions| (o.limits.value_bytes, o.limits.key_bytes, o.limits.batch_keys) = (100, 10, 3);
    let server = server_with(Role::Leader, STALL_MAX, adjust).await;
    let mut peer = server.connect().await;
    peer.redis(&format!("SET k {}", "v".repeat(100)), "+OK\r\n").await;
    peer.redis(&format!("SET k {}", "v".repeat(101)), "-ERR the value is larger than 100 bytes\r\n").await;
    peer.redis("SET 12345678901 v", "-ERR the key is longer than 10 bytes\r\n").await;
    peer.ask("*3\r\n$3\r\nSET\r\n$0\r\n\r\n$1\r\nv\r\n", "-ERR the key is empty\r\n").await;
    peer.send(b"*3\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$1\r\nv\r\n").await;
    peer.expect("-ERR the key is not valid UTF-8\r\n").await;
    peer.redis("MGET a b c", "*3\r\n$-1\r\n$-1\r\n$-1\r\n").await;
    peer.redis("MGET a b c d", "-ERR more than 3 keys in one command\r\n").await;
    peer.redis("DEL a b c d", "-ERR more than 3 keys in one command\r\n").await;
    peer.redis("MSET a 1 b 2 c 3 d 4", "-ERR more than 3 keys in one command\r\n").await;
    peer.redis("PING", "+PONG\r\n").await;
    peer.ask("*1\r\n$1000000\r\n", "-ERR Protocol error: invalid bulk length\r\n").await;
    peer.ended().await;
}

#[tokio::test]
async fn answers_come_before_the_error_that_ends_a_connection() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    let mut input = encode("SET k v");
    input.extend(encode("GET k"));
    input.extend(b"*1\r\n$x\r\n");
    input.extend(vec![b'z'; 100_000]);
    peer.send(input).await;
    peer.expect("+OK\r\n$1\r\nv\r\n-ERR Protocol error: invalid bulk length\r\n").await;
    peer.ended().await;
}

#[tokio::test]
async fn large_values_survive_the_way_in_and_out() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    let value = "0123456789".repeat(100_000);
    peer.redis(&format!("SET k {value}"), "+OK\r\n").await;
    let reply = format!("${}\r\n{value}\r\n", value.len());
    let (mut reader, mut writer) = peer.0.split();
    let mgets = encode("MGET k k k k");
    let expected = format!("*4\r\n{}", reply.repeat(4));
    let mut got = vec![0; expected.len()];
    writer.write_all(&mgets).await.expect("send");
    tokio::time::timeout(PATIENCE, reader.read_exact(&mut got)).await.expect("in time").expect("read");
    assert!(got == expected.as_bytes());
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_a_place_is_free_again_after_one_ends() {
    let server = server_with(Role::Leader, STALL_MAX, |o| o.limits.tcp_connections = 2).await;
    let mut first = server.connect().await;
    first.redis("PING", "+PONG\r\n").await;
    let mut second = server.connect().await;
    second.redis("PING", "+PONG\r\n").await;
    assert_eq!(server.connect().await.rest().await, b"-ERR max number of clients reached\r\n");
    assert_eq!(server.handle.metrics().connections.with_label_values(&["tcp"]).get(), 2.0);
    second.redis("QUIT", "+OK\r\n").await;
    second.ended().await;
    let gauge = server.handle.metrics().connections.with_label_values(&["tcp"]);
    tokio::time::timeout(PATIENCE, async {
        while gauge.get() > 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the second is gone");
    let mut third = server.connect().await;
    third.redis("PING", "+PONG\r\n").await;
}

#[tokio::test]
async fn half_a_command_is_given_up_after_a_while_and_idleness_is_not() {
    let server = server_with(Role::Leader, Duration::from_millis(50), |_| {}).await;
    let mut idle = server.connect().await;
    idle.redis("PING", "+PONG\r\n").await;
    let mut stalled = server.connect().await;
    stalled.send("*1\r\n$4\r\nPI").await;
    stalled.ended().await;
    let mut stalled = server.connect().await;
    stalled.send("PIN").await;
    stalled.ended().await;
    idle.redis("PING", "+PONG\r\n").await;
}

#[tokio::test]
async fn a_byte_now_and_then_does_not_keep_half_a_command_for_ever() {
    let server = server_with(Role::Leader, Duration::from_millis(200), |_| {}).await;
    for begun in ["*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n", "SET k "] {
        let mut slow = server.connect().await;
        slow.send(begun).await;
        let dripping = async {
            // Much sooner than any single wait ends. The system tells of the end with the second byte after it.
            while slow.0.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, dripping).await.expect("it is cut off");
    }
    // Commands that are complete may go on arriving for as long as they like, each with the beginning of the next.
    let mut busy = server.connect().await;
    let begun = std::time::Instant::now();
    busy.send("*1\r\n$4\r\nPI").await;
    while begun.elapsed() < Duration::from_millis(600) {
        busy.ask("NG\r\n*1\r\n$4\r\nPI", "+PONG\r\n").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    busy.ask("NG\r\n", "+PONG\r\n").await;
}

#[tokio::test]
async fn values_that_stop_on_their_way_take_no_more_memory_than_all_may_and_small_commands_go_on() {
    let server = server_with(Role::Leader, STALL_MAX, testing::little_intake).await;
    let value = "v".repeat(testing::STUCK_BYTES);
    let mut stuck = Vec::new();
    for n in 0..testing::STUCK {
        let mut peer = server.connect().await;
        let lines = n % 2 == 0;
        let begun =
            if lines { format!("SET k {value}") } else { format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$60000\r\n{value}") };
        peer.send(begun).await;
        stuck.push(async move {
            let rest = String::from_utf8(peer.rest().await).expect("text");
            let (redis, line) = (rest.starts_with("-BUSY "), rest.starts_with("{\"status\":\"ERROR\""));
            assert!((if lines { line } else { redis }) && rest.contains("still arriving"), "{rest}");
        });
    }
    let mut refused = stuck.into_iter().collect::<futures_util::stream::FuturesUnordered<_>>();
    for _ in 0..testing::STUCK_REFUSED {
        futures_util::StreamExt::next(&mut refused).await.expect("one more");
    }
    let mut small = server.connect().await;
    small.redis("SET small v", "+OK\r\n").await;
    // The others hold what they have until they go.
    drop(refused);
    let large = format!("SET k {value}");
    let again = async {
        loop {
            let mut peer = server.connect().await;
            peer.send(&large.as_bytes()[..testing::STUCK_BYTES]).await;
            let mut answer = [0; 1];
            let soon = tokio::time::timeout(Duration::from_millis(50), peer.0.read(&mut answer)).await;
            if soon.is_err() {
                peer.send(&large.as_bytes()[testing::STUCK_BYTES..]).await;
                return peer.ask("\n", "{\"status\":\"OK\"").await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_given_up() {
    let server = server_with(Role::Leader, Duration::from_millis(50), |_| {}).await;
    let mut peer = server.connect().await;
    peer.redis(&format!("SET k {}", "v".repeat(1 << 20)), "+OK\r\n").await;
    for _ in 0..64 {
        if peer.0.write_all(&encode("MGET k k k k k k k k")).await.is_err() {
            break;
        }
    }
    let gauge = server.handle.metrics().connections.with_label_values(&["tcp"]);
    tokio::time::timeout(PATIENCE, async {
        while gauge.get() > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the session ended");
}

#[tokio::test]
async fn a_stop_ends_idle_and_half_read_connections() {
    let server = server(Role::Leader).await;
    let mut idle = server.connect().await;
    idle.redis("PING", "+PONG\r\n").await;
    let mut half = server.connect().await;
    half.send(encode("PING")).await;
    half.expect("+PONG\r\n").await;
    half.send("*1\r\n$4").await;
    server.handle.request_stop();
    idle.ended().await;
    half.ended().await;
    server.ended().await;
}

#[tokio::test]
async fn every_command_is_counted_once_under_a_fixed_route() {
    let server = server(Role::Leader).await;
    let mut peer = server.connect().await;
    peer.redis("SET k v", "+OK\r\n").await;
    peer.redis("GET k", "$1\r\nv\r\n").await;
    peer.redis("GET k", "$1\r\nv\r\n").await;
    peer.redis("PING", "+PONG\r\n").await;
    let seconds = &server.handle.metrics().request_seconds;
    let count = |route: &str| seconds.with_label_values(&[route, "ok"]).get_sample_count();
    assert_eq!((count("tcp_set"), count("tcp_get"), count("tcp_delete")), (1, 2, 0));
}

#[tokio::test]
async fn a_client_that_never_pauses_leaves_the_thread_to_others_after_each_batch() {
    const GETS: u64 = 200_000;
    let server = server(Role::Leader).await;
    let mut stream = std::net::TcpStream::connect(server.address).expect("connected");
    let mut answers = stream.try_clone().expect("a second handle");
    let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    let writer = std::thread::spawn(move || {
        // From this node's own copy: such a read waits for nobody.
        let many = encode("GET k").repeat(10_000);
        let mut written = stream.write_all(&encode("READONLY"));
        while written.is_ok() {
            written = stream.write_all(&many);
        }
    });
    let seconds = server.handle.metrics().request_seconds.with_label_values(&["tcp_get", "ok"]);
    let (mut before, mut most) = (0, 0);
    let watch = async {
        while before < GETS {
            tokio::task::yield_now().await;
            // Another task at work: the client goes on meanwhile, and fills what the system keeps for the connection.
            std::thread::sleep(Duration::from_millis(5));
            let now = seconds.get_sample_count();
            (most, before) = (most.max(now - before), now);
        }
    };
    tokio::time::timeout(PATIENCE, watch).await.expect("they are answered");
    server.handle.request_stop();
    server.ended().await;
    writer.join().expect("it ends with the connection");
    drop(reader.join().expect("so does this"));
    // What the buffer may have grown to, in commands.
    let batch = (3 * READ_BYTES.1 / encode("GET k").len()) as u64;
    println!("at most {most} commands in a row, of {batch} that are allowed");
    assert!(most <= batch, "{most} commands in a row");
}
