//! followers
