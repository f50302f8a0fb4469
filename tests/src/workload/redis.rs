//! Operations over the Redis protocol, and what its answers mean for a history.

use std::time::Duration;

use quorate_history::{Call, Condition, Outcome};
use tokio::time::timeout;

use super::{Target, Told};
use crate::client::{Resp, RespClient};

/// First words of errors that say for certain: not done.
const CERTAIN: [&str; 4] = ["NOLEADER", "NOQUORUM", "BUSY", "NOSPACE"];

/// A client of the Redis protocol, with one connection to one node at a time.
#[derive(Debug)]
pub(super) struct RedisClient {
    patience: Duration,
    connection: Option<(String, RespClient)>,
}

impl RedisClient {
    pub(super) fn new(patience: Duration) -> RedisClient {
        RedisClient { patience, connection: None }
    }

    /// Sends an operation to a node.
    pub(super) async fn perform(&mut self, target: &Target, key: &str, call: &Call) -> Told {
        let mut connection = match self.connection.take() {
            Some((address, connection)) if address == target.tcp => connection,
            _ => match timeout(self.patience, RespClient::try_connect(&target.tcp)).await {
                Ok(Ok(connection)) => connection,
                // Nothing was sent.
                _ => return Told::refused(),
            },
        };
        let arguments = match call {
            Call::Read { .. } => vec!["GET", key],
            Call::Write { value, condition: Condition::None } => vec!["SET", key, value],
            Call::Write { value, condition: Condition::Absent } => vec!["SET", key, value, "NX"],
            Call::Write { value, condition: Condition::Present } => vec!["SET", key, value, "XX"],
            Call::Delete { condition: Condition::None } => vec!["DEL", key],
            other => panic!("the Redis protocol has no {other:?}"),
        };
        match timeout(self.patience, connection.try_call(&arguments)).await {
            Ok(Ok(reply)) => {
                self.connection = Some((target.tcp.clone(), connection));
                meaning(call, reply)
            }
            // A reply that comes after all must not be taken for the next one's: the connection is dropped.
            _ => Told::unknown(),
        }
    }
}

fn meaning(call: &Call, reply: Resp) -> Told {
    let done = Outcome::Done { revision: None };
    let failed = Outcome::Failed { revision: None };
    match (call, reply) {
        (Call::Read { .. }, Resp::Bulk(bytes)) => {
            let value = Some(String::from_utf8_lossy(&bytes).into_owned());
            Told::certain(Outcome::Found { value, revision: None })
        }
        (Call::Read { .. }, Resp::Null) => Told::certain(Outcome::Found { value: None, revision: None }),
        (Call::Write { .. }, Resp::Simple(_)) => Told::certain(done),
        (Call::Write { .. }, Resp::Null) => Told::certain(failed),
        (Call::Delete { .. }, Resp::Integer(1)) => Told::certain(done),
        (Call::Delete { .. }, Resp::Integer(0)) => Told::certain(failed),
        (_, Resp::Error(text)) => match text.split(' ').next().unwrap_or_default() {
            "UNKNOWN" => Told::unknown(),
            word if CERTAIN.contains(&word) => Told::refused(),
            _ => panic!("{call:?} was answered with {text}"),
        },
        (call, other) => panic!("{call:?} was answered with {other:?}"),
    }
}
