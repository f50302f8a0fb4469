//! What Redis clients ask about the connection and the server rather than about data.
//!
//! Owns the replies that make unmodified clients feel at home: HELLO, CLIENT, CONFIG, COMMAND, INFO and the like. It changes nothing but
//! the state of its own connection. Before it: [`super::commands`].

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::commands::{COMMANDS, NOT_AN_INTEGER, SYNTAX, Spec, Text, Verb, find, integer, wrong_arity};
use super::keys::matches;
use super::resp::{self, Request, Version};
use super::session::{Flow, Session};

/// The version of Redis whose replies are followed: clients choose what they send by it.
const REDIS_VERSION: &str = "7.2.0";

/// Sections of INFO, in order.
const SECTIONS: [&str; 4] = ["server", "clients", "replication", "keyspace"];

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure \
                           your configuration is correct?";

impl Session {
    /// Answers a command that is not about data.
    pub(super) fn administer(&mut self, verb: Verb, request: &Request) -> Flow {
        match self.reply(verb, request) {
            Ok(flow) => flow,
            Err(text) => {
                resp::error(&mut self.out, &text);
                Flow::Next
            }
        }
    }

    fn reply(&mut self, verb: Verb, request: &Request) -> Result<Flow, Text> {
        match verb {
            Verb::Ping => match request.len() {
                1 => resp::simple(&mut self.out, "PONG"),
                2 => resp::bulk(&mut self.out, request.get(1)),
                _ => return Err(wrong_arity("ping")),
            },
            Verb::Echo => resp::bulk(&mut self.out, request.get(1)),
            Verb::Hello => self.hello(request)?,
            Verb::Auth => {
                if request.len() > 3 {
                    return Err(SYNTAX.into());
                }
                self.log_in(request.get(request.len() - 1))?;
                self.ok();
            }
            Verb::Select => match integer(request.get(1)) {
                Some(0) => self.ok(),
                Some(_) => return Err("ERR DB index is out of range".into()),
                None => return Err(NOT_AN_INTEGER.into()),
            },
            Verb::Info => self.info(request),
            Verb::Command => self.command(request)?,
            Verb::Config => self.config(request)?,
            Verb::Client => self.client_command(request)?,
            Verb::ReadOnly | Verb::ReadWrite => {
                self.client.readonly = verb == Verb::ReadOnly;
                self.ok();
            }
            Verb::Reset => {
                self.client.name = Bytes::new();
                self.client.version = Version::Two;
                self.client.authenticated = false;
                self.client.readonly = false;
                resp::simple(&mut self.out, "RESET");
            }
            Verb::Quit => {
                self.ok();
                return Ok(Flow::Close);
            }
            Verb::Time => self.time(),
            Verb::Shutdown => return self.shut_down(request),
            Verb::Transaction => return Err("ERR transactions are not supported yet: use MSET, or SET with NX".into()),
            _ => return Err(SYNTAX.into()),
        }
        Ok(Flow::Next)
    }

    fn ok(&mut self) {
        resp::simple(&mut self.out, "OK");
    }

    fn log_in(&mut self, password: &[u8]) -> Result<(), Text> {
        match self.authenticate(password) {
            Some(true) => Ok(()),
            Some(false) => Err(WRONG_PASSWORD.into()),
            None => Err(NO_PASSWORD.into()),
        }
    }

    /// As Redis does on success: no reply, the connection just ends.
    fn shut_down(&self, request: &Request) -> Result<Flow, Text> {
        let known = |o: &[u8]| ["NOSAVE", "SAVE", "NOW", "FORCE"].iter().any(|k| o.eq_ignore_ascii_case(k.as_bytes()));
        if !request.from(1).all(known) {
            return Err(SYNTAX.into());
        }
        if !self.may_shut_down() {
            return Err("NOPERM SHUTDOWN is taken from this machine only, or after AUTH with the admin token".into());
        }
        Ok(Flow::Shutdown)
    }

    fn hello(&mut self, request: &Request) -> Result<(), Text> {
        let mut version = self.client.version;
        if request.len() > 1 {
            version = match integer(request.get(1)) {
                Some(2) => Version::Two,
                Some(3) => Version::Three,
                Some(_) => return Err("NOPROTO unsupported protocol version".into()),
                None => return Err("ERR Protocol version is not an integer or out of range".into()),
            };
        }
        let (mut n, mut name) = (2, None);
        while n < request.len() {
            let option = request.get(n);
            if option.eq_ignore_ascii_case(b"AUTH") && n + 2 < request.len() {
                self.log_in(request.get(n + 2))?;
                n += 3;
            } else if option.eq_ignore_ascii_case(b"SETNAME") && n + 1 < request.len() {
                name = Some(client_name(request, n + 1)?);
                n += 2;
            } else {
                return Err(format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option)).into());
            }
        }
        self.client.version = version;
        self.client.name = name.unwrap_or_else(|| self.client.name.clone());
        let role: &[u8] = if self.face.handle.leads() { b"master" } else { b"replica" };
        let id = i64::try_from(self.client.id).unwrap_or(i64::MAX);
        let out = &mut self.out;
        resp::map(out, version, 7);
        for (key, value) in [("server", &b"redis"[..]), ("version", REDIS_VERSION.as_bytes())] {
            resp::bulk(out, key.as_bytes());
            resp::bulk(out, value);
        }
        resp::bulk(out, b"proto");
        resp::integer(out, if version == Version::Three { 3 } else { 2 });
        resp::bulk(out, b"id");
        resp::integer(out, id);
        for (key, value) in [("mode", &b"standalone"[..]), ("role", role)] {
            resp::bulk(out, key.as_bytes());
            resp::bulk(out, value);
        }
        resp::bulk(out, b"modules");
        resp::array(out, 0);
        Ok(())
    }

    fn time(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        resp::array(&mut self.out, 2);
        resp::bulk(&mut self.out, now.as_secs().to_string().as_bytes());
        resp::bulk(&mut self.out, now.subsec_micros().to_string().as_bytes());
    }

    fn client_command(&mut self, request: &Request) -> Result<(), Text> {
        let is = |name: &str| request.get(1).eq_ignore_ascii_case(name.as_bytes());
        let takes = |count: usize, name: &str| if request.len() == count { Ok(()) } else { Err(wrong_arity(name)) };
        if is("ID") {
            takes(2, "client|id")?;
            resp::integer(&mut self.out, i64::try_from(self.client.id).unwrap_or(i64::MAX));
        } else if is("SETNAME") {
            takes(3, "client|setname")?;
            self.client.name = client_name(request, 2)?;
            self.ok();
        } else if is("GETNAME") {
            takes(2, "client|getname")?;
            match self.client.name.is_empty() {
                true => resp::null(&mut self.out, self.client.version),
                false => resp::bulk(&mut self.out, &self.client.name),
            }
        } else if is("SETINFO") {
            takes(4, "client|setinfo")?;
            self.ok();
        } else if is("NO-EVICT") || is("NO-TOUCH") {
            takes(3, if is("NO-EVICT") { "client|no-evict" } else { "client|no-touch" })?;
            self.ok();
        } else if is("INFO") || is("LIST") {
            // Only its own line: what other connections do is nobody's business but the operator's.
            let line = self.describe();
            resp::verbatim(&mut self.out, self.client.version, &line);
        } else {
            return Err(unknown_subcommand(request, "CLIENT"));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let client = &self.client;
        format!(
            "id={} addr={} name={} age={} db=0 resp={}\n",
            client.id,
            client.address,
            String::from_utf8_lossy(&client.name),
            client.since.elapsed().as_secs(),
            if client.version == Version::Three { 3 } else { 2 },
        )
    }

    fn config(&mut self, request: &Request) -> Result<(), Text> {
        if !request.get(1).eq_ignore_ascii_case(b"GET") {
            return Err(if request.get(1).eq_ignore_ascii_case(b"SET") {
                "ERR the configuration cannot be changed here: use the HTTP API".into()
            } else {
                unknown_subcommand(request, "CONFIG")
            });
        }
        if request.len() < 3 {
            return Err(wrong_arity("config|get"));
        }
        let limits = &self.face.handle.options().limits;
        let settings = [
            ("save", String::new()),
            ("appendonly", "yes".to_owned()),
            ("appendfsync", "always".to_owned()),
            ("databases", "1".to_owned()),
            ("maxclients", limits.tcp_connections.to_string()),
            ("maxmemory", "0".to_owned()),
            ("maxmemory-policy", "noeviction".to_owned()),
            ("proto-max-bulk-len", limits.value_bytes.to_string()),
            ("timeout", "0".to_owned()),
        ];
        let wanted =
            |name: &str| request.from(2).any(|pattern| matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
        let found: Vec<_> = settings.iter().filter(|(name, _)| wanted(name)).collect();
        resp::map(&mut self.out, self.client.version, found.len());
        for (name, value) in found {
            resp::bulk(&mut self.out, name.as_bytes());
            resp::bulk(&mut self.out, value.as_bytes());
        }
        Ok(())
    }

    fn command(&mut self, request: &Request) -> Result<(), Text> {
        let is = |name: &str| request.get(1).eq_ignore_ascii_case(name.as_bytes());
        let out = &mut self.out;
        if request.len() == 1 || (is("INFO") && request.len() == 2) {
            resp::array(out, COMMANDS.len());
            COMMANDS.iter().for_each(|spec| describe_command(out, spec));
        } else if is("COUNT") {
            resp::integer(out, i64::try_from(COMMANDS.len()).unwrap_or(i64::MAX));
        } else if is("LIST") {
            resp::array(out, COMMANDS.len());
            COMMANDS.iter().for_each(|spec| resp::bulk(out, spec.name.as_bytes()));
        } else if is("INFO") {
            resp::array(out, request.len() - 2);
            for name in request.from(2) {
                match find(name) {
                    Some(spec) => describe_command(out, spec),
                    None => resp::null(out, self.client.version),
                }
            }
        } else if is("DOCS") {
            // Clients show help without it; what commands exist is in COMMAND.
            resp::map(out, self.client.version, 0);
        } else {
            return Err(unknown_subcommand(request, "COMMAND"));
        }
        Ok(())
    }

    fn info(&mut self, request: &Request) {
        let all = request.len() == 1
            || request
                .from(1)
                .any(|s| [&b"all"[..], b"default", b"everything"].iter().any(|a| s.eq_ignore_ascii_case(a)));
        let mut text = String::new();
        for section in SECTIONS {
            if all || request.from(1).any(|s| s.eq_ignore_ascii_case(section.as_bytes())) {
                if !text.is_empty() {
                    text.push_str("\r\n");
                }
                // Writing into a string cannot fail.
                let _ = self.write_section(&mut text, section);
            }
        }
        resp::verbatim(&mut self.out, self.client.version, &text);
    }

    fn write_section(&self, text: &mut String, section: &str) -> std::fmt::Result {
        let handle = &self.face.handle;
        let options = handle.options();
        match section {
            "server" => {
                write!(text, "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n")?;
                write!(text, "quorate_version:{}\r\n", env!("CARGO_PKG_VERSION"))?;
                write!(text, "run_id:{:032x}{:08x}\r\n", handle.id().0, handle.incarnation())?;
                write!(text, "process_id:{}\r\ntcp_port:{}\r\n", std::process::id(), options.tcp.port())?;
                write!(text, "uptime_in_seconds:{}\r\n", self.face.started.elapsed().as_secs())
            }
            "clients" => {
                let open = self.face.open.load(std::sync::atomic::Ordering::Relaxed);
                let max = options.limits.tcp_connections;
                write!(text, "# Clients\r\nconnected_clients:{open}\r\nmaxclients:{max}\r\n")
            }
            "replication" => self.write_replication(text),
            _ => {
                let keys = handle.store().count();
                text.push_str("# Keyspace\r\n");
                if keys == 0 { Ok(()) } else { write!(text, "db0:keys={keys},expires=0,avg_ttl=0\r\n") }
            }
        }
    }

    fn write_replication(&self, text: &mut String) -> std::fmt::Result {
        let state = self.face.handle.state();
        let split = |tcp: &str| {
            tcp.rsplit_once(':').map_or_else(|| (tcp.to_owned(), "0".to_owned()), |(h, p)| (h.into(), p.into()))
        };
        text.push_str("# Replication\r\n");
        if state.role != quorum::Role::Leader {
            let (host, port) = state.leader.as_ref().map_or_else(|| split(""), |m| split(&m.tcp));
            let link = if state.leader.is_some() { "up" } else { "down" };
            write!(text, "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{link}\r\n")?;
            return write!(text, "slave_repl_offset:{}\r\nslave_read_only:0\r\nconnected_slaves:0\r\n", state.last);
        }
        let live: Vec<_> = state.peers.iter().filter(|p| p.live).collect();
        write!(text, "role:master\r\nconnected_slaves:{}\r\n", live.len())?;
        for (n, peer) in live.iter().enumerate() {
            let members = state.config.iter().flat_map(|c| c.voters.iter().chain(&c.learners));
            let (host, port) =
                members.into_iter().find(|m| m.id == peer.id).map_or_else(|| split(""), |m| split(&m.tcp));
            write!(text, "slave{n}:ip={host},port={port},state=online,offset={},lag=0\r\n", peer.durable)?;
        }
        write!(text, "master_repl_offset:{}\r\n", state.last)
    }
}

fn client_name(request: &Request, n: usize) -> Result<Bytes, Text> {
    let name = request.get(n);
    if name.len() > 256 || !name.iter().all(|b| (b'!'..=b'~').contains(b)) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.".into());
    }
    // A copy: the name must not keep a read buffer alive for as long as the connection.
    Ok(Bytes::copy_from_slice(name))
}

fn unknown_subcommand(request: &Request, container: &str) -> Text {
    let name: String = String::from_utf8_lossy(request.get(1)).chars().take(128).collect();
    format!("ERR unknown subcommand '{name}'. Try {container} HELP.").into()
}

fn describe_command(out: &mut Vec<u8>, spec: &Spec) {
    resp::array(out, 6);
    resp::bulk(out, spec.name.as_bytes());
    resp::integer(out, spec.arity);
    resp::array(out, 1);
    resp::simple(
        out,
        match spec.writes {
            Some(true) => "write",
            Some(false) => "readonly",
            None => "fast",
        },
    );
    for n in [spec.keys.0, spec.keys.1, spec.keys.2] {
        resp::integer(out, n);
    }
}
