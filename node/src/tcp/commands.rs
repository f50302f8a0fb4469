//! What Redis clients may ask: the table of commands, and those about data.
//!
//! Owns the translation of requests into [`Command`]s and reads, and their replies. It refuses what it cannot do in clear words rather
//! than half doing it. Before it: [`super::resp`]. After it: [`super::session`] (writes, freshness of reads), [`super::admin`] (all that
//! is not about data).

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::keys::{self, Bounds, Step};
use super::meters::Route;
use super::resp::{self, Request};
use super::session::{Flow, Session, Shape, read_code};
use crate::handle::ReadError;
use crate::kv::{Command, Condition, Value};

/// Keys that one step of SCAN looks at unless COUNT says otherwise, as in Redis.
const SCAN_STEP: usize = 10;

/// How often WAIT looks whether another copy has been confirmed: confirmations come with a round trip, not faster.
const WAIT_STEP: Duration = Duration::from_millis(2);

/// A command by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Set,
    Get,
    Del,
    Mget,
    Mset,
    Increment { sign: i64 },
    IncrementBy { sign: i64 },
    SetNx,
    Exists,
    StrLen,
    Type,
    Ttl,
    DbSize,
    Keys,
    Scan,
    Expiry,
    Flush,
    Transaction,
    Ping,
    Echo,
    Hello,
    Auth,
    Select,
    Info,
    Command,
    Config,
    Client,
    Wait,
    ReadOnly,
    ReadWrite,
    Reset,
    Quit,
    Time,
    Shutdown,
}

/// What is known of a command before it runs.
#[derive(Debug)]
pub(super) struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// Arguments with the name; negative: at least so many.
    pub arity: i64,
    /// Positions of the first and last key and the step between them, as Redis counts.
    pub keys: (i64, i64, i64),
    /// Whether it writes; `None` if it is not about data.
    pub writes: Option<bool>,
    pub verb: Verb,
}

const fn spec(name: &'static str, arity: i64, keys: (i64, i64, i64), writes: Option<bool>, verb: Verb) -> Spec {
    Spec { name, arity, keys, writes, verb }
}

const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);
const ALL_KEYS: (i64, i64, i64) = (1, -1, 1);
const WRITES: Option<bool> = Some(true);
const READS: Option<bool> = Some(false);

/// Every command, those used most first: it is searched from the front.
pub(super) static COMMANDS: &[Spec] = &[
    spec("set", -3, ONE_KEY, WRITES, Verb::Set),
    spec("get", 2, ONE_KEY, READS, Verb::Get),
    spec("del", -2, ALL_KEYS, WRITES, Verb::Del),
    spec("mget", -2, ALL_KEYS, READS, Verb::Mget),
    spec("mset", -3, (1, -1, 2), WRITES, Verb::Mset),
    spec("incr", 2, ONE_KEY, WRITES, Verb::Increment { sign: 1 }),
    spec("decr", 2, ONE_KEY, WRITES, Verb::Increment { sign: -1 }),
    spec("incrby", 3, ONE_KEY, WRITES, Verb::IncrementBy { sign: 1 }),
    spec("decrby", 3, ONE_KEY, WRITES, Verb::IncrementBy { sign: -1 }),
    spec("exists", -2, ALL_KEYS, READS, Verb::Exists),
    spec("ping", -1, NO_KEYS, None, Verb::Ping),
    spec("setnx", 3, ONE_KEY, WRITES, Verb::SetNx),
    spec("unlink", -2, ALL_KEYS, WRITES, Verb::Del),
    spec("strlen", 2, ONE_KEY, READS, Verb::StrLen),
    spec("type", 2, ONE_KEY, READS, Verb::Type),
    spec("ttl", 2, ONE_KEY, READS, Verb::Ttl),
    spec("pttl", 2, ONE_KEY, READS, Verb::Ttl),
    spec("dbsize", 1, NO_KEYS, READS, Verb::DbSize),
    spec("keys", 2, NO_KEYS, READS, Verb::Keys),
    spec("scan", -2, NO_KEYS, READS, Verb::Scan),
    spec("echo", 2, NO_KEYS, None, Verb::Echo),
    spec("hello", -1, NO_KEYS, None, Verb::Hello),
    spec("auth", -2, NO_KEYS, None, Verb::Auth),
    spec("select", 2, NO_KEYS, None, Verb::Select),
    spec("info", -1, NO_KEYS, None, Verb::Info),
    spec("command", -1, NO_KEYS, None, Verb::Command),
    spec("config", -2, NO_KEYS, None, Verb::Config),
    spec("client", -2, NO_KEYS, None, Verb::Client),
    spec("wait", 3, NO_KEYS, None, Verb::Wait),
    spec("readonly", 1, NO_KEYS, None, Verb::ReadOnly),
    spec("readwrite", 1, NO_KEYS, None, Verb::ReadWrite),
    spec("reset", 1, NO_KEYS, None, Verb::Reset),
    spec("quit", -1, NO_KEYS, None, Verb::Quit),
    spec("time", 1, NO_KEYS, None, Verb::Time),
    spec("shutdown", -1, NO_KEYS, None, Verb::Shutdown),
];

/// Known names that are refused with a reason; not part of what COMMAND lists.
static REFUSED: &[Spec] = &[
    spec("expire", -3, ONE_KEY, WRITES, Verb::Expiry),
    spec("pexpire", -3, ONE_KEY, WRITES, Verb::Expiry),
    spec("expireat", -3, ONE_KEY, WRITES, Verb::Expiry),
    spec("pexpireat", -3, ONE_KEY, WRITES, Verb::Expiry),
    spec("setex", 4, ONE_KEY, WRITES, Verb::Expiry),
    spec("psetex", 4, ONE_KEY, WRITES, Verb::Expiry),
    spec("getex", -2, ONE_KEY, WRITES, Verb::Expiry),
    spec("flushall", -1, NO_KEYS, WRITES, Verb::Flush),
    spec("flushdb", -1, NO_KEYS, WRITES, Verb::Flush),
    spec("multi", 1, NO_KEYS, None, Verb::Transaction),
    spec("exec", 1, NO_KEYS, None, Verb::Transaction),
    spec("watch", -2, ALL_KEYS, None, Verb::Transaction),
];

/// The command of this name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    COMMANDS.iter().chain(REFUSED).find(|spec| name.eq_ignore_ascii_case(spec.name.as_bytes()))
}

/// The text of an error reply.
pub(super) type Text = Cow<'static, str>;

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NO_EXPIRY: &str = "ERR expiry of keys is not supported yet";

/// Longest part of an unknown command that an error repeats, as in Redis.
const ECHO_BYTES_MAX: usize = 128;

fn unknown(request: &Request) -> String {
    let shown = |bytes: &[u8], room: usize| String::from_utf8_lossy(&bytes[..bytes.len().min(room)]).into_owned();
    let mut text =
        format!("ERR unknown command '{}', with args beginning with: ", shown(request.get(0), ECHO_BYTES_MAX));
    let mut room = ECHO_BYTES_MAX;
    for argument in request.from(1) {
        if room == 0 {
            break;
        }
        text.push_str(&format!("'{}' ", shown(argument, room)));
        room = room.saturating_sub(argument.len() + 3);
    }
    text
}

/// The words of Redis for a wrong count of arguments.
pub(super) fn wrong_arity(name: &str) -> Text {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

/// A whole number in the one form Redis takes.
pub(super) fn integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.starts_with('+') {
        return None;
    }
    text.parse().ok()
}

impl Session {
    /// Carries out one request. Writes are handed in, anything else is answered after the writes before it.
    pub(super) async fn execute(&mut self, request: &Request) -> io::Result<Flow> {
        if request.len() == 0 {
            return Ok(Flow::Next);
        }
        let Some(spec) = find(request.get(0)) else {
            return self.fail(&unknown(request)).await;
        };
        let count = i64::try_from(request.len()).unwrap_or(i64::MAX);
        if count < spec.arity.abs() || (spec.arity > 0 && count > spec.arity) {
            return self.fail(&wrong_arity(spec.name)).await;
        }
        match spec.writes {
            Some(true) => match self.write_of(spec, request) {
                Ok((command, shape, route)) => {
                    self.face.handle.prepare(&command).await;
                    self.submit(&command, shape, route, true);
                    Ok(Flow::Next)
                }
                Err(text) => self.fail(&text).await,
            },
            Some(false) => {
                self.settle().await?;
                self.read(spec.verb, request).await
            }
            None => {
                self.settle().await?;
                if spec.verb == Verb::Wait { self.wait(request).await } else { Ok(self.administer(spec.verb, request)) }
            }
        }
    }

    async fn fail(&mut self, text: &str) -> io::Result<Flow> {
        self.settle().await?;
        resp::error(&mut self.out, text);
        Ok(Flow::Next)
    }

    fn write_of(&self, spec: &Spec, request: &Request) -> Result<(Command, Shape, Route), Text> {
        let put = |condition| {
            Ok::<_, Text>(Command::Put { key: self.key(request, 1)?, value: self.value(request, 2)?, condition })
        };
        match spec.verb {
            Verb::Set => Ok((put(set_condition(request)?)?, Shape::Ok, Route::Set)),
            Verb::SetNx => Ok((put(Condition::Absent)?, Shape::Flag, Route::Set)),
            Verb::Del => {
                self.bound_keys(request.len() - 1)?;
                let command = if request.len() == 2 {
                    Command::Delete { key: self.key(request, 1)?, condition: Condition::None }
                } else {
                    let keys = (1..request.len()).map(|n| self.key(request, n)).collect::<Result<_, _>>()?;
                    Command::DeleteMany { keys }
                };
                Ok((command, Shape::Count, Route::Delete))
            }
            Verb::Mset => {
                if request.len().is_multiple_of(2) {
                    return Err(wrong_arity(spec.name));
                }
                self.bound_keys(request.len() / 2)?;
                let pairs =
                    (1..request.len()).step_by(2).map(|n| Ok((self.key(request, n)?, self.value(request, n + 1)?)));
                Ok((Command::PutMany { pairs: pairs.collect::<Result<_, Text>>()? }, Shape::Ok, Route::Many))
            }
            Verb::Increment { sign } => {
                let command = Command::Increment { key: self.key(request, 1)?, by: sign };
                Ok((command, Shape::Number, Route::Increment))
            }
            Verb::IncrementBy { sign } => {
                let by = integer(request.get(2)).ok_or(NOT_AN_INTEGER)?;
                let by = by.checked_mul(sign).ok_or("ERR decrement would overflow")?;
                Ok((Command::Increment { key: self.key(request, 1)?, by }, Shape::Number, Route::Increment))
            }
            Verb::Expiry => Err(NO_EXPIRY.into()),
            Verb::Flush => Err("ERR removing all data at once is not supported: delete the keys one by one".into()),
            _ => Err(SYNTAX.into()),
        }
    }

    fn bound_keys(&self, count: usize) -> Result<(), Text> {
        let max = self.face.handle.options().limits.batch_keys;
        if count > max { Err(format!("ERR more than {max} keys in one command").into()) } else { Ok(()) }
    }

    /// A key that may be written.
    fn key(&self, request: &Request, n: usize) -> Result<Bytes, Text> {
        let (key, max) = (request.get(n), self.face.handle.options().limits.key_bytes);
        if key.is_empty() {
            return Err("ERR the key is empty".into());
        }
        if key.len() > max {
            return Err(format!("ERR the key is longer than {max} bytes").into());
        }
        if std::str::from_utf8(key).is_err() {
            return Err("ERR the key is not valid UTF-8".into());
        }
        Ok(request.share(n))
    }

    fn value(&self, request: &Request, n: usize) -> Result<Value, Text> {
        let (data, max) = (request.share(n), self.face.handle.options().limits.value_bytes);
        if data.len() > max {
            return Err(format!("ERR the value is larger than {max} bytes").into());
        }
        Ok(Value::bytes(data))
    }

    async fn read(&mut self, verb: Verb, request: &Request) -> io::Result<Flow> {
        let route = match verb {
            Verb::Mget | Verb::Exists => Route::Many,
            Verb::DbSize | Verb::Keys | Verb::Scan => Route::Scan,
            _ => Route::Get,
        };
        if matches!(verb, Verb::Mget | Verb::Exists)
            && let Err(text) = self.bound_keys(request.len() - 1)
        {
            return self.fail(&text).await;
        }
        match self.fresh(true).await {
            Ok(()) => {
                self.answer_read(verb, request).await?;
                self.observe(route, "ok");
            }
            Err(error) => {
                self.refuse_read(&error);
                self.observe(route, read_code(&error).1);
            }
        }
        Ok(Flow::Next)
    }

    fn refuse_read(&mut self, error: &ReadError) {
        let hint = error.to_string().replace("consistency=local", "READONLY");
        resp::error(&mut self.out, &format!("{} {hint}", read_code(error).0));
    }

    async fn answer_read(&mut self, verb: Verb, request: &Request) -> io::Result<()> {
        let version = self.client.version;
        match verb {
            Verb::Mget => {
                resp::array(&mut self.out, request.len() - 1);
                for key in request.from(1) {
                    // The length is said already: a reply that cannot go on ends the connection.
                    match self.face.handle.item(key).await.map_err(io::Error::other)? {
                        Some(item) => resp::bulk(&mut self.out, &item.value.data),
                        None => resp::null(&mut self.out, version),
                    }
                    self.flush_if_large().await?;
                }
            }
            Verb::Exists => {
                let mut count = 0;
                for key in request.from(1) {
                    match self.face.handle.item(key).await {
                        Ok(item) => count += i64::from(item.is_some()),
                        Err(error) => {
                            self.refuse_read(&error);
                            return Ok(());
                        }
                    }
                }
                resp::integer(&mut self.out, count);
            }
            Verb::DbSize => {
                let count = self.face.handle.store().count();
                resp::integer(&mut self.out, i64::try_from(count).unwrap_or(i64::MAX));
            }
            Verb::Keys => self.keys(request).await?,
            Verb::Scan => self.scan(request).await?,
            _ => {
                let item = match self.face.handle.item(request.get(1)).await {
                    Ok(item) => item,
                    Err(error) => {
                        self.refuse_read(&error);
                        return Ok(());
                    }
                };
                let out = &mut self.out;
                match (verb, item) {
                    (Verb::Get, Some(item)) => resp::bulk(out, &item.value.data),
                    (Verb::Get, None) => resp::null(out, version),
                    (Verb::StrLen, item) => {
                        let length = item.map_or(0, |i| i.value.data.len());
                        resp::integer(out, i64::try_from(length).unwrap_or(i64::MAX));
                    }
                    (Verb::Type, item) => resp::simple(out, if item.is_some() { "string" } else { "none" }),
                    // No key expires yet: -1 says so of one that exists.
                    (_, item) => resp::integer(out, if item.is_some() { -1 } else { -2 }),
                }
            }
        }
        Ok(())
    }

    /// Walks over the keys on a thread that may wait for the engine's disk.
    async fn step(&self, pattern: Bytes, after: Option<Bytes>, bounds: Bounds) -> Result<Step, Text> {
        let handle = self.face.handle.clone();
        let walk = move || keys::step(&handle.view(), &pattern, after.as_deref(), bounds);
        match tokio::task::spawn_blocking(walk).await {
            Ok(Ok(step)) => Ok(step),
            Ok(Err(_)) | Err(_) => Err("ERR the keys could not be read".into()),
        }
    }

    async fn keys(&mut self, request: &Request) -> io::Result<()> {
        let face = Arc::clone(&self.face);
        let patience = face.handle.options().request_timeout;
        let Ok(Ok(_under_way)) = tokio::time::timeout(patience, face.keys.acquire()).await else {
            resp::error(&mut self.out, "BUSY too many KEYS are under way: try again in a moment, or use SCAN");
            return Ok(());
        };
        match self.step(request.share(1), None, keys::KEYS).await {
            Ok(Step { count, text, more: None }) => {
                resp::array(&mut self.out, count);
                return self.answer_with(&text).await;
            }
            Ok(_) => {
                let Bounds { keys, bytes } = keys::KEYS;
                let text =
                    format!("ERR KEYS looks at up to {keys} keys and returns {} MiB of them: use SCAN", bytes >> 20);
                resp::error(&mut self.out, &text);
            }
            Err(text) => resp::error(&mut self.out, &text),
        }
        Ok(())
    }

    async fn scan(&mut self, request: &Request) -> io::Result<()> {
        let step = match self.scan_options(request) {
            Ok(walk) => {
                let bounds = Bounds { keys: walk.count, ..keys::SCAN };
                self.step(walk.pattern, walk.after, bounds).await.map(|step| (step, walk.strings))
            }
            Err(text) => Err(text),
        };
        let (Step { count, text, more }, strings) = match step {
            Ok(step) => step,
            Err(text) => {
                resp::error(&mut self.out, &text);
                return Ok(());
            }
        };
        let cursor = more.map_or(0, |key| self.face.cursors.lock().remember(key));
        let out = &mut self.out;
        resp::array(out, 2);
        resp::bulk(out, cursor.to_string().as_bytes());
        resp::array(out, if strings { count } else { 0 });
        self.answer_with(if strings { &text } else { b"" }).await
    }

    fn scan_options(&self, request: &Request) -> Result<Walk, Text> {
        let cursor =
            std::str::from_utf8(request.get(1)).ok().and_then(|c| c.parse().ok()).ok_or("ERR invalid cursor")?;
        let after = match cursor {
            0 => None,
            cursor => {
                let place = self.face.cursors.lock().place(cursor);
                Some(place.ok_or("ERR invalid cursor: it is of another node or too old, start again at 0")?)
            }
        };
        let mut walk = Walk { after, pattern: Bytes::from_static(b"*"), count: SCAN_STEP, strings: true };
        let mut n = 2;
        while n < request.len() {
            let option = request.get(n);
            if n + 1 == request.len() {
                return Err(SYNTAX.into());
            }
            if option.eq_ignore_ascii_case(b"MATCH") {
                walk.pattern = request.share(n + 1);
            } else if option.eq_ignore_ascii_case(b"COUNT") {
                let count = integer(request.get(n + 1)).ok_or(NOT_AN_INTEGER)?;
                let count = usize::try_from(count).ok().filter(|c| *c > 0).ok_or(SYNTAX)?;
                walk.count = count.min(keys::SCAN.keys);
            } else if option.eq_ignore_ascii_case(b"TYPE") {
                walk.strings = request.get(n + 1).eq_ignore_ascii_case(b"string");
            } else {
                return Err(SYNTAX.into());
            }
            n += 2;
        }
        Ok(walk)
    }

    /// How many followers hold the client's last write durably: at least those counted when it was acknowledged, and on the leader
    /// those that confirmed it since.
    async fn wait(&mut self, request: &Request) -> io::Result<Flow> {
        let wanted = integer(request.get(1)).and_then(|n| usize::try_from(n).ok());
        let millis = integer(request.get(2)).and_then(|n| u64::try_from(n).ok());
        let (Some(wanted), Some(millis)) = (wanted, millis) else {
            return self.fail(NOT_AN_INTEGER).await;
        };
        // Zero means for ever in Redis; nothing waits without a bound here.
        let bound = self.face.handle.options().request_timeout;
        let timeout = if millis == 0 { bound } else { Duration::from_millis(millis).min(bound) };
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let state = self.face.handle.state();
            let count = match self.client.last_write {
                Some((revision, followers)) => {
                    let confirmed = state.peers.iter().filter(|p| p.durable.0 >= revision).count();
                    confirmed.max(followers)
                }
                None => state.peers.iter().filter(|p| p.live).count(),
            };
            let leads = state.role == quorum::Role::Leader;
            if count >= wanted || !leads || count >= state.peers.len() || tokio::time::Instant::now() >= deadline {
                resp::integer(&mut self.out, i64::try_from(count).unwrap_or(i64::MAX));
                return Ok(Flow::Next);
            }
            tokio::time::sleep_until((tokio::time::Instant::now() + WAIT_STEP).min(deadline)).await;
        }
    }
}

/// What a SCAN asks for.
struct Walk {
    after: Option<Bytes>,
    pattern: Bytes,
    count: usize,
    /// Whether strings, the only type there is, are wanted.
    strings: bool,
}

fn set_condition(request: &Request) -> Result<Condition, Text> {
    let mut condition = Condition::None;
    for option in request.from(3) {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        condition = match condition {
            Condition::None if is("NX") => Condition::Absent,
            Condition::None if is("XX") => Condition::Present,
            _ if ["EX", "PX", "EXAT", "PXAT", "KEEPTTL"].iter().any(|n| is(n)) => return Err(NO_EXPIRY.into()),
            _ if is("GET") => return Err("ERR the GET option of SET is not supported yet".into()),
            _ => return Err(SYNTAX.into()),
        };
    }
    Ok(condition)
}
