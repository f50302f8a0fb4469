//! The HTTP face of a node: the simple *lab* routes, the API under `/v1`, health, metrics and the web page.
//!
//! One table ([`route`]) says which routes there are. A request is matched by [`face`], bounded and parsed by [`request`], done by
//! [`lab`], [`v1`], [`admin`], [`health`] or [`metrics`], and turned into bytes by [`respond`] or, for whole ranges, [`scan`]. There is no
//! stack of layers: the two requests that matter most (a put and a get) pass a handful of function calls.
//!
//! For the web page ([`ui`]) a node tells what changes as it changes ([`events`]) and passes requests on to the member that a person has chosen
//! ([`relay`]); [`console`] serves the page of a whole cluster in `quorate local`. What browsers send for other sites is refused by [`origin`].
//!
//! Never: touches the log, the disk or the protocol between nodes (all of that is behind [`crate::handle::Handle`]); maps an error to a status code
//! outside [`error`]; reads a body, a header or a range without a bound. Before: clients. After: [`crate::handle`].

mod admin;
pub(crate) mod console;
mod error;
mod events;
mod face;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod health;
mod io;
mod json;
mod lab;
mod metrics;
mod origin;
mod relay;
mod request;
mod respond;
mod route;
mod scan;
mod server;
mod status;
mod ui;
mod v1;

#[cfg(test)]
mod tests;

pub use server::serve;
