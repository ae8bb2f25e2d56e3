//! Names told apart by number, bounded: numbers of names that no window holds any more are given again.

use std::{borrow::Borrow, hash::Hash, time::Duration};

use tapio_proto::model::Time;

use super::Map;

/// A number is free when its name was last used so long before the oldest window: clocks differ.
const MARGIN: Duration = Duration::from_secs(600);
/// Time from one look for free numbers to the next.
const PAUSE: Duration = Duration::from_secs(60);

/// Names and their numbers.
pub(crate) struct Names<K> {
    ids: Map<K, u32>,
    names: Vec<(K, Time)>,
    free: Vec<u32>,
    most: usize,
    swept: Time,
}

impl<K: Clone + Eq + Hash> Names<K> {
    /// None, and never more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Names {
            ids: Map::default(),
            names: Vec::new(),
            free: Vec::new(),
            most,
            swept: Time::default(),
        }
    }

    /// The number of a name that is known and used at `now`.
    pub(crate) fn used<Q: Eq + Hash + ?Sized>(&mut self, name: &Q, now: Time) -> Option<u32>
    where
        K: Borrow<Q>,
    {
        let id = *self.ids.get(name)?;
        let last = &mut self.names[id as usize].1;
        *last = now.max(*last);
        Some(id)
    }

    /// The number of a name that is used at `now`; none when there is no room for it.
    pub(crate) fn id(&mut self, name: &K, now: Time) -> Option<u32> {
        if let Some(id) = self.used(name, now) {
            return Some(id);
        }
        let entry = (name.clone(), now);
        let id = if let Some(id) = self.free.pop() {
            self.names[id as usize] = entry;
            id
        } else if self.names.len() < self.most {
            self.names.push(entry);
            u32::try_from(self.names.len() - 1).ok()?
        } else {
            return None;
        };
        self.ids.insert(name.clone(), id);
        Some(id)
    }

    /// Is it time to look for numbers that can be given again?
    pub(crate) fn is_full(&self, now: Time) -> bool {
        self.free.is_empty() && self.names.len() >= self.most && self.swept + PAUSE <= now
    }

    /// Frees the numbers of names that were last used before `oldest`; says which.
    pub(crate) fn sweep(&mut self, oldest: Time, now: Time) -> &[u32] {
        self.swept = now;
        let names = &self.names;
        let free = &mut self.free;
        self.ids.retain(|_, id| {
            let used = names[*id as usize].1 + MARGIN >= oldest;
            if !used {
                free.push(*id);
            }
            used
        });
        // Numbers decide the order in which things are looked at: the same in every run.
        free.sort_unstable();
        free
    }

    /// The number of a name, if it has one.
    pub(crate) fn find(&self, name: &K) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// The name of a number.
    pub(crate) fn name(&self, id: u32) -> Option<&K> {
        self.names.get(id as usize).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_window_holds_makes_room() {
        let second = |s: i64| Time(s * 1_000_000_000);
        let mut names: Names<u32> = Names::new(2);
        assert_eq!((names.id(&7, second(0)), names.id(&8, second(2000))), (Some(0), Some(1)));
        assert_eq!(names.id(&9, second(2000)), None);
        assert!(names.is_full(second(2000)));
        assert_eq!(names.sweep(second(601), second(2000)), [0]);
        assert_eq!((names.id(&9, second(2000)), names.find(&7)), (Some(0), None));
    }
}
