//! `/v1/status`, and what changes the cluster: asked on the leader, with the admin token where one is set.

use hyper::body::Incoming;
use hyper::header::{ETAG, HeaderValue, IF_MATCH};
use hyper::{Request, Response, StatusCode};
use quorate_api::{ConfigChange, LogFilter, MemberChange, TransferRequest};
use quorum::{Change, Config, Failover, Member, NodeId, Quorum, SharedConfig};
use serde_json::json;

use super::error::{Code, Failure};
use super::face::{Answer, Face};
use super::request::{body, demand_admin, demand_manager, parse, revision_of_etag};
use super::respond::{Body, json_of};
use super::status;
use crate::logging::{self, LogError};

/// Largest body of a request here; nine members' names fit many times.
const BODY_BYTES_MAX: usize = 64 << 10;

/// `GET /v1/status`
pub(super) fn status(face: &Face) -> Response<Body> {
    json_of(StatusCode::OK, &status::status(&face.handle))
}

/// `GET`, `PUT /v1/log`: the filter of the process's log.
pub(super) async fn log(face: &Face, request: Request<Incoming>) -> Answer {
    if request.method() == hyper::Method::PUT {
        demand_admin(face, &request)?;
        let wanted: LogFilter = parse(&body(request, BODY_BYTES_MAX).await?)?;
        logging::set_filter(&wanted.filter).map_err(|error| match error {
            LogError::Filter { .. } => Failure::bad(error.to_string()),
            LogError::None => Failure::new(Code::NotImplemented, error.to_string()),
            LogError::Failed(_) => Failure::new(Code::Internal, error.to_string()),
        })?;
        tracing::info!(node = %face.handle.options().name, filter = wanted.filter, "the log's filter was changed");
    }
    let filter = logging::filter();
    let filter = filter.ok_or_else(|| Failure::new(Code::NotImplemented, LogError::None.to_string()))?;
    Ok(json_of(StatusCode::OK, &LogFilter { filter }))
}

/// The configuration in force, on the leader; elsewhere the way to it.
fn led_config(face: &Face) -> Result<SharedConfig, Failure> {
    let state = face.handle.state();
    if !face.handle.leads() {
        return Err(Failure::not_leader(
            "changes of the cluster are made on the leader, and this node does not lead".to_owned(),
            state.leader.as_ref(),
        ));
    }
    state.config.clone().ok_or_else(|| Failure::new(Code::Forming, "this node belongs to no cluster yet"))
}

/// `PUT /v1/cluster/config`
pub(super) async fn config(face: &Face, request: Request<Incoming>) -> Answer {
    demand_admin(face, &request)?;
    demand_manager(face, &request)?;
    let config = led_config(face)?;
    let base_version = match request.headers().get(IF_MATCH) {
        None => {
            let message = format!(
                "say which version the change is based on: If-Match: \"{}\" is the one in force",
                config.version
            );
            return Err(Failure::new(Code::PreconditionRequired, message));
        }
        Some(tag) => revision_of_etag(tag.as_bytes())
            .ok_or_else(|| Failure::bad("If-Match takes the version of the configuration, as in If-Match: \"3\""))?,
    };
    if base_version != config.version {
        return Err(crate::handle::ChangeError::VersionMismatch(config.version).into());
    }
    let wanted: ConfigChange = parse(&body(request, BODY_BYTES_MAX).await?)?;
    changed(face, change_of(&config, wanted)?).await
}

/// Makes a change and tells the version it led to.
async fn changed(face: &Face, change: Change) -> Answer {
    Quorum::new(change.voters.len(), change.write_quorum).map_err(|e| Failure::bad(e.to_string()))?;
    let version = face.handle.change_config(change).await?;
    let mut response = json_of(StatusCode::OK, &json!({ "version": version }));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}

/// What is asked for, with names resolved.
fn change_of(config: &Config, wanted: ConfigChange) -> Result<Change, Failure> {
    let mut change = config.unchanged();
    if let Some(names) = wanted.remove_learners {
        for name in &names {
            let of_learner = change.learners.iter().position(|m| m.name == *name);
            let at = of_learner.ok_or_else(|| Failure::bad(format!("there is no learner named {name:?}")))?;
            change.learners.remove(at);
        }
    }
    if let Some(names) = wanted.voters {
        change.voters = voters_named(config, &change.learners, &names)?;
        change.learners.retain(|m| !change.voters.iter().any(|v| v.id == m.id));
    }
    if let Some(write_quorum) = wanted.write_quorum {
        change.write_quorum = write_quorum;
    }
    match wanted.preferred.as_deref() {
        None => keep_preferred(&mut change),
        Some("") => change.preferred = None,
        Some(name) => change.preferred = Some(voter_named(&change.voters, name)?),
    }
    change.failover = match wanted.failover.as_deref() {
        None => change.failover,
        Some("automatic") => Failover::Automatic,
        Some("manual") => Failover::Manual,
        Some(other) => return Err(Failure::bad(format!("failover is automatic or manual, not {other:?}"))),
    };
    Ok(change)
}

/// A preference for a node that is no longer a voter is none.
fn keep_preferred(change: &mut Change) {
    change.preferred = change.preferred.filter(|id| change.voters.iter().any(|v| v.id == *id));
}

/// The voters of these names. A voter goes before a learner of the same name (a replacement that is catching up is promoted on its own),
/// so that repeating the voters in force changes nothing.
fn voters_named(config: &Config, learners: &[Member], names: &[String]) -> Result<Vec<Member>, Failure> {
    let mut voters: Vec<Member> = Vec::new();
    for name in names {
        let member = config.voters.iter().chain(learners).find(|m| m.name == *name);
        let member = member.ok_or_else(|| Failure::bad(format!("there is no voter or learner named {name:?}")))?;
        if voters.iter().any(|v| v.id == member.id) {
            return Err(Failure::bad(format!("{name:?} is named twice")));
        }
        voters.push(member.clone());
    }
    Ok(voters)
}

fn voter_named(voters: &[Member], name: &str) -> Result<NodeId, Failure> {
    let voter = voters.iter().find(|m| m.name == name);
    voter.map(|m| m.id).ok_or_else(|| Failure::bad(format!("there is no voter named {name:?}")))
}

/// `POST /v1/cluster/members`
pub(super) async fn members(face: &Face, request: Request<Incoming>) -> Answer {
    demand_admin(face, &request)?;
    demand_manager(face, &request)?;
    let config = led_config(face)?;
    let wanted: MemberChange = parse(&body(request, BODY_BYTES_MAX).await?)?;
    let change = match wanted {
        MemberChange::Promote(name) => promoted(&config, &name)?,
        MemberChange::Remove(name) => removed(&config, &name)?,
    };
    changed(face, change).await
}

/// The learner of this name becomes a voter, in the place of its old self if there is one.
fn promoted(config: &Config, name: &str) -> Result<Change, Failure> {
    let mut change = config.unchanged();
    let at = change.learners.iter().position(|m| m.name == name);
    let at = at.ok_or_else(|| Failure::bad(format!("there is no learner named {name:?}")))?;
    let learner = change.learners.remove(at);
    if let Some(old) = change.voters.iter().find(|v| v.name == name).map(|v| v.id) {
        change.voters.retain(|v| v.id != old);
        if change.preferred == Some(old) {
            change.preferred = Some(learner.id);
        }
    }
    change.voters.push(learner);
    Ok(change)
}

fn removed(config: &Config, name: &str) -> Result<Change, Failure> {
    let mut change = config.unchanged();
    let before = change.voters.len() + change.learners.len();
    change.voters.retain(|m| m.name != name);
    change.learners.retain(|m| m.name != name);
    if change.voters.len() + change.learners.len() == before {
        return Err(Failure::bad(format!("there is no member named {name:?}")));
    }
    keep_preferred(&mut change);
    Ok(change)
}

/// Who leads now.
fn leadership(face: &Face) -> Response<Body> {
    let state = face.handle.state();
    let leader = state.leader.as_ref();
    let body = json!({
        "leader": leader.map(|m| m.name.as_str()),
        "leader_url": leader.map(|m| m.http.as_str()),
        "term": state.term.0,
    });
    json_of(StatusCode::OK, &body)
}

/// `POST /v1/cluster/transfer`
pub(super) async fn transfer(face: &Face, request: Request<Incoming>) -> Answer {
    demand_admin(face, &request)?;
    let config = led_config(face)?;
    let bytes = body(request, BODY_BYTES_MAX).await?;
    let wanted: TransferRequest = if bytes.is_empty() { TransferRequest::default() } else { parse(&bytes)? };
    let to = wanted.to.map(|name| voter_named(&config.voters, &name)).transpose()?;
    face.handle.transfer(to).await?;
    Ok(leadership(face))
}

/// `POST /v1/cluster/campaign`: a failover by hand, made by the node that is asked.
pub(super) async fn campaign(face: &Face, request: &Request<Incoming>) -> Answer {
    demand_admin(face, request)?;
    face.handle.campaign().await?;
    Ok(leadership(face))
}
