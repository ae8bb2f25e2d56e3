//! The windows as rows of tables, made anew only where something came.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{error::ArrowError, record_batch::RecordBatch};
use tapio_proto::model::{Row as _, Time};

use super::{Cell, Key, LATE, OTHER, Slot, Slots, Windows, sums};
use crate::{
    correlation::rows::{Answer, Sum, Window},
    streaming::WINDOW,
};

/// What one window came to, or several.
#[derive(Clone)]
pub(super) struct Published {
    /// Rows of `windows`.
    windows: RecordBatch,
    /// Rows of `answers`.
    answers: RecordBatch,
    /// The same rows by window, to be summed up.
    short: Vec<(Time, Arc<[sums::Short]>)>,
}

impl Windows {
    /// All rows are made anew.
    pub(super) fn unpublish(&mut self) {
        self.past.unpublish();
        self.slots.unpublish();
    }

    /// The tables `windows` and `answers`, made anew only where windows changed; and `sums` for the windows to
    /// which failures came at `recent` or later.
    pub fn publish(
        &mut self,
        since: Option<Time>,
        recent: Time,
    ) -> Result<[Vec<RecordBatch>; 3], ArrowError> {
        if self.answering.is_full() {
            self.answering = sums::Answering::default();
            self.unpublish();
        }
        let mut slots = std::mem::take(&mut self.slots);
        let mut past = std::mem::take(&mut self.past);
        let mut all = Vec::new();
        let made = [&mut past, &mut slots]
            .into_iter()
            .try_for_each(|slots| self.publish_slots(slots, since, &mut all));
        (self.slots, self.past) = (slots, past);
        made?;
        let short = all.iter().flat_map(|published| &published.short);
        let sums = self.answering.sums(short.map(|(bucket, rows)| (*bucket, &**rows)), recent);
        self.erring = sums.iter().filter(|sum| sums::errs(sum)).map(sums::service).collect();
        let sums = Sum::batch(&sums)?;
        let (windows, answers) =
            all.into_iter().map(|published| (published.windows, published.answers)).unzip();
        Ok([windows, answers, vec![sums]])
    }

    /// Adds what these windows came to, those that are `since` then or later.
    fn publish_slots(
        &mut self,
        slots: &mut Slots,
        since: Option<Time>,
        all: &mut Vec<Published>,
    ) -> Result<(), ArrowError> {
        let Slots { each, together } = slots;
        together.retain(|start, _| each.range(Slots::shared(*start)).next().is_some());
        let mut next = since.map_or(Time(i64::MIN), |since| since.bucket(WINDOW));
        while let Some((bucket, _)) = each.range(next..).next() {
            let shared = Slots::shared(*bucket);
            next = shared.end;
            let mut those: Vec<(Time, &mut Slot)> =
                each.range_mut(shared.clone()).map(|(bucket, slot)| (*bucket, slot)).collect();
            if shared.end + LATE <= self.heard {
                let known = together.get(&shared.start);
                let known = known.filter(|_| those.iter().all(|(_, slot)| slot.together));
                let published = match known {
                    Some(known) => known.clone(),
                    None => self.published(&those)?,
                };
                those.iter_mut().for_each(|(_, slot)| slot.join());
                together.insert(shared.start, published.clone());
                all.push(published);
                continue;
            }
            for (bucket, slot) in those {
                let published = match slot.published.take() {
                    Some(published) => published,
                    None => self.published(&[(bucket, slot)])?,
                };
                all.push(published.clone());
                slot.published = Some(published);
            }
        }
        Ok(())
    }

    /// What these windows came to.
    pub(super) fn published(
        &mut self,
        slots: &[(Time, &mut Slot)],
    ) -> Result<Published, ArrowError> {
        let (mut windows, mut all, mut short) = (Vec::new(), Vec::new(), Vec::new());
        for (bucket, slot) in slots {
            let rows = self.rows(*bucket, slot);
            let answers = answers(&rows);
            short.push((*bucket, answers.iter().map(|row| self.answering.short(row)).collect()));
            windows.extend(rows);
            all.extend(answers);
        }
        Ok(Published { windows: Window::batch(&windows)?, answers: Answer::batch(&all)?, short })
    }

    /// The rows of one window.
    pub(super) fn rows(&self, bucket: Time, slot: &Slot) -> Vec<Window> {
        let other: Arc<str> = OTHER.into();
        let mut rows: Vec<Window> = Vec::with_capacity(slot.cells.len());
        for (key, cell) in &slot.cells {
            let service = &self.called[key.service.0 as usize];
            let address = self.addressed(key.peer);
            let operation = self.operations.name(key.operation).unwrap_or(&other).clone();
            let peer = match &*address {
                "" => (address.clone(), address),
                _ => {
                    let peer = self.meant(key.service, &address);
                    (peer.entity().namespace.clone(), peer.entity().name.clone())
                }
            };
            // Who goes on well without a sick callee still has calls that fail.
            let well = |who| {
                let mut bouts = self.sick.get(who).into_iter().flatten();
                !bouts.any(|(since, until)| {
                    *since <= bucket && until.is_none_or(|until| bucket < until)
                })
            };
            let calm = well(service) && (peer.1.is_empty() || well(&peer));
            rows.push(cell.row(bucket, key, service.clone(), peer, operation, calm));
        }
        rows.sort_by(|a, b| {
            (&a.namespace, &a.service, &a.operation, &a.kind, &a.peer_namespace, &a.peer)
                .cmp(&(&b.namespace, &b.service, &b.operation, &b.kind, &b.peer_namespace, &b.peer))
                .then((a.count, a.errors).cmp(&(b.count, b.errors)))
                .then(a.sum_ms.total_cmp(&b.sum_ms))
        });
        rows
    }
}

/// The windows of all operations of a service as one, and those of its callers.
fn answers(rows: &[Window]) -> Vec<Answer> {
    let mut answers: BTreeMap<(&str, &str, &str), Answer> = BTreeMap::new();
    for row in rows {
        let (kind, namespace, service) = match row.kind {
            "server" | "consumer" => ("error_ratio", &row.namespace, &row.service),
            "client" | "producer" if !row.peer.is_empty() => {
                ("call_errors", &row.peer_namespace, &row.peer)
            }
            _ => continue,
        };
        let answer = answers.entry((kind, namespace, service)).or_insert_with(|| Answer {
            bucket: row.bucket,
            kind: kind.to_owned(),
            namespace: namespace.to_string(),
            service: service.to_string(),
            count: 0,
            errors: 0,
            first_error: row.first_error,
            failed: row.failed,
            calm: true,
        });
        answer.count += row.looked;
        answer.errors += row.looked_errors;
        answer.first_error = answer.first_error.into_iter().chain(row.first_error).min();
        answer.failed = answer.failed.max(row.failed);
        answer.calm &= row.calm;
    }
    answers.into_values().collect()
}

impl Cell {
    fn row(
        &self,
        bucket: Time,
        key: &Key,
        (namespace, service): (Arc<str>, Arc<str>),
        (peer_namespace, peer): (Arc<str>, Arc<str>),
        operation: Arc<str>,
        calm: bool,
    ) -> Window {
        let failures = self.failures.as_ref();
        Window {
            bucket,
            namespace,
            service,
            operation,
            kind: key.kind.name(),
            peer_namespace,
            peer,
            count: i64::from(self.count),
            errors: i64::from(self.errors()),
            looked: i64::from(self.looked),
            looked_errors: failures.map_or(0, |failures| i64::from(failures.looked)),
            p50_ms: self.took.quantile_ms(0.5),
            p99_ms: self.took.quantile_ms(0.99),
            sum_ms: self.sum_ns as f64 / 1e6,
            first_error: failures.map(|failures| failures.first),
            arrived: self.arrived,
            failed: failures.map(|failures| failures.arrived),
            calm,
        }
    }
}
