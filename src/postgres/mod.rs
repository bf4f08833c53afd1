//! PostgreSQL: everything between its socket and a decoded change.

pub mod catalog;
pub mod conninfo;
pub mod ident;
pub mod pgoutput;
pub mod preflight;
pub mod publication;
pub mod relation;
pub mod slot;
