//! The failure catalogue as data: what is to be seen, what tells it from its look-alikes, what to say
//! and what to do. `patterns/README.md` documents the format.

use std::{fs, path::Path, sync::Arc};

use serde::Deserialize;

use crate::correlation::rows::{NeedRow, PatternRow};

/// One failure pattern.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Unique name.
    pub id: String,
    /// Entry of the failure catalogue, such as `F1`.
    pub catalogue: String,
    /// What the guilty object must be, and what must have happened to it.
    pub cause: Cause,
    /// Longest time from the cause to its first effect: `90s`, `10m`, `2h`.
    pub within: String,
    /// Confidence before any evidence, 0 to 1.
    pub prior: f64,
    /// The effects to be seen.
    pub see: Vec<Effect>,
    /// The effects of look-alikes.
    #[serde(default)]
    pub unless: Vec<Effect>,
    /// The effect, in one clause.
    pub title: String,
    /// Why the cause has this effect.
    pub mechanism: String,
    /// What to do, safest first.
    pub r#do: Vec<Remedy>,
    /// How to keep it from coming back.
    #[serde(default)]
    pub prevent: String,
}

/// What a pattern asks of its cause; regular expressions, empty matches all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// `change`, `state`, `none` or `measured`.
    pub source: Source,
    /// Verb of the change, type of the state.
    #[serde(default)]
    pub verb: String,
    /// Kind of the object.
    #[serde(default)]
    pub kind: String,
    /// The changed field.
    #[serde(default)]
    pub path: String,
    /// How the object bears on the workload.
    #[serde(default)]
    pub relation: String,
}

/// Where causes of a pattern come from.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Somebody changed an object.
    Change,
    /// An object upstream is in a bad state.
    State,
    /// Nothing changed: the workload itself.
    None,
    /// Requests show in which service it arises, whoever changed what.
    Measured,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Source::Change => "change",
            Source::State => "state",
            Source::None => "none",
            Source::Measured => "measured",
        }
    }
}

/// One effect; regular expressions, empty matches all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// In words.
    pub what: String,
    /// Type of the event or kind of the symptom.
    #[serde(default)]
    pub r#type: String,
    /// The machine's word.
    #[serde(default)]
    pub reason: String,
    /// The machine's sentence.
    #[serde(default)]
    pub text: String,
    /// Without it the pattern does not match.
    #[serde(default)]
    pub required: bool,
    /// Share in the evidence.
    #[serde(default = "one")]
    pub weight: f64,
}

/// Something to do about it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remedy {
    /// In words.
    pub say: String,
    /// A command that can be pasted; empty when there is none.
    #[serde(default)]
    pub run: String,
}

/// A pattern that cannot be used, and where.
#[derive(Debug, thiserror::Error)]
#[error("pattern {file}: {what}")]
pub struct PatternError {
    /// The file.
    pub file: String,
    /// What is wrong, with line and column where the text is malformed.
    pub what: String,
}

/// The patterns in use, by name.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    all: Vec<Arc<Pattern>>,
}

impl Patterns {
    /// The patterns that come with Tapio.
    pub fn builtin() -> Result<Self, PatternError> {
        let mut patterns = Patterns::default();
        for (name, text) in crate::files::PATTERNS {
            patterns.add(&format!("{name}.yaml"), text)?;
        }
        Ok(patterns)
    }

    /// Adds every `*.yaml` in a folder, in the order of their names; one with a known `id` replaces it.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), PatternError> {
        let unreadable = |path: &Path, error: std::io::Error| PatternError {
            file: path.display().to_string(),
            what: error.to_string(),
        };
        let entries = fs::read_dir(folder).map_err(|e| unreadable(folder, e))?;
        let mut files: Vec<_> =
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        files.retain(|path| {
            path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
        });
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).map_err(|e| unreadable(&file, e))?;
            self.add(&file.display().to_string(), &text)?;
        }
        Ok(())
    }

    /// Adds one pattern from its YAML text.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), PatternError> {
        let fail = |what: String| PatternError { file: file.to_owned(), what };
        let pattern: Pattern = serde_saphyr::from_str(text).map_err(|e| fail(e.to_string()))?;
        pattern.check().map_err(fail)?;
        self.all.retain(|known| known.id != pattern.id);
        self.all.push(Arc::new(pattern));
        self.all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(())
    }

    /// The pattern of that name.
    pub fn get(&self, id: &str) -> Option<&Arc<Pattern>> {
        self.all.iter().find(|pattern| pattern.id == id)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pattern>> {
        self.all.iter()
    }

    /// What the queries read.
    pub fn rows(&self) -> (Vec<PatternRow>, Vec<NeedRow>) {
        let rows = self.all.iter().map(|p| PatternRow {
            pattern: p.id.clone(),
            source: p.cause.source.name().to_owned(),
            verb: p.cause.verb.clone(),
            kind: p.cause.kind.clone(),
            path: p.cause.path.clone(),
            relation: p.cause.relation.clone(),
            within_s: p.within_seconds().unwrap_or_default(),
            prior: p.prior,
        });
        let needs = self.all.iter().flat_map(|p| {
            let wanted = p.see.iter().map(|effect| (effect, false));
            let forbidden = p.unless.iter().map(|effect| (effect, true));
            wanted.chain(forbidden).map(|(effect, forbidden)| NeedRow {
                pattern: p.id.clone(),
                need: effect.what.clone(),
                kind: effect.r#type.clone(),
                reason: effect.reason.clone(),
                text: effect.text.clone(),
                required: effect.required && !forbidden,
                forbidden,
                weight: effect.weight,
            })
        });
        (rows.collect(), needs.collect())
    }
}

impl Pattern {
    fn check(&self) -> Result<(), String> {
        if self.id.is_empty()
            || !self.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            return Err(format!("id {:?}: expected letters, digits, '_' and '-'", self.id));
        }
        if !(0.0..=1.0).contains(&self.prior) {
            return Err(format!("prior {}: expected 0 to 1", self.prior));
        }
        if self.within_seconds().is_none() {
            return Err(format!(
                "within {:?}: expected a time such as 90s, 10m or 2h",
                self.within
            ));
        }
        if !self.see.iter().any(|effect| effect.weight > 0.0) {
            return Err("see: expected at least one effect with a weight above 0".to_owned());
        }
        let cause = &self.cause;
        let mut texts = vec![
            ("cause.verb", &cause.verb),
            ("cause.kind", &cause.kind),
            ("cause.path", &cause.path),
            ("cause.relation", &cause.relation),
        ];
        for effect in self.see.iter().chain(&self.unless) {
            texts.extend([
                ("type", &effect.r#type),
                ("reason", &effect.reason),
                ("text", &effect.text),
            ]);
        }
        for (key, text) in texts {
            if let Err(error) = regex::Regex::new(text) {
                return Err(format!("{key} {text:?} is no regular expression: {error}"));
            }
        }
        Ok(())
    }

    /// `within` in seconds.
    pub fn within_seconds(&self) -> Option<f64> {
        let unit = self.within.chars().last()?;
        let number: f64 = self.within.strip_suffix(unit)?.trim().parse().ok()?;
        let factor = match unit {
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            _ => return None,
        };
        (number > 0.0 && number.is_finite()).then_some(number * factor)
    }
}

fn one() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_builtin_pattern_is_well_formed_and_named_as_its_file() {
        let patterns = Patterns::builtin().unwrap();
        let names: Vec<_> = patterns.iter().map(|p| p.id.clone()).collect();
        let files: Vec<_> =
            crate::files::PATTERNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names, files);
    }

    /// Facts as a cluster tells them: type, reason, text, and whether they count as bad.
    fn facts() -> Vec<(String, String, String, bool)> {
        use crate::kubernetes::{Cluster, Fact, Verb};
        use serde_json::json;
        let object = |kind: &str, n: usize, rest: serde_json::Value| {
            let mut object = json!({"kind": kind, "metadata": {"name": format!("o{n}"), "namespace": "shop",
                "uid": format!("u{n}"), "creationTimestamp": "2026-11-01T00:00:00Z"}});
            for (key, value) in rest.as_object().unwrap() {
                object[key] = value.clone();
            }
            object
        };
        let pod = |status: serde_json::Value| json!({"status": {"containerStatuses": [status]}});
        let waits = |reason: &str, message: &str| {
            pod(json!({"name": "c", "state": {"waiting": {"reason": reason, "message": message}}}))
        };
        let dies = |reason: &str| {
            pod(
                json!({"name": "c", "restartCount": 1, "state": {"terminated": {"reason": reason, "exitCode": 137}}}),
            )
        };
        let event = |kind: &str, reason: &str, message: &str| {
            json!({"type": kind, "reason": reason, "message": message,
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "x"}})
        };
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"status": {"conditions": [
            {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-22T01:00:00Z"}]}})
        };
        let objects = [
            ("Pod", dies("OOMKilled")),
            ("Pod", dies("Error")),
            ("Pod", waits("CrashLoopBackOff", "back-off 10s restarting failed container")),
            ("Pod", waits("ImagePullBackOff", "manifest unknown: not found")),
            ("Pod", waits("ErrImagePull", "pull access denied, unauthorized")),
            ("Pod", waits("ErrImagePull", "dial tcp: lookup registry: no such host")),
            ("Pod", waits("CreateContainerConfigError", "secret \"bank\" not found")),
            (
                "Pod",
                condition(
                    "PodScheduled",
                    "False",
                    "Unschedulable",
                    "0/3 nodes are available: 3 Insufficient cpu.",
                ),
            ),
            ("Pod", condition("Ready", "False", "ContainersNotReady", "")),
            (
                "EndpointSlice",
                json!({"metadata": {"name": "s-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "s"}},
                "endpoints": [{"conditions": {"ready": true}}]}),
            ),
            (
                "EndpointSlice",
                json!({"metadata": {"name": "s-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "s"}},
                "endpoints": [{"conditions": {"ready": false}}]}),
            ),
            (
                "Event",
                event(
                    "Warning",
                    "Unhealthy",
                    "Readiness probe failed: HTTP probe failed with statuscode: 404",
                ),
            ),
            (
                "Event",
                event("Normal", "Killing", "Container c failed liveness probe, will be restarted"),
            ),
        ];
        let mut told = Vec::new();
        let mut cluster = Cluster::default();
        let now = tapio_proto::model::Time::parse_rfc3339("2026-11-22T03:00:00Z").unwrap();
        for (n, (kind, rest)) in objects.into_iter().enumerate() {
            cluster.observe(Verb::Modified, object(kind, n, rest), now, &mut told);
        }
        let events = told.into_iter().filter_map(|fact| match fact {
            Fact::Event(e) => Some((e.r#type, e.reason, e.message, e.severity != "info")),
            _ => None,
        });
        let other = [
            ("latency", ""),
            ("own_time", ""),
            ("way_time", ""),
            ("steps", ""),
            ("cpu_at_limit", ""),
            ("memory_growth", ""),
            ("call_errors", "dial tcp: lookup a.shop.svc on 10.96.0.10:53: no such host"),
            ("callee.error_ratio", ""),
            ("callee.latency", ""),
            ("log.new", "configuration reloaded"),
            ("log.error", "panic: cannot parse"),
        ];
        let other =
            other.map(|(kind, text)| (kind.to_owned(), String::new(), text.to_owned(), true));
        events.chain(other).collect()
    }

    #[test]
    fn what_a_pattern_looks_for_is_something_that_is_told() {
        let facts = facts();
        for pattern in Patterns::builtin().unwrap().iter() {
            for effect in pattern.see.iter().chain(&pattern.unless) {
                let is = |of: &str, text: &str| regex::Regex::new(of).unwrap().is_match(text);
                let told = facts.iter().any(|(kind, reason, text, bad)| {
                    *bad && is(&effect.r#type, kind)
                        && is(&effect.reason, reason)
                        && is(&effect.text, text)
                });
                assert!(told, "{}: {} is never seen among {facts:#?}", pattern.id, effect.what);
            }
        }
    }

    /// Guarantees: where any edit could precede the effect, the edit and the effect alone convict nobody.
    #[test]
    fn what_has_many_causes_needs_more_than_one_effect_to_be_sure() {
        let unspecific = Patterns::builtin().unwrap();
        for id in [
            "bad_config_crash_loop",
            "config_change_memory_growth",
            "cpu_throttling",
            "memory_leak",
            "oom_killed",
            "slow_dependency",
        ] {
            let p = unspecific.get(id).unwrap();
            let weight = |of: fn(&Effect) -> bool| -> f64 {
                p.see.iter().filter(|e| of(e)).map(|e| e.weight).sum()
            };
            let alone = p.prior + 0.25 * weight(|e| e.required) / weight(|_| true) + 0.1;
            assert!(alone < 0.7, "{id}: {alone}");
        }
    }

    #[test]
    fn a_malformed_pattern_is_refused_with_its_place() {
        let mut patterns = Patterns::builtin().unwrap();
        let good =
            crate::files::PATTERNS.iter().find(|(name, _)| *name == "memory_leak").unwrap().1;
        for (from, to, says) in [
            ("prior: 0.45", "prior: 4.5", "prior 4.5: expected 0 to 1"),
            ("within: 2h", "within: soon", "within \"soon\""),
            ("catalogue: B3", "katalog: B3", "katalog"),
            ("reason: OOMKilled", "reason: '('", "is no regular expression"),
        ] {
            let error = patterns.add("mine.yaml", &good.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with("pattern mine.yaml: ") && error.contains(says), "{error}");
        }
    }
}
