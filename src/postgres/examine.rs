//! What a start would find at PostgreSQL, and what it would do there, without doing it: for `pgsluice check`.
//!
//! Invariant: creates and changes nothing. The judgements are those of `open`, in the same order, and it goes on where it can
//! after one that fails.

use tokio_postgres::Client;

use super::catalog::{self, Wanted};
use super::client::{Connection, Purpose};
use super::filters;
use super::held;
use super::open::not_altered;
use super::preflight::{self, Look, Server};
use super::publication::{self, Publication};
use super::rule_tables;
use super::slot::{self, Decision, verify};
use super::sql;
use super::streamed;
use super::walsender;
use crate::checkpoint::configured::Configured;
use crate::config::{OutboxSettings, OutboxTableSettings, RuleSettings, Settings, SourceSettings};
use crate::failure::{Definite, Failure};
use crate::finding::Finding;

/// So many tables are named.
const NAMED: usize = 10;

/// What was found.
#[derive(Debug, Default)]
pub struct Examined {
    /// In the order in which a start would meet it.
    pub findings: Vec<Finding>,
    /// The plain tables that are selected, as schema and name.
    pub tables: Vec<(String, String)>,
}

/// Looks at the server, what is selected, the slot and the publication.
pub async fn examine(settings: &Settings, store: &Configured) -> Examined {
    let Settings { source, outboxes, rules, .. } = settings;
    let mut examination = Examination { settings: source, outboxes, rules, store, examined: Examined::default() };
    if let Err(failure) = examination.run().await {
        examination.found(failure);
    }
    examination.examined
}

struct Examination<'s> {
    settings: &'s SourceSettings,
    outboxes: &'s [OutboxSettings],
    rules: &'s [RuleSettings],
    store: &'s Configured,
    examined: Examined,
}

/// How the slot would be started, and at which server; none when it can't be.
type Start = Option<(Decision, slot::ServerState)>;

impl Examination<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let sql = sql::connect(&self.settings.conninfo).await?;
        let server = preflight::check(&sql, Look::First).await?;
        let (major, minor) = (server.version / 10_000, server.version % 10_000);
        self.ok(format!("PostgreSQL {major}.{minor} and the role fit (database \"{}\")", server.database));
        let able = streamed::check(self.settings, &server).await;
        self.unless_fine(able);
        let held = held::check(&sql, &self.settings.slot, self.settings.retain).await;
        self.unless_fine(held);
        let wanted = self.tables(&sql, &server).await;
        let start = match self.slot().await {
            Ok(start) => start,
            Err(failure) => {
                self.found(failure);
                None
            }
        };
        self.publication(&sql, wanted.as_ref(), &server, start.as_ref()).await
    }

    fn found(&mut self, finding: impl Into<Finding>) {
        self.examined.findings.push(finding.into());
    }

    fn ok(&mut self, what: String) {
        self.found(Finding::Ok(what));
    }

    fn unless_fine(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.found(failure);
        }
    }

    async fn tables(&mut self, sql: &Client, server: &Server) -> Option<Wanted> {
        let mut wanted = match catalog::resolve(sql, &self.settings.tables, self.outboxes, self.rules).await {
            Ok(wanted) => wanted,
            Err(failure) => {
                self.found(failure);
                return None;
            }
        };
        for (table, found) in self.outboxes.iter().filter_map(OutboxSettings::table).zip(&wanted.outboxes) {
            let (columns, OutboxTableSettings { schema, table, .. }) = (found.columns.join(", "), table);
            self.ok(format!("the outbox {schema}.{table} has the columns that are used: {columns}"));
        }
        let is_outbox = |oid: u32| wanted.outboxes.iter().any(|outbox| outbox.oid == oid);
        // Those that only rules select have no row events.
        let is_selected = |schema: &str, name: &str| self.settings.tables.selects(schema, name);
        let tables =
            wanted.tables.iter().filter(|table| !is_outbox(table.oid) && is_selected(&table.schema, &table.name));
        self.examined.tables = tables.map(|table| (table.schema.clone(), table.name.clone())).collect();
        let names: Vec<String> = self.examined.tables.iter().map(|(schema, name)| format!("{schema}.{name}")).collect();
        if !names.is_empty() {
            let more = names.len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(", and {more} more") };
            self.ok(format!("selected tables: {}{more}", names[..names.len().min(NAMED)].join(", ")));
        }
        match filters::resolve(sql, &self.settings.filters, &wanted, server).await {
            Ok(filters) => wanted.filters = filters,
            Err(failure) => {
                self.found(failure);
                return None;
            }
        }
        Some(wanted)
    }

    /// The slot before the checkpoint, whose holder stores before it moves the slot.
    async fn slot(&mut self) -> Result<Start, Failure> {
        let SourceSettings { conninfo, slot: name, publication, .. } = self.settings;
        let mut connection = Connection::connect(conninfo, Purpose::Replication).await?;
        let slot = walsender::read_slot(&mut connection, name).await?;
        let checkpoint = self.store.current().await?;
        let timeline = checkpoint.as_ref().map(|checkpoint| checkpoint.timeline);
        let session = walsender::identify(&mut connection, timeline).await?;
        let decision = verify(name, publication, checkpoint.as_ref(), slot.as_ref(), &session.server)?;
        let reader = slot.as_ref().and_then(|slot| slot.active_pid);
        let reader = reader.map(|pid| format!("; PID {pid} reads from it now")).unwrap_or_default();
        match &decision {
            Decision::Create => self.ok(format!("replication slot \"{name}\" is not there: it will be created")),
            Decision::Resume(start) => {
                let from = start.flushed;
                self.ok(format!("replication slot \"{name}\" can go on from the checkpoint, {from}{reader}"));
            }
            Decision::Adopt(start) => {
                let what = format!(
                    "replication slot \"{name}\" is there, and no checkpoint: a start goes on from its \
                     confirmed_flush_lsn, {}, and events may be sent again{reader}",
                    start.flushed
                );
                self.found(Finding::warning(what, "keep the checkpoint's folder or table from run to run"));
            }
        }
        Ok(Some((decision, session.server)))
    }

    async fn publication(
        &mut self,
        sql: &Client,
        wanted: Option<&Wanted>,
        server: &Server,
        start: Option<&(Decision, slot::ServerState)>,
    ) -> Result<(), Failure> {
        let name = &self.settings.publication;
        let publication = publication::read(sql, name).await?;
        match (start, &publication) {
            (Some((Decision::Resume(from) | Decision::Adopt(from), server)), None) => {
                return Err(slot::no_publication(name, from, server).into());
            }
            (Some((Decision::Resume(_) | Decision::Adopt(_), _)), Some(publication)) => {
                let named = publication::named(self.settings, self.outboxes, self.rules);
                let altered = not_altered(sql, name, &named, publication).await;
                self.unless_fine(altered);
            }
            (Some((Decision::Create, _)) | None, _) => {}
        }
        let Some(wanted) = wanted else { return Ok(()) };
        match rule_tables::check(sql, wanted, publication.as_ref(), self.rules).await {
            Ok(()) if self.rules.is_empty() => {}
            Ok(()) => self.ok(format!("the rules of [[events]] fit their tables: {}", self.rules.len())),
            Err(failure) => self.found(failure),
        }
        Ok(self.plan(publication.as_ref(), wanted, server)?)
    }

    fn plan(&mut self, publication: Option<&Publication>, wanted: &Wanted, server: &Server) -> Result<(), Definite> {
        let name = &self.settings.publication;
        let plan = publication::plan(name, publication, wanted, server)?;
        let script = plan.script();
        for warning in plan.warnings {
            self.found(Finding::warning(format!("publication \"{name}\": {warning}"), ""));
        }
        for note in plan.notes {
            self.ok(format!("publication \"{name}\": {note}"));
        }
        self.ok(match publication {
            None => format!("publication \"{name}\" is not there: it will be created: {script}"),
            Some(_) if script.is_empty() => format!("publication \"{name}\" sends all that is selected"),
            Some(_) => format!("publication \"{name}\" will be changed: {script}"),
        });
        Ok(())
    }
}
