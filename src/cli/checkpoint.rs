//! `pgsluice checkpoint`: what is stored, and moving it by hand.

use anyhow::anyhow;

use super::{Configuration, now_or_never};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::configured::Configured;
use crate::config::Settings;
use crate::failure::{Definite, Failure, Kind};
use crate::lsn::Lsn;
use crate::postgres::open::{PostgresSource, StartAt};
use crate::telemetry::health::Health;

/// What to do with it.
#[derive(Debug, clap::Subcommand)]
pub enum CheckpointCommand {
    /// Print the checkpoint, and the positions that have a name
    Show(Configuration),
    /// Give the present checkpoint a name, such as before-release-42, to replay from it; pgsluice may run
    Name {
        /// Which pgsluice.
        #[command(flatten)]
        configuration: Configuration,
        /// 1 to 63 of letters, digits, dots, dashes and underscores
        name: String,
        /// Even if the name is taken
        #[arg(long)]
        replace: bool,
    },
    /// Move the checkpoint to a position, from which the next start goes on; pgsluice must not run
    Set {
        /// Which pgsluice.
        #[command(flatten)]
        configuration: Configuration,
        /// An LSN such as 16/B374D848, or a name
        position: String,
        /// Even if changes are never delivered: those between the checkpoint and a later position
        #[arg(long)]
        skip: bool,
    },
    /// Forget the checkpoint, and what was in doubt: the next start goes on from the slot, or creates it; pgsluice must not
    /// run
    Reset(Configuration),
}

/// Runs one of them.
///
/// # Errors
/// Whatever keeps it from being done, in full; then nothing was changed.
pub async fn run(command: CheckpointCommand) -> Result<(), Definite> {
    let configuration = command.configuration();
    let settings = configuration.load()?;
    let store = Configured::new(&settings, &Health::default());
    let done = match command {
        CheckpointCommand::Show(_) => show(&store).await,
        CheckpointCommand::Name { name, replace, .. } => self::name(&store, &name, replace).await,
        CheckpointCommand::Set { position, skip, .. } => set(&settings, &store, &position, skip).await,
        CheckpointCommand::Reset(_) => reset(&settings, &store).await,
    };
    done.map_err(|failure| now_or_never(failure, TRY_AGAIN))
}

impl CheckpointCommand {
    fn configuration(&self) -> &Configuration {
        match self {
            Self::Show(configuration)
            | Self::Reset(configuration)
            | Self::Name { configuration, .. }
            | Self::Set { configuration, .. } => configuration,
        }
    }
}

/// When a server is away.
const TRY_AGAIN: &str = "try again; `pgsluice checkpoint show` says what is stored";

async fn show(store: &Configured) -> Result<(), Failure> {
    let current = store.current().await?;
    let kept = store.kept().await?;
    println!("{:<32} {:<18} {:<24} {:>8}  {:<20} slot", "name", "LSN", "position", "timeline", "system");
    let line = |name: &str, checkpoint: &Checkpoint| {
        let Checkpoint { system_identifier, timeline, slot, flushed, position, .. } = checkpoint;
        let [flushed, position] = [flushed.to_string(), position.map_or_else(|| "-".to_owned(), |it| it.to_string())];
        println!("{name:<32} {flushed:<18} {position:<24} {timeline:>8}  {system_identifier:<20} {slot}");
    };
    match &current {
        Some(checkpoint) => line("(checkpoint)", checkpoint),
        None => println!("(none yet)"),
    }
    for (name, checkpoint) in &kept {
        line(name, checkpoint);
    }
    Ok(())
}

async fn name(store: &Configured, name: &str, replace: bool) -> Result<(), Failure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !(1..=63).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(usage(
            anyhow!("no name for a position: \"{name}\""),
            "allowed: 1 to 63 of letters, digits, dots, dashes and underscores, as in before-release-42",
        ));
    }
    let checkpoint = store.current().await?.ok_or_else(|| usage(anyhow!("nothing is stored yet"), NONE_YET))?;
    if !store.keep(name, &checkpoint, replace).await? {
        return Err(usage(anyhow!("there is a position called {name}"), "choose another name, or use --replace"));
    }
    println!("{name} is {}", checkpoint.flushed);
    Ok(())
}

const NONE_YET: &str = "pgsluice stores its first checkpoint as soon as it streams";

async fn set(settings: &Settings, store: &Configured, position: &str, skip: bool) -> Result<(), Failure> {
    let before = store.take().await?;
    let target = target(settings, store, position, before.as_ref(), skip).await?;
    store.overwrite(&target).await?;
    let was = before.map_or_else(|| "not stored".to_owned(), |before| before.flushed.to_string());
    println!("the checkpoint was {was}, and is {}", target.flushed);
    Ok(())
}

async fn reset(settings: &Settings, store: &Configured) -> Result<(), Failure> {
    store.possess()?;
    PostgresSource::new(settings.source.clone(), settings.outboxes.clone()).accept().await?;
    println!("{}", if store.forget().await? { "the checkpoint is forgotten" } else { "there was no checkpoint" });
    Ok(())
}

/// The checkpoint that `position` stands for, which the slot can still go on from.
///
/// # Errors
/// It is none, is no longer there, or lies ahead and nothing was to be skipped.
async fn target(
    settings: &Settings,
    store: &Configured,
    position: &str,
    before: Option<&Checkpoint>,
    skip: bool,
) -> Result<Checkpoint, Failure> {
    let source = PostgresSource::new(settings.source.clone(), settings.outboxes.clone());
    let wanted = match position.parse::<Lsn>() {
        Ok(lsn) => StartAt::Lsn(lsn),
        Err(_) => StartAt::Checkpoint(named(store, position).await?),
    };
    let target = source.start_at(wanted).await?;
    let is_ours =
        |before: &&Checkpoint| before.system_identifier == target.system_identifier && before.slot == target.slot;
    // Without a checkpoint, what the slot was told is all that is known to be delivered.
    let before = match before.filter(is_ours) {
        Some(before) => before.clone(),
        None => source.acknowledged().await?,
    };
    if !skip && (target.flushed > before.flushed || target.position > before.position) {
        let (from, to) = (before.flushed, target.flushed);
        let error =
            anyhow!("{to} lies ahead of the checkpoint: changes committed between {from} and {to} would be lost");
        return Err(usage(error, "use `pgsluice checkpoint set --skip` if they must never be delivered"));
    }
    Ok(target)
}

pub(super) async fn named(store: &Configured, name: &str) -> Result<Checkpoint, Failure> {
    let kept = store.kept().await?;
    let names: Vec<String> = kept.iter().map(|(name, _)| name.clone()).collect();
    kept.into_iter().find(|(kept, _)| kept == name).map(|(_, checkpoint)| checkpoint).ok_or_else(|| {
        let hint = match names.as_slice() {
            [] => "an LSN looks like 16/B374D848; no position has a name yet".to_owned(),
            names => format!("an LSN looks like 16/B374D848; the names are: {}", names.join(", ")),
        };
        usage(anyhow!("no LSN, and no position's name: \"{name}\""), &hint)
    })
}

fn usage(error: anyhow::Error, hint: &str) -> Failure {
    Failure::definite(Kind::Usage, error, hint)
}

/// `pgsluice run --from`: moves the checkpoint back before anything is read.
///
/// # Errors
/// As `pgsluice checkpoint set` without `--skip`.
pub(super) async fn rewind(settings: &Settings, store: &Configured, position: &str) -> Result<(), Definite> {
    let moved = async {
        let before = store.take().await?;
        let target = target(settings, store, position, before.as_ref(), false).await?;
        store.overwrite(&target).await?;
        Ok((before, target))
    };
    let (before, target) = moved.await.map_err(|failure| now_or_never(failure, TRY_AGAIN))?;
    let was = before.map(|before| tracing::field::display(before.flushed));
    tracing::warn!(was, from = %target.flushed, "the checkpoint was moved back: events are sent again from there on");
    Ok(())
}
