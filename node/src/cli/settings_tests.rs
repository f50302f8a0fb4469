use clap::Parser;

use super::*;

#[derive(Parser)]
struct Just {
    #[command(flatten)]
    serve: ServeArgs,
}

fn args(args: &[&str]) -> ServeArgs {
    Just::try_parse_from(["serve"].iter().chain(args)).unwrap_or_else(|e| panic!("{e}")).serve
}

fn options_on(machine: &Machine, flags: &[&str]) -> Result<NodeOptions, SettingsError> {
    args(flags).options(machine)
}

fn options(flags: &[&str]) -> Result<NodeOptions, SettingsError> {
    options_on(&Machine { host_name: Some("box".into()) }, flags)
}

fn sentence(flags: &[&str]) -> String {
    options(flags).expect_err("refused").to_string()
}

#[test]
fn a_node_on_loopback_is_named_after_its_port_and_one_with_an_address_after_its_host() {
    let local = options(&["--primary"]).expect("options");
    assert_eq!((local.name.as_str(), local.host.as_str()), ("node-8000", "127.0.0.1"));
    assert_eq!(local.http, "127.0.0.1:8000".parse().expect("address"));
    assert_eq!(local.data_dir, Path::new("quorate-data/node-8000"));

    let named = options(&["--primary", "--address", "db1.example"]).expect("options");
    assert_eq!((named.name.as_str(), named.host.as_str()), ("box", "db1.example"));
    assert_eq!(named.peer, "0.0.0.0:7400".parse().expect("address"));

    let open = options(&["--primary", "--bind", "0.0.0.0"]).expect("options");
    assert_eq!((open.name.as_str(), open.host.as_str()), ("box", "box"));
}

#[test]
fn an_address_may_be_a_url_as_the_earlier_systems_had_it() {
    for (given, host) in [
        ("http://localhost:8001", "localhost"),
        ("http://worker1:8001/", "worker1"),
        ("10.0.0.7", "10.0.0.7"),
        ("[::1]:8000", "::1"),
        ("::1", "::1"),
    ] {
        assert_eq!(options(&["--primary", "--address", given]).expect(given).host, host);
    }
    assert_eq!(
        options(&["--primary", "--address", "http://localhost:8001"]).expect("ok").http.ip(),
        Ipv4Addr::LOCALHOST
    );
    assert!(sentence(&["--primary", "--address", "a b"]).contains("is no host"));
}

#[test]
fn a_write_quorum_that_is_not_given_is_more_than_half() {
    for (n, w) in [("1", 1), ("3", 2), ("6", 4)] {
        let form = options(&["--primary", "--replicas", n]).expect("ok").form.expect("forms");
        assert_eq!(form.write_quorum, w, "of {n}");
    }
    assert!(options(&["--peers", "a:7400"]).expect("ok").form.is_none());
}

#[test]
fn all_nodes_to_ask_are_collected() {
    let join = options(&["--leader-url", "http://a:8000", "--peers", "b:7400,http://c:8000"]).expect("ok").join;
    assert_eq!(join, ["http://a:8000", "b:7400", "http://c:8000"]);
}

#[test]
fn one_delay_alone_is_the_smallest_or_the_greatest() {
    let ms = Duration::from_millis;
    assert_eq!(options(&["--primary", "--max-delay", "5"]).expect("ok").delay, (ms(0), ms(5)));
    assert_eq!(options(&["--primary", "--min-delay", "5"]).expect("ok").delay, (ms(5), ms(5)));
}

#[test]
fn whatever_cannot_be_is_refused_with_a_sentence_that_names_the_way_out() {
    for (flags, expected) in [
        (&["--primary", "--replicas", "3", "--write-quorum", "4"][..], "--write-quorum (WRITE_QUORUM)"),
        (&["--primary", "--write-quorum", "0"], "at least 1"),
        (&["--primary", "--replicas", "10"], "between 1 and 9"),
        (&["--primary", "--min-delay", "5ms", "--max-delay", "1ms"], "raise --max-delay (MAX_DELAY)"),
        (&["--primary", "--heartbeat-interval", "400ms"], "at most half"),
        (&["--primary", "--heartbeat-interval", "0"], "something like 100ms"),
        (&["--primary", "--request-timeout", "2"], "say 2s for two seconds"),
        (&["--primary", "--id", "my node"], "letters, digits"),
        (&["--primary", "--id", ""], "is no name"),
        (&["--primary", "--address", "0.0.0.0"], "other nodes cannot connect to 0.0.0.0"),
        (
            &["--primary", "--http-port", "7000", "--tcp-port", "7000"],
            "port 7000 is given to both --http-port and --tcp-port",
        ),
        (&["--data-dir", "no-such-folder-here"], "--leader-url or --peers"),
        (&["--peers", "b"], "host:7400"),
        (&["--peers", "https://b:8000"], "http://host:8000"),
        (&["--primary", "--batch-keys", "0"], "--batch-keys (BATCH_KEYS) of 0"),
        (&["--primary", "--segment-size", "1MiB"], "at least 2MiB"),
        (&["--primary", "--in-flight-bytes", "1KiB"], "--in-flight-bytes (IN_FLIGHT_BYTES)"),
    ] {
        let text = sentence(flags);
        assert!(text.contains(expected), "{flags:?}: {text}");
        assert!(!text.ends_with('.') && !text.contains(". "), "one sentence without a full stop: {text}");
    }
    let nameless =
        options_on(&Machine::default(), &["--primary", "--bind", "0.0.0.0"]).expect_err("refused").to_string();
    assert!(nameless.contains("--address (ADDRESS)"), "{nameless}");
}

#[test]
fn a_follower_with_data_need_not_be_told_whom_to_ask() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().to_str().expect("path");
    assert!(matches!(options(&["--data-dir", path]), Err(SettingsError::NobodyToAsk(_))));
    std::fs::write(folder.path().join("meta"), "x").expect("write");
    assert!(options(&["--data-dir", path]).is_ok());
}

#[test]
fn an_empty_admin_token_is_none() {
    assert_eq!(options(&["--primary", "--admin-token", ""]).expect("ok").admin_token, None);
    let set = options(&["--primary", "--admin-token", "s3cret"]).expect("ok");
    assert_eq!(set.admin_token.as_deref(), Some("s3cret"));
    assert!(!show(&set).contains("s3cret"));
}

#[test]
fn ranges_of_ports_stay_below_the_end_and_apart() {
    let ports = |http, tcp, peer| [("--http-port", http), ("--tcp-port", tcp), ("--peer-port", peer)];
    assert_eq!(port_ranges(&ports(8000, 6379, 7400), 6), Ok(()));
    let overlap = port_ranges(&ports(8000, 8003, 7400), 6).expect_err("overlap").to_string();
    assert!(overlap.contains("--http-port and --tcp-port overlap"), "{overlap}");
    let end = port_ranges(&ports(65_533, 6379, 7400), 6).expect_err("end").to_string();
    assert!(end.contains("lower --http-port"), "{end}");
}

#[test]
fn variables_of_the_earlier_systems_that_mean_nothing_any_more_are_pointed_out() {
    let lines = retired(|name| name == "CONTROLLER");
    assert_eq!(lines, ["CONTROLLER is set but has no meaning here: use LEADER_URL or PEERS"]);
}
