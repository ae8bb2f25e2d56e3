//! One request: who spent which time, and what each of its services did.

use std::collections::BTreeMap;

use tapio_proto::model::Time;

use super::{durations::What, held::Open, shapes::Step};
use crate::streaming::SpanKind;

/// What one request tells.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Durations, when each began, ms.
    pub(super) durations: Vec<(What, Time, f32)>,
    /// Of each service that took part: service, operation, start, what it did.
    pub(super) shapes: Vec<(u32, u32, Time, Vec<Step>)>,
}

/// Longest line of ancestors that is followed.
const DEEPEST: usize = 100;

pub(super) fn put_together(open: &Open) -> Told {
    let mut parts = open.parts.clone();
    parts.sort_unstable_by_key(|part| (part.id, part.start));
    parts.dedup_by_key(|part| part.id);
    let find = |id: &[u8; 8]| parts.binary_search_by(|part| part.id.cmp(id)).ok();
    let parents: Vec<Option<usize>> = parts
        .iter()
        .map(|part| if part.parent == [0; 8] { None } else { find(&part.parent) })
        .collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); parts.len()];
    for (at, parent) in parents.iter().enumerate() {
        if let Some(parent) = parent.filter(|parent| *parent != at) {
            children[parent].push(at);
        }
    }
    children
        .iter_mut()
        .for_each(|of| of.sort_unstable_by_key(|at| (parts[*at].start, parts[*at].id)));

    let ms = |ns: i64| ns as f32 / 1e6;
    let whole = |at: usize| parts[at].end.0.saturating_sub(parts[at].start.0).max(0);
    // While a service waits for an answer none of its spans works, whichever of them asked.
    let is_call = |at: usize| {
        parts[at].kind == SpanKind::Client
            && children[at].iter().all(|child| parts[*child].service != parts[at].service)
    };
    let mut waits: BTreeMap<u32, Vec<(i64, i64)>> = BTreeMap::new();
    for at in (0..parts.len()).filter(|at| is_call(*at)) {
        let part = &parts[at];
        waits.entry(part.service).or_default().push((part.start.0, part.end.0));
    }
    // One duration of each sort: what a request does twenty times tells no more than once.
    let mut durations: BTreeMap<What, (Time, f32, f32)> = BTreeMap::new();
    let mut add = |what: What, at: Time, ms: f32| {
        let sum = durations.entry(what).or_insert((at, 0.0, 0.0));
        *sum = (sum.0.min(at), sum.1 + ms, sum.2 + 1.0);
    };
    for (at, part) in parts.iter().enumerate() {
        if is_call(at) {
            if children[at].is_empty() {
                // Nobody answers who tells of it: a database, or a service that sends no spans.
                let what = What::Out { service: part.service, operation: part.operation };
                add(what, part.start, ms(whole(at)));
            }
            // What the callee's span does not cover was spent on the way.
            for child in children[at].iter().map(|child| &parts[*child]) {
                if child.kind != SpanKind::Consumer {
                    let way = What::Way { caller: part.service, callee: child.service };
                    add(
                        way,
                        part.start,
                        ms(whole(at) - child.end.0.saturating_sub(child.start.0).max(0)),
                    );
                }
            }
            continue;
        }
        let inner = children[at].iter().map(|child| &parts[*child]);
        let inner = inner.filter(|child| child.kind != SpanKind::Consumer);
        let mut away: Vec<(i64, i64)> = inner.map(|child| (child.start.0, child.end.0)).collect();
        away.extend(waits.get(&part.service).into_iter().flatten());
        away.sort_unstable();
        let (mut waited, mut until) = (0, part.start.0);
        for (from, to) in away {
            let (from, to) = (from.max(until), to.min(part.end.0));
            if to > from {
                waited += to - from;
                until = to;
            }
        }
        let what = What::Own { service: part.service, operation: part.operation };
        add(what, part.start, ms(whole(at) - waited));
    }

    // The span with which a service came into the request.
    let entry = |of: usize| {
        let mut at = of;
        for _ in 0..DEEPEST {
            let up = parents[at].filter(|up| parts[*up].service == parts[of].service);
            match up {
                Some(up) if !matches!(parts[at].kind, SpanKind::Server | SpanKind::Consumer) => {
                    at = up
                }
                _ => break,
            }
        }
        at
    };
    let mut steps: Vec<Vec<Step>> = vec![Vec::new(); parts.len()];
    let mut last: Vec<Option<(Time, u32)>> = vec![None; parts.len()];
    let mut entries = vec![false; parts.len()];
    for (at, part) in parts.iter().enumerate() {
        let e = entry(at);
        entries[e] = true;
        if e != at {
            steps[e].push(Step::Span(part.operation));
        }
        if let Some(up) = parents[at].filter(|up| parts[*up].service != part.service) {
            let e = entry(up);
            steps[e].push(Step::Call(part.service, part.operation));
            last[e] = last[e].max(Some((part.start, part.service)));
        }
    }
    for line in &open.lines {
        if let Some(at) = find(&line.span).filter(|at| parts[*at].service == line.service) {
            let step =
                if line.error { Step::Error(line.template) } else { Step::Line(line.template) };
            steps[entry(at)].push(step);
        }
    }
    let mut told = Told::default();
    for (at, mut steps) in steps.into_iter().enumerate().filter(|(at, _)| entries[*at]) {
        let part = &parts[at];
        if let Some((_, callee)) = last[at] {
            steps.push(Step::Last(callee));
        }
        steps.sort_unstable();
        steps.dedup();
        let what = What::Whole { service: part.service, operation: part.operation };
        add(what, part.start, ms(whole(at)));
        told.shapes.push((part.service, part.operation, part.start, steps));
    }
    // Of requests that are alike in all steps one tells as much as twenty.
    told.shapes.sort_by(|a, b| (a.0, a.1, &a.3, a.2).cmp(&(b.0, b.1, &b.3, b.2)));
    told.shapes.dedup_by(|b, a| (a.0, a.1, &a.3) == (b.0, b.1, &b.3));
    told.shapes.sort_by_key(|(service, operation, at, _)| (*at, *service, *operation));
    told.durations =
        durations.into_iter().map(|(what, (at, sum, n))| (what, at, sum / n)).collect();
    told
}
