//! A connection to PostgreSQL that can become a replication stream.
//!
//! It exists because `tokio-postgres` has no `CopyBoth`. It finds the primary, logs in, runs simple queries
//! (which a walsender takes besides its own commands), and turns into a
//! [`super::replication::ReplicationStream`]. Ordinary SQL goes through [`super::sql`], over the same dialling.

mod auth;
pub(crate) mod dial;
mod error;
pub(crate) mod stream;
pub(crate) mod verdict;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::conninfo::{Conninfo, Target};
use dial::Search;
use stream::Stream;
use wire::{Fields, MESSAGE_BYTES_MAX, Message, Wire};

pub use error::{Attempt, AuthError, ClientError, ConnectError, ProtocolError, ServerError};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A walsender of the database (`replication=database`): replication commands and simple queries.
    Replication,
    /// An ordinary session.
    Queries,
}

/// Rows of text; none is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// A session that is logged in.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    parameters: BTreeMap<String, String>,
    process_id: i32,
    /// An answer is being read. Still set when the next request comes: that one was abandoned.
    busy: bool,
    /// `wal_sender_timeout`, where it was asked for and is not off: how long a walsender bears our silence.
    pub(super) server_patience: Option<Duration>,
}

/// Settings of the database or the role would change how values are written; these don't let them.
/// `search_path` is empty so that every name in every query says its schema. The warning that a publication is
/// skipped (see `replication`) must not be silenced by `client_min_messages`.
const PINNED: &str = "-c DateStyle=ISO -c IntervalStyle=iso_8601 -c TimeZone=UTC -c extra_float_digits=1 \
                      -c bytea_output=hex -c lc_monetary=C -c client_min_messages=notice -c search_path=";

/// The startup `options`: the user's own first, so that ours win.
pub(crate) fn startup_options(conninfo: &Conninfo) -> String {
    match conninfo.options() {
        Some(own) => format!("{own} {PINNED}"),
        None => PINNED.to_owned(),
    }
}

impl Connection {
    /// Connects to the first host that will do: each address of each in turn, `connect_timeout` for each.
    ///
    /// # Errors
    /// [`ClientError::Connect`] names every host and why it would not do; [`ClientError::Tls`] comes before that
    /// when the certificates can't be used.
    pub async fn connect(conninfo: &Conninfo, purpose: Purpose) -> Result<Self, ClientError> {
        let mut search = Search::new(conninfo)?;
        while let Some(mut candidate) = search.next().await {
            let opening = async {
                let stream = search.dial(&mut candidate, purpose).await?;
                let password = conninfo.password_for(&candidate.host);
                Self::open(stream, conninfo, purpose, password.as_ref()).await
            };
            match within(conninfo.connect_timeout(), "connecting", opening).await {
                Ok(connection) => return Ok(connection),
                Err(error) => search.failed(candidate, error),
            }
        }
        Err(search.exhausted())
    }

    async fn open(
        stream: Stream,
        conninfo: &Conninfo,
        purpose: Purpose,
        password: Option<&super::conninfo::Password>,
    ) -> Result<Self, ClientError> {
        let mut wire = Wire::new(stream);
        wire.send(&startup(conninfo, purpose)?).await?;
        auth::log_in(&mut wire, conninfo, password).await?;
        wire.limit = MESSAGE_BYTES_MAX;
        let mut connection =
            Self { wire, parameters: BTreeMap::new(), process_id: 0, busy: false, server_patience: None };
        connection.until_ready().await?;
        if conninfo.target() == Target::Primary && connection.is_standby().await? {
            return Err(ClientError::Standby);
        }
        Ok(connection)
    }

    async fn until_ready(&mut self) -> Result<(), ClientError> {
        loop {
            let Message { tag, body } = self.wire.receive().await?;
            match tag {
                b'K' => self.process_id = Fields::new(tag, &body).int32()?,
                b'Z' => return Ok(()),
                b'E' => return Err(Box::new(ServerError::parse(&body)?).into()),
                other => self.aside(other, &body, "starting the session")?,
            }
        }
    }

    /// `in_hot_standby` is reported since PostgreSQL 14.
    async fn is_standby(&mut self) -> Result<bool, ClientError> {
        if let Some(value) = self.parameter("in_hot_standby") {
            return Ok(value == "on");
        }
        let rows = self.query("SELECT pg_catalog.pg_is_in_recovery()").await?;
        Ok(rows.first().and_then(|row| row.first()) == Some(&Some("t".to_owned())))
    }

    /// Messages that may come at any time.
    fn aside(&mut self, tag: u8, body: &[u8], during: &'static str) -> Result<(), ClientError> {
        match tag {
            b'S' => {
                let mut fields = Fields::new(tag, body);
                self.parameters.insert(fields.text()?, fields.text()?);
            }
            b'N' => log_notice(&ServerError::parse(body)?),
            // NotificationResponse: nobody listens.
            b'A' => {}
            tag => return Err(ProtocolError::Unexpected { tag, during }.into()),
        }
        Ok(())
    }

    /// Runs a query, or a replication command that answers with rows, by the simple protocol. Of several
    /// statements it returns all rows. Bytes that are not UTF-8 are replaced.
    ///
    /// There is no time limit in here, since `CREATE_REPLICATION_SLOT` may rightly wait for long: the caller sets
    /// one. A connection whose query was abandoned takes no other.
    ///
    /// # Errors
    /// The server's refusal, after which the connection can be used on; anything else ends it.
    pub async fn query(&mut self, sql: &str) -> Result<Rows, ClientError> {
        self.request(sql).await?;
        let (mut rows, mut refusal) = (Rows::new(), None);
        loop {
            let Message { tag, body } = self.wire.receive().await?;
            match tag {
                b'D' => rows.push(row(&body)?),
                // RowDescription, CommandComplete, EmptyQueryResponse
                b'T' | b'C' | b'I' => {}
                b'E' => refusal = Some(Box::new(ServerError::parse(&body)?)),
                b'Z' => {
                    self.busy = false;
                    return refusal.map_or(Ok(rows), |error| Err(error.into()));
                }
                other => self.aside(other, &body, "running a query")?,
            }
        }
    }

    async fn request(&mut self, sql: &str) -> Result<(), ClientError> {
        if self.busy {
            return Err(ProtocolError::Abandoned.into());
        }
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|error| ProtocolError::Request(error.to_string()))?;
        self.busy = true;
        self.wire.send(&out).await
    }

    /// Sends a command and waits for `CopyBothResponse`; what comes after it stays in the wire.
    pub(super) async fn start_copy_both(mut self, command: &str) -> Result<Wire, ClientError> {
        self.request(command).await?;
        loop {
            let Message { tag, body } = self.wire.receive().await?;
            match tag {
                b'W' => return Ok(self.wire),
                b'E' => return Err(Box::new(ServerError::parse(&body)?).into()),
                other => self.aside(other, &body, "starting replication")?,
            }
        }
    }

    /// A setting that the server reports, such as `server_version` or `in_hot_standby`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server process, as in `pg_stat_activity`.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.wire.stream.is_encrypted()
    }
}

fn startup(conninfo: &Conninfo, purpose: Purpose) -> Result<BytesMut, ClientError> {
    let options = startup_options(conninfo);
    let mut parameters = vec![
        ("user", conninfo.user()),
        ("database", conninfo.dbname()),
        ("application_name", conninfo.application_name()),
        ("client_encoding", "UTF8"),
        ("options", options.as_str()),
    ];
    match purpose {
        Purpose::Replication => parameters.push(("replication", "database")),
        Purpose::Queries => {}
    }
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out).map_err(|error| ProtocolError::Request(error.to_string()))?;
    Ok(out)
}

/// A `DataRow`: a count, then a length (-1 for NULL) and the text of each column.
fn row(body: &[u8]) -> Result<Vec<Option<String>>, ProtocolError> {
    let mut fields = Fields::new(b'D', body);
    let columns = fields.int16()?;
    let column = |_| match usize::try_from(fields.int32()?) {
        Ok(length) => Ok(Some(String::from_utf8_lossy(fields.bytes(length)?).into_owned())),
        Err(_) => Ok(None),
    };
    (0..columns).map(column).collect()
}

pub(crate) fn log_notice(notice: &ServerError) {
    if notice.severity == "WARNING" {
        tracing::warn!(code = notice.code, detail = notice.detail, "PostgreSQL: {}", notice.message);
    } else {
        tracing::debug!(code = notice.code, "PostgreSQL: {}", notice.message);
    }
}

/// Runs `future` for at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    doing: &'static str,
    future: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(limit, future).await.unwrap_or(Err(ClientError::Timeout { doing, limit }))
}
