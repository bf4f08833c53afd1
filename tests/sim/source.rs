//! A replication connection, from its opening to its stream: what `pgsluice::postgres::open` does, with the verdicts of
//! `pgsluice::postgres::slot`, and with something happening between any two looks.

use pgsluice::checkpoint::Checkpoint;
use pgsluice::failure::{Failure, Kind};
use pgsluice::lsn::Lsn;
use pgsluice::postgres::slot::{self, Decision, ServerState, SlotState, verify};
use pgsluice::source::{Opened, Resume, Source};

use super::schedule::Disaster;
use super::walsender::SimStream;
use super::world::{NAME, Process};

/// How often a standby looks whether the slot is free.
const POLL_MS: u64 = 250;

pub(crate) struct SimSource(pub(crate) Process);

/// An answer that takes up to so many milliseconds.
const ANSWER_MS: u64 = 15;

fn away(why: &'static str) -> Failure {
    Failure::transient(anyhow::anyhow!(why))
}

impl Source for SimSource {
    type Stream = SimStream;

    fn open(&self, resume: Resume) -> impl Future<Output = Result<Opened<SimStream>, Failure>> + Send + 'static {
        let process = self.0.clone();
        async move {
            resume.checkpoint().await?;
            loop {
                let session = connect(&process).await?;
                let connection = Connection { process: process.clone(), session };
                if let Some(opened) = connection.open(&resume).await? {
                    return Ok(opened);
                }
                process.pause(POLL_MS).await;
            }
        }
    }
}

async fn connect(process: &Process) -> Result<u32, Failure> {
    process.pause(ANSWER_MS).await;
    process.step().await;
    let mut world = process.world();
    let (fails, session) = (world.schedule.faults.open_fails, world.database.session);
    if world.chance(fails) || !world.database.is_up(world.now_ms(), session) {
        return Err(away("the server is starting up"));
    }
    Ok(session)
}

/// A connection that does not stream yet.
struct Connection {
    process: Process,
    session: u32,
}

impl Connection {
    /// A question takes its time, and then the server may be another.
    async fn answer(&self) -> Result<(), Failure> {
        self.process.pause(ANSWER_MS).await;
        self.process.step().await;
        let world = self.process.world();
        if world.database.is_up(world.now_ms(), self.session) { Ok(()) } else { Err(away("the connection was reset")) }
    }

    /// None when another process has the slot.
    async fn open(&self, resume: &Resume) -> Result<Option<Opened<SimStream>>, Failure> {
        let Some((decision, server)) = self.decide(resume).await? else { return Ok(None) };
        let start = self.begin(decision, &server).await?;
        self.answer().await?;
        let Some(mut stream) = self.start(start.flushed)? else { return Ok(None) };
        // PostgreSQL has forwarded a start that lies too far back, without a word.
        self.answer().await?;
        if let Some(slot) = self.slot() {
            slot::not_ahead(NAME, start.flushed, slot.confirmed_flush.unwrap_or_default())?;
        }
        let mut world = self.process.world();
        self.process.note(&mut world, || format!("streams from {} {:?}", start.flushed, start.position));
        if stream.is_alive(&world) {
            world.judge_start(&start);
        }
        stream.opened(&mut world);
        let report_every = std::time::Duration::from_millis(world.schedule.report_every_ms);
        drop(world);
        Ok(Some(Opened { stream, start, selected: Vec::new(), report_every }))
    }

    fn slot(&self) -> Option<SlotState> {
        let world = self.process.world();
        world.database.slot_state(world.now_ms())
    }

    /// Looks at the slot before and after the checkpoint, as its holder stores one before it moves the other.
    async fn decide(&self, resume: &Resume) -> Result<Option<(Decision, ServerState)>, Failure> {
        self.answer().await?;
        let mut slot = self.slot();
        loop {
            let checkpoint = resume.checkpoint().await?;
            self.answer().await?;
            let before = std::mem::replace(&mut slot, self.slot());
            let server = self.process.world().database.server_state();
            let decision = verify(NAME, NAME, checkpoint.as_ref(), slot.as_ref(), &server);
            if slot.as_ref().is_some_and(|slot| slot.active_pid.is_some()) {
                return Ok(None);
            }
            if slot == before {
                return Ok(Some((decision?, server)));
            }
        }
    }

    async fn begin(&self, decision: Decision, server: &ServerState) -> Result<Checkpoint, Failure> {
        match decision {
            Decision::Resume(start) | Decision::Adopt(start) => Ok(start),
            Decision::Create => {
                self.answer().await?;
                let created = self.process.world().database.create_slot();
                let from = created.ok_or_else(|| away("somebody else has created the slot"))?;
                Ok(slot::first(NAME, NAME, server, from))
            }
        }
    }

    /// `START_REPLICATION`; none when somebody was quicker.
    fn start(&self, from: Lsn) -> Result<Option<SimStream>, Failure> {
        let mut world = self.process.world();
        let (now, meddles) = (world.now_ms(), world.schedule.faults.meddles);
        if world.chance(meddles) {
            world.befall(Disaster::SlotAdvanced);
            // Who has read the checkpoint before another process stored its last one knows no better.
            world.database.doubt_beyond(from);
        }
        let Some(slot) = world.database.server.slot.filter(|slot| !slot.invalidated) else {
            let error = anyhow::anyhow!("can no longer get changes from replication slot \"{NAME}\"");
            return Err(Failure::definite(Kind::InDoubt, error, "the server's own words"));
        };
        if !world.database.start(self.process.id, now) {
            return Ok(None);
        }
        let again = world.schedule.faults.sends_again;
        let from = if world.chance(again) { 0 } else { from.0.max(slot.confirmed) };
        Ok(Some(SimStream::new(&self.process, from, &world)))
    }
}
