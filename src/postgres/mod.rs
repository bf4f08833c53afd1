//! PostgreSQL: everything between its socket and a decoded change.

pub mod conninfo;
pub mod pgoutput;
pub mod relation;
