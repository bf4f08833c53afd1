//! Waiting, with a deadline that moves as long as there is progress: a busy machine is slow, but it does not stand still.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::bail;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a look has found.
pub(crate) enum Look<T, P> {
    /// It is there.
    Done(T),
    /// It isn't, and so far it has come: any change of this is progress.
    NotYet(P),
}

/// Looks until it is done. It is an error if nothing has changed for so long.
pub(crate) async fn until<T, P: PartialEq + Debug>(
    what: &str,
    patience: Duration,
    look: impl AsyncFnMut() -> anyhow::Result<Look<T, P>>,
) -> anyhow::Result<T> {
    match or_stalled(patience, look).await? {
        Ok(done) => Ok(done),
        Err(last) => bail!("{what}: nothing has changed for {patience:?}: {last:?}"),
    }
}

/// Looks until it is done, or until nothing has changed for so long: then it gives how far it has come.
pub(crate) async fn or_stalled<T, P: PartialEq>(
    patience: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Look<T, P>>,
) -> anyhow::Result<Result<T, P>> {
    let mut last = None;
    let mut end = Instant::now() + patience;
    loop {
        match look().await? {
            Look::Done(value) => return Ok(Ok(value)),
            Look::NotYet(progress) if last.as_ref() != Some(&progress) => {
                last = Some(progress);
                end = Instant::now() + patience;
            }
            Look::NotYet(progress) if Instant::now() >= end => return Ok(Err(progress)),
            Look::NotYet(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
