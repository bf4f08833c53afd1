//! Which part is killed when: chosen by the seed, each part as often as any other.

use std::time::Duration;

use crate::report::Report;
use crate::shop::{Name, Shop};

/// A part is killed, and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kill {
    /// Which one.
    pub(crate) part: Name,
    /// So long after the one before it is back.
    pub(crate) after: Duration,
    /// So long it is gone.
    pub(crate) away: Duration,
}

/// The parts in turn, in an order that is another one in each round. The inventory service is away for longer than an order
/// waits for its stock, the first time: so some orders time out, and what is locked for them later has to be released.
pub(crate) fn schedule(seed: u64, kills: usize, lock_timeout: Duration) -> Vec<Kill> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut schedule: Vec<Kill> = Vec::new();
    while schedule.len() < kills {
        let mut round = Name::ALL;
        random.shuffle(&mut round);
        for part in round {
            let is_first = schedule.iter().all(|kill| kill.part != part);
            let mut away = Duration::from_millis(random.u64(100..800));
            if part == Name::Inventory && is_first {
                away += lock_timeout + Duration::from_secs(1);
            }
            schedule.push(Kill { part, after: Duration::from_millis(random.u64(300..1000)), away });
        }
    }
    schedule.truncate(kills);
    schedule
}

/// Plays the schedule: each part is back, and ready, before the next one is killed.
pub(crate) async fn play(shop: &mut Shop, schedule: &[Kill], report: Report) -> anyhow::Result<()> {
    for Kill { part, after, away } in schedule {
        tokio::time::sleep(*after).await;
        shop.kill(*part);
        report.event(&format!("{} {}", report.red("SIGKILL"), part.title()));
        tokio::time::sleep(*away).await;
        shop.start(*part).await?;
        report.event(&format!("{} {}", report.green("started"), part.title()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_round_kills_every_part_once_and_a_seed_says_all() {
        let timeout = Duration::from_secs(5);
        let two = schedule(7, 18, timeout);
        assert_eq!(two, schedule(7, 18, timeout));
        assert_ne!(two, schedule(8, 18, timeout));
        let mut times = BTreeMap::new();
        for kill in &two {
            *times.entry(kill.part).or_insert(0) += 1;
        }
        assert!(times.len() == Name::ALL.len() && times.values().all(|times| *times == 2), "{times:?}");
        let long: Vec<&Kill> = two.iter().filter(|kill| kill.away > timeout).collect();
        assert!(matches!(long[..], [Kill { part: Name::Inventory, .. }]), "{long:?}");
        assert_eq!(schedule(7, 3, timeout), two[..3]);
    }
}
