//! PostgreSQL: everything between its socket and a decoded change.

pub mod client;
pub mod conninfo;
pub mod ident;
pub mod passfile;
pub mod pgoutput;
pub mod relation;
pub mod replication;
pub mod sql;
pub mod tls;
