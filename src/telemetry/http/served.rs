//! Whose answers these are: one pipeline's, or those of a list, of which a request may name one by `?pipeline=NAME`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;

use super::answers::Findings;
use crate::telemetry::report::Report;

/// So long may a pipeline's thread be busy with one turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// One pipeline.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// What is told about it.
    pub report: Report,
    /// What `pgsluice check` has found.
    pub findings: Findings,
    /// Where it runs; none: where the answers are given.
    pub runtime: Option<Handle>,
}

/// All of them; never empty.
#[derive(Debug, Clone)]
pub struct Served {
    all: Arc<[Pipeline]>,
    is_list: bool,
}

/// Which of them a request is about.
#[derive(Debug)]
pub(super) enum Chosen<'s> {
    /// The one that was named, or the only one.
    One(&'s Pipeline),
    /// All of a list.
    All(&'s [Pipeline]),
}

/// Why it is not clear which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// There is none of this name.
    Name,
    /// None was named.
    Several,
    /// Something else than a name was given.
    Parameter,
}

impl Served {
    /// `is_list`: they are told apart by their names, even if there is only one.
    #[must_use]
    pub fn new(all: Vec<Pipeline>, is_list: bool) -> Self {
        Self { all: all.into(), is_list }
    }

    /// In the order of the configuration.
    pub(super) fn all(&self) -> &[Pipeline] {
        &self.all
    }

    pub(super) fn is_list(&self) -> bool {
        self.is_list
    }

    /// What a request is about that may be about all.
    pub(super) fn chosen(&self, query: Option<&str>) -> Result<Chosen<'_>, Unknown> {
        match (parameter(query, "pipeline"), &*self.all) {
            (Some(name), all) => {
                all.iter().find(|pipeline| pipeline.report.name() == name).map(Chosen::One).ok_or(Unknown::Name)
            }
            (None, [one]) if !self.is_list => Ok(Chosen::One(one)),
            (None, all) => Ok(Chosen::All(all)),
        }
    }

    /// [`Self::chosen`] for what changes something: a name that is not understood must not make it all of them.
    pub(super) fn chosen_exactly(&self, query: Option<&str>) -> Result<Chosen<'_>, Unknown> {
        let mut pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let is_understood = pairs.next().is_none_or(|pair| pair.starts_with("pipeline=")) && pairs.next().is_none();
        if is_understood { self.chosen(query) } else { Err(Unknown::Parameter) }
    }

    /// What a request is about that is about one.
    pub(super) fn one(&self, query: Option<&str>) -> Result<&Pipeline, Unknown> {
        match self.chosen(query)? {
            Chosen::One(one) | Chosen::All([one]) => Ok(one),
            Chosen::All(_) => Err(Unknown::Several),
        }
    }

    /// Whether the thread of each that has not ended still takes a turn.
    pub(super) async fn is_alive(&self) -> bool {
        let pulses = self.all.iter().filter(|pipeline| pipeline.report.runs()).map(async |pipeline| {
            let Some(runtime) = &pipeline.runtime else { return true };
            // Of a runtime that has just ended the task is cancelled, which is an answer too.
            tokio::time::timeout(PATIENCE, runtime.spawn(async {})).await.is_ok()
        });
        join_all(pulses).await.into_iter().all(|is_alive| is_alive)
    }
}

impl Chosen<'_> {
    pub(super) fn reports(&self) -> impl Iterator<Item = &Report> {
        let chosen = match self {
            Self::One(one) => std::slice::from_ref(*one),
            Self::All(all) => all,
        };
        chosen.iter().map(|pipeline| &pipeline.report)
    }
}

/// Of a query: names and numbers, which have nothing to decode.
pub(super) fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;
    use crate::telemetry::health::{Ended, Health};
    use crate::telemetry::report::Facts;

    fn pipeline(name: &str, runtime: Option<Handle>) -> Pipeline {
        let facts = Facts { name: name.to_owned(), ..Facts::default() };
        Pipeline { report: Report::new(Health::default(), facts), findings: Findings::default(), runtime }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_does_nothing_any_more_is_found_until_its_pipeline_has_ended() {
        let hung = Builder::new_current_thread().build().expect("a runtime");
        let all = vec![pipeline("a", None), pipeline("b", Some(hung.handle().clone()))];
        let served = Served::new(all.clone(), true);
        assert!(!served.is_alive().await);
        all[1].report.health().end(Ended::AsAsked);
        assert!(served.is_alive().await);
        hung.shutdown_background();
    }

    #[tokio::test]
    async fn a_thread_that_turns_or_has_just_ended_is_alive() {
        let gone = Builder::new_current_thread().build().expect("a runtime");
        let all = vec![pipeline("a", Some(Handle::current())), pipeline("b", Some(gone.handle().clone()))];
        gone.shutdown_background();
        assert!(Served::new(all, true).is_alive().await);
    }

    #[test]
    fn a_request_is_about_one_or_all_or_none_that_there_is() {
        let two = Served::new(vec![pipeline("a", None), pipeline("b", None)], true);
        let names = |served: &Served, query: Option<&str>| {
            served
                .chosen(query)
                .map(|chosen| chosen.reports().map(|it| it.name().to_owned()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names(&two, None), Ok("a b".to_owned()));
        assert_eq!(names(&two, Some("after_ms=7&pipeline=b")), Ok("b".to_owned()));
        assert_eq!(names(&two, Some("pipeline=c")), Err(Unknown::Name));
        assert_eq!(two.one(None).err(), Some(Unknown::Several));
        // What changes something takes nothing else than a name, and one.
        for query in ["name=b", "Pipeline=b", "pipeline", "pipeline=a&pipeline=b", "after_ms=7&pipeline=b", "b"] {
            assert_eq!(two.chosen_exactly(Some(query)).err(), Some(Unknown::Parameter), "{query}");
        }
        assert!(matches!(two.chosen_exactly(Some("pipeline=b")), Ok(Chosen::One(_))));
        assert!(matches!(two.chosen_exactly(Some("")), Ok(Chosen::All([_, _]))));
        assert_eq!(two.chosen_exactly(Some("pipeline=c")).err(), Some(Unknown::Name));
        // A list of one is still a list, of which it is clear which is meant.
        let listed = Served::new(vec![pipeline("a", None)], true);
        assert!(matches!(listed.chosen(None), Ok(Chosen::All([_]))));
        assert!(listed.one(None).is_ok());
        let alone = Served::new(vec![pipeline("a", None)], false);
        assert!(matches!(alone.chosen(None), Ok(Chosen::One(_))));
    }
}
