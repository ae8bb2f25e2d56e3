//! Which patterns can match at all now: those of which each required effect was told lately. Most
//! cannot at most times, and then cost a pass nothing, however many there are.

use std::collections::BTreeSet;

use regex::Regex;
use tapio_proto::model::{Event, Symptom, Time};

use super::rows::PatternRow;
use crate::patterns::Patterns;

/// The patterns, and when each of their required effects was last told.
#[derive(Default)]
pub struct Likely {
    rows: Vec<PatternRow>,
    needs: Vec<Need>,
    /// Patterns that are left out, whatever was told.
    out: BTreeSet<String>,
}

struct Need {
    /// Place of the pattern in `rows`.
    pattern: usize,
    /// Of kind, reason and text; one that cannot be compiled is left to the query.
    is: [Option<Regex>; 3],
    told: Option<Time>,
}

impl Need {
    fn hears(&mut self, fact: [&str; 3], time: Time) {
        if self.told.is_none_or(|told| told < time)
            && self
                .is
                .iter()
                .zip(fact)
                .all(|(is, text)| is.as_ref().is_none_or(|is| is.is_match(text)))
        {
            self.told = Some(time);
        }
    }
}

impl Likely {
    /// Nothing was told yet.
    pub fn new(patterns: &Patterns) -> Self {
        let (rows, needs) = patterns.rows();
        let required = needs.iter().filter(|need| need.required).filter_map(|need| {
            let pattern = rows.iter().position(|row| row.pattern == need.pattern)?;
            let is = [&need.kind, &need.reason, &need.text].map(|text| patterns.expression(text));
            Some(Need { pattern, is, told: None })
        });
        let needs = required.collect();
        Likely { rows, needs, out: BTreeSet::new() }
    }

    /// Leaves these patterns out, and no others.
    pub fn leave_out(&mut self, patterns: BTreeSet<String>) {
        self.out = patterns;
    }

    /// The whole `patterns` table.
    pub fn all(&self) -> &[PatternRow] {
        &self.rows
    }

    /// The patterns that can match now.
    pub fn each(&self) -> Vec<PatternRow> {
        self.rows.iter().filter(|row| row.likely).cloned().collect()
    }

    /// Hears a fact of the cluster or of a log, as `queries/hypotheses.sql` names it.
    pub fn event(&mut self, event: &Event) {
        let kind = match event.r#type.as_str() {
            "container.started" if event.count > 1 => "container.restarted",
            kind => kind,
        };
        for need in &mut self.needs {
            need.hears([kind, &event.reason, &event.message], event.time);
        }
    }

    /// The `patterns` table, if it is another one than before; what was told before `since` is over.
    pub fn rows(&mut self, symptoms: &[Symptom], now: Time, since: Time) -> Option<&[PatternRow]> {
        for symptom in symptoms {
            let callee = format!("callee.{}", symptom.kind);
            for need in &mut self.needs {
                need.hears([&symptom.kind, "", &symptom.detail], now);
                need.hears([&callee, "", &symptom.detail], now);
            }
        }
        let mut changed = false;
        for (at, row) in self.rows.iter_mut().enumerate() {
            let told = |need: &Need| need.told.is_some_and(|told| told >= since);
            let likely = !self.out.contains(&row.pattern)
                && self.needs.iter().filter(|need| need.pattern == at).all(told);
            changed |= std::mem::replace(&mut row.likely, likely) != likely;
        }
        changed.then_some(&self.rows)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guarantees: a pattern is looked at from the moment all that it asks for was told, and no longer
    /// than that is remembered.
    #[test]
    fn a_pattern_is_likely_while_all_that_it_requires_was_told() {
        let mut likely = Likely::new(&Patterns::builtin().unwrap());
        let second = |s: i64| Time(s * 1_000_000_000);
        let symptom = |kind: &str| Symptom {
            kind: kind.to_owned(),
            entity_kind: String::new(),
            entity_namespace: String::new(),
            entity_name: String::new(),
            onset: second(0),
            onset_within_s: None,
            last: second(0),
            value: 0.0,
            baseline: 0.0,
            unit: String::new(),
            score: 0.0,
            detail: String::new(),
        };
        let names = |rows: Option<&[PatternRow]>| -> Vec<String> {
            let likely = rows.unwrap().iter().filter(|row| row.likely);
            likely.map(|row| row.pattern.clone()).collect()
        };
        assert!(likely.rows(&[], second(1), second(0)).is_none());
        let told = names(likely.rows(&[symptom("cpu_at_limit")], second(2), second(0)));
        assert!(told.contains(&"cpu_throttling".to_owned()), "{told:?}");
        assert!(!told.contains(&"slow_dependency".to_owned()), "{told:?}");
        assert!(likely.rows(&[symptom("cpu_at_limit")], second(3), second(0)).is_none());
        assert_eq!(names(likely.rows(&[], second(9), second(8))), [""; 0]);
    }
}
