//! The page of a whole cluster, in `quorate local`: on a port of its own, so that it survives any node, and with controls that no node has.
//!
//! It asks the nodes over HTTP, as any page does, and carries orders (stop, pause, resume, start, delay) to whoever keeps the nodes; it keeps none itself. The
//! port is on loopback. What has an effect needs the admin token where one is set.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::{Code, Failure, Shape};
use super::events::{Board, Feed, event};
use super::face::Answer;
use super::follow;
use super::io::HEAD_TIMEOUT;
use super::origin::Guard;
use super::relay::{self, Destination, Relay};
use super::request::{body, demand_token, parse};
use super::respond::{Body, json_of};
use super::server::{Answers, Port, serve_port};
use super::ui;
use crate::options::NodeOptions;

/// Connections of the page's port: a person's browsers.
const CONNECTIONS_MAX: usize = 256;

/// An order is two numbers or none.
const ORDER_BYTES_MAX: usize = 4 << 10;

/// The longest delay one may ask for: beyond it every write would be reported as unknown.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// How long an order may take: a node that starts reads its log.
const ORDER_WAIT: Duration = Duration::from_secs(30);

/// What may be done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// In good order.
    Stop,
    /// Held still, as by SIGSTOP.
    Pause,
    /// Let go.
    Resume,
    /// On the data it has.
    Start,
}

/// What is ordered.
#[derive(Debug)]
pub(crate) enum Order {
    /// Something to be done to the node of this name.
    Node { name: String, act: Act },
    /// Another simulated delay of appends to followers.
    Delay((Duration, Duration)),
}

/// An order, and where its result goes: in a sentence, if it cannot be carried out.
pub(crate) type Asked = (Order, oneshot::Sender<Result<(), String>>);

/// How a node of this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Standing::Starting => "starting",
            Standing::Running => "running",
            Standing::Paused => "paused",
            Standing::Stopping => "stopping",
            Standing::Stopped => "stopped",
        })
    }
}

/// One node of this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) http: String,
    pub(crate) standing: Standing,
    /// Why it ended, unless it was asked to.
    pub(crate) reason: Option<String>,
}

/// All of them, and the simulated delay.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Situation {
    pub(crate) nodes: Vec<Place>,
    pub(crate) min_delay_ms: f64,
    pub(crate) max_delay_ms: f64,
}

impl Situation {
    /// The situation with this delay.
    pub(crate) fn new(nodes: Vec<Place>, delay: (Duration, Duration)) -> Situation {
        let millis = |d: Duration| d.as_micros() as f64 / 1e3;
        Situation { nodes, min_delay_ms: millis(delay.0), max_delay_ms: millis(delay.1) }
    }
}

/// Body of `PUT /local/delay`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayBody {
    min_ms: f64,
    max_ms: f64,
}

/// Everything the page's port needs.
struct Console {
    guard: Guard,
    feed: Feed,
    relay: Relay,
    situation: watch::Receiver<Situation>,
    orders: mpsc::Sender<Asked>,
    nodes: Vec<NodeOptions>,
    stopping: watch::Receiver<bool>,
}

/// Serves the page of these nodes until `stopping` turns true.
pub(crate) fn serve(
    listener: TcpListener,
    situation: watch::Receiver<Situation>,
    orders: mpsc::Sender<Asked>,
    nodes: &[NodeOptions],
    stopping: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + 'static {
    let nodes = nodes.to_vec();
    async move {
        let Ok(address) = listener.local_addr() else { return };
        let console = Console {
            guard: Guard::new(address, "localhost"),
            feed: Feed::new(),
            relay: Relay::new(),
            situation,
            orders,
            nodes,
            stopping: stopping.clone(),
        };
        let open = Arc::new(AtomicUsize::new(0));
        serve_port(listener, console, Port { open, limit: CONNECTIONS_MAX, head_timeout: HEAD_TIMEOUT, stopping })
            .await;
    }
}

impl Answers for Console {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.guard.check(&request) {
            Ok(()) => Box::pin(self.perform(request)).await,
            Err(failure) => Err(failure),
        }
        .unwrap_or_else(|failure| failure.into_response(Shape::V1))
    }
}

impl Console {
    async fn perform(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let reads = matches!(method, Method::GET | Method::HEAD);
        match path.as_str() {
            "/" if reads => Ok(ui::page(&request)),
            "/v1/events" if reads => self.follow(),
            "/local" if reads => Ok(json_of(StatusCode::OK, &*self.situation.borrow())),
            "/local/delay" if method == Method::PUT => {
                demand_token(self.token(), &request)?;
                self.order(Order::Delay(delay_of(parse(&body(request, ORDER_BYTES_MAX).await?)?)?)).await
            }
            _ if reads && path.starts_with("/ui/") => ui::asset(&request),
            _ if path.starts_with("/v1/nodes/") => self.pass_on(&path, request).await,
            _ => match path.strip_prefix("/local/nodes/") {
                Some(rest) if method == Method::POST => {
                    demand_token(self.token(), &request)?;
                    self.order(order_of(rest)?).await
                }
                _ => Err(Failure::new(
                    Code::RouteNotFound,
                    "the page of the cluster has no such route; the API is at the nodes, GET /local names them",
                )),
            },
        }
    }

    fn token(&self) -> Option<&str> {
        self.nodes.first()?.admin_token.as_deref()
    }

    /// `GET /v1/events`: every node's events, and the situation.
    fn follow(&self) -> Answer {
        let hello = event("hello", &json!({ "page": "local", "token": self.token().is_some() }));
        let nodes: Vec<(String, String)> =
            self.nodes.iter().map(|n| (n.name.clone(), format!("http://{}", n.http))).collect();
        let situation = self.situation.clone();
        self.feed.subscribe(self.stopping.clone(), Some(hello), |board| follow_all(nodes, situation, board))
    }

    async fn pass_on(&self, path: &str, request: Request<Incoming>) -> Answer {
        let (name, rest) = relay::parts_of(path).ok_or_else(relay::no_such_path)?;
        let node = self.nodes.iter().find(|n| n.name == name);
        let node = node.ok_or_else(|| Failure::new(Code::RouteNotFound, format!("there is no node named {name:?}")))?;
        let to = Destination {
            name: &node.name,
            url: &format!("http://{}", node.http),
            request_timeout: node.request_timeout,
            value_bytes_max: node.limits.value_bytes,
        };
        self.relay.pass_on(to, rest, request).await
    }

    /// Has an order carried out.
    async fn order(&self, order: Order) -> Answer {
        let (reply, result) = oneshot::channel();
        if self.orders.try_send((order, reply)).is_err() {
            return Err(Failure::new(Code::Overloaded, "too many orders wait already: try again in a moment"));
        }
        match tokio::time::timeout(ORDER_WAIT, result).await {
            Ok(Ok(Ok(()))) => Ok(json_of(StatusCode::OK, &*self.situation.borrow())),
            Ok(Ok(Err(why))) => Err(Failure::new(Code::ChangeRefused, why)),
            Ok(Err(_)) => Err(Failure::new(Code::Stopping, "the cluster is stopping")),
            Err(_) => Err(Failure::new(Code::OutcomeUnknown, "this takes long: watch how the node is")),
        }
    }
}

async fn follow_all(nodes: Vec<(String, String)>, mut situation: watch::Receiver<Situation>, board: Arc<Board>) {
    let Some(client) = follow::client() else { return };
    let mut following = tokio::task::JoinSet::new();
    for (name, url) in nodes {
        following.spawn(follow::node(client.clone(), name, url, board.clone()));
    }
    loop {
        // Not a name that a node can have.
        board.put("/local", event("local", &*situation.borrow_and_update()));
        if situation.changed().await.is_err() {
            return;
        }
    }
}

/// `{node}/{act}`, the node's name encoded.
fn order_of(rest: &str) -> Result<Order, Failure> {
    let unknown = || {
        Failure::new(
            Code::RouteNotFound,
            "a node may be told to stop, pause, resume and start: POST /local/nodes/{node}/stop",
        )
    };
    let (name, act) = rest.rsplit_once('/').ok_or_else(unknown)?;
    let act = match act {
        "stop" => Act::Stop,
        "pause" => Act::Pause,
        "resume" => Act::Resume,
        "start" => Act::Start,
        _ => return Err(unknown()),
    };
    Ok(Order::Node { name: percent_decode_str(name).decode_utf8_lossy().into_owned(), act })
}

fn delay_of(wanted: DelayBody) -> Result<(Duration, Duration), Failure> {
    let DelayBody { min_ms, max_ms } = wanted;
    let duration = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).ok().filter(|d| *d <= DELAY_MAX);
    match (duration(min_ms), duration(max_ms)) {
        (Some(min), Some(max)) if min <= max => Ok((min, max)),
        (Some(min), Some(max)) => {
            Err(Failure::bad(format!("the smallest delay, {min:?}, is above the largest, {max:?}")))
        }
        _ => Err(Failure::bad(format!("a delay is between 0 and {} ms", DELAY_MAX.as_millis()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_name_a_node_and_what_to_do() {
        assert!(matches!(order_of("node%201/pause"), Ok(Order::Node { name, act: Act::Pause }) if name == "node 1"));
        assert!(order_of("node1/explode").is_err());
        assert!(order_of("stop").is_err());
    }

    #[test]
    fn delays_beyond_reason_are_refused() {
        let delay = |min_ms, max_ms| delay_of(DelayBody { min_ms, max_ms });
        assert_eq!(delay(0.1, 2.0).expect("fine"), (Duration::from_micros(100), Duration::from_millis(2)));
        for (min, max) in [(2.0, 1.0), (-1.0, 1.0), (0.0, 10_001.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
            assert!(delay(min, max).is_err(), "{min} {max}");
        }
    }
}
