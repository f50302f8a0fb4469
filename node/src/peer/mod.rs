//! Stub.

/// Stub.
pub struct Network;
