//! What is asked of a walsender before its stream starts.
//!
//! Everything that `slot` judges is read on the connection that is going to stream, so that all of it
//! is of one server, whichever host the connection has reached. Commands follow "Streaming Replication
//! Protocol" of the PostgreSQL manual. `open` decides on their order.

use std::time::Duration;

use anyhow::anyhow;

use super::client::{ClientError, Connection, Rows};
use super::ident::{quote_ident, quote_literal};
use super::mode::Mode;
use super::slot::{PLUGIN, ServerState, SlotState, Switch, parse_history};
use crate::config::{Origin, SourceSettings};
use crate::failure::{Failure, within};
use crate::lsn::Lsn;

/// A server that takes longer for a look into its catalog is in trouble.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The session at the server's end.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// As `pg_stat_activity` has it; a pooler between may report another one at the start of the session.
    pub(super) pid: i32,
    /// After how long the server drops a silent client; none: never.
    pub(super) sender_timeout: Option<Duration>,
    /// The server.
    pub(super) server: ServerState,
}

/// One row of text; errors say which answer made no sense.
struct Row<'a> {
    of: &'static str,
    values: &'a [Option<String>],
}

impl Row<'_> {
    fn optional<T: std::str::FromStr>(&self, column: usize) -> Result<Option<T>, Failure> {
        let value = self.values.get(column).ok_or_else(|| self.nonsense(column))?;
        value.as_ref().map(|text| text.parse().map_err(|_| self.nonsense(column))).transpose()
    }

    fn required<T: std::str::FromStr>(&self, column: usize) -> Result<T, Failure> {
        self.optional(column)?.ok_or_else(|| self.nonsense(column))
    }

    fn flag(&self, column: usize) -> Result<bool, Failure> {
        Ok(self.required::<String>(column)? == "t")
    }

    /// Transient, because a proxy that is confused while it fails over is likelier than a server that changed.
    fn nonsense(&self, column: usize) -> Failure {
        Failure::transient(anyhow!("{}: column {} of the server's answer makes no sense", self.of, column + 1))
    }
}

async fn ask(connection: &mut Connection, doing: &'static str, sql: &str) -> Result<Rows, Failure> {
    within(ANSWER_LIMIT, doing, async { Ok(connection.query(sql).await?) }).await
}

async fn ask_one(connection: &mut Connection, doing: &'static str, sql: &str) -> Result<Vec<Option<String>>, Failure> {
    let rows = ask(connection, doing, sql).await?;
    rows.into_iter().next().ok_or_else(|| Failure::transient(anyhow!("{doing}: the server answered nothing")))
}

/// Who and where the server is, now. The history of its timelines is read only if `since` is another one.
pub(super) async fn identify(connection: &mut Connection, since: Option<u32>) -> Result<Session, Failure> {
    let of = "identifying the server";
    // systemid, timeline, xlogpos (how far the WAL is flushed), dbname
    let system = ask_one(connection, of, "IDENTIFY_SYSTEM").await?;
    let system = Row { of, values: &system };
    let sql =
        "SELECT pg_catalog.pg_backend_pid(), setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
    let session = ask_one(connection, of, sql).await?;
    let session = Row { of, values: &session };
    let timeline = system.required(1)?;
    let history = match since {
        Some(since) if since < timeline => history(connection, timeline).await?,
        Some(_) | None => Vec::new(),
    };
    let server = ServerState {
        system_identifier: system.required(0)?,
        timeline,
        flushed: system.required(2)?,
        database: system.required(3)?,
        history,
    };
    let milliseconds: u64 = session.required(1)?;
    let sender_timeout = (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
    connection.server_patience = sender_timeout;
    Ok(Session { pid: session.required(0)?, sender_timeout, server })
}

/// Empty when the server has no such file: then nothing is known of the older timelines.
async fn history(connection: &mut Connection, timeline: u32) -> Result<Vec<Switch>, Failure> {
    let asked = tokio::time::timeout(ANSWER_LIMIT, connection.query(&format!("TIMELINE_HISTORY {timeline}"))).await;
    match asked {
        // filename, content
        Ok(Ok(rows)) => {
            let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
            Ok(content.as_deref().map(parse_history).unwrap_or_default())
        }
        Ok(Err(ClientError::Server(error))) => {
            tracing::warn!(timeline, %error, "the server can't read the history of its timeline");
            Ok(Vec::new())
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::transient(anyhow!("reading the history of timeline {timeline}: no answer"))),
    }
}

/// The query for [`parse_slot`]. Newer columns are asked for through JSON, so that one statement serves all versions.
pub(super) fn slot_query(name: &str) -> String {
    format!(
        "SELECT slot_type, plugin, database, active_pid, temporary, two_phase, wal_status, \
         COALESCE(pg_catalog.to_jsonb(s) ->> 'invalidation_reason', \
                  CASE WHEN pg_catalog.to_jsonb(s) ->> 'conflicting' = 'true' THEN 'conflict with recovery' END), \
         restart_lsn, confirmed_flush_lsn FROM pg_catalog.pg_replication_slots s WHERE slot_name = {}",
        quote_literal(name)
    )
}

pub(super) fn parse_slot(name: &str, values: &[Option<String>]) -> Result<SlotState, Failure> {
    let row = Row { of: "reading the replication slot", values };
    Ok(SlotState {
        name: name.to_owned(),
        slot_type: row.required(0)?,
        plugin: row.optional(1)?,
        database: row.optional(2)?,
        active_pid: row.optional(3)?,
        temporary: row.flag(4)?,
        two_phase: row.flag(5)?,
        wal_status: row.optional(6)?,
        invalidation: row.optional(7)?,
        restart: row.optional(8)?,
        confirmed_flush: row.optional(9)?,
    })
}

/// The slot called `name`; none when there is none.
pub(super) async fn read_slot(connection: &mut Connection, name: &str) -> Result<Option<SlotState>, Failure> {
    let rows = ask(connection, "reading the replication slot", &slot_query(name)).await?;
    rows.first().map(|values| parse_slot(name, values)).transpose()
}

/// Creates the slot; its consistent point. Waits for every transaction that is open now: the caller watches over it.
pub(super) async fn create_slot(connection: &mut Connection, name: &str) -> Result<Lsn, CreateError> {
    let options = slot_options(connection.parameter("server_version").unwrap_or_default());
    create(connection, &format!("CREATE_REPLICATION_SLOT {} LOGICAL {PLUGIN} {options}", quote_ident(name))).await
}

/// The same for a slot that belongs to the session, and is gone with it.
pub(super) async fn create_temporary_slot(connection: &mut Connection, name: &str) -> Result<Lsn, CreateError> {
    let options = match major(connection.parameter("server_version").unwrap_or_default()) {
        ..=14 => "NOEXPORT_SNAPSHOT",
        15.. => "(SNAPSHOT 'nothing')",
    };
    create(connection, &format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL {PLUGIN} {options}", quote_ident(name)))
        .await
}

async fn create(connection: &mut Connection, command: &str) -> Result<Lsn, CreateError> {
    let rows = connection.query(command).await.map_err(CreateError::Refused)?;
    // slot_name, consistent_point, snapshot_name, output_plugin
    let row = Row { of: "creating the replication slot", values: rows.first().map_or(&[], Vec::as_slice) };
    row.required(1).map_err(CreateError::Answer)
}

/// Nobody imports the snapshot. Standbys may have a copy of the slot, which goes on where they are promoted: it takes no
/// privilege, and means nothing where no standby asks for it (`sync_replication_slots`). 14 knows only an older syntax.
fn slot_options(server_version: &str) -> &'static str {
    match major(server_version) {
        ..=14 => "NOEXPORT_SNAPSHOT",
        15 | 16 => "(SNAPSHOT 'nothing')",
        17.. => "(SNAPSHOT 'nothing', FAILOVER true)",
    }
}

fn major(server_version: &str) -> u32 {
    let major = server_version.split(|it: char| !it.is_ascii_digit()).next().and_then(|it| it.parse().ok());
    major.unwrap_or(0)
}

/// Why there is no slot.
#[derive(Debug)]
pub(super) enum CreateError {
    /// The server said no, or went away.
    Refused(ClientError),
    /// It answered something else.
    Answer(Failure),
}

/// `START_REPLICATION` of `slot`. In protocol version 1, which every supported server speaks, unless large transactions are
/// to be streamed: then in the newest that the server knows. (What version 3 adds, we don't ask for; what 4 adds is meant for
/// those who apply a transaction before it is committed.) `origin` is asked for only where it is not the default, which the
/// older servers don't know by name; that this one does was checked.
pub(super) fn start_command(
    connection: &Connection,
    slot: &str,
    settings: &SourceSettings,
    mode: &Mode,
    from: Lsn,
) -> String {
    let newest = mode.streaming().map(|_| major(connection.parameter("server_version").unwrap_or_default()));
    start(slot, settings, newest, mode.binary(), from)
}

/// `streamed_by`: the major version of a server that is to stream.
fn start(slot: &str, settings: &SourceSettings, streamed_by: Option<u32>, is_binary: bool, from: Lsn) -> String {
    let version = match streamed_by {
        None => "'1'",
        Some(..=14) => "'2', streaming 'on'",
        Some(15) => "'3', streaming 'on'",
        Some(16..) => "'4', streaming 'on'",
    };
    let origin = match settings.origin {
        Origin::Any => "",
        Origin::None => "origin 'none', ",
    };
    let binary = if is_binary { "binary 'true', " } else { "" };
    // The option holds a list of identifiers, which PostgreSQL folds and splits unless they are quoted. Logical messages
    // are always asked for, because they count in the ordinals: turning them on later would give events other names.
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version {version}, messages 'true', {origin}{binary}publication_names {})",
        quote_ident(slot),
        quote_literal(&quote_ident(&settings.publication))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Retain;
    use crate::postgres::conninfo::Conninfo;
    use crate::route::select::Selection;

    fn settings() -> SourceSettings {
        SourceSettings {
            conninfo: Conninfo::parse("postgres://app@db1/shop").expect("a URL"),
            tables: Selection::parse(&[]).expect("no patterns"),
            filters: Vec::new(),
            slot: "shop".to_owned(),
            publication: "It's \"mine\", really".to_owned(),
            report_every: Duration::from_secs(10),
            watch_every: Duration::from_secs(10),
            standby_timeout: None,
            binary: false,
            retain: Retain::default(),
            streaming: None,
            origin: Origin::Any,
        }
    }

    #[test]
    fn names_reach_the_server_as_they_are() {
        let expected = "START_REPLICATION SLOT \"shop\" LOGICAL 16/B374D848 \
                        (proto_version '1', messages 'true', publication_names '\"It''s \"\"mine\"\", really\"')";
        assert_eq!(start("shop", &settings(), None, false, Lsn(0x16_B374_D848)), expected);
    }

    #[test]
    fn more_than_version_1_is_asked_for_only_where_it_is_configured() {
        for (server, version) in [("14.23", 2), ("15.18 (Debian 15.18-1)", 3), ("16.14", 4), ("18beta1", 4)] {
            let command = start("shop", &settings(), Some(major(server)), false, Lsn(1));
            let expected = format!("(proto_version '{version}', streaming 'on', messages 'true', publication_names ");
            assert!(command.contains(&expected), "{command}");
        }
        let settings = SourceSettings { origin: Origin::None, ..settings() };
        let command = start("shop", &settings, None, true, Lsn(1));
        assert!(
            command.contains("(proto_version '1', messages 'true', origin 'none', binary 'true', publication_names "),
            "{command}"
        );
    }

    #[test]
    fn standbys_may_have_a_copy_of_the_slot_where_the_server_knows_how() {
        for (version, failover) in
            [("14.23", false), ("16.14 (Debian 16.14-1)", false), ("17.10", true), ("18beta1", true), ("", false)]
        {
            assert_eq!(slot_options(version).contains("FAILOVER"), failover, "{version}");
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_no_slot() {
        assert!(parse_slot("shop", &[]).is_err());
        let mut values: Vec<Option<String>> =
            ["logical", "pgoutput", "shop", "x", "f", "f", "reserved"].map(|text| Some(text.to_owned())).to_vec();
        values.extend([None, Some("0/1".to_owned()), Some("0/2".to_owned())]);
        assert!(parse_slot("shop", &values).is_err(), "a PID is a number");
        values[3] = None;
        let slot = parse_slot("shop", &values).expect("a slot");
        assert_eq!((slot.active_pid, slot.invalidation, slot.confirmed_flush), (None, None, Some(Lsn(2))));
    }
}
