//! What several publishers have to say of the same broker is said once.

use std::sync::{Arc, Mutex, PoisonError};

/// One of them.
#[derive(Debug, Clone, Default)]
pub struct Voice {
    index: usize,
    /// What is wrong with each.
    troubles: Arc<Mutex<Vec<Option<String>>>>,
}

impl Voice {
    /// So many of them.
    pub fn several(count: usize) -> impl Iterator<Item = Self> {
        let troubles = Arc::new(Mutex::new(vec![None; count]));
        (0..count).map(move |index| Self { index, troubles: Arc::clone(&troubles) })
    }

    /// This one is in trouble: whether none of the others has said so.
    pub(super) fn is_news(&self, what: &str) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = !troubles.iter().flatten().any(|said| said == what);
        set(&mut troubles, self.index, Some(what.to_owned()));
        is_news
    }

    /// This one is in trouble no more: whether none is.
    pub(super) fn is_over(&self) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        set(&mut troubles, self.index, None);
        troubles.iter().all(Option::is_none)
    }
}

fn set(troubles: &mut Vec<Option<String>>, index: usize, trouble: Option<String>) {
    if troubles.len() <= index {
        troubles.resize(index + 1, None);
    }
    troubles[index] = trouble;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_say_is_news_once_and_over_when_it_is_for_all() {
        let voices: Vec<_> = Voice::several(3).collect();
        assert_eq!([0, 1, 2].map(|one: usize| voices[one].is_news("gone")), [true, false, false]);
        assert!(voices[1].is_news("refused"));
        assert_eq!([0, 1, 2].map(|one: usize| voices[one].is_over()), [false, false, true]);
        assert!(Voice::default().is_news("gone"));
    }
}
