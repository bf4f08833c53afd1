//! What PostgreSQL refuses the clean-up with: whom it concerns, what may be said of it, and what to do.
//!
//! Invariant: nothing of a row's values gets into a log. A DETAIL quotes keys, and what a function raises says anything.

use anyhow::anyhow;
use tokio_postgres::error::{DbError, SqlState};

use super::failed;
use crate::failure::{Failure, Kind};

/// C functions, whose messages name tables, constraints and roles, and no values: a lock's time limit and a statement's, a
/// deadlock, no rights, no table, no replica identity, a foreign key, row security, what depends on a table.
const SAY_NO_VALUES: [&str; 8] = [
    "ProcessInterrupts",
    "DeadLockReport",
    "aclcheck_error",
    "parserOpenTable",
    "CheckCmdReplicaIdentity",
    "ri_ReportViolation",
    "check_enable_rls",
    "reportDependentObjects",
];

/// Fewer rows might be less trouble: one of them is refused or locked, or they take too long.
pub(super) fn is_of_rows(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    let code = db.code();
    let of_all = [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    // Connection, resources, an operator.
    let is_of_server = ["08", "53", "57"].iter().any(|class| code.code().starts_with(class));
    *code == SqlState::QUERY_CANCELED || is_raised(db) || !(is_of_server || of_all.contains(code))
}

/// By a function in PL/pgSQL, such as a trigger's, with a SQLSTATE of its choice.
fn is_raised(db: &DbError) -> bool {
    *db.code() == SqlState::RAISE_EXCEPTION || db.routine() == Some("exec_stmt_raise")
}

/// `rights` says what the role needs.
pub(super) fn refused(error: tokio_postgres::Error, rights: &str) -> Failure {
    let Some(db) = error.as_db_error() else { return failed(error) };
    let code = db.code().code();
    let says_no_values = db.routine().is_some_and(|routine| SAY_NO_VALUES.contains(&routine));
    let error = if is_raised(db) {
        anyhow!("a trigger refused it (SQLSTATE {code})")
    } else if says_no_values {
        anyhow!("{} (SQLSTATE {code})", db.message())
    } else {
        anyhow!("PostgreSQL refused it (SQLSTATE {code})")
    };
    Failure::definite(Kind::Source, error.context("cleaning up the outbox"), hint(db, rights))
}

fn hint(db: &DbError, rights: &str) -> String {
    match db.code().code() {
        _ if is_raised(db) => "look at the table's triggers; PostgreSQL's log has the message".to_owned(),
        "42501" => rights.to_owned(),
        "55000" => {
            "a published table needs a replica identity for its deletions: a primary key, or `REPLICA IDENTITY FULL`"
                .to_owned()
        }
        "55P03" | "40P01" => "look for a transaction that is open for long in pg_stat_activity".to_owned(),
        "2BP01" => "drop the view or the foreign key that depends on it; PostgreSQL's log has its name".to_owned(),
        code if code.starts_with("23") => {
            "look at what refers to the row: a foreign key may have `ON DELETE CASCADE`, or the other row goes first"
                .to_owned()
        }
        _ => "look at the table's triggers and at what refers to the row; PostgreSQL's log has the message".to_owned(),
    }
}
