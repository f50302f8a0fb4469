use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

#[derive(Parser)]
struct Just {
    #[command(flatten)]
    bench: BenchArgs,
}

fn load(flags: &[&str]) -> Result<(Load, Until), String> {
    Just::try_parse_from(["bench"].iter().chain(flags)).unwrap_or_else(|e| panic!("{e}")).bench.load()
}

#[test]
fn without_flags_sixty_four_clients_write_for_ten_seconds() {
    let (load, until) = load(&[]).expect("load");
    assert_eq!((load.clients, load.pipeline, load.reads.0, load.rate), (64, 1, 0, None));
    assert_eq!(load.addresses, ["127.0.0.1:8000"]);
    assert_eq!(until, Until::Elapsed(Duration::from_secs(10)));
}

#[test]
fn a_load_that_cannot_be_is_refused_with_a_sentence() {
    for (flags, expected) in [
        (&["--clients", "0"][..], "--clients of 0"),
        (&["--clients", "99999"], "give less"),
        (&["--requests", "0"], "--requests of 0"),
        (&["--duration", "0"], "--duration of 0"),
        (&["--rate", "0"], "above 0"),
        (&["--pipeline", "4"], "--protocol resp only"),
        (&["--url", "http://a"], "something like http://127.0.0.1:8000"),
        (&["--protocol", "resp", "--url", "http://a:1"], "something like 127.0.0.1:6379"),
    ] {
        let text = load(flags).expect_err("refused");
        assert!(text.contains(expected), "{flags:?}: {text}");
    }
    assert_eq!(load(&["--protocol", "resp", "--url", "redis://h:1,i:2"]).expect("ok").0.addresses, ["h:1", "i:2"]);
}

/// A store that says `+OK` to each SET of a pipeline, and an error to every tenth.
async fn fake_redis() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut input, mut count) = (Vec::new(), 0u32);
                while stream.read_buf(&mut input).await.unwrap_or(0) > 0 {
                    let commands = input.windows(4).filter(|w| w == b"SET\r").count();
                    let ends = input.ends_with(b"\r\n");
                    if !ends {
                        continue;
                    }
                    input.clear();
                    let mut out = String::new();
                    for _ in 0..commands {
                        count += 1;
                        out += if count.is_multiple_of(10) { "-BUSY later\r\n" } else { "+OK\r\n" };
                    }
                    if stream.write_all(out.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn every_request_of_a_run_is_counted_once_as_done_or_as_an_error() {
    let address = fake_redis().await;
    let (load, until) = load(&[
        "--protocol",
        "resp",
        "--url",
        &address,
        "--clients",
        "4",
        "--pipeline",
        "1",
        "--requests",
        "203",
        "--value-size",
        "8",
    ])
    .expect("load");
    let report = measure(load, until, Duration::ZERO).await.expect("report");
    let errors: u64 = report.errors.values().sum();
    assert_eq!(report.done + errors, 203, "{report:?}");
    assert!(report.errors.keys().all(|k| k == "BUSY") && errors >= 16, "{report:?}");
    let writes = report.writes.as_ref().expect("writes");
    assert!(writes.p50_ms <= writes.p99_ms && writes.p99_ms <= writes.max_ms);
    let text = shown(&report);
    assert!(text.contains("P99.9") && text.contains("BUSY"), "{text}");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_an_error_that_says_how_to_start_one() {
    let closed = crate::testing::ports::nobody().to_string();
    let (load, until) = load(&["--url", &closed, "--requests", "1"]).expect("load");
    let failure = measure(load, until, Duration::ZERO).await.expect_err("nobody there");
    assert!(failure.message().contains(&closed) && failure.message().contains("quorate local"), "{failure:?}");
}
