//! What is too much, too slow or never ends, and what costs others nothing.

use std::io::Write as _;

use super::*;
use crate::tcp::session::READ_BYTES;

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
