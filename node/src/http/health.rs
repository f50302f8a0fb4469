//! Is the process there, is the node fit for traffic, and what role has it?

use hyper::{Response, StatusCode};
use quorum::Role;
use serde_json::json;

use super::face::Face;
use super::respond::{Body, json_of};

/// `GET /health`, in the simple systems' shape: a candidate is a follower to them.
pub(super) fn health(face: &Face) -> Response<Body> {
    let state = face.handle.state();
    let leads = state.role == Role::Leader;
    let lag = if leads { 0 } else { state.commit.0.saturating_sub(face.handle.applied().0) };
    json_of(
        StatusCode::OK,
        &json!({
            "status": "healthy",
            "node_type": if leads { "leader" } else { "follower" },
            "term": state.term.0,
            "leader": state.leader.as_ref().map(|m| m.http.as_str()),
            "commit": state.commit.0,
            "lag": lag,
            "workers_count": state.config.as_ref().map_or(0, |c| c.members().count()),
        }),
    )
}

/// `GET /livez`: says yes for as long as the process can say anything.
pub(super) fn livez() -> Response<Body> {
    json_of(StatusCode::OK, &json!({ "status": "alive" }))
}

/// `GET /readyz`
pub(super) fn readyz(face: &Face) -> Response<Body> {
    let state = face.handle.state();
    let reason = if state.removed {
        "this node was removed from its cluster"
    } else if state.config.is_none() {
        "this node belongs to no cluster yet"
    } else if !state.ready {
        "this node has not caught up with its cluster yet"
    } else {
        return json_of(StatusCode::OK, &json!({ "status": "ready" }));
    };
    json_of(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not ready", "reason": reason }))
}
