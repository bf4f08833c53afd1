//! The whole, with real servers.

fn main() {}
