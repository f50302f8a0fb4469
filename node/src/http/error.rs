//! Errors as clients see them: stable codes, and the only map from them to status codes.
//!
//! A [`Failure`] is made by whoever finds it and turned into a response at one place, in the shape of the face that was asked: `{"detail":…}`
//! on the lab routes, [`quorate_api::ErrorBody`] under `/v1`.

use std::borrow::Cow;

use hyper::header::{ALLOW, CONNECTION, ETAG, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use quorate_api::{ErrorBody, ErrorDetail};
use quorum::Member;

use super::respond::{Body, json};
use crate::handle::{ChangeError, ReadError, WriteError};

/// Which shape an error has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `{"detail":…}`, and 422 for what cannot be read, as FastAPI does.
    Lab,
    /// [`ErrorBody`].
    V1,
}

/// What went wrong, for programs. The names never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoLeader,
    NoQuorum,
    Overloaded,
    Forming,
    Stopping,
    ReadTimeout,
    OutcomeUnknown,
    NoSpace,
    NotLeader,
    TooLarge,
    UriTooLong,
    KeyInvalid,
    BadRequest,
    WriteQuorumInvalid,
    RequestTimeout,
    Unauthorized,
    CrossSite,
    Unreachable,
    KeyNotFound,
    RouteNotFound,
    MethodNotAllowed,
    Gone,
    PreconditionFailed,
    PreconditionRequired,
    ChangeRefused,
    IdempotencyKeyInvalid,
    IdempotencyKeyReused,
    MixedVersions,
    NotImplemented,
    Internal,
}

impl Code {
    /// The stable name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Code::NoLeader => "no_leader",
            Code::NoQuorum => "no_quorum",
            Code::Overloaded => "overloaded",
            Code::Forming => "forming",
            Code::Stopping => "stopping",
            Code::ReadTimeout => "read_timeout",
            Code::OutcomeUnknown => "outcome_unknown",
            Code::NoSpace => "no_space",
            Code::NotLeader => "not_leader",
            Code::TooLarge => "too_large",
            Code::UriTooLong => "uri_too_long",
            Code::KeyInvalid => "key_invalid",
            Code::BadRequest => "bad_request",
            Code::WriteQuorumInvalid => "write_quorum_invalid",
            Code::RequestTimeout => "request_timeout",
            Code::Unauthorized => "unauthorized",
            Code::CrossSite => "cross_site",
            Code::Unreachable => "unreachable",
            Code::KeyNotFound => "key_not_found",
            Code::RouteNotFound => "route_not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::Gone => "gone",
            Code::PreconditionFailed => "precondition_failed",
            Code::PreconditionRequired => "precondition_required",
            Code::ChangeRefused => "change_refused",
            Code::IdempotencyKeyInvalid => "idempotency_key_invalid",
            Code::IdempotencyKeyReused => "idempotency_key_reused",
            Code::MixedVersions => "mixed_versions",
            Code::NotImplemented => "not_implemented",
            Code::Internal => "internal",
        }
    }

    /// The status code.
    pub(super) fn status(self, shape: Shape) -> StatusCode {
        match self {
            Code::NoLeader
            | Code::NoQuorum
            | Code::Overloaded
            | Code::Forming
            | Code::Stopping
            | Code::ReadTimeout
            | Code::MixedVersions => StatusCode::SERVICE_UNAVAILABLE,
            Code::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
            Code::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Code::NotLeader if shape == Shape::Lab => StatusCode::FORBIDDEN,
            Code::NotLeader => StatusCode::MISDIRECTED_REQUEST,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::UriTooLong => StatusCode::URI_TOO_LONG,
            Code::BadRequest if shape == Shape::Lab => StatusCode::UNPROCESSABLE_ENTITY,
            Code::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Code::BadRequest | Code::KeyInvalid | Code::WriteQuorumInvalid | Code::IdempotencyKeyInvalid => {
                StatusCode::BAD_REQUEST
            }
            Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::CrossSite => StatusCode::FORBIDDEN,
            Code::Unreachable => StatusCode::BAD_GATEWAY,
            Code::KeyNotFound | Code::RouteNotFound => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::Gone => StatusCode::GONE,
            Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Code::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Code::ChangeRefused => StatusCode::CONFLICT,
            Code::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the same request may succeed in a moment.
    fn is_transient(self) -> bool {
        matches!(self, Code::NoLeader | Code::NoQuorum | Code::Overloaded | Code::Forming | Code::ReadTimeout)
    }
}

/// A request that is not answered as it wished. Boxed: it is rare, and the results that carry it are many.
#[derive(Debug)]
pub(super) struct Failure(Box<Parts>);

#[derive(Debug)]
struct Parts {
    code: Code,
    message: Cow<'static, str>,
    leader: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
    close: bool,
}

impl Failure {
    /// A failure with a code and a sentence for people.
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure(Box::new(Parts { code, message: message.into(), leader: None, header: None, close: false }))
    }

    /// A request that cannot be understood.
    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Failure {
        Failure::new(Code::BadRequest, message)
    }

    /// This node does not lead. Without a known leader there is nobody to point to: then it is "no leader".
    pub(super) fn not_leader(message: String, leader: Option<&Member>) -> Failure {
        match leader {
            Some(leader) => {
                let mut failure = Failure::new(Code::NotLeader, message);
                failure.0.leader = Some(leader.http.clone());
                failure
            }
            None => Failure::new(Code::NoLeader, WriteError::NoLeader.to_string()),
        }
    }

    /// The route exists, with other methods.
    pub(super) fn method_not_allowed(allow: &str) -> Failure {
        let failure = Failure::new(Code::MethodNotAllowed, format!("this route takes {allow}"));
        failure.with_header(ALLOW, HeaderValue::from_str(allow))
    }

    /// A condition did not hold; the key's revision is told, if it exists.
    pub(super) fn precondition(current: Option<u64>) -> Failure {
        match current {
            Some(revision) => {
                let message = format!("the condition does not hold: the key is at revision {revision}");
                let etag = HeaderValue::from_str(&format!("\"{revision}\""));
                Failure::new(Code::PreconditionFailed, message).with_header(ETAG, etag)
            }
            None => Failure::new(Code::PreconditionFailed, "the condition does not hold: the key does not exist"),
        }
    }

    /// A body beyond the limit. The rest of it is not worth reading, so the connection ends.
    pub(super) fn too_large(limit: usize) -> Failure {
        Failure::new(Code::TooLarge, format!("the body is larger than the limit of {limit} bytes")).closing()
    }

    /// Adds a header (an invalid value adds none).
    pub(super) fn with_header<E>(mut self, name: HeaderName, value: Result<HeaderValue, E>) -> Failure {
        self.0.header = value.ok().map(|value| (name, value));
        self
    }

    /// Ends the connection after the response.
    pub(super) fn closing(mut self) -> Failure {
        self.0.close = true;
        self
    }

    /// The code.
    pub(super) fn code(&self) -> Code {
        self.0.code
    }

    /// The response, in the shape of the face that was asked.
    pub(super) fn into_response(self, shape: Shape) -> Response<Body> {
        let parts = *self.0;
        let text = match shape {
            Shape::Lab => {
                let mut body = serde_json::json!({ "detail": parts.message, "code": parts.code.name() });
                if let Some(leader) = &parts.leader {
                    body["leader"] = leader.as_str().into();
                }
                body.to_string()
            }
            Shape::V1 => {
                let error = ErrorDetail {
                    code: parts.code.name().to_owned(),
                    message: parts.message.into_owned(),
                    leader: parts.leader,
                };
                serde_json::to_string(&ErrorBody { error }).unwrap_or_default()
            }
        };
        let mut response = json(parts.code.status(shape), text.into());
        let headers = response.headers_mut();
        if parts.code.is_transient() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if parts.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some((name, value)) = parts.header {
            headers.insert(name, value);
        }
        response
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        let code = match &error {
            WriteError::NotLeader { leader } => return Failure::not_leader(error.to_string(), leader.as_ref()),
            WriteError::NoLeader | WriteError::NotFormed { .. } => Code::NoLeader,
            WriteError::Forming => Code::Forming,
            WriteError::NoQuorum { .. } => Code::NoQuorum,
            WriteError::Overloaded => Code::Overloaded,
            WriteError::NoSpace => Code::NoSpace,
            WriteError::TooManyCopies { .. } => Code::WriteQuorumInvalid,
            WriteError::Stopping => Code::Stopping,
            WriteError::NotTaken(_) => Code::BadRequest,
            WriteError::Unknown(_) => Code::OutcomeUnknown,
            WriteError::MixedVersions { .. } => Code::MixedVersions,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        let code = match &error {
            ReadError::NotLeader { leader } => return Failure::not_leader(error.to_string(), leader.as_ref()),
            ReadError::NoLeader => Code::NoLeader,
            ReadError::Timeout => Code::ReadTimeout,
            ReadError::Overloaded => Code::Overloaded,
            ReadError::Stopping => Code::Stopping,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Failure {
        let message = error.to_string();
        match error {
            ChangeError::NoLeader => Failure::new(Code::NoLeader, message),
            ChangeError::VersionMismatch(version) => Failure::new(Code::PreconditionFailed, message)
                .with_header(ETAG, HeaderValue::from_str(&format!("\"{version}\""))),
            ChangeError::Refused(_) => Failure::new(Code::ChangeRefused, message),
            ChangeError::Unknown(_) => Failure::new(Code::OutcomeUnknown, message),
        }
    }
}
