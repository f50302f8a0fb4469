//! The binary as a person or a script meets it: settings from every source, exit codes, streams. No node is started.

use std::process::{Command, Output};

#[allow(unreachable_pub, reason = "elsewhere it is a part of a library")]
#[path = "../../tests/src/ports.rs"]
mod ports;

fn quorate(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(args).env_clear().envs(env.iter().copied());
    command.output().unwrap_or_else(|e| panic!("the binary does not run: {e}"))
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The value that `serve --check` shows for a setting.
fn checked(args: &[&str], env: &[(&str, &str)], setting: &str) -> String {
    let args: Vec<&str> = ["serve", "--check", "--primary"].iter().chain(args).copied().collect();
    let output = quorate(&args, env);
    assert!(output.status.success(), "{}", err(&output));
    let shown = out(&output);
    let line =
        shown.lines().find(|l| l.split_whitespace().next() == Some(setting)).unwrap_or_else(|| panic!("{shown}"));
    line[setting.len()..].trim().to_owned()
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("quorate.conf");
    std::fs::write(&file, "MAX_DELAY=3ms\nID=filed\n").expect("write");
    let file = ["--config", file.to_str().expect("path")];
    let with = |more: &[&'static str]| [&file[..], more].concat();

    assert_eq!(checked(&[], &[], "delay"), "0ms-0ms");
    assert_eq!(checked(&file, &[], "delay"), "0ms-3ms");
    assert_eq!(checked(&file, &[("MAX_DELAY", "2ms")], "delay"), "0ms-2ms");
    assert_eq!(checked(&with(&["--max-delay", "1ms"]), &[("MAX_DELAY", "2ms")], "delay"), "0ms-1ms");
    assert_eq!(checked(&file, &[("MAX_DELAY", "2ms")], "id"), "filed");
    // Set but empty, as compose files leave a variable: as if it were not set.
    assert_eq!(checked(&file, &[("MAX_DELAY", "")], "delay"), "0ms-3ms");
    assert_eq!(checked(&[], &[("CLUSTER_ID", ""), ("ADMIN_TOKEN", "")], "cluster-id"), "any");
}

#[test]
fn a_setting_that_cannot_be_ends_with_code_2_and_one_sentence_on_stderr() {
    let output = quorate(&["serve", "--primary"], &[("WRITE_QUORUM", "9"), ("REPLICAS", "3")]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(out(&output), "");
    let text = err(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("WRITE_QUORUM"), "{text}");

    assert_eq!(quorate(&["serve", "--no-such-flag"], &[]).status.code(), Some(2));
    assert_eq!(quorate(&["watch", "--prefix", "a"], &[]).status.code(), Some(2));
    assert_eq!(quorate(&["local", "--nodes", "12"], &[]).status.code(), Some(2));
}

#[test]
fn help_goes_to_stdout_with_code_0_and_names_every_verb() {
    let output = quorate(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = out(&output);
    for verb in ["local", "serve", "get", "put", "delete", "list", "status", "members", "config", "transfer", "bench"] {
        assert!(text.lines().any(|l| l.trim_start().starts_with(verb)), "{verb}\n{text}");
    }
}

#[test]
fn a_client_verb_without_a_cluster_says_which_node_did_not_answer_and_how_to_start_one() {
    let url = format!("http://{}", ports::nobody());
    let output = quorate(&["get", "hello"], &[("QUORATE_URL", &url)]);
    assert_eq!(output.status.code(), Some(1));
    let text = err(&output);
    assert!(text.contains(&url) && text.contains("connection refused") && text.contains("quorate local"), "{text}");
}
