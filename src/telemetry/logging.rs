//! Log lines on standard error: readable on a terminal, JSON elsewhere or on request.
//!
//! Never a row's values, never a secret. One line per change of state: what repeats while a peer is away
//! is said once. Our own messages are at `info`, those of libraries at `warn`, unless configured otherwise.

use std::cell::RefCell;
use std::fmt;
use std::io::{IsTerminal, stderr};

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{LogFormat, LogSettings};

/// What is let through: `debug` alone is about our own messages; anything with more in it is a whole
/// filter in the syntax of `RUST_LOG`.
///
/// # Errors
/// It is neither.
pub fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    if level.contains(['=', ',']) {
        return EnvFilter::try_new(level);
    }
    // A lone word that is no level would pass for the name of a target.
    let level: tracing::level_filters::LevelFilter = level.parse().map_err(ParseError::from)?;
    // What lapin logs as an error comes back to us as one, and is ours to sort and to say, once.
    EnvFilter::try_new(format!("warn,lapin=off,pgsluice={level}"))
}

/// Whether standard error takes colours: a terminal, and the user has not said no (<https://no-color.org>).
#[must_use]
pub fn colours() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Starts logging for the whole process.
///
/// # Errors
/// The level is no filter, or logging was started before.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let terminal = if stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    let lines = tracing_subscriber::fmt().with_writer(stderr).with_env_filter(filter(&settings.level)?);
    let started: Result<(), TryInitError> = match settings.format.unwrap_or(terminal) {
        LogFormat::Text => lines.with_ansi(colours()).map_event_format(Named::text).finish().try_init(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            lines.map_event_format(Named::json).finish().try_init()
        }
    };
    Ok(started?)
}

thread_local! {
    static PIPELINE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From here on, what this thread logs is about that pipeline of several.
pub fn of_pipeline(name: &str) {
    PIPELINE.set(Some(name.to_owned()));
}

/// A line as `lines` has it, with the name of the thread's pipeline as one field more.
struct Named<F> {
    lines: F,
    is_json: bool,
}

impl<F> Named<F> {
    fn text(lines: F) -> Self {
        Self { lines, is_json: false }
    }

    fn json(lines: F) -> Self {
        Self { lines, is_json: true }
    }
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(name) = PIPELINE.with_borrow(Clone::clone) else {
            return self.lines.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.lines.format_event(context, Writer::new(&mut line), event)?;
        // A name is of letters, digits and underscores, which JSON takes as they are.
        match line.trim_end().strip_suffix('}').filter(|_| self.is_json) {
            Some(object) => writeln!(writer, "{object},\"pipeline\":\"{name}\"}}"),
            None => writeln!(writer, "{} pipeline={name}", line.trim_end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_about_our_own_messages_and_a_filter_is_taken_whole() {
        assert_eq!(filter("debug").expect("a level").to_string(), "pgsluice=debug,lapin=off,warn");
        assert_eq!(filter("warn,lapin=trace").expect("a filter").to_string(), "lapin=trace,warn");
        assert!(filter("loud").is_err());
        assert!(filter("pgsluice=loud").is_err());
    }

    /// What a thread of a pipeline logs.
    fn logged<S: Subscriber + Send + Sync + 'static>(subscriber: impl FnOnce(Lines) -> S) -> String {
        let lines = Lines::default();
        let subscriber = subscriber(lines.clone());
        let thread = std::thread::spawn(|| {
            tracing::subscriber::with_default(subscriber, || {
                of_pipeline("shop");
                tracing::info!(code = 7, "it has \"failed\" {{}}");
            });
        });
        thread.join().expect("ends");
        let bytes = lines.0.lock().expect("is whole").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("is whole").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_a_pipelines_thread_has_its_name() {
        let json = logged(|lines| {
            let builder = tracing_subscriber::fmt().with_writer(move || lines.clone());
            builder.json().flatten_event(true).map_event_format(Named::json).finish()
        });
        let line: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&line["pipeline"], &line["code"]), (&"shop".into(), &7.into()));
        assert_eq!(json.lines().count(), 1);
        let text = logged(|lines| {
            let builder = tracing_subscriber::fmt().with_writer(move || lines.clone());
            builder.with_ansi(false).map_event_format(Named::text).finish()
        });
        assert!(text.ends_with("it has \"failed\" {} code=7 pipeline=shop\n"), "{text}");
    }
}
