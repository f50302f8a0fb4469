use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What the made-up node does with a request.
#[derive(Clone)]
enum Act {
    Say(u16, &'static str, String),
    HangUp,
}

/// A node that answers as told, one request a connection, and remembers the request lines.
struct Fake {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn start(acts: Vec<Act>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let remembered = seen.clone();
        let mut acts = VecDeque::from(acts);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let head = String::from_utf8_lossy(&request).into_owned();
                remembered.lock().expect("lock").push(head);
                // The last act is repeated for ever: whoever asks again without a right to is found out by the count.
                let act = if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() };
                if let Some(Act::Say(status, headers, body)) = act {
                    let text = format!(
                        "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(text.as_bytes()).await;
                }
            }
        });
        Fake { url, seen }
    }

    fn asked(&self) -> usize {
        self.seen.lock().expect("lock").len()
    }
}

fn ok() -> Act {
    Act::Say(200, "etag: \"7\"\r\n", "done".into())
}

fn error(status: u16, headers: &'static str, code: &str, leader: Option<&str>) -> Act {
    let leader = leader.map_or(String::new(), |l| format!(",\"leader\":\"{l}\""));
    Act::Say(status, headers, format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"because\"{leader}}}}}"))
}

fn client(urls: &[&str], timeout_ms: u64) -> Client {
    let urls: Vec<String> = urls.iter().map(|u| (*u).to_owned()).collect();
    Client::new(&urls, Duration::from_millis(timeout_ms), Some("s3cret".into())).expect("client")
}

fn put() -> Ask {
    let mut ask = Ask::new(Method::PUT, "/v1/kv/a");
    ask.body = Bytes::from_static(b"v");
    ask
}

/// The address of a port where nobody listens.
fn nobody() -> String {
    format!("http://{}", crate::testing::ports::nobody())
}

#[tokio::test]
async fn an_unknown_outcome_is_never_asked_again() {
    let (first, second) = (
        Fake::start(vec![error(504, "retry-after: 0\r\n", "outcome_unknown", None)]).await,
        Fake::start(vec![ok()]).await,
    );
    let failed = client(&[&first.url, &second.url], 5_000).ask(&put()).await.expect_err("unknown");
    assert!(matches!(failed, AskError::Unknown { .. }), "{failed:?}");
    assert!(failed.to_string().contains("may or may not have happened"), "{failed}");
    assert_eq!((first.asked(), second.asked()), (1, 0));
}

#[tokio::test]
async fn a_write_whose_connection_breaks_is_unknown_and_never_asked_again() {
    let (first, second) = (Fake::start(vec![Act::HangUp]).await, Fake::start(vec![ok()]).await);
    let failed = client(&[&first.url, &second.url], 5_000).ask(&put()).await.expect_err("unknown");
    assert!(matches!(failed, AskError::Unknown { .. }), "{failed:?}");
    assert_eq!((first.asked(), second.asked()), (1, 0));
}

#[tokio::test]
async fn a_write_with_an_idempotency_key_is_asked_again_until_its_outcome_is_known() {
    let (first, second) = (
        Fake::start(vec![error(504, "", "outcome_unknown", None)]).await,
        Fake::start(vec![Act::HangUp, error(503, "retry-after: 0\r\n", "no_leader", None), ok()]).await,
    );
    let reply = client(&[&first.url, &second.url], 5_000).ask(&put().once("name")).await.expect("done");
    assert_eq!(reply.body, "done");
    assert_eq!((first.asked(), second.asked()), (3, 3));
    let heads = second.seen.lock().expect("lock").clone();
    assert!(heads.iter().all(|head| head.contains("idempotency-key: name")), "{heads:?}");
}

#[tokio::test]
async fn what_may_have_happened_stays_unknown_when_nobody_answers_any_more() {
    let url = Fake::start(vec![error(504, "", "outcome_unknown", None)]).await.url;
    let asked = client(&[&url, &nobody()], 300).ask(&put().once("name")).await.expect_err("unknown");
    assert!(matches!(asked, AskError::UnknownOnce { .. }), "{asked:?}");
    assert!(asked.to_string().contains("same idempotency key"), "{asked}");
}

#[tokio::test]
async fn a_read_whose_connection_breaks_is_asked_of_the_next_node() {
    let (first, second) = (Fake::start(vec![Act::HangUp]).await, Fake::start(vec![ok()]).await);
    let reply = client(&[&first.url, &second.url], 5_000).ask(&Ask::get("/v1/kv/a")).await.expect("reply");
    assert_eq!(reply.body, "done");
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_passed_over() {
    let up = Fake::start(vec![ok()]).await;
    let reply = client(&[&nobody(), &up.url], 5_000).ask(&put()).await.expect("reply");
    assert_eq!(reply.headers["etag"], "\"7\"");
    let head = up.seen.lock().expect("lock")[0].clone();
    assert!(head.starts_with("PUT /v1/kv/a HTTP/1.1") && head.contains("Bearer s3cret"), "{head}");
}

#[tokio::test]
async fn when_no_node_can_be_reached_each_is_named_with_its_reason() {
    let down = nobody();
    let failed = client(&[&down], 5_000).ask(&put()).await.expect_err("down").to_string();
    assert!(
        failed.contains(&down) && failed.contains("connection refused") && failed.contains("quorate local"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_certain_refusal_is_asked_of_the_next_node_and_then_again_after_the_time_it_names() {
    let (first, second) = (
        Fake::start(vec![error(503, "retry-after: 0\r\n", "no_leader", None), ok()]).await,
        Fake::start(vec![error(503, "retry-after: 0\r\n", "overloaded", None)]).await,
    );
    let reply = client(&[&first.url, &second.url], 5_000).ask(&put()).await.expect("reply");
    assert_eq!(reply.body, "done");
    assert_eq!((first.asked(), second.asked()), (2, 1));
}

#[tokio::test]
async fn a_refusal_without_a_time_is_final_and_one_that_stays_ends_with_the_timeout() {
    let stays = Fake::start(vec![error(503, "", "stopping", None)]).await;
    let failed = client(&[&stays.url], 5_000).ask(&put()).await.expect_err("refused");
    assert!(matches!(&failed, AskError::Refused { code, waited: None, .. } if code == "stopping"), "{failed:?}");
    assert_eq!(stays.asked(), 1);

    let again = Fake::start(vec![error(503, "retry-after: 0\r\n", "no_quorum", None)]).await;
    let failed = client(&[&again.url], 1_000).ask(&put()).await.expect_err("refused");
    assert!(
        failed.to_string().contains("nothing was changed") && failed.to_string().contains("gave up after"),
        "{failed}"
    );
    assert!(again.asked() > 1);
}

#[tokio::test]
async fn a_node_that_names_the_leader_is_followed_but_not_for_ever() {
    let leader = Fake::start(vec![ok()]).await;
    let follower = Fake::start(vec![error(421, "", "not_leader", Some(&leader.url))]).await;
    let reply = client(&[&follower.url], 5_000).ask(&put()).await.expect("reply");
    assert_eq!((reply.body.as_ref(), leader.asked()), (&b"done"[..], 1));

    let listener = nobody();
    let confused = Fake::start(vec![error(421, "", "not_leader", Some(&listener))]).await;
    assert!(client(&[&confused.url], 5_000).ask(&put()).await.is_err());
    let one = Fake::start(vec![error(421, "", "not_leader", Some("http://127.0.0.1:9/other"))]).await;
    assert!(client(&[&one.url], 1_000).ask(&put()).await.is_err());
}

#[tokio::test]
async fn other_errors_are_told_with_their_code_and_not_asked_again() {
    let node = Fake::start(vec![error(412, "", "condition_failed", None)]).await;
    let failed = client(&[&node.url], 5_000).ask(&put()).await.expect_err("failed");
    assert!(matches!(&failed, AskError::Answered { status: 412, code, .. } if code == "condition_failed"));
    assert_eq!(node.asked(), 1);
    let odd = Fake::start(vec![Act::Say(500, "", "a proxy's page".into())]).await;
    let failed = client(&[&odd.url], 5_000).ask(&put()).await.expect_err("failed").to_string();
    assert!(failed.contains("a proxy's page") && failed.contains("HTTP 500"), "{failed}");
}

#[test]
fn urls_are_completed_and_wrong_ones_refused() {
    assert_eq!(base("127.0.0.1:8000").as_deref(), Ok("http://127.0.0.1:8000"));
    assert_eq!(base("http://a:1/").as_deref(), Ok("http://a:1"));
    assert!(base("https://a:1").expect_err("tls").contains("plain HTTP"));
    assert!(base("http://").is_err());
    assert!(Client::new(&[" ".into()], Duration::from_secs(1), None).is_err());
}
