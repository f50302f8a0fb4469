//! quorums
