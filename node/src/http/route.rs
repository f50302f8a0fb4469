//! Which routes there are: one table for matching, for `Allow`, for metric labels and for the list that `GET /` shows.

use super::error::Shape;

macro_rules! routes {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// What a request asks for. The name is the `route` label of the metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Route { $($variant),* }

        impl Route {
            /// Every route, in the order of their numbers.
            pub(super) const ALL: &'static [Route] = &[$(Route::$variant),*];

            /// The metric label.
            pub(super) fn name(self) -> &'static str {
                match self { $(Route::$variant => $name),* }
            }
        }
    };
}

routes! {
    V1Put "v1_put", V1Get "v1_get", V1Delete "v1_delete", V1List "v1_list",
    Write "write", Read "read", Data "data", Keys "keys",
    KvPut "kv_put", KvGet "kv_get", KvDelete "kv_delete",
    Health "health", Root "root", Map "map", Workers "workers", Gone "gone",
    V1Status "v1_status", V1Config "v1_config", V1Transfer "v1_transfer", V1Members "v1_members", V1Campaign "v1_campaign",
    V1Log "v1_log", V1Later "v1_later", V1Events "v1_events", V1Nodes "v1_nodes", Ui "ui",
    Metrics "metrics", Livez "livez", Readyz "readyz",
    Other "other",
}

impl Route {
    /// Whether it writes keys.
    pub(super) fn writes(self) -> bool {
        use Route::{KvDelete, KvPut, V1Delete, V1Put, Write};
        matches!(self, V1Put | V1Delete | Write | KvPut | KvDelete)
    }
}

/// One line of the table.
pub(super) struct Entry {
    /// The path; with [`Entry::rest`] its beginning.
    pub path: &'static str,
    /// Whether a key follows, slashes included.
    pub rest: bool,
    /// The methods and what they mean. `HEAD` goes with every `GET`.
    pub methods: &'static [(&'static str, Route)],
    /// The `Allow` header.
    pub allow: &'static str,
    /// For people; empty hides the line from the list.
    pub what: &'static str,
}

const fn entry(
    path: &'static str,
    rest: bool,
    methods: &'static [(&'static str, Route)],
    allow: &'static str,
    what: &'static str,
) -> Entry {
    Entry { path, rest, methods, allow, what }
}

/// All routes; the most frequent ones first, since the table is searched from its beginning.
pub(super) static TABLE: [Entry; 32] = [
    entry(
        "/v1/kv/",
        true,
        &[("PUT", Route::V1Put), ("GET", Route::V1Get), ("DELETE", Route::V1Delete)],
        "GET, HEAD, PUT, DELETE",
        "one key, raw bytes; ETag and If-Match; ?consistency=, ?min_revision=, ?w=, ?forward=false",
    ),
    entry("/write", false, &[("POST", Route::Write)], "POST", r#"{"key":…,"value":…} on the leader"#),
    entry("/read/", true, &[("GET", Route::Read)], "GET, HEAD", "one key, this node's own copy"),
    entry("/read", false, &[("GET", Route::Read)], "GET, HEAD", "?key= as above"),
    entry(
        "/kv/",
        true,
        &[("PUT", Route::KvPut), ("GET", Route::KvGet), ("DELETE", Route::KvDelete)],
        "GET, HEAD, PUT, DELETE",
        r#"one key as JSON {"value":…}; writes from any node"#,
    ),
    entry("/v1/kv", false, &[("GET", Route::V1List)], "GET, HEAD", "a page of keys: ?prefix=, ?after=, ?limit="),
    entry("/data", false, &[("GET", Route::Data)], "GET, HEAD", "all of this node's data as one JSON object"),
    entry("/keys", false, &[("GET", Route::Keys)], "GET, HEAD", "the keys in order: ?prefix=, ?after=, ?limit="),
    entry("/health", false, &[("GET", Route::Health)], "GET, HEAD", "role, term, leader"),
    entry("/", false, &[("GET", Route::Root)], "GET, HEAD", "this list; a page for browsers"),
    entry("/map", false, &[("GET", Route::Map)], "GET, HEAD", "?key= which nodes hold the key"),
    entry("/workers", false, &[("GET", Route::Workers)], "GET, HEAD", "the members and their health"),
    entry("/metrics", false, &[("GET", Route::Metrics)], "GET, HEAD", "for Prometheus"),
    entry("/livez", false, &[("GET", Route::Livez)], "GET, HEAD", "whether the process answers"),
    entry("/readyz", false, &[("GET", Route::Readyz)], "GET, HEAD", "whether the node has caught up"),
    entry("/v1/status", false, &[("GET", Route::V1Status)], "GET, HEAD", "the node, the cluster, its numbers"),
    entry(
        "/v1/cluster/config",
        false,
        &[("PUT", Route::V1Config)],
        "PUT",
        "change members, write quorum, preferences; If-Match: the version",
    ),
    entry("/v1/cluster/transfer", false, &[("POST", Route::V1Transfer)], "POST", "hand leadership over"),
    entry("/v1/cluster/members", false, &[("POST", Route::V1Members)], "POST", "promote or remove one member"),
    entry("/v1/cluster/campaign", false, &[("POST", Route::V1Campaign)], "POST", "make this node the leader"),
    entry(
        "/v1/events",
        false,
        &[("GET", Route::V1Events)],
        "GET, HEAD",
        "state and figures as they change: ?scope=cluster",
    ),
    entry("/v1/nodes/", true, RELAYED, RELAYED_ALLOW, ""),
    entry("/ui/", true, &[("GET", Route::Ui)], "GET, HEAD", ""),
    entry(
        "/v1/log",
        false,
        &[("GET", Route::V1Log), ("PUT", Route::V1Log)],
        "GET, HEAD, PUT",
        r#"what is logged: {"filter":"info,quorate::peer=debug"}"#,
    ),
    entry("/v1/txn", false, &[("POST", Route::V1Later)], "POST", ""),
    entry("/v1/watch", false, &[("GET", Route::V1Later)], "GET, HEAD", ""),
    entry("/v1/openapi.json", false, &[("GET", Route::V1Later)], "GET, HEAD", ""),
    entry("/v1/snapshot", false, &[("GET", Route::V1Later)], "GET, HEAD", ""),
    entry("/replicate/", true, GONE, GONE_ALLOW, ""),
    entry("/replicate", false, GONE, GONE_ALLOW, ""),
    entry("/heartbeat", false, GONE, GONE_ALLOW, ""),
    entry("/pull", false, GONE, GONE_ALLOW, ""),
];

/// What is passed on to another member.
const RELAYED: &[(&str, Route)] =
    &[("GET", Route::V1Nodes), ("PUT", Route::V1Nodes), ("POST", Route::V1Nodes), ("DELETE", Route::V1Nodes)];
const RELAYED_ALLOW: &str = "GET, HEAD, PUT, POST, DELETE";

/// What nodes of the simple systems asked each other, with the methods they used.
const GONE: &[(&str, Route)] =
    &[("POST", Route::Gone), ("GET", Route::Gone), ("PUT", Route::Gone), ("DELETE", Route::Gone)];
const GONE_ALLOW: &str = "GET, HEAD, POST, PUT, DELETE";

/// Why a request matches no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// The path is unknown.
    Path,
    /// The path is known with other methods: these.
    Method(&'static str),
}

/// The route of a request, and what follows its path (a key, still encoded).
pub(super) fn resolve<'a>(method: &str, path: &'a str) -> Result<(Route, &'a str), NoRoute> {
    for entry in &TABLE {
        let rest = match path.strip_prefix(entry.path) {
            Some(rest) if entry.rest || rest.is_empty() => rest,
            _ => continue,
        };
        let wanted = if method == "HEAD" { "GET" } else { method };
        let found = entry.methods.iter().find(|(m, _)| *m == wanted);
        return found.map(|(_, route)| (*route, rest)).ok_or(NoRoute::Method(entry.allow));
    }
    Err(NoRoute::Path)
}

/// The shape errors have for a path.
pub(super) fn shape(path: &str) -> Shape {
    if path == "/v1" || path.starts_with("/v1/") { Shape::V1 } else { Shape::Lab }
}
