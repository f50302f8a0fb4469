//! A machine of the kind cluster, and what can befall it. Everything is undone when the value that stands for it goes,
//! also when a test fails.
//!
//! Machines of kind are containers: they are reached through the program that `QUORATE_MACHINES` names, a `docker`
//! (scripts/kubernetes/test sets it). A cluster from elsewhere has none, and these tests are not run there.

use std::process::{Command, Stdio};

use crate::command;

/// Something that befell a machine, until this goes.
#[derive(Debug)]
pub struct Trouble {
    undo: Vec<String>,
}

impl Trouble {
    /// The kubelet ends; pods run on, and nobody tells the API server about them.
    #[must_use]
    pub fn kubelet_stopped(machine: &str) -> Trouble {
        begin(&["exec", machine, "systemctl", "stop", "kubelet"], &["exec", machine, "systemctl", "start", "kubelet"])
    }

    /// The whole machine stands still, with all its pods, as in a power cut: nobody is told that a connection has
    /// ended.
    #[must_use]
    pub fn frozen(machine: &str) -> Trouble {
        begin(&["pause", machine], &["unpause", machine])
    }

    /// There is no API server: its process is ended, and with it the kubelet that would start it again.
    #[must_use]
    pub fn without_api_server(control_plane: &str) -> Trouble {
        let trouble = Trouble::kubelet_stopped(control_plane);
        docker(&["exec", control_plane, "sh", "-c", "kill -9 $(pidof kube-apiserver)"]);
        trouble
    }

    /// All processes of a program end in an instant, with nothing handed over and nobody told. The kubelet starts them
    /// again.
    pub fn crash(machine: &str, program: &str) {
        docker(&["exec", machine, "sh", "-c", &format!("kill -9 $(pidof {program})")]);
    }

    /// Undoes it.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        let undo: Vec<&str> = self.undo.iter().map(String::as_str).collect();
        if std::thread::panicking() {
            let _ = docker_command(&undo).status();
        } else {
            docker(&undo);
        }
    }
}

fn begin(what: &[&str], undo: &[&str]) -> Trouble {
    docker(what);
    Trouble { undo: undo.iter().map(ToString::to_string).collect() }
}

fn docker_command(arguments: &[&str]) -> Command {
    let program = std::env::var("QUORATE_MACHINES").unwrap_or_else(|_| {
        panic!("QUORATE_MACHINES names no program that reaches the machines: `make kubernetes` without KUBECONFIG does")
    });
    let mut words = program.split_whitespace();
    let mut command = Command::new(words.next().expect("a program in QUORATE_MACHINES"));
    command.args(words).args(arguments).current_dir(command::root()).stdin(Stdio::null());
    command
}

fn docker(arguments: &[&str]) {
    let output = docker_command(arguments).output().unwrap_or_else(|e| panic!("the machines cannot be reached: {e}"));
    assert!(output.status.success(), "{arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}
