//! The client verbs: `get`, `put`, `delete`, `list`, `status`, `members`, `config`, `transfer`.
//!
//! Each builds one request, lets [`super::client`] ask, and prints. Before: `mod`. After: `client`, `output`.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quorate_api::{ConfigChange, KeyValue, MemberChange, Page, Status, TransferRequest};
use reqwest::Method;
use serde_json::json;

use super::client::{Ask, AskError, Client, Reply};
use super::output::{self, Failure, Output, print, print_json};
use super::units;

/// What may stand in a path segment or a query value as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Keys asked for at a time by `list --all`.
const PAGE_KEYS: usize = 1_000;
/// The largest value read from standard input: beyond any node's limit, so that the node is the one to say no.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Which cluster is asked, and how the answer is printed.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// Nodes to ask, separated by commas: the next is tried when one cannot be reached or refuses.
    #[arg(
        long,
        value_name = "URLS",
        env = "QUORATE_URL",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8000",
        help_heading = "Cluster"
    )]
    pub(crate) url: Vec<String>,
    /// How long to try in all.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s", help_heading = "Cluster")]
    pub(crate) timeout: Duration,
    /// The token that changes of the cluster need, where one is set.
    #[arg(long, value_name = "TOKEN", env = "ADMIN_TOKEN", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) admin_token: Option<String>,
    /// text for people, json for programs.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text", help_heading = "Cluster")]
    pub(crate) output: Output,
}

impl Target {
    fn client(&self) -> Result<Client, Failure> {
        let token = self.admin_token.clone().filter(|t| !t.is_empty());
        Client::new(&self.url, self.timeout, token).map_err(Failure::Usage)
    }
}

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Freshness {
    /// Sees every acknowledged write.
    Linearizable,
    /// Sees what the asked node has applied.
    Local,
}

impl Freshness {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Freshness::Linearizable => "linearizable",
            Freshness::Local => "local",
        }
    }
}

/// `get`
#[derive(Args, Clone, Debug)]
pub(crate) struct GetArgs {
    /// The key.
    pub(crate) key: String,
    /// linearizable: sees every acknowledged write. local: the asked node's own copy.
    #[arg(long, value_enum, value_name = "KIND", default_value = "linearizable")]
    pub(crate) consistency: Freshness,
    /// Shows revision, version, term and node on stderr too.
    #[arg(long)]
    pub(crate) meta: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `put`
#[derive(Args, Clone, Debug)]
pub(crate) struct PutArgs {
    /// The key.
    pub(crate) key: String,
    /// The value; - reads it from standard input.
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
    /// Durable copies to wait for, if more than the cluster's write quorum.
    #[arg(long, value_name = "N")]
    pub(crate) w: Option<usize>,
    /// Only if the key's revision is this one.
    #[arg(long, value_name = "REVISION", conflicts_with = "if_absent")]
    pub(crate) if_match: Option<u64>,
    /// Only if the key does not exist.
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Done once however often it is asked for under this name (a UUID, say): asked again by itself
    /// while the outcome is unknown.
    #[arg(long, value_name = "NAME")]
    pub(crate) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `delete`
#[derive(Args, Clone, Debug)]
pub(crate) struct DeleteArgs {
    /// The key.
    pub(crate) key: String,
    /// Durable copies to wait for, if more than the cluster's write quorum.
    #[arg(long, value_name = "N")]
    pub(crate) w: Option<usize>,
    /// Only if the key's revision is this one.
    #[arg(long, value_name = "REVISION")]
    pub(crate) if_match: Option<u64>,
    /// Done once however often it is asked for under this name (a UUID, say): asked again by itself
    /// while the outcome is unknown.
    #[arg(long, value_name = "NAME")]
    pub(crate) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `list`
#[derive(Args, Clone, Debug)]
pub(crate) struct ListArgs {
    /// Only keys that start with this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) prefix: String,
    /// Only keys after this one.
    #[arg(long, value_name = "KEY")]
    pub(crate) after: Option<String>,
    /// At most so many keys.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Every key, page by page (the pages may show different revisions).
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `status`
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    /// Only asks whether the node is ready (/readyz): exit code 0 or 1. For health checks.
    #[arg(long)]
    pub(crate) ready: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `members`
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MembersArgs {
    #[command(subcommand)]
    pub(crate) change: Option<MembersChange>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `members promote`, `members remove`
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum MembersChange {
    /// Makes a learner that has caught up a voter.
    Promote(NamedMember),
    /// Takes a member out of the cluster; stop it only when this has succeeded.
    Remove(NamedMember),
}

/// The member meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct NamedMember {
    /// Its name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `config`
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) change: Option<ConfigVerb>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `config set`
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ConfigVerb {
    /// Changes what is given and leaves the rest as it is.
    Set(ConfigSetArgs),
}

/// Who may start an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailoverChoice {
    /// Any voter that misses its leader.
    Automatic,
    /// Only a voter that was told to.
    Manual,
}

/// What `config set` changes.
#[derive(Args, Clone, Debug)]
#[group(id = "changes", required = true, multiple = true, args = ["write_quorum", "failover", "preferred", "voters"])]
pub(crate) struct ConfigSetArgs {
    /// W: durable copies that acknowledge a write.
    #[arg(long, value_name = "W")]
    pub(crate) write_quorum: Option<usize>,
    /// Whether elections start by themselves.
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) failover: Option<FailoverChoice>,
    /// Name of the node that leadership prefers; "" for none.
    #[arg(long, value_name = "NAME")]
    pub(crate) preferred: Option<String>,
    /// Names of all voters to be, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) voters: Option<Vec<String>>,
    /// Only if the configuration is at this version [default: the version read just before].
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_match: Option<u64>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `transfer`
#[derive(Args, Clone, Debug)]
pub(crate) struct TransferArgs {
    /// Name of the leader to be [default: the most caught-up voter].
    #[arg(long, value_name = "NAME")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Reads one value. Bytes go to stdout as they are; a newline follows on a terminal.
pub(crate) async fn get(args: &GetArgs) -> Result<(), Failure> {
    let ask = Ask::get(format!("{}?consistency={}", key_path(&args.key), args.consistency.name()));
    let reply = args.target.client()?.ask(&ask).await.map_err(|e| match e {
        AskError::Answered { status: 404, .. } => Failure::NotFound(format!("key {:?} does not exist", args.key)),
        other => other.into(),
    })?;
    let meta = meta(&reply);
    if args.target.output == Output::Json {
        let value = match std::str::from_utf8(&reply.body) {
            Ok(text) => json!(text),
            Err(_) => {
                json!({ "base64": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &reply.body) })
            }
        };
        let mut shown = serde_json::Map::from_iter([("key".to_owned(), json!(args.key)), ("value".to_owned(), value)]);
        shown.extend(meta.into_iter().map(|(k, v)| (k, as_number(v))));
        return print_json(&shown);
    }
    if args.meta {
        for (name, value) in meta {
            eprintln!("{name:<10} {value}");
        }
    }
    print(&reply.body)?;
    if std::io::stdout().is_terminal() { print("\n") } else { Ok(()) }
}

/// Writes one value.
pub(crate) async fn put(args: &PutArgs) -> Result<(), Failure> {
    let mut ask = Ask::new(Method::PUT, key_path(&args.key) + &copies(args.w));
    ask.body = if args.value == "-" { read_input()? } else { Bytes::from(args.value.clone().into_bytes()) };
    ask = ask.header("content-type", "application/octet-stream");
    if let Some(revision) = args.if_match {
        ask = ask.header("if-match", format!("\"{revision}\""));
    }
    if args.if_absent {
        ask = ask.header("if-none-match", "*");
    }
    if let Some(name) = &args.idempotency_key {
        ask = ask.once(name);
    }
    let reply = args.target.client()?.ask(&ask).await?;
    done(&args.target, &reply, "written")
}

/// Removes one key.
pub(crate) async fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let mut ask = Ask::new(Method::DELETE, key_path(&args.key) + &copies(args.w));
    if let Some(revision) = args.if_match {
        ask = ask.header("if-match", format!("\"{revision}\""));
    }
    if let Some(name) = &args.idempotency_key {
        ask = ask.once(name);
    }
    match args.target.client()?.ask(&ask).await {
        Ok(reply) => done(&args.target, &reply, "deleted"),
        Err(AskError::Answered { status: 404, .. }) => {
            Err(Failure::NotFound(format!("key {:?} does not exist", args.key)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Lists keys with their values.
pub(crate) async fn list(args: &ListArgs) -> Result<(), Failure> {
    let client = args.target.client()?;
    let mut after = args.after.clone();
    let mut left = if args.all { usize::MAX } else { args.limit };
    let mut collected: Vec<KeyValue> = Vec::new();
    let mut revision = 0;
    while left > 0 {
        let mut path = format!("/v1/kv?prefix={}&limit={}", encode(&args.prefix), left.min(PAGE_KEYS));
        if let Some(after) = &after {
            path += &format!("&after={}", encode(after));
        }
        let page: Page = parsed(&client.ask(&Ask::get(path)).await?)?;
        left = left.saturating_sub(page.items.len());
        revision = page.revision;
        // A page at a time on a terminal: a listing of millions never gathers in memory.
        match args.target.output {
            Output::Text => print(if page.items.is_empty() { String::new() } else { output::items(&page.items) })?,
            Output::Json => collected.extend(page.items),
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    match (args.target.output, after) {
        (Output::Json, next) => print_json(&Page { revision, items: collected, next }),
        (Output::Text, Some(_)) => {
            eprintln!("there are more keys: give --all, or a higher --limit");
            Ok(())
        }
        (Output::Text, None) => Ok(()),
    }
}

/// Shows how a node and its cluster are.
pub(crate) async fn status(args: &StatusArgs) -> Result<(), Failure> {
    let client = args.target.client()?;
    if args.ready {
        client.ask(&Ask::get("/readyz")).await?;
        return Ok(());
    }
    let status = read_status(&client).await?;
    match args.target.output {
        Output::Json => print_json(&status),
        Output::Text => print(output::status(&status)),
    }
}

/// Shows, promotes or removes members.
pub(crate) async fn members(args: &MembersArgs) -> Result<(), Failure> {
    let (change, named, verb) = match &args.change {
        Some(MembersChange::Promote(n)) => (MemberChange::Promote(n.name.clone()), n, "is a voter now"),
        Some(MembersChange::Remove(n)) => {
            (MemberChange::Remove(n.name.clone()), n, "is out of the cluster and may be stopped")
        }
        None => {
            let client = args.target.client()?;
            let mut status = read_status(&client).await?;
            // Only the leader knows how the others are.
            if let Some(leader) = status.leader_url.clone().filter(|_| status.node.role != "leader") {
                status = read_status(&client.at(&leader)).await.unwrap_or(status);
            }
            return match args.target.output {
                Output::Json => print_json(&status.members),
                Output::Text => print(output::members(&status.members)),
            };
        }
    };
    let ask = Ask::new(Method::POST, "/v1/cluster/members").json(&change).map_err(unprintable)?;
    let reply = named.target.client()?.ask(&ask).await?;
    done(&named.target, &reply, &format!("{} {verb}", named.name))
}

/// Shows or changes the configuration.
pub(crate) async fn config(args: &ConfigArgs) -> Result<(), Failure> {
    let Some(ConfigVerb::Set(set)) = &args.change else {
        let status = read_status(&args.target.client()?).await?;
        return match args.target.output {
            Output::Json => print_json(&status.config),
            Output::Text => print(config_text(&status)),
        };
    };
    let client = set.target.client()?;
    let version = match set.if_match {
        Some(version) => version,
        None => read_status(&client).await?.config.version,
    };
    let change = ConfigChange {
        voters: set.voters.clone(),
        remove_learners: None,
        write_quorum: set.write_quorum,
        preferred: set.preferred.clone(),
        failover: set.failover.map(|f| if f == FailoverChoice::Manual { "manual" } else { "automatic" }.to_owned()),
    };
    let ask = Ask::new(Method::PUT, "/v1/cluster/config").json(&change).map_err(unprintable)?;
    let reply = client.ask(&ask.header("if-match", format!("\"{version}\""))).await?;
    if set.target.output == Output::Json {
        return done(&set.target, &reply, "");
    }
    let version = meta(&reply).into_iter().find(|(name, _)| name == "revision").map_or("?".to_owned(), |(_, v)| v);
    print(format!("the configuration is changed and at version {version} now\n"))
}

/// Hands leadership over.
pub(crate) async fn transfer(args: &TransferArgs) -> Result<(), Failure> {
    let request = TransferRequest { to: args.to.clone() };
    let ask = Ask::new(Method::POST, "/v1/cluster/transfer").json(&request).map_err(unprintable)?;
    let reply = args.target.client()?.ask(&ask).await?;
    done(&args.target, &reply, "leadership is handed over")
}

pub(super) async fn read_status(client: &Client) -> Result<Status, Failure> {
    parsed(&client.ask(&Ask::get("/v1/status")).await?)
}

fn config_text(status: &Status) -> String {
    let c = &status.config;
    format!(
        "version       {}{}\nreplicas      {}\nwrite quorum  {}\nelections     {} votes, {}\ncommits       {} copies\npreferred     {}\n\n{}\n",
        c.version,
        if c.changing { " (a change is under way)" } else { "" },
        c.replicas,
        c.write_quorum,
        c.election_quorum,
        c.failover,
        c.commit_quorum,
        c.preferred.as_deref().unwrap_or("none"),
        c.explanation,
    )
}

/// Says that it is done: the sentence with what the headers tell, or the answer's JSON.
fn done(target: &Target, reply: &Reply, sentence: &str) -> Result<(), Failure> {
    let meta = meta(reply);
    if target.output == Output::Json {
        let mut shown = serde_json::from_slice::<serde_json::Map<_, _>>(&reply.body).unwrap_or_default();
        for (name, value) in meta {
            shown.entry(name).or_insert_with(|| as_number(value));
        }
        return print_json(&shown);
    }
    let told: Vec<String> = meta.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let told = if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) };
    print(format!("{sentence}{told}\n"))
}

/// What an answer's headers tell of the key and the node: the ETag as `revision`, and every `quorate-…` header.
fn meta(reply: &Reply) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, value) in &reply.headers {
        let Ok(value) = value.to_str() else { continue };
        let name = match name.as_str() {
            "etag" => "revision",
            other => match other.strip_prefix("x-").unwrap_or(other).strip_prefix("quorate-") {
                Some(name) => name,
                None => continue,
            },
        };
        if !found.iter().any(|(n, _)| n == name) {
            found.push((name.to_owned(), value.trim_matches('"').to_owned()));
        }
    }
    found
}

fn as_number(text: String) -> serde_json::Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |n| json!(n))
}

pub(super) fn parsed<T: serde::de::DeserializeOwned>(reply: &Reply) -> Result<T, Failure> {
    serde_json::from_slice(&reply.body).map_err(|e| {
        Failure::Error(format!("the node's answer is not what this version expects ({e}): check --url and versions"))
    })
}

fn unprintable(error: serde_json::Error) -> Failure {
    Failure::Error(format!("cannot put the request together: {error}"))
}

fn read_input() -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut value);
    read.map_err(|e| Failure::Error(format!("cannot read the value from standard input: {e}")))?;
    if value.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::Usage("the value on standard input is larger than 64 MiB: split it".to_owned()));
    }
    Ok(value.into())
}

pub(crate) fn key_path(key: &str) -> String {
    format!("/v1/kv/{}", encode(key))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

fn copies(w: Option<usize>) -> String {
    w.map_or(String::new(), |w| format!("?w={w}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_any_characters_fit_into_a_path() {
        assert_eq!(key_path("user:1/ä b?"), "/v1/kv/user%3A1%2F%C3%A4%20b%3F");
        assert_eq!(key_path("plain-key_1.~"), "/v1/kv/plain-key_1.~");
    }

    #[test]
    fn an_answers_headers_are_shown_without_quotes_and_prefixes() {
        let mut headers = reqwest::header::HeaderMap::new();
        for (name, value) in [("etag", "\"42\""), ("x-quorate-term", "3"), ("quorate-node", "node1"), ("date", "today")]
        {
            headers.insert(name, value.parse().expect("value"));
        }
        let mut meta = meta(&Reply { headers, body: Bytes::new() });
        meta.sort();
        let expected =
            [("node", "node1"), ("revision", "42"), ("term", "3")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(meta, expected);
    }
}
