//! Lines, and what both protocols have in common: stopping the node, tokens, web pages that try.

use super::*;

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
