//! Finds the service of a span's parent, whichever of the two comes first.

use super::{
    scatter,
    windows::{ServiceId, SpanFact, SpanKind},
};

/// Pairs of places for span ids, each way; what came first gives way. 4 MiB, when all are in use.
const PAIRS: usize = 1 << 17;
/// The address of what names none.
const NOWHERE: u32 = u32::MAX;

/// Spans that ask, and parents that are asked for, of the last few hundred thousand.
#[derive(Default)]
pub(super) struct Parents {
    seen: Recent,
    awaited: Recent,
}

impl Parents {
    /// Caller and callee, when this span closes such a pair, and the number of the address at which the
    /// caller asked. What is told to a broker is answered by another.
    pub(super) fn pair(
        &mut self,
        span: &SpanFact<'_>,
        address: u32,
    ) -> Option<(ServiceId, ServiceId, Option<u32>)> {
        let known = |address| (address != NOWHERE).then_some(address);
        match span.kind {
            SpanKind::Client | SpanKind::Producer => {
                let id = number(span.span_id)?;
                let asks = span.kind == SpanKind::Client && !span.peer.is_empty();
                let address = if asks { address } else { NOWHERE };
                self.seen.put(id, span.service, address);
                let (callee, _) = self.awaited.get(id)?;
                Some((span.service, callee, known(address)))
            }
            SpanKind::Server | SpanKind::Consumer => {
                let parent = number(span.parent_span_id)?;
                let Some((caller, address)) = self.seen.get(parent) else {
                    self.awaited.put(parent, span.service, NOWHERE);
                    return None;
                };
                Some((caller, span.service, known(address)))
            }
            SpanKind::Internal => None,
        }
    }
}

/// A span id as a number; none where there is none.
fn number(id: &[u8]) -> Option<u64> {
    id.try_into().ok().map(u64::from_le_bytes).filter(|id| *id != 0)
}

/// Span ids and whose they are: a table of pairs that forgets the older of two that meet in one.
#[derive(Default)]
struct Recent {
    /// Id, then service and address. Zeroes until they are used, so that they cost nothing before.
    pairs: Vec<[u64; 4]>,
}

impl Recent {
    fn put(&mut self, id: u64, service: ServiceId, address: u32) {
        if self.pairs.is_empty() {
            self.pairs = vec![[0; 4]; PAIRS];
        }
        if let Some([newest, of, older, of_older]) = self.pairs.get_mut(place(id)) {
            if *newest != id {
                (*older, *of_older) = (*newest, *of);
            }
            (*newest, *of) = (id, u64::from(service.0) << 32 | u64::from(address));
        }
    }

    fn get(&self, id: u64) -> Option<(ServiceId, u32)> {
        let [newest, of, older, of_older] = self.pairs.get(place(id))?;
        let found = match id {
            id if id == *newest => of,
            id if id == *older => of_older,
            _ => return None,
        };
        Some((ServiceId((found >> 32) as u32), *found as u32))
    }
}

fn place(id: u64) -> usize {
    (scatter(id) >> (64 - PAIRS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_is_room_for_are_found_again() {
        let mut recent = Recent::default();
        let ids = || (1..=PAIRS as u64 / 2).map(|n| n.wrapping_mul(0x2545_f491_4f6c_dd1d));
        ids().for_each(|id| recent.put(id, ServiceId(id as u32 >> 8), id as u32));
        let found = ids().filter(|id| {
            recent.get(*id).is_some_and(|of| of == (ServiceId(*id as u32 >> 8), *id as u32))
        });
        assert!(found.count() * 100 > PAIRS / 2 * 95);
        assert_eq!(recent.get(3), None);
    }
}
