//! The operator against a real API server and real nodes.
//!
//! `KUBECONFIG` names an API server with a controller manager and without kubelets (`make operator` starts one). StatefulSets, claims and owners are Kubernetes'
//! own; the one thing played here is the kubelet ([`machine`]): it runs each pod's container as a process of `quorate` on an address of 127.0.0.0/8, with the
//! environment of the pod's own spec. The operator is its own program, and clients are plain HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something fails")]

mod cluster;
mod machine;
mod manifests;
mod quiet;
mod rights;
mod seen;
mod strangers;
mod support;
