//! A settings file: `NAME=VALUE` lines with the names of the environment. It ranks below flags and environment.
//!
//! The values become the defaults of clap's arguments, so that the one parser checks them and says what is wrong with
//! them. Nothing here touches the process's environment.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Command;

/// The largest settings file that is read. A real one has 30 lines.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why a settings file was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read the settings file {path}: {source}; check --config (QUORATE_CONFIG)")]
    Read { path: String, source: std::io::Error },
    #[error("the settings file {path} is larger than 64 KiB: is it the right one?")]
    TooLarge { path: String },
    #[error("{path} line {line}: write NAME=VALUE, one setting a line")]
    Form { path: String, line: usize },
    #[error("{path} line {line}: {name} is not a setting: `quorate serve --help` lists them")]
    Unknown { path: String, line: usize, name: String },
    #[error("{path} line {line}: {name} was already set in line {first}: keep one of them")]
    Twice { path: String, line: usize, name: String, first: usize },
}

/// Settings by environment name, each with the line it stood in.
pub(crate) type Settings = BTreeMap<String, (String, usize)>;

/// Reads and parses the file.
pub(crate) fn read(path: &Path) -> Result<Settings, FileError> {
    let shown = path.display().to_string();
    let read = |source| FileError::Read { path: shown.clone(), source };
    if std::fs::metadata(path).map_err(read)?.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: shown });
    }
    parse(&shown, &std::fs::read_to_string(path).map_err(read)?)
}

/// Parses `NAME=VALUE` lines. Empty lines, `#` comments, a leading `export` and quotes around a value are allowed.
pub(crate) fn parse(path: &str, text: &str) -> Result<Settings, FileError> {
    let mut settings = Settings::new();
    for (number, line) in text.lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let form = || FileError::Form { path: path.to_owned(), line: number };
        let (name, value) = line.split_once('=').ok_or_else(form)?;
        let (name, value) = (name.trim(), unquote(value.trim()));
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(form());
        }
        if let Some((_, first)) = settings.insert(name.to_owned(), (value.to_owned(), number)) {
            return Err(FileError::Twice { path: path.to_owned(), line: number, name: name.to_owned(), first });
        }
    }
    Ok(settings)
}

/// The command with the file's values as defaults of every subcommand that knows the names.
pub(crate) fn apply(mut command: Command, path: &str, settings: &Settings) -> Result<Command, FileError> {
    let mut known = std::collections::BTreeSet::new();
    let subcommands: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for subcommand in subcommands {
        command = command.mut_subcommand(subcommand, |sub| {
            sub.mut_args(|arg| {
                let Some(name) = arg.get_env().and_then(|n| n.to_str()).map(str::to_owned) else { return arg };
                let Some((value, _)) = settings.get(&name) else { return arg };
                known.insert(name);
                // Leaked on purpose: clap keeps defaults for the life of the process, and one file is read in it, once.
                let value: &'static str = Box::leak(value.clone().into_boxed_str());
                arg.default_value(value)
            })
        });
    }
    match settings.iter().find(|(name, _)| !known.contains(*name)) {
        Some((name, (_, line))) => Err(FileError::Unknown { path: path.to_owned(), line: *line, name: name.clone() }),
        None => Ok(command),
    }
}

/// The command without the environment names whose variables are set but empty, as compose files
/// and unit files leave them.
pub(crate) fn ignore_empty(mut command: Command, empty: impl Fn(&str) -> bool) -> Command {
    let subcommands: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for subcommand in subcommands {
        command = command.mut_subcommand(subcommand, |sub| {
            sub.mut_args(|arg| match arg.get_env().and_then(|n| n.to_str()) {
                Some(name) if empty(name) => arg.env(None::<&'static str>),
                _ => arg,
            })
        });
    }
    command
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if value.len() >= 2 && value.starts_with(quote) && value.ends_with(quote) {
            return &value[1..value.len() - 1];
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_comments_quotes_and_exports_are_understood() {
        let text = "# a node\n\nexport ID=node7\nMIN_DELAY = 0.1ms\nDATA_DIR=\"/var/lib/my data\"\n";
        let settings = parse("f", text).expect("parses");
        assert_eq!(settings["ID"], ("node7".to_owned(), 3));
        assert_eq!(settings["MIN_DELAY"].0, "0.1ms");
        assert_eq!(settings["DATA_DIR"].0, "/var/lib/my data");
    }

    #[test]
    fn a_mistake_is_reported_with_its_line() {
        assert_eq!(
            parse("f", "ID=a\nnonsense").expect_err("form").to_string(),
            "f line 2: write NAME=VALUE, one setting a line"
        );
        let twice = parse("f", "ID=a\nID=b").expect_err("twice").to_string();
        assert_eq!(twice, "f line 2: ID was already set in line 1: keep one of them");
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_the_flag_that_named_it() {
        let message = read(Path::new("no/such/file")).expect_err("missing").to_string();
        assert!(message.contains("no/such/file") && message.contains("--config"), "{message}");
    }
}
