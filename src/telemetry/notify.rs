//! What systemd, or who speaks its protocol (`sd_notify(3)`), is told: that the start is over, what the process is doing, that
//! its loops turn, that it stops.
//!
//! Of one pipeline or several: ready once each of them was, alive while each of their loops turns. Invariant: `WATCHDOG=1` is
//! said only when every loop has turned since the last time ([`super::pulse`]). Our own dozen lines of socket, since the crates
//! for it wait for a service manager that does not read, and nothing here may hold up a pipeline.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::report::Report;

/// So often at least it is looked what there is to say.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Of the text of a status; what systemd takes at once is 4096.
const STATUS_BYTES_MAX: usize = 1024;

/// Clones speak for the same process.
#[derive(Debug, Clone)]
pub struct Notifier(Option<Arc<Line>>);

/// To a service manager.
#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    to: SocketAddr,
    /// How often it wants to hear of us at least.
    watchdog: Option<Duration>,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`. Without the first, nobody is told anything.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self(None) };
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_meant && *usec > 0).map(Duration::from_micros);
        let line = Line::open(&name, watchdog).inspect_err(|error| {
            tracing::warn!(%error, socket = %name.display(), "can't speak to NOTIFY_SOCKET");
        });
        Self(line.ok().map(Arc::new))
    }

    /// Says what there is to say of these pipelines, for as long as it is polled.
    pub async fn watch(self, pipelines: Vec<Report>) {
        let Some(line) = self.0 else { return };
        // So that what one look finds late, the next still says in time.
        let look_every = line.watchdog.map_or(LOOK_EVERY, |limit| LOOK_EVERY.min(limit / 4));
        let mut timer = interval(look_every.max(Duration::from_millis(1)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::new(pipelines, line.watchdog);
        loop {
            timer.tick().await;
            let (lines, told) = watch.look(Instant::now(), line.is_stopping.load(Relaxed));
            // What did not get through is said again at the next look. Each by itself: systemd ignores the whole of a datagram that
            // it finds too long.
            if lines.iter().all(|text| line.say(text)) {
                watch.told(told);
            }
        }
    }

    /// Completes with `asked`, which is when the process is asked to stop, and says so.
    pub async fn stopping_once(&self, asked: impl Future<Output = ()>) {
        asked.await;
        if let Some(line) = &self.0 {
            line.is_stopping.store(true, Relaxed);
            line.say("STOPPING=1\nSTATUS=stopping: waiting for what is in flight\n");
        }
    }
}

impl Line {
    fn open(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to: address(name)?, watchdog, is_stopping: AtomicBool::new(false) })
    }

    /// Whether it got through.
    fn say(&self, text: &str) -> bool {
        let sent = self.socket.send_to_addr(text.as_bytes(), &self.to);
        sent.inspect_err(|error| tracing::debug!(%error, "NOTIFY_SOCKET does not take it now")).is_ok()
    }
}

/// A path, or an abstract name with an `@` in place of its first byte.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

/// What is to be said. Does no IO.
struct Watch {
    pipelines: Vec<Report>,
    /// Those that are not ready for the first time yet.
    starting: Vec<Report>,
    feed_every: Option<Duration>,
    told: Told,
}

/// What was said already.
#[derive(Debug, Clone)]
struct Told {
    is_ready: bool,
    status: String,
    /// When all loops were asked last.
    asked: Option<Instant>,
}

impl Watch {
    fn new(pipelines: Vec<Report>, watchdog: Option<Duration>) -> Self {
        let told = Told { is_ready: false, status: String::new(), asked: None };
        // Half of it is what systemd advises; a third leaves a late look its time.
        Self { starting: pipelines.clone(), pipelines, feed_every: watchdog.map(|limit| limit / 3), told }
    }

    /// The lines to send, and what was told once they are sent.
    fn look(&mut self, now: Instant, is_stopping: bool) -> (Vec<String>, Told) {
        self.starting.retain(|pipeline| !has_started(pipeline));
        let (mut lines, mut told) = (Vec::new(), self.told.clone());
        if !is_stopping && !told.is_ready && self.starting.is_empty() {
            told.is_ready = true;
            lines.push("READY=1\n".to_owned());
        }
        let status = line_of(&self.pipelines.iter().map(status).collect::<Vec<_>>().join("; "));
        if !is_stopping && status != told.status {
            lines.push(format!("STATUS={status}\n"));
            told.status = status;
        }
        let is_due = self.feed_every.is_some_and(|every| told.asked.is_none_or(|asked| now - asked >= every));
        if is_due && self.pipelines.iter().all(|pipeline| !pipeline.runs() || pipeline.health().pulse().is_felt()) {
            lines.push("WATCHDOG=1\n".to_owned());
            told.asked = Some(now);
        }
        (lines, told)
    }

    fn told(&mut self, told: Told) {
        if told.asked != self.told.asked {
            self.pipelines.iter().for_each(|pipeline| pipeline.health().pulse().ask());
        }
        self.told = told;
    }
}

/// A standby has: who waits for it to flow, waits for the active one's end. And for one that has failed nobody need wait.
fn has_started(pipeline: &Report) -> bool {
    let health = pipeline.health();
    health.is_well() || health.is_standby() || !pipeline.runs()
}

/// For one assignment: a new line would begin the next.
fn line_of(text: &str) -> String {
    text[..text.floor_char_boundary(STATUS_BYTES_MAX)].replace(char::is_control, " ")
}

fn status(pipeline: &Report) -> String {
    let reasons: Vec<String> = pipeline.reasons().into_iter().map(|reason| reason.message).collect();
    let colon = if reasons.is_empty() { "" } else { ": " };
    format!("{}: {}{colon}{}", pipeline.name(), pipeline.summary().as_str(), reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::health::{Broker, Ended, Health, Source};
    use crate::telemetry::report::Facts;

    const LIMIT: Duration = Duration::from_secs(30);

    fn pipeline(name: &str) -> Report {
        Report::new(Health::default(), Facts { name: name.to_owned(), ..Facts::default() })
    }

    fn flows(pipeline: &Report) {
        pipeline.health().source(Source::Streaming);
        pipeline.health().broker(Broker::Flowing);
    }

    /// Looks, and says it.
    fn said(watch: &mut Watch, now: Instant) -> String {
        let (lines, told) = watch.look(now, false);
        watch.told(told);
        lines.concat()
    }

    #[test]
    fn ready_is_said_once_when_each_was_ready_once_or_can_not_be() {
        let [shop, crm, old] = ["shop", "crm", "old"].map(pipeline);
        let mut watch = Watch::new(vec![shop.clone(), crm.clone(), old.clone()], None);
        let now = Instant::now();
        assert!(said(&mut watch, now).starts_with("STATUS=shop: waiting: there is no stream from PostgreSQL, "));
        flows(&shop);
        assert!(said(&mut watch, now).starts_with("STATUS=shop: flowing; crm: waiting: "));
        // Once is enough.
        shop.health().broker(Broker::Blocked);
        crm.health().source(Source::Standby);
        assert!(!said(&mut watch, now).contains("READY"));
        old.health().end(Ended::AsAsked);
        assert!(said(&mut watch, now).starts_with("READY=1\nSTATUS="));
        flows(&shop);
        assert!(said(&mut watch, now).starts_with("STATUS=shop: flowing; crm: standby: "));
        assert_eq!(said(&mut watch, now), "", "nothing has changed");
    }

    #[test]
    fn the_watchdog_hears_of_us_while_every_loop_turns() {
        let [shop, crm] = ["shop", "crm"].map(pipeline);
        let turn = || [&shop, &crm].map(|pipeline| pipeline.health().pulse().turned());
        let mut watch = Watch::new(vec![shop.clone(), crm.clone()], Some(LIMIT));
        let (mut now, due) = (Instant::now(), LIMIT / 3);
        assert!(!said(&mut watch, now).contains("WATCHDOG"), "none has turned yet");
        turn();
        assert_eq!(said(&mut watch, now), "WATCHDOG=1\n");
        turn();
        assert_eq!(said(&mut watch, now + due / 2), "", "not yet");
        now += due;
        assert_eq!(said(&mut watch, now), "WATCHDOG=1\n");
        now += due;
        crm.health().pulse().turned();
        assert_eq!(said(&mut watch, now), "", "one hangs");
        shop.health().pulse().turned();
        assert_eq!(said(&mut watch, now), "WATCHDOG=1\n", "it was only slow");
        // One that has failed is not waited for.
        now += due;
        shop.health().end(Ended::AsAsked);
        crm.health().pulse().turned();
        assert!(said(&mut watch, now).ends_with("WATCHDOG=1\n"));
    }

    #[test]
    fn what_did_not_get_through_is_said_again() {
        let shop = pipeline("shop");
        flows(&shop);
        shop.health().pulse().turned();
        let mut watch = Watch::new(vec![shop], Some(LIMIT));
        let now = Instant::now();
        let (lost, _) = watch.look(now, false);
        assert_eq!(lost, ["READY=1\n", "STATUS=shop: flowing\n", "WATCHDOG=1\n"]);
        assert_eq!(said(&mut watch, now), lost.concat());
    }

    #[test]
    fn while_it_stops_only_the_watchdog_hears_more() {
        let shop = pipeline("shop");
        shop.health().pulse().turned();
        let mut watch = Watch::new(vec![shop.clone()], Some(LIMIT));
        flows(&shop);
        assert_eq!(watch.look(Instant::now(), true).0, ["WATCHDOG=1\n"]);
    }

    #[test]
    fn a_status_is_one_line_and_short() {
        let all: Vec<Report> = (0..50).map(|index| pipeline(&format!("pipeline-{index}"))).collect();
        all[0].health().end(Ended::Failed { why: "one\nWATCHDOG=trigger".to_owned(), is_tried_again: false });
        let (lines, _) = Watch::new(all, None).look(Instant::now(), false);
        let [status] = &lines[..] else { panic!("{lines:?}") };
        assert!(status.len() <= "STATUS=\n".len() + STATUS_BYTES_MAX && status.lines().count() == 1, "{status}");
    }

    #[tokio::test]
    async fn an_abstract_name_is_one_and_a_socket_that_is_full_holds_nobody_up() {
        let name = format!("pgsluice-notify-{}", std::process::id());
        let address = address(format!("@{name}").as_ref()).expect("an address");
        let receiver = UnixDatagram::bind_addr(&address).expect("binds");
        let line = Line::open(format!("@{name}").as_ref(), None).expect("a socket");
        assert!(line.say("READY=1\n"));
        let mut read = [0; 64];
        let length = receiver.recv(&mut read).expect("a message");
        assert_eq!(&read[..length], b"READY=1\n");
        // Nobody reads: at some time there is no room.
        assert!((0..100_000).any(|_| !line.say("STATUS=\n")));
    }
}
