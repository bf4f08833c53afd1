//! Whether trying again can help, by SQLSTATE; and if not, what a human can do.
//!
//! Codes: appendix "PostgreSQL Error Codes" of the manual. Messages may be translated, so they only refine
//! what a code has decided.

use super::error::{AuthError, ClientError, ConnectError, ServerError};
use crate::failure::{Failure, Kind};

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match of(&error, None) {
            None => Self::transient(error),
            Some((kind, hint)) => Self::definite(kind, error, hint),
        }
    }
}

/// Kind and hint of a definite failure; none for a transient one.
pub(crate) fn of(error: &ClientError, user: Option<&str>) -> Option<(Kind, String)> {
    let source = |hint: String| Some((Kind::Source, hint));
    match error {
        ClientError::Io(_) | ClientError::Timeout { .. } | ClientError::Standby | ClientError::EndOfStream => None,
        ClientError::Server(error) => of_server(error, user),
        ClientError::Protocol(_) => source(
            "check that host and port belong to PostgreSQL itself, or to a proxy that passes replication through"
                .to_owned(),
        ),
        ClientError::Tls(error) => source(error.hint()),
        ClientError::Auth(error) => source(of_login(error)),
        ClientError::SkippedPublication(_) => Some((
            Kind::InDoubt,
            "the publication does not exist at this position of the WAL, so its changes are dropped by the server, \
             and creating it again has no effect on them: find out since when it is missing, then take a new snapshot \
             of the tables with a new slot"
                .to_owned(),
        )),
        ClientError::Connect(error) => of_hosts(error),
    }
}

/// Definite only if every host has spoken: one that is away may be the primary.
fn of_hosts(error: &ConnectError) -> Option<(Kind, String)> {
    let verdict = |attempt: &super::error::Attempt| of(&attempt.error, Some(&error.user));
    let settled = |host: &str| error.attempts.iter().filter(|it| it.host == host).any(|it| verdict(it).is_some());
    if error.attempts.iter().all(|attempt| settled(&attempt.host)) {
        error.attempts.iter().find_map(verdict)
    } else {
        None
    }
}

fn of_login(error: &AuthError) -> String {
    match error {
        AuthError::NoPassword { .. } => PASSWORD_SOURCES.to_owned(),
        AuthError::Unsupported(_) => {
            "use one of trust, password, md5, scram-sha-256 or cert for this role in pg_hba.conf".to_owned()
        }
        AuthError::NoChannelBinding => {
            "channel binding needs TLS (`sslmode=require` or stronger) and scram-sha-256 in pg_hba.conf; else use `channel_binding=prefer`".to_owned()
        }
        AuthError::Scram(_) => "the other side could not prove that it knows the password: check the host, and whether somebody sits in between".to_owned(),
    }
}

const PASSWORD_SOURCES: &str = "the password comes from source.password or source.password_file, from the source URL, from PGPASSWORD, or from the password \
     file (PGPASSFILE, ~/.pgpass, mode 0600)";

/// Trying again helps against all of these: the server is away, full, or changing roles.
fn is_transient(code: &str) -> bool {
    const ALONE: &[&str] = &[
        "57P01", // admin_shutdown
        "57P02", // crash_shutdown
        "57P03", // cannot_connect_now
        "57P05", // idle_session_timeout
        "57014", // query_canceled
        "55006", // object_in_use: the slot, while the server has not noticed that our last connection died
        "25006", // read_only_sql_transaction: a standby, or a primary that was just demoted
        "58030", // io_error
        "XX000", // internal_error, unlike data_corrupted and index_corrupted
    ];
    // Connection, resources, rollback (deadlock, recovery conflict). All slots in use is no passing shortage.
    let class = code.get(..2).unwrap_or_default();
    ALONE.contains(&code) || (["08", "53", "40"].contains(&class) && code != "53400")
}

fn of_server(error: &ServerError, user: Option<&str>) -> Option<(Kind, String)> {
    let says = |text: &str| error.message.contains(text);
    // PgBouncer says 08P01 to everything; this one it says for ever.
    let unpinned = error.code == "08P01" && says("unsupported startup parameter");
    // A primary that shuts down while it waits for a standby of this setting: 17 ends the stream with 55000 or 22023.
    let waits_for_standby = says("synchronized_standby_slots");
    // elog() of mcxt.c, which is never translated.
    let too_large = error.code == "XX000" && says("invalid memory alloc request size");
    if is_transient(&error.code) && !unpinned && !too_large || waits_for_standby {
        return None;
    }
    let hint = match error.code.as_str() {
        "08P01" => "a connection pooler stands in between and refuses the settings that pgsluice depends on: connect to PostgreSQL directly".to_owned(),
        "28P01" => format!("the password for {} is wrong: {PASSWORD_SOURCES}", named(user)),
        "28000" if says("no pg_hba.conf entry") || says("pg_hba.conf rejects") => pg_hba(error, user),
        "28000" => format!("check that {} exists, may log in, and is let in by pg_hba.conf (and pg_ident.conf)", named(user)),
        "3D000" => "create the database, or name the right one at the end of the source URL; one that was renamed keeps its slot".to_owned(),
        "42501" if replication_is_missing(error) => {
            let role = user.map_or_else(|| "<role>".to_owned(), quoted);
            format!("run `ALTER ROLE {role} REPLICATION` as a superuser (on Amazon RDS: `GRANT rds_replication TO {role}`)")
        }
        "42501" => format!("{} lacks a privilege: grant it, see the message", named(user)),
        "0A000" => "this server can't do what is asked: check its version, and that it is a primary".to_owned(),
        "53400" => "raise `max_replication_slots` (and `max_wal_senders`) and restart the server, or drop slots that nobody uses".to_owned(),
        "55000" if says("wal_level") => {
            "set `wal_level = logical` in postgresql.conf and restart the server".to_owned()
        }
        "57P04" => "the database was dropped: name the right one at the end of the source URL".to_owned(),
        "58P01" | "55000" if slot_is_lost(error) => return Some((Kind::InDoubt, LOST_SLOT.to_owned())),
        "42704" if says("replication slot") => return Some((Kind::InDoubt, LOST_SLOT.to_owned())),
        "42704" if says("publication") => return Some((Kind::InDoubt, LOST_PUBLICATION.to_owned())),
        "22021" | "22P05" if error.change_lsn().is_some() => format!(
            "{STUCK}. So that no other comes: keep text that is not of the database's encoding out of it, or leave the column out \
             of the publication"
        ),
        "54000" | "XX000" if error.change_lsn().is_some() => format!(
            "PostgreSQL can't send a row of 1 GB or more, counted as UTF-8 text, with two digits for each byte of a bytea: {STUCK}. So \
             that no other comes: limit the columns' length, or leave the large ones out of the publication"
        ),
        "XX001" | "XX002" => "the server reports corrupted data: see its log".to_owned(),
        _ => error.hint.clone().unwrap_or_else(|| "see the message, and the server's log at this time".to_owned()),
    };
    Some((Kind::Source, hint))
}

const LOST_SLOT: &str = "the slot no longer holds the WAL since the last checkpoint, so changes may be lost: \
                         compare or reload the data that depends on them, then start with a new slot";

/// The server fails at a change, and does so each time.
const STUCK: &str = "no start gets past this change. Once those since the last checkpoint are dealt with (compared, or sent again from \
    the tables), run `pgsluice checkpoint set LSN --skip` with an LSN behind its transaction, such as `SELECT \
    pg_current_wal_flush_lsn()` gives now: what was committed before that LSN is not delivered any more";

/// Decoding looks it up as it was when the change was written.
const LOST_PUBLICATION: &str = "the publication was dropped, or renamed, while changes were written: those can't be read through \
    it, and creating it again has no effect on them. Set `source.publication` to one that has existed all along, if there is \
    one; else, once what may be missing was dealt with (compared, or sent again from the tables), drop the slot and run \
    `pgsluice checkpoint reset`: the next start creates what is missing and begins at the server's current position";

fn slot_is_lost(error: &ServerError) -> bool {
    ["can no longer get changes", "can no longer access replication slot", "invalidated", "has already been removed"]
        .iter()
        .any(|text| error.message.contains(text) || error.detail.as_deref().is_some_and(|detail| detail.contains(text)))
}

fn replication_is_missing(error: &ServerError) -> bool {
    let text = format!("{} {}", error.message, error.detail.as_deref().unwrap_or_default()).to_lowercase();
    text.contains("replication")
}

fn named(user: Option<&str>) -> String {
    user.map_or_else(|| "the role".to_owned(), |user| format!("role {}", quoted(user)))
}

fn quoted(user: &str) -> String {
    format!("\"{}\"", user.replace('"', "\"\""))
}

/// The line that is missing, from `no pg_hba.conf entry for host "10.0.0.7", user "app", database "shop", no encryption`.
fn pg_hba(error: &ServerError, user: Option<&str>) -> String {
    let after = |word: &str| {
        let rest = error.message.split_once(&format!("{word} \""))?.1;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let line = match (after("host"), after("user"), after("database")) {
        (Some(host), Some(user), Some(database)) if host != "[local]" => {
            let kind = if error.message.contains("no encryption") { "host" } else { "hostssl" };
            let bits = if host.contains(':') { 128 } else { 32 };
            format!("{kind} {database} {user} {host}/{bits} scram-sha-256")
        }
        (Some(_), Some(user), Some(database)) => format!("local {database} {user} scram-sha-256"),
        _ => format!("host <database> {} <our address>/32 scram-sha-256", user.unwrap_or("<role>")),
    };
    format!("add the line `{line}` to pg_hba.conf and reload the server (`SELECT pg_reload_conf()`)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::client::error::{Attempt, ProtocolError};

    fn said(code: &str, message: &str) -> ClientError {
        let error = ServerError {
            severity: "FATAL".to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
            ..ServerError::default()
        };
        Box::new(error).into()
    }

    fn hint(error: &ClientError) -> String {
        of(error, Some("app")).map(|(_, hint)| hint).unwrap_or_default()
    }

    #[test]
    fn what_passes_by_itself_is_transient() {
        for code in ["57P01", "57P02", "57P03", "53300", "53100", "08006", "40001", "55006", "25006", "XX000"] {
            assert!(of(&said(code, ""), Some("app")).is_none(), "{code}");
        }
        assert!(of(&ClientError::Standby, Some("app")).is_none());
    }

    #[test]
    fn what_needs_a_human_says_what_to_do() {
        assert!(hint(&said("28P01", "")).contains("PGPASSWORD"));
        assert!(
            hint(&said("42501", "must be superuser or replication role to start walsender"))
                .contains("ALTER ROLE \"app\" REPLICATION")
        );
        assert!(hint(&said("42501", "permission denied for table x")).contains("lacks a privilege"));
        assert!(hint(&said("08P01", "unsupported startup parameter in options: datestyle")).contains("directly"));
        assert!(hint(&said("53400", "all replication slots are in use")).contains("max_replication_slots"));
        assert!(hint(&said("55000", "logical decoding requires wal_level >= logical")).contains("wal_level = logical"));
        assert!(hint(&ClientError::Protocol(ProtocolError::NotPostgres(b'H'))).contains("belong to PostgreSQL"));
    }

    #[test]
    fn a_missing_pg_hba_line_is_written_out() {
        let message = "no pg_hba.conf entry for host \"10.0.0.7\", user \"app\", database \"shop\", no encryption";
        assert!(hint(&said("28000", message)).contains("`host shop app 10.0.0.7/32 scram-sha-256`"));
        let message = "no pg_hba.conf entry for host \"::1\", user \"app\", database \"shop\", SSL encryption";
        assert!(hint(&said("28000", message)).contains("`hostssl shop app ::1/128 scram-sha-256`"));
    }

    #[test]
    fn a_lost_slot_is_in_doubt() {
        let kind = |error: &ClientError| of(error, Some("app")).map(|(kind, _)| kind);
        let lost = said("55000", "can no longer get changes from replication slot \"shop\"");
        assert_eq!(kind(&lost), Some(Kind::InDoubt));
        assert_eq!(kind(&said("42704", "replication slot \"shop\" does not exist")), Some(Kind::InDoubt));
        assert_eq!(kind(&said("42704", "publication \"shop\" does not exist")), Some(Kind::InDoubt));
    }

    #[test]
    fn a_change_that_can_not_be_sent_is_named_and_not_tried_for_ever() {
        let at = |code: &str, message: &str, context: &str| {
            let ClientError::Server(mut error) = said(code, message) else { panic!("as said") };
            error.context = Some(context.to_owned());
            ClientError::Server(error)
        };
        // As PostgreSQL 14 to 18 say it.
        let context = "slot \"shop\", output plugin \"pgoutput\", in the change callback, associated LSN 0/5661608";
        for (code, message, advice) in [
            ("22021", "invalid byte sequence for encoding \"UTF8\": 0xff", "keep text that is not"),
            (
                "22P05",
                "character with byte sequence 0xa9 0xa1 in encoding \"EUC_JP\" has no equivalent",
                "keep text that is not",
            ),
            ("54000", "out of memory", "limit the columns' length"),
            ("XX000", "invalid memory alloc request size 1200000003", "limit the columns' length"),
        ] {
            let error = at(code, message, context);
            assert!(error.to_string().ends_with(", at the change at 0/5661608"), "{error}");
            assert!(hint(&error).contains(advice) && hint(&error).contains("--skip"), "{code}: {}", hint(&error));
        }
        // Elsewhere they are what they were.
        assert!(of(&said("XX000", "could not open relation"), None).is_none());
        let untold = at("22021", "invalid byte sequence", "COPY t, line 1");
        assert!(!hint(&untold).contains("--skip") && untold.to_string().ends_with("(SQLSTATE 22021)"));
    }

    #[test]
    fn a_standby_that_holds_the_stream_back_is_transient() {
        let invalidated = "physical replication slot \"a\" specified in parameter \"synchronized_standby_slots\" has been invalidated";
        let missing = "replication slot \"a\" specified in parameter \"synchronized_standby_slots\" does not exist";
        for (code, message) in [("55000", invalidated), ("22023", missing)] {
            assert!(of(&said(code, message), Some("app")).is_none(), "{message}");
        }
    }

    #[test]
    fn one_host_that_is_away_keeps_hope_alive() {
        let attempt = |host: &str, error| Attempt { host: host.to_owned(), address: None, error };
        let refused = || ClientError::Io(std::io::ErrorKind::ConnectionRefused.into());
        let connect = |attempts| Box::new(ConnectError { user: "app".to_owned(), attempts }).into();
        let both: ClientError = connect(vec![attempt("a", refused()), attempt("b", said("28P01", "wrong"))]);
        assert!(of(&both, Some("app")).is_none());
        // One host with two addresses: the address that answered decides.
        let one: ClientError = connect(vec![attempt("a", refused()), attempt("a", said("28P01", "wrong"))]);
        assert!(of(&one, Some("app")).is_some());
        assert!(one.to_string().contains("a: the connection to PostgreSQL broke: "), "{one}");
        assert_eq!(one.code(), Some("28P01"));
    }
}
