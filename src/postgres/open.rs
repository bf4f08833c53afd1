//! From a connection string to a running stream: the source that the loop opens again and again.
//!
//! The order matters. Nothing is created before everything that can be judged was judged; the
//! publication comes before the slot, which decodes only what was published when it was written; and
//! the slot is looked at once more after the stream has started, since PostgreSQL forwards a start
//! that lies too far back. `preflight`, `catalog`, `publication` and `slot` decide, `walsender` asks.

mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio_postgres::{Client, SimpleQueryMessage};
use tracing::{info, warn};

use super::catalog::{self, Wanted};
use super::client::{ClientError, Connection, Purpose};
use super::filters;
use super::held;
use super::login::Logins;
use super::mode::Mode;
use super::preflight::{self, Look, sql_failure};
use super::publication::{self, Name, Plan, Publication, Sent};
use super::rule_tables;
use super::slot::{self, Decision, SlotState, verify};
use super::sql;
use super::streamed::{self, CommittedStream};
use super::walsender::{self, ANSWER_LIMIT, CreateError, Session};
use super::watch::{self, Sends, WatchedStream};
use crate::checkpoint::Checkpoint;
use crate::config::{OutboxSettings, RuleSettings, SourceSettings};
use crate::failure::{Definite, Failure, Kind, within};
use crate::lsn::Lsn;
use crate::route::RENAMED_HINT;
use crate::source::{Named, Opened, Resume, Source};
use crate::telemetry::health::{self, Health};

use waiting::Waiting;
pub(super) use waiting::blockers;

/// The publication may have to wait for locks, see there.
const PREPARE_LIMIT: Duration = Duration::from_mins(1);
/// How often to look whether a slot or a walsender is free.
const POLL: Duration = Duration::from_millis(250);
/// How long a walsender may take to notice that its client has ended.
const LET_GO: Duration = Duration::from_secs(10);
/// How long a standby looks on one connection.
const STANDBY_SESSION: Duration = Duration::from_secs(5);
/// A slot that takes longer to create waits for somebody.
pub(super) const QUICK: Duration = Duration::from_secs(2);
/// How often to look who that is, and whether the server still answers.
const WATCH: Duration = Duration::from_secs(10);
/// However short `wal_sender_timeout` is.
const SHORTEST_REPORT: Duration = Duration::from_millis(10);

/// Opens replication streams from one database.
#[derive(Debug, Clone)]
pub struct PostgresSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: SourceSettings,
    outboxes: Vec<OutboxSettings>,
    rules: Vec<RuleSettings>,
    health: Health,
    /// A stream was opened by this process: the configuration fits, and is not checked again.
    opened: AtomicBool,
    logins: Logins,
    mode: Mode,
}

impl PostgresSource {
    /// The source that `settings` describe. Connects to nothing yet.
    #[must_use]
    pub fn new(settings: SourceSettings, outboxes: Vec<OutboxSettings>) -> Self {
        Self::of(settings, outboxes, Vec::new(), Health::default())
    }

    /// Of the tables of these rules too.
    #[must_use]
    pub fn with_rules(self, rules: Vec<RuleSettings>) -> Self {
        let Inner { settings, outboxes, health, .. } = self.0.as_ref();
        Self::of(settings.clone(), outboxes.clone(), rules, health.clone())
    }

    /// Lets `health` know when it stands by.
    #[must_use]
    pub fn with_health(self, health: Health) -> Self {
        let Inner { settings, outboxes, rules, .. } = self.0.as_ref();
        Self::of(settings.clone(), outboxes.clone(), rules.clone(), health)
    }

    fn of(settings: SourceSettings, outboxes: Vec<OutboxSettings>, rules: Vec<RuleSettings>, health: Health) -> Self {
        let (opened, logins, mode) = (AtomicBool::new(false), Logins::default(), Mode::new(&settings));
        Self(Arc::new(Inner { settings, outboxes, rules, health, opened, logins, mode }))
    }
}

/// A position that a person asks for.
#[derive(Debug, Clone)]
pub enum StartAt {
    /// All transactions whose commit record starts there or later.
    Lsn(Lsn),
    /// Where a checkpoint was.
    Checkpoint(Checkpoint),
}

impl PostgresSource {
    /// The checkpoint from which the slot would start there, if it still can.
    ///
    /// # Errors
    /// What lies after it is no longer retained or not there yet, or it is not of this server and slot; the slot is in use.
    pub async fn start_at(&self, at: StartAt) -> Result<Checkpoint, Failure> {
        let SourceSettings { conninfo, slot: name, publication, .. } = &self.0.settings;
        let mut connection = Connection::connect(conninfo, Purpose::Replication).await?;
        let since = match &at {
            StartAt::Lsn(_) => None,
            StartAt::Checkpoint(checkpoint) => Some(checkpoint.timeline),
        };
        let session = walsender::identify(&mut connection, since).await?;
        let state = free_slot(&mut connection, name).await?;
        let wanted = match at {
            StartAt::Lsn(lsn) if lsn > session.server.flushed => {
                let error = anyhow!("{lsn} is in the future: the server's WAL ends at {}", session.server.flushed);
                let hint =
                    "`SELECT pg_current_wal_flush_lsn()` gives where it ends; where it is inserted lies ahead of that.";
                return Err(Failure::definite(Kind::Usage, error, hint));
            }
            StartAt::Lsn(lsn) => slot::first(name, publication, &session.server, lsn),
            StartAt::Checkpoint(checkpoint) => checkpoint,
        };
        if let Some(earliest) = state.as_ref().and_then(|state| state.confirmed_flush)
            && wanted.flushed < earliest
        {
            let error = anyhow!("{} is no longer retained: the earliest position is {earliest}", wanted.flushed);
            let hint =
                "The slot lets go of what was delivered, unless `replay.retain_bytes` or `replay.retain_ms` is set.";
            return Err(Failure::definite(Kind::Usage, error, hint));
        }
        verify(name, publication, Some(&wanted), state.as_ref(), &session.server)?;
        Ok(wanted)
    }

    /// Up to where the slot was acknowledged: where the stream would start without a checkpoint.
    ///
    /// # Errors
    /// There is no such slot, it can't be used, or is in use.
    pub async fn acknowledged(&self) -> Result<Checkpoint, Failure> {
        let SourceSettings { conninfo, slot: name, publication, .. } = &self.0.settings;
        let mut connection = Connection::connect(conninfo, Purpose::Replication).await?;
        let session = walsender::identify(&mut connection, None).await?;
        let state = free_slot(&mut connection, name).await?;
        match verify(name, publication, None, state.as_ref(), &session.server)? {
            Decision::Resume(start) | Decision::Adopt(start) => Ok(start),
            Decision::Create => {
                let error = anyhow!("replication slot \"{name}\" does not exist");
                Err(Failure::definite(Kind::Usage, error, "`pgsluice run` creates it, and begins at the present."))
            }
        }
    }

    /// A human has looked at what was in doubt: the publication counts as it is now.
    ///
    /// # Errors
    /// Somebody reads from the slot, or the server is away.
    pub async fn accept(&self) -> Result<(), Failure> {
        let SourceSettings { conninfo, slot, .. } = &self.0.settings;
        free_slot(&mut Connection::connect(conninfo, Purpose::Replication).await?, slot).await?;
        let sql = sql::connect(conninfo).await?;
        let name = &self.0.settings.publication;
        match publication::read(&sql, name).await? {
            Some(publication) if publication.managed => publication::renew_record(&sql, name, &publication).await,
            Some(_) | None => Ok(()),
        }
    }
}

/// The slot, of which nobody reads; whoever has just ended may take a moment to let go.
async fn free_slot(connection: &mut Connection, name: &str) -> Result<Option<SlotState>, Failure> {
    let deadline = Instant::now() + LET_GO;
    loop {
        let state = walsender::read_slot(connection, name).await?;
        let Some(pid) = state.as_ref().and_then(|state| state.active_pid) else { return Ok(state) };
        if Instant::now() >= deadline {
            let error = anyhow!("replication slot \"{name}\" is in use by PID {pid}");
            let hint = "Stop the pgsluice that reads from it first; a standby would take over.";
            return Err(Failure::definite(Kind::Usage, error, hint));
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Source for PostgresSource {
    type Stream = WatchedStream;

    fn open(&self, resume: Resume) -> impl Future<Output = Result<Opened<WatchedStream>, Failure>> + Send + 'static {
        let inner = Arc::clone(&self.0);
        async move {
            let opened = inner.open(&resume).await?;
            inner.opened.store(true, Ordering::Relaxed);
            Ok(opened)
        }
    }
}

/// What the database looks like, and what is to be changed in it.
struct Prepared {
    publication: Option<Publication>,
    /// And what it is for; none when the publication was brought in order before, and is only used.
    plan: Option<(Plan, Wanted)>,
}

impl Inner {
    async fn open(&self, resume: &Resume) -> Result<Opened<WatchedStream>, Failure> {
        // A store that can't be used is found before any connection is made.
        resume.checkpoint().await?;
        // Without a checkpoint the slot may have to be created, and so the publication before it.
        let again = self.opened.load(Ordering::Relaxed) && resume.reached.is_some();
        let look = if again { Look::Again } else { Look::First };
        // What held the slot before was ourselves: after a cut network the server takes its time to notice.
        let patience = self.settings.standby_timeout.filter(|_| look == Look::First);
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut waiting = Waiting::until(deadline);
        // Who had the slot has changed what was looked at before.
        loop {
            let sql = self.logins.judge(sql::connect(&self.settings.conninfo).await)?;
            if let Some(opened) = self.attempt(&sql, look, resume, &mut waiting).await? {
                return Ok(opened);
            }
            drop(sql);
            while !self.stand_by(&mut waiting).await? {}
            self.health.source(health::Source::Connecting);
        }
    }

    /// None when another client has the slot; or while others were waited for, all may have changed.
    async fn attempt(
        &self,
        sql: &Client,
        look: Look,
        resume: &Resume,
        waiting: &mut Waiting,
    ) -> Result<Option<Opened<WatchedStream>>, Failure> {
        let mut prepared = limited("checking the database", self.prepare(sql, look)).await?;
        let mut connection = self.connect(sql, look, waiting).await?;
        if waiting.has_waited() {
            // It may have taken a while.
            prepared = limited("checking the database", self.prepare(sql, look)).await?;
        }
        let Some((session, decision)) = self.decide(&mut connection, resume).await? else { return Ok(None) };
        if !self.publish(sql, &session, &decision, &mut prepared, waiting).await? {
            return Ok(None);
        }
        let start = self.begin(sql, &mut connection, &session, decision).await?;
        let starting =
            CommittedStream::start(connection, &self.settings.slot, &self.settings, &self.mode, start.flushed);
        let starting = async { Ok(starting.await) };
        match within(ANSWER_LIMIT, "starting the replication stream", starting).await? {
            Ok(stream) => {
                self.look_again(sql, &session, &start).await?;
                let sent = limited("reading the publication", self.sent(sql)).await?;
                let named =
                    |sent: &Sent| Named { oid: sent.oid, schema: sent.schema.clone(), table: sent.table.clone() };
                let selected = sent.iter().map(named).collect();
                let sends = Some(Sends { sent, named: self.named() });
                let stream =
                    WatchedStream::new(stream, self.settings.clone(), sends, start.flushed, self.health.clone());
                Ok(Some(Opened { stream, start, selected, report_every: report_every(&self.settings, &session) }))
            }
            // Somebody was quicker than we between looking and starting.
            Err(error) if error.code() == Some("55006") => Ok(None),
            Err(error) => Err(Failure::from(error).context("starting the replication stream")),
        }
    }

    /// Waits until nobody has the slot (then true), for no longer than a connection may last: an idle session would hold
    /// up a smart shutdown.
    async fn stand_by(&self, waiting: &mut Waiting) -> Result<bool, Failure> {
        self.health.source(health::Source::Standby);
        let sql = self.logins.judge(sql::connect(&self.settings.conninfo).await)?;
        let end = Instant::now() + STANDBY_SESSION;
        while let Some(holder) = self.slot_now(&sql).await?.and_then(|slot| slot.active_pid) {
            if Instant::now() >= end {
                return Ok(false);
            }
            waiting.for_slot(&sql, &self.settings.slot, holder).await?;
        }
        Ok(true)
    }

    async fn prepare(&self, sql: &Client, look: Look) -> Result<Prepared, Failure> {
        let server = preflight::check(sql, look).await?;
        let name = &self.settings.publication;
        let publication = publication::read(sql, name).await?;
        let plan = match look {
            Look::First => {
                streamed::check(&self.settings, &server).await?;
                held::check(sql, &self.settings.slot, self.settings.retain).await?;
                let mut wanted = catalog::resolve(sql, &self.settings.tables, &self.outboxes, &self.rules).await?;
                wanted.filters = filters::resolve(sql, &self.settings.filters, &wanted, &server).await?;
                rule_tables::check(sql, &wanted, publication.as_ref(), &self.rules).await?;
                Some((publication::plan(name, publication.as_ref(), &wanted, &server)?, wanted))
            }
            Look::Again => None,
        };
        Ok(Prepared { publication, plan })
    }

    /// A replication connection, once a walsender is free.
    async fn connect(&self, sql: &Client, look: Look, waiting: &mut Waiting) -> Result<Connection, Failure> {
        loop {
            match Connection::connect(&self.settings.conninfo, Purpose::Replication).await {
                Ok(connection) => return Ok(connection),
                // too_many_connections; what holds them may be our predecessor, whose end nobody has noticed yet.
                Err(error) if error.code() == Some("53300") && look == Look::First => {
                    waiting.for_walsender(sql, error).await?;
                }
                Err(error) => return Err(Failure::from(error).context("opening the replication connection")),
            }
        }
    }

    /// Judges the slot; none when another client has it.
    async fn decide(
        &self,
        connection: &mut Connection,
        resume: &Resume,
    ) -> Result<Option<(Session, Decision)>, Failure> {
        let SourceSettings { slot: name, publication, .. } = &self.settings;
        let mut slot = walsender::read_slot(connection, name).await?;
        loop {
            // After the slot, because its holder stores a checkpoint before it moves the slot. And before it: the store
            // may have made us wait for that holder to end.
            let checkpoint = resume.checkpoint().await?;
            let before = std::mem::replace(&mut slot, walsender::read_slot(connection, name).await?);
            let session = walsender::identify(connection, checkpoint.as_ref().map(|it| it.timeline)).await?;
            let decision = verify(name, publication, checkpoint.as_ref(), slot.as_ref(), &session.server);
            let holder = slot.as_ref().and_then(|slot| slot.active_pid);
            let in_creation = slot.as_ref().is_some_and(|slot| slot.confirmed_flush.is_none());
            match (holder, decision) {
                // A slot that is not ours to use is not waited for.
                (Some(_), Err(definite)) if definite.kind == Kind::Source && !in_creation => {
                    return Err(definite.into());
                }
                (Some(_), _) => return Ok(None),
                (None, decision) if slot == before => return Ok(Some((session, decision?))),
                // It moved while the checkpoint was being read.
                (None, _) => {}
            }
        }
    }

    /// Brings the publication in order, unless that can't help any more; false when somebody was in the way, who is gone now.
    async fn publish(
        &self,
        sql: &Client,
        session: &Session,
        decision: &Decision,
        prepared: &mut Prepared,
        waiting: &mut Waiting,
    ) -> Result<bool, Failure> {
        let name = &self.settings.publication;
        match decision {
            Decision::Resume(start) | Decision::Adopt(start) if prepared.publication.is_none() => {
                return Err(slot::no_publication(name, start, &session.server).into());
            }
            Decision::Resume(_) | Decision::Adopt(_) => {
                if let Some(publication) = &prepared.publication {
                    not_altered(sql, name, &self.named(), publication).await?;
                    if prepared.plan.is_some() {
                        self.none_is_renamed(publication)?;
                    }
                }
            }
            Decision::Create => {}
        }
        if let Some((mut plan, wanted)) = prepared.plan.take() {
            if let Decision::Create = decision {
                // A slot begins behind all transactions that are open.
                plan.locked.clear();
            }
            if !waiting.has_given_way() {
                plan.tell(name);
            }
            let changing = publication::apply(sql, name, &plan, &wanted);
            if !limited("bringing the publication in order", changing).await? {
                waiting.for_writers(sql, name, &plan).await?;
                return Ok(false);
            }
            if !wanted.filters.is_empty() {
                for unfit in filters::unfit(sql, name).await? {
                    warn!(publication = name, "{}", unfit.warning());
                }
            }
            if let Some(publication) = prepared.publication.as_ref().filter(|_| plan.statements.is_empty()) {
                publication::keep_record(sql, name, publication).await?;
            }
        }
        Ok(true)
    }

    /// The selected tables that the publication sends as the stream begins; those of ours go on record.
    async fn sent(&self, sql: &Client) -> Result<Vec<Sent>, Failure> {
        let name = &self.settings.publication;
        let Some(publication) = publication::read(sql, name).await? else { return Ok(Vec::new()) };
        not_altered(sql, name, &self.named(), &publication).await?;
        Ok(publication.sent.into_iter().filter(|sent| self.selects(sent)).collect())
    }

    /// As row events, as an outbox or for a rule.
    fn selects(&self, Sent { schema, table, .. }: &Sent) -> bool {
        self.settings.tables.selects(schema, table)
            || self.outboxes.iter().any(|outbox| outbox.is(schema, table))
            || self.rules.iter().any(|rule| rule.tables.selects(schema, table))
    }

    /// Who renames a table to what nothing selects may not know that its changes end there.
    fn none_is_renamed(&self, publication: &Publication) -> Result<(), Definite> {
        for sent in publication.renamed().filter(|sent| !self.selects(sent)) {
            let Sent { schema, table, .. } = sent;
            let mut rules = self.rules.iter();
            if !self.settings.tables.excludes(schema, table) && !rules.any(|rule| rule.tables.excludes(schema, table)) {
                return Err(Definite::new(
                    Kind::Usage,
                    anyhow!(
                        "{schema}.{table} was renamed: by the name that it had it is selected, by this one it is not"
                    ),
                    format!("{RENAMED_HINT} Or `pgsluice checkpoint reset` says that you have looked."),
                ));
            }
        }
        Ok(())
    }

    fn named(&self) -> Vec<Name> {
        publication::named(&self.settings, &self.outboxes, &self.rules)
    }

    /// Where the stream starts; creates the slot if that has to be.
    async fn begin(
        &self,
        sql: &Client,
        connection: &mut Connection,
        session: &Session,
        decision: Decision,
    ) -> Result<Checkpoint, Failure> {
        let slot = &self.settings.slot;
        match decision {
            Decision::Resume(start) => Ok(start),
            Decision::Adopt(start) => {
                warn!(
                    slot,
                    from = %start.flushed,
                    "no checkpoint was found for the slot, which exists: going on from its confirmed_flush_lsn; events may \
                     be sent again"
                );
                Ok(start)
            }
            Decision::Create => {
                let from = self.create(sql, connection, session.pid).await?;
                info!(slot, %from, "created the replication slot");
                Ok(slot::first(slot, &self.settings.publication, &session.server, from))
            }
        }
    }

    /// Creates the slot, and says for whom it waits. Has no limit of its own: it waits as long as the other
    /// transactions last and the server answers.
    async fn create(&self, sql: &Client, connection: &mut Connection, pid: i32) -> Result<Lsn, Failure> {
        let name = &self.settings.slot;
        let creating = walsender::create_slot(connection, name);
        tokio::pin!(creating);
        let mut patience = QUICK;
        let mut told = String::new();
        let error = loop {
            match tokio::time::timeout(patience, &mut creating).await {
                Ok(Ok(consistent_point)) => return Ok(consistent_point),
                Ok(Err(error)) => break error,
                Err(_) => patience = WATCH,
            }
            let blockers = within(ANSWER_LIMIT, "looking for open transactions", blockers(sql, pid)).await?;
            if blockers != told {
                warn!(slot = name, "the creation of the slot waits for transactions that are open: {blockers}");
                told = blockers;
            }
        };
        match error {
            CreateError::Answer(failure) => Err(failure),
            CreateError::Refused(error) => Err(self.not_created(sql, error).await),
        }
    }

    async fn not_created(&self, sql: &Client, error: ClientError) -> Failure {
        let slots_are_off = error
            .server()
            .is_some_and(|error| error.code == "55000" && error.message.contains("max_replication_slots"));
        match error.code() {
            Some("53400") => preflight::no_free_slot(sql, &self.settings.slot).await,
            Some("55000") if slots_are_off => preflight::no_free_slot(sql, &self.settings.slot).await,
            // duplicate_object: somebody else created it between; look again.
            Some("42710") => Failure::transient(error),
            Some(_) | None => Failure::from(error).context("creating the replication slot"),
        }
    }

    /// The slot after the start of the stream: ours, on the server that we asked, and not forwarded.
    async fn look_again(&self, sql: &Client, session: &Session, start: &Checkpoint) -> Result<(), Failure> {
        let name = &self.settings.slot;
        let elsewhere = || {
            let what = "the SQL connection does not see the stream at the replication slot: the two have reached different \
                        servers";
            Failure::transient(anyhow!("{what} (replication slot \"{name}\")"))
        };
        let slot = self.slot_now(sql).await?.ok_or_else(elsewhere)?;
        // A stream that has failed at once holds nothing any more; reading it says why.
        if slot.active_pid.is_some_and(|pid| pid != session.pid) {
            return Err(elsewhere());
        }
        if let Some(confirmed) = slot.confirmed_flush {
            slot::not_ahead(name, start.flushed, confirmed)?;
        }
        Ok(())
    }

    async fn slot_now(&self, sql: &Client) -> Result<Option<SlotState>, Failure> {
        let name = &self.settings.slot;
        let doing = "looking at the replication slot";
        let query = walsender::slot_query(name);
        let asking = async { sql.simple_query(&query).await.map_err(|error| sql_failure(doing, &error)) };
        for message in within(ANSWER_LIMIT, doing, asking).await? {
            if let SimpleQueryMessage::Row(row) = message {
                let values: Vec<Option<String>> = (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect();
                return walsender::parse_slot(name, &values).map(Some);
            }
        }
        Ok(None)
    }
}

/// Three times within the server's patience, so that one late report is none too many.
pub(super) fn report_every(settings: &SourceSettings, session: &Session) -> Duration {
    let server = session.sender_timeout.map_or(Duration::MAX, |timeout| timeout / 3);
    settings.report_every.min(server).max(SHORTEST_REPORT)
}

/// Nobody has taken anything out of a publication of ours, since that was written down; nor put another table in the place of one
/// that is `named`.
pub(super) async fn not_altered(
    sql: &Client,
    name: &str,
    named: &[Name],
    publication: &Publication,
) -> Result<(), Failure> {
    let Some(record) = &publication.record else { return Ok(()) };
    let left = publication::removed(sql, record, named, publication).await?;
    if left.is_empty() {
        return Ok(());
    }
    Err(slot::tables_left(name, &left, record.as_of, watch::end_of_wal(sql).await?).into())
}

/// [`within`] for steps that say themselves what failed.
pub(super) async fn limited<T>(doing: &str, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(PREPARE_LIMIT, step).await {
        Ok(result) => result,
        Err(_) => Err(Failure::transient(anyhow!("{doing}: no answer within {} ms", PREPARE_LIMIT.as_millis()))),
    }
}
