//! Programs that people use, run as people run them.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether its exit code was 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// What it printed, if it was content.
    ///
    /// # Panics
    /// With both outputs, if it was not.
    pub fn good(self, what: &str) -> String {
        assert!(self.ok, "{what} failed:\n{}{}", self.out, self.err);
        self.out
    }
}

/// Runs a program in the root of the tree, with `input` on its standard input.
///
/// # Panics
/// If it cannot be started.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Said {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("{program} cannot be started ({e}): make kubernetes finds it"));
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that does not read its input may have closed it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap_or_else(|e| panic!("{program}: {e}"));
    Said {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The words of a command as a page of the tree has it, up to its comment: the first line that begins so.
///
/// # Panics
/// If there is no such page or line.
#[must_use]
pub fn documented(page: &str, begins: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
    let line = text.lines().find(|l| l.starts_with(begins));
    let line = line.unwrap_or_else(|| panic!("{page} has no command {begins:?}"));
    line.split_whitespace().take_while(|w| !w.starts_with('#')).map(str::to_owned).collect()
}

/// The root of the tree.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
