//! What a browser may ask for on behalf of which site.
//!
//! A node asks nobody who he is before it takes a write, which is right for programs in a trusted network. A browser is in that network, too, and does
//! what any page tells it. So what a page of another site sends with an effect is refused, by what browsers say of it themselves; and a node that listens on this
//! machine alone answers to no name that someone else's domain server could have pointed at it (DNS rebinding). Programs send neither header and
//! notice nothing.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HOST, HeaderName, ORIGIN};
use hyper::{Method, Request};

use super::error::{Code, Failure};
use crate::options::NodeOptions;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The rules of one port.
pub(super) struct Guard {
    /// On loopback alone: the name it has beside `localhost`.
    loopback_name: Option<String>,
}

impl Guard {
    /// The rules of a node's port.
    pub(super) fn of_node(options: &NodeOptions) -> Guard {
        Guard::new(options.http, &options.host)
    }

    /// The rules of a port on this address, of a host that calls itself so.
    pub(super) fn new(address: SocketAddr, name: &str) -> Guard {
        Guard { loopback_name: address.ip().is_loopback().then(|| name.to_owned()) }
    }

    /// Lets a request pass, or says why not.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        let host = request.headers().get(HOST).and_then(|h| h.to_str().ok());
        if let (Some(own), Some(host)) = (&self.loopback_name, host)
            && !is_local_name(name_of(host), own)
        {
            let message = format!(
                "this port is open to this machine alone and answers to localhost and 127.0.0.1, not to {:?}",
                name_of(host)
            );
            return Err(Failure::new(Code::CrossSite, message));
        }
        if matches!(*request.method(), Method::GET | Method::HEAD) || is_same_site(request, host) {
            return Ok(());
        }
        Err(Failure::new(
            Code::CrossSite,
            "a browser sent this for a page of another site, which may not change anything here",
        ))
    }
}

/// Whether the request comes from a page of this very port, or from no page at all. What a browser says in `Sec-Fetch-Site` no script can change; browsers that do
/// not send it (over plain HTTP to anything but loopback) send `Origin` with whatever has an effect.
fn is_same_site<B>(request: &Request<B>, host: Option<&str>) -> bool {
    if let Some(site) = request.headers().get(SEC_FETCH_SITE) {
        return matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = request.headers().get(ORIGIN) else { return true };
    let authority = origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, authority)| authority);
    authority.is_some() && authority == host
}

/// The name in `name:port`, `[::1]:port` or a name alone.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// An address, a name without a dot (no domain server outside knows such), anything below `localhost`, or the node's own name.
fn is_local_name(name: &str, own: &str) -> bool {
    const BELOW: &str = ".localhost";
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let ends = |end: &str| name.len().checked_sub(end.len()).and_then(|at| name.get(at..));
    bare.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || ends(BELOW).is_some_and(|end| end.eq_ignore_ascii_case(BELOW))
        || name.eq_ignore_ascii_case(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().method(method).uri("/write");
        headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value)).body(()).expect("a request")
    }

    fn passes(address: &str, method: &str, headers: &[(&str, &str)]) -> bool {
        let guard = Guard::new(address.parse().expect("address"), "db1.example.net");
        guard.check(&request(method, headers)).is_ok()
    }

    #[test]
    fn programs_and_pages_of_the_port_itself_may_write() {
        for headers in [
            &[][..],
            &[("host", "127.0.0.1:8000")],
            &[("host", "db1.example.net:8000")],
            &[("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000")],
            &[("host", "[::1]:8000"), ("origin", "http://[::1]:8000")],
            &[("host", "localhost:8000"), ("origin", "http://localhost:8000"), ("sec-fetch-site", "same-origin")],
            &[("host", "node1:8000"), ("sec-fetch-site", "none")],
            &[("host", "DB1.example.net."), ("sec-fetch-site", "none")],
            &[("host", "quorate.LocalHost:8000")],
        ] {
            assert!(passes("127.0.0.1:8000", "POST", headers), "{headers:?}");
        }
        assert!(passes("0.0.0.0:8000", "POST", &[("host", "any.example.com"), ("origin", "https://any.example.com")]));
    }

    #[test]
    fn pages_of_other_sites_may_not_write() {
        for headers in [
            &[("host", "127.0.0.1:8000"), ("origin", "http://evil.example")][..],
            &[("host", "127.0.0.1:8000"), ("origin", "null")],
            &[("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8001")],
            &[("host", "127.0.0.1:8000"), ("sec-fetch-site", "cross-site")],
            &[("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000"), ("sec-fetch-site", "same-site")],
        ] {
            for method in ["POST", "PUT", "DELETE", "PATCH"] {
                assert!(!passes("127.0.0.1:8000", method, headers), "{method} {headers:?}");
            }
        }
        assert!(passes("127.0.0.1:8000", "GET", &[("host", "127.0.0.1:8000"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn a_foreign_name_does_not_reach_a_port_on_loopback_even_to_read() {
        for host in ["evil.example", "evil.example:8000", "127.0.0.1.evil.example:8000", "localhost.evil.example"] {
            assert!(!passes("127.0.0.1:8000", "GET", &[("host", host)]), "{host}");
            assert!(passes("0.0.0.0:8000", "GET", &[("host", host)]), "others have many names: {host}");
        }
    }
}
