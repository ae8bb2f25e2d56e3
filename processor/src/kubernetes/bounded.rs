//! A map that forgets what was used longest ago.

use std::collections::BTreeMap;

/// A map of at most `limit` entries, ordered by key; the entry that was written longest ago goes first.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    turn: u64,
    limit: usize,
}

impl<K: Ord + Clone, V: Default> Bounded<K, V> {
    /// An empty map.
    pub(super) fn new(limit: usize) -> Self {
        Bounded { entries: BTreeMap::new(), order: BTreeMap::new(), turn: 0, limit: limit.max(1) }
    }

    /// The value of this key, new when there is none, to be written.
    pub(super) fn entry(&mut self, key: &K) -> &mut V {
        self.turn += 1;
        let turn = self.turn;
        let before = self.entries.get(key).map(|(turn, _)| *turn);
        match before {
            Some(before) => {
                self.order.remove(&before);
            }
            None if self.entries.len() >= self.limit => {
                if let Some((_, oldest)) = self.order.pop_first() {
                    self.entries.remove(&oldest);
                }
            }
            None => {}
        }
        self.order.insert(turn, key.clone());
        let entry = self.entries.entry(key.clone()).or_insert_with(|| (turn, V::default()));
        entry.0 = turn;
        &mut entry.1
    }

    /// The value of this key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_written_longest_ago_is_forgotten() {
        let mut map = Bounded::new(2);
        *map.entry(&"a") = 1;
        *map.entry(&"b") = 2;
        *map.entry(&"a") += 10;
        *map.entry(&"c") = 3;
        assert_eq!((map.get(&"a"), map.get(&"b"), map.get(&"c")), (Some(&11), None, Some(&3)));
    }
}
