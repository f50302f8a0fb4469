//! What people and programs see: tables on a terminal, JSON for programs, exit codes.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use quorate_api::{KeyValue, MemberStatus, Status};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    Text,
    /// One JSON value.
    Json,
}

/// Why a command failed: the exit code and what stderr says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Anything else: exit code 1.
    Error(String),
    /// The command line or a setting is wrong: exit code 2.
    Usage(String),
    /// `get` of a key that does not exist: exit code 3.
    NotFound(String),
    /// A write whose outcome is not known: exit code 4.
    Unknown(String),
}

impl Failure {
    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Error(_) => 1,
            Failure::Usage(_) => 2,
            Failure::NotFound(_) => 3,
            Failure::Unknown(_) => 4,
        }
    }

    /// The sentence for stderr.
    pub(crate) fn message(&self) -> &str {
        let (Failure::Error(m) | Failure::Usage(m) | Failure::NotFound(m) | Failure::Unknown(m)) = self;
        m
    }
}

impl From<super::client::AskError> for Failure {
    fn from(error: super::client::AskError) -> Failure {
        match error {
            super::client::AskError::Unknown { .. } | super::client::AskError::UnknownOnce { .. } => {
                Failure::Unknown(error.to_string())
            }
            _ => Failure::Error(error.to_string()),
        }
    }
}

/// Writes to stdout. A reader that went away (`quorate list | head`) is no failure of ours.
pub(crate) fn print(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes.as_ref()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|e| Failure::Error(format!("cannot write to standard output: {e}"))),
    }
}

/// Writes one JSON value and a newline: indented on a terminal, on one line for programs.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let pretty = std::io::stdout().is_terminal();
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    print(text.map_err(|e| Failure::Error(format!("cannot show the answer: {e}")))? + "\n")
}

/// A table without lines: columns two spaces apart, `right` columns aligned to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|l| format!("{}\n", l.trim_end())).collect();
    lines.concat()
}

/// The members, a row each.
pub(crate) fn members(members: &[MemberStatus]) -> String {
    // By name: the configuration's own order is that of the disks' ids, which mean nothing to people.
    let mut members: Vec<&MemberStatus> = members.iter().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = members.into_iter().map(|m| {
        let health = match m.healthy {
            Some(true) => "yes".to_owned(),
            Some(false) => m.last_heard_ms.map_or("no".to_owned(), |ms| format!("no, silent for {ms} ms")),
            None => "?".to_owned(),
        };
        let lag = m.lag.map_or("?".to_owned(), |l| l.to_string());
        vec![m.name.clone(), m.role.clone(), health, lag, m.http.clone(), m.tcp.clone(), m.peer.clone()]
    });
    table(&["NAME", "ROLE", "HEALTHY", "LAG", "HTTP", "TCP", "PEER"], rows, &[3])
}

/// A node's view of itself and its cluster.
pub(crate) fn status(s: &Status) -> String {
    let leader = match (&s.leader, &s.leader_url) {
        (Some(name), Some(url)) => format!("{name} ({url})"),
        (Some(name), None) => name.clone(),
        _ => "none known: an election is under way, or too few nodes are up".to_owned(),
    };
    let membership = format!("{:?}", s.node.membership).to_lowercase();
    let ready = if s.node.ready { "ready" } else { "not caught up yet" };
    let mut text = format!(
        "node     {} ({membership}, {}), {ready}\n\
         cluster  {}\n\
         leader   {leader}, term {}\n\
         log      commit {}, applied {}\n\
         quorums  write {} of {}, election {}, commit {} (configuration {}, failover {})\n\
         \x20        {}\n",
        s.node.name,
        s.node.role,
        s.cluster_id.as_deref().unwrap_or("none yet"),
        s.term,
        s.commit,
        s.applied,
        s.config.write_quorum,
        s.config.replicas,
        s.config.election_quorum,
        s.config.commit_quorum,
        s.config.version,
        s.config.failover,
        s.config.explanation,
    );
    if let (Some(writes), Some(failover)) = (s.tolerates.writes, s.tolerates.failover) {
        text += &format!("margin   writes survive {writes} more failures, failover {failover} more\n");
    }
    for (holds, line) in [
        (!s.formed, "forming  writes open when every node has joined\n"),
        (s.config.changing, "change   a change of the configuration is under way\n"),
        (s.disk_full, "disk     nearly full: writes are refused, deletes are taken\n"),
    ] {
        if holds {
            text += line;
        }
    }
    text + "\n" + &members(&s.members)
}

/// One page of keys.
pub(crate) fn items(items: &[KeyValue]) -> String {
    let rows = items.iter().map(|item| {
        vec![printable(&item.key, KEY_CHARS), shown(&item.value), item.revision.to_string(), item.version.to_string()]
    });
    table(&["KEY", "VALUE", "REVISION", "VERSION"], rows, &[2, 3])
}

/// Keys and values are cut to so many characters in a table; `--output json` has them whole.
const KEY_CHARS: usize = 60;
const VALUE_CHARS: usize = 60;

fn shown(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    printable(&text, VALUE_CHARS)
}

/// Without control characters, which could drive the terminal, and cut with an ellipsis.
fn printable(text: &str, chars: usize) -> String {
    let clean: String = text.chars().take(chars + 1).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if clean.chars().count() <= chars {
        return clean;
    }
    clean.chars().take(chars - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_own_exit_code() {
        let text = || "x".to_owned();
        let codes =
            [Failure::Error(text()), Failure::Usage(text()), Failure::NotFound(text()), Failure::Unknown(text())];
        assert_eq!(codes.map(|f| f.code()), [1, 2, 3, 4]);
    }

    #[test]
    fn values_cannot_drive_the_terminal_and_long_ones_are_cut() {
        assert_eq!(printable("a\u{1b}[2J", 60), "a\u{fffd}[2J");
        let cut = printable(&"x".repeat(100), 10);
        assert_eq!((cut.chars().count(), cut.ends_with('…')), (10, true));
    }

    #[test]
    fn a_table_has_its_columns_under_its_headers() {
        let text = table(&["NAME", "LAG"], [vec!["node1".into(), "7".into()], vec!["n".into(), "12".into()]], &[1]);
        assert_eq!(text, "NAME   LAG\nnode1    7\nn       12\n");
    }
}
