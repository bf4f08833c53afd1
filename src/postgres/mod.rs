//! PostgreSQL: everything between its socket and a decoded change.

pub mod binary;
pub mod catalog;
pub mod client;
pub mod conninfo;
pub mod copied_slot;
pub mod cost;
pub mod examine;
pub mod filters;
mod held;
pub mod ident;
pub mod inventory;
mod login;
mod mode;
pub mod open;
pub mod outbox_cleanup;
pub mod outbox_table;
pub mod passfile;
pub mod pgoutput;
pub mod preflight;
pub mod publication;
pub mod relation;
pub mod replication;
mod rule_tables;
pub mod slot;
pub mod slots;
pub mod sql;
mod streamed;
pub mod temporary_publication;
pub mod temporary_slot;
pub mod tls;
pub mod types;
mod walsender;
pub mod watch;

pub(crate) use held::Bytes;
pub(crate) use login::Logins;
