//! When services were sick, and the past that such a bout is held against: windows of a sick service are no
//! baseline, and those of before outlive the others.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tapio_proto::model::Time;

use super::{KEEP, Key, MOST_CELLS, Slot, TOGETHER, Windows};
use crate::streaming::WINDOW;

/// What was usual before a bout is what was usual for so long.
const PAST: Duration = Duration::from_secs(86_400);

impl Windows {
    pub(super) fn shrink(&mut self) {
        while self.slots.each.len() > KEEP + TOGETHER
            || (self.cells > MOST_CELLS && self.slots.each.len() > 1)
        {
            if self.cells > MOST_CELLS && self.past.each.len() > 1 {
                self.cells -= self.past.cells();
                self.past.pop();
                self.cells += self.past.cells();
                continue;
            }
            let gone = self.slots.pop();
            let Some((oldest, _)) = self.slots.each.first_key_value() else { return };
            let oldest = *oldest;
            self.calls.retain(|_, last| *last >= oldest);
            self.sick.retain(|_, bouts| {
                bouts.retain(|(_, until)| until.is_none_or(|until| until >= oldest));
                !bouts.is_empty()
            });
            self.cells -= gone.values().map(|slot| slot.cells.len()).sum::<usize>();
            self.evicted += gone.len() as u64;
            self.remember(gone);
        }
    }

    /// Of windows that go, keeps what is the past of those that are sick since later, or were lately: a bout
    /// may last longer than windows are kept, and would be the usual then.
    fn remember(&mut self, gone: BTreeMap<Time, Slot>) {
        if self.sick.is_empty() && self.past.each.is_empty() {
            return;
        }
        let mut past = std::mem::take(&mut self.past);
        self.cells -= past.cells();
        for (bucket, slot) in gone {
            // What comes late for one that went says little.
            past.each.entry(bucket).or_insert(slot);
        }
        let all = past.each.len();
        past.each.retain(|bucket, slot| {
            if *bucket + PAST < self.heard {
                return false;
            }
            let had = slot.cells.len();
            slot.cells.retain(|key, _| self.is_past(*bucket, key));
            if slot.cells.len() < had {
                slot.unpublish();
            }
            !slot.cells.is_empty()
        });
        if past.each.len() < all {
            past.together.clear();
        }
        while past.each.len() > KEEP {
            past.pop();
        }
        self.cells += past.cells();
        self.past = past;
    }

    /// Does the cell belong to one who was well then and is known to be sick since?
    fn is_past(&self, bucket: Time, key: &Key) -> bool {
        let sick_since = |who: &(Arc<str>, Arc<str>)| {
            let bouts = self.sick.get(who);
            bouts.is_some_and(|bouts| bouts.iter().all(|(since, _)| bucket < *since))
        };
        let address = self.addressed(key.peer);
        sick_since(&self.called[key.service.0 as usize])
            || (!address.is_empty() && {
                let peer = self.meant(key.service, &address);
                sick_since(&(peer.entity().namespace.clone(), peer.entity().name.clone()))
            })
    }

    /// Windows of a sick service are no baseline, from `since` until [`Windows::well`].
    pub fn sick(&mut self, namespace: &str, service: &str, since: Time) {
        let since = since.bucket(WINDOW);
        let bouts = self.sick.entry((Arc::from(namespace), Arc::from(service))).or_default();
        let known = match bouts.last_mut() {
            Some((from, None)) => {
                let known = *from;
                *from = known.min(since);
                known
            }
            _ => {
                bouts.push((since, None));
                Time(i64::MAX)
            }
        };
        if since < known {
            for (_, slot) in self.slots.each.range_mut(since..) {
                slot.unpublish();
            }
        }
    }

    /// The service is well again since `since`: later windows count as its past, whenever they come in.
    pub fn well(&mut self, namespace: &str, service: &str, since: Time) {
        let key = (Arc::from(namespace), Arc::from(service));
        let open = self.sick.get_mut(&key).and_then(|bouts| bouts.last_mut());
        if let Some(bout) = open.filter(|bout| bout.1.is_none()) {
            bout.1 = Some(since);
            for (_, slot) in self.slots.each.range_mut(since.bucket(WINDOW)..) {
                slot.unpublish();
            }
        }
    }
}
