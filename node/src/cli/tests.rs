use std::ffi::OsString;

use clap::CommandFactory;

use super::*;
use crate::cli::settings::{Machine, NodeType};

fn parsed(args: &[&str]) -> Result<Cli, Stopped> {
    parse(args.iter().map(OsString::from).collect(), |_| false)
}

fn serve(args: &[&str]) -> settings::ServeArgs {
    let args: Vec<&str> = ["quorate", "serve"].iter().chain(args).copied().collect();
    match parsed(&args).expect("parses").verb {
        Verb::Serve(serve) => serve,
        other => panic!("{other:?}"),
    }
}

fn refusal(args: &[&str]) -> String {
    match parsed(args) {
        Err(Stopped::Clap(error)) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

fn help(verb: &str) -> String {
    let mut command = Cli::command();
    command.find_subcommand_mut(verb).expect(verb).render_long_help().to_string()
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_serve_names_every_variable_and_every_default() {
    let help = help("serve");
    for name in [
        "NODE_TYPE",
        "LEADER_URL",
        "PEERS",
        "WRITE_QUORUM",
        "REPLICAS",
        "MIN_DELAY",
        "MAX_DELAY",
        "DATA_DIR",
        "ID",
        "ADDRESS",
        "BIND",
        "HTTP_PORT",
        "TCP_PORT",
        "PEER_PORT",
        "CLUSTER_ID",
        "ADMIN_TOKEN",
        "HEARTBEAT_INTERVAL",
        "ELECTION_TIMEOUT",
        "REQUEST_TIMEOUT",
        "LEASE_READS",
        "KEY_MAX",
        "VALUE_MAX",
        "BATCH_KEYS",
        "PAGE_KEYS",
        "IN_FLIGHT_WRITES",
        "IN_FLIGHT_BYTES",
        "HTTP_CONNECTIONS",
        "TCP_CONNECTIONS",
        "OVERLAY_SIZE",
        "CACHE_SIZE",
        "DISK_RESERVE",
        "SEGMENT_SIZE",
        "LOG_KEEP",
        "RUST_LOG",
        "LOG_FORMAT",
        "QUORATE_CONFIG",
    ] {
        assert!(help.contains(&format!("[env: {name}]")), "{name} is missing in\n{help}");
    }
    for default in ["8000", "6379", "7400", "100ms", "500ms-1s", "5s", "64MiB", "256MiB"] {
        assert!(help.contains(&format!("[default: {default}")), "{default}");
    }
    assert!(help.contains("Examples:") && help.contains("--node-id") && help.contains("--primary"));
}

#[test]
fn the_defaults_in_the_help_are_those_of_the_node() {
    use crate::options::Limits;
    let help = help("serve");
    let defaults = Limits::default();
    for (flag, value) in [
        ("--key-max", units::show_size(defaults.key_bytes as u64)),
        ("--value-max", units::show_size(defaults.value_bytes as u64)),
        ("--batch-keys", defaults.batch_keys.to_string()),
        ("--page-keys", defaults.page_keys.to_string()),
        ("--in-flight-writes", defaults.in_flight_writes.to_string()),
        ("--in-flight-bytes", units::show_size(defaults.in_flight_bytes as u64)),
        ("--http-connections", defaults.http_connections.to_string()),
        ("--tcp-connections", defaults.tcp_connections.to_string()),
        ("--overlay-size", units::show_size(defaults.overlay_bytes as u64)),
        ("--cache-size", units::show_size(defaults.cache_bytes)),
        ("--disk-reserve", units::show_size(defaults.disk_reserve_bytes)),
        ("--segment-size", units::show_size(defaults.segment_bytes)),
        ("--log-keep", units::show_size(defaults.log_keep_bytes)),
    ] {
        let about = help.split(&format!("{flag} <")).nth(1).unwrap_or_else(|| panic!("{flag}"));
        let said = about.split("[default: ").nth(1).expect("a default").split([']', ';']).next().expect("a value");
        assert_eq!(said, value, "{flag}");
    }
}

#[test]
fn the_names_of_the_earlier_systems_are_accepted() {
    let args = serve(&["--node-id", "node1", "--port", "6380", "--primary"]);
    assert_eq!((args.id.as_deref(), args.tcp_port, args.primary), (Some("node1"), 6380, true));
    assert_eq!(serve(&["--node-type", "primary"]).node_type, NodeType::Leader);
}

#[test]
fn a_wrong_value_is_a_usage_error_that_shows_the_right_form() {
    let message = refusal(&["quorate", "serve", "--min-delay", "soon"]);
    assert!(message.contains("--min-delay") && message.contains("a bare number is milliseconds"), "{message}");
    assert!(refusal(&["quorate", "serve", "--election-timeout", "1s-500ms"]).contains("shorter time first"));
    assert!(refusal(&["quorate", "serve", "--cluster-id", "mine"]).contains("is not a UUID"));
    assert!(refusal(&["quorate", "put", "k", "v", "--if-match", "3", "--if-absent"]).contains("cannot be used with"));
    assert!(refusal(&["quorate", "config", "set"]).contains("--write-quorum"));
    assert!(refusal(&["quorate", "bench", "--requests", "5", "--duration", "1s"]).contains("cannot be used with"));
}

#[test]
fn a_settings_file_ranks_below_the_command_line_and_above_the_defaults() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("quorate.conf");
    let text = "ID=from-file\nWRITE_QUORUM=3\nREPLICAS=5\nPEERS=a:7400,b:7400\nMAX_DELAY=2ms\nLEASE_READS=yes\nNODE_TYPE=leader\n";
    std::fs::write(&path, text).expect("write");
    let path = path.to_str().expect("path");
    let args = serve(&["--config", path, "--id", "from-flag"]);
    assert_eq!(args.id.as_deref(), Some("from-flag"));
    assert_eq!((args.replicas, args.write_quorum, args.timing.lease_reads), (5, Some(3), true));
    assert_eq!(args.peers, ["a:7400", "b:7400"]);
    assert_eq!(args.http_port, 8000);
    let options = args.options(&Machine::default()).expect("options");
    assert_eq!(options.delay.1, std::time::Duration::from_millis(2));
}

#[test]
fn a_wrong_settings_file_is_refused_with_the_line_or_the_setting() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("quorate.conf");
    std::fs::write(&path, "ID=a\nWRITE_QUORM=3\n").expect("write");
    let args = ["quorate", "serve", "--config", path.to_str().expect("path")];
    match parsed(&args) {
        Err(Stopped::File(error)) => {
            assert!(error.to_string().contains("line 2: WRITE_QUORM is not a setting"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    std::fs::write(&path, "MAX_DELAY=soon\n").expect("write");
    assert!(refusal(&args).contains("--max-delay"));
}

#[test]
fn a_variable_that_is_set_but_empty_counts_as_not_set() {
    let command = file::ignore_empty(Cli::command(), |name| name == "CLUSTER_ID");
    let serve = command.find_subcommand("serve").expect("serve");
    let env = |id: &str| serve.get_arguments().find(|a| a.get_id() == id).and_then(|a| a.get_env());
    assert_eq!(env("cluster_id"), None);
    assert!(env("admin_token").is_some());
}

#[test]
fn verbs_that_come_later_say_so_and_are_not_in_the_help() {
    let cli = parsed(&["quorate", "watch", "--prefix", "a"]).expect("parses");
    match run(&cli.verb) {
        Err(failure) => assert!(failure.code() == 2 && failure.message().contains("not available yet"), "{failure:?}"),
        Ok(()) => panic!("watch is not there yet"),
    }
    let help = Cli::command().render_long_help().to_string();
    assert!(!help.contains("watch"), "{help}");
}

#[test]
fn client_verbs_take_their_options_after_the_names() {
    let cli = parsed(&["quorate", "members", "remove", "node3", "--url", "http://a:1,http://b:2", "-o", "json"])
        .expect("parses");
    let Verb::Members(verbs::MembersArgs { change: Some(verbs::MembersChange::Remove(named)), .. }) = cli.verb else {
        panic!("not a removal")
    };
    assert_eq!((named.name.as_str(), named.target.url.len()), ("node3", 2));
    assert!(parsed(&["quorate", "put", "k", "-5"]).is_ok());
    assert!(parsed(&["quorate", "put", "k", "-"]).is_ok());
    assert!(parsed(&["quorate", "config", "--url", "http://a:1"]).is_ok());
}
