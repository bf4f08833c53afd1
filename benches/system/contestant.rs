//! Who takes part, and in which group a contestant is compared.

use crate::peers::{self, Peer};
use crate::stage::QueueKind;
use crate::work::Workload;

/// Reads the WAL of a workload, or stands for what comes after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// The floor of all that reads.
    Discard(Reading),
    /// PostgreSQL's own client, to `/dev/null`.
    PgRecvlogical,
    /// pgsluice up to the last byte of each message, without a broker.
    Nothing,
    /// The floor of all that publishes: pgsluice's messages, made before.
    ReadyMade(QueueKind),
    /// The same, one for each row that is read as the floor with naps reads.
    Relay(QueueKind),
    /// pgsluice.
    Amqp(QueueKind),
    /// The floor of latency: each row as it came, sent on.
    Forward,
    /// Somebody else's program, to a classic queue.
    Peer(Peer),
}

/// How the floor reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Over TCP, woken by each byte.
    Eager,
    /// Over TCP, with `SO_RCVLOWAT` under load.
    LowWater,
    /// Over TCP, with a nap after each read of little, as pgsluice reads under load.
    Naps,
    /// Over the Unix socket.
    Unix,
}

/// Contestants that do the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Up to and without a broker.
    Source,
    /// To a queue.
    Queue(QueueKind),
}

impl Contestant {
    /// All, in the order in which they take turns.
    pub(crate) fn all() -> Vec<Self> {
        use QueueKind::{Classic, Quorum};
        let ours = [
            Self::Discard(Reading::Eager),
            Self::Discard(Reading::LowWater),
            Self::Discard(Reading::Naps),
            Self::Discard(Reading::Unix),
            Self::PgRecvlogical,
            Self::Nothing,
            Self::Forward,
            Self::ReadyMade(Classic),
            Self::Relay(Classic),
            Self::Amqp(Classic),
            Self::ReadyMade(Quorum),
            Self::Relay(Quorum),
            Self::Amqp(Quorum),
        ];
        ours.into_iter().chain(peers::ALL.map(Self::Peer)).collect()
    }

    /// By its name.
    pub(crate) fn of(name: &str) -> Result<Self, String> {
        let all = Self::all();
        let known = all.iter().find(|contestant| contestant.name() == name);
        known.copied().ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|contestant| contestant.name()).collect();
            format!("the contestants are {}", names.join(" "))
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Discard(Reading::Eager) => "discard",
            Self::Discard(Reading::LowWater) => "discard-lowat",
            Self::Discard(Reading::Naps) => "discard-naps",
            Self::Discard(Reading::Unix) => "discard-unix",
            Self::PgRecvlogical => "pg_recvlogical",
            Self::Nothing => "nothing",
            Self::ReadyMade(QueueKind::Classic) => "ready-made-classic",
            Self::ReadyMade(QueueKind::Quorum) => "ready-made-quorum",
            Self::Relay(QueueKind::Classic) => "relay-classic",
            Self::Relay(QueueKind::Quorum) => "relay-quorum",
            Self::Amqp(QueueKind::Classic) => "amqp-classic",
            Self::Amqp(QueueKind::Quorum) => "amqp-quorum",
            Self::Forward => "forward",
            Self::Peer(peer) => peer.name(),
        }
    }

    /// For a reader of the tables.
    pub(crate) fn title(self) -> String {
        let text = match self {
            Self::Discard(Reading::Eager) => "floor: read and discard",
            Self::Discard(Reading::LowWater) => "floor: read and discard, low-water mark",
            Self::Discard(Reading::Naps) => "floor: read and discard, with naps",
            Self::Discard(Reading::Unix) => "floor: read and discard, Unix socket",
            Self::PgRecvlogical => "`pg_recvlogical`",
            Self::Nothing => "**pgsluice**, to nothing",
            Self::ReadyMade(_) => "floor: ready-made messages",
            Self::Relay(_) => "ready-made messages, one for each row that is read",
            Self::Amqp(_) => "**pgsluice**",
            Self::Forward => "floor: raw reader and publisher",
            Self::Peer(peer) => return peer.title(),
        };
        text.to_owned()
    }

    pub(crate) fn group(self) -> Group {
        match self {
            Self::Discard(_) | Self::PgRecvlogical | Self::Nothing => Group::Source,
            Self::ReadyMade(queue) | Self::Relay(queue) | Self::Amqp(queue) => Group::Queue(queue),
            Self::Forward | Self::Peer(_) => Group::Queue(QueueKind::Classic),
        }
    }

    /// What others are measured against. They all use TCP, so that a Unix socket is only shown.
    pub(crate) fn is_floor(self) -> bool {
        match self {
            Self::Discard(Reading::Eager | Reading::LowWater | Reading::Naps) | Self::ReadyMade(_) | Self::Forward => {
                true
            }
            Self::Discard(Reading::Unix)
            | Self::PgRecvlogical
            | Self::Nothing
            | Self::Relay(_)
            | Self::Amqp(_)
            | Self::Peer(_) => false,
        }
    }

    /// No more runs than this, where each takes long.
    pub(crate) fn runs_max(self, workload: Workload) -> usize {
        match (self, workload) {
            (Self::Peer(_), _) => 3,
            (_, Workload::Giant) if self.group() == Group::Source => 3,
            _ => usize::MAX,
        }
    }

    /// Whether `--quick` has it.
    pub(crate) fn is_quick(self) -> bool {
        match self {
            Self::Discard(Reading::Eager | Reading::LowWater | Reading::Naps)
            | Self::PgRecvlogical
            | Self::Nothing
            | Self::ReadyMade(QueueKind::Classic)
            | Self::Amqp(QueueKind::Classic) => true,
            Self::Discard(Reading::Unix)
            | Self::ReadyMade(QueueKind::Quorum)
            | Self::Relay(_)
            | Self::Amqp(QueueKind::Quorum)
            | Self::Forward
            | Self::Peer(_) => false,
        }
    }

    /// Who takes part in a workload that measures throughput.
    pub(crate) fn of_throughput(workload: Workload) -> Vec<Self> {
        let takes_part = |contestant: &Self| match contestant {
            Self::Forward => false,
            Self::Discard(Reading::Eager) => workload != Workload::Giant,
            Self::Discard(Reading::Unix) => matches!(workload, Workload::OneRow | Workload::Thousand),
            Self::Discard(Reading::LowWater | Reading::Naps)
            | Self::PgRecvlogical
            | Self::Nothing
            | Self::ReadyMade(_)
            | Self::Relay(_)
            | Self::Amqp(_)
            | Self::Peer(_) => true,
        };
        Self::all().into_iter().filter(takes_part).collect()
    }

    /// Who takes part where events are delivered.
    pub(crate) fn of_delivery() -> Vec<Self> {
        let delivers = |contestant: &Self| match contestant {
            Self::Forward | Self::Amqp(QueueKind::Classic) | Self::Peer(_) => true,
            Self::Discard(_)
            | Self::PgRecvlogical
            | Self::Nothing
            | Self::ReadyMade(_)
            | Self::Relay(_)
            | Self::Amqp(_) => false,
        };
        Self::all().into_iter().filter(delivers).collect()
    }
}
