//! The failure catalogue as data: what is to be seen, what tells it from its look-alikes, what to say
//! and what to do. `patterns/README.md` documents the format.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use regex::Regex;
use serde::Deserialize;
use tapio_proto::model::Row as _;

use crate::{
    correlation::{
        CorrelationError,
        rows::{NeedRow, PatternRow},
        symptoms::SILENCE,
    },
    store::Store,
};

mod trial;

pub use trial::{Bench, Step, Trial, TrialError};

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
    /// For one that asks for a change: what it says holds as well where nobody saw the change, so that it is told
    /// of a cluster as it stands too.
    #[serde(default)]
    pub stands: bool,
    /// Objects that the words of its effects name.
    #[serde(default)]
    pub names: Vec<Named>,
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
    /// Its own tests: what it must blame, and the look-alikes that it must leave alone.
    #[serde(default)]
    pub tests: Vec<Trial>,
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
    /// What the changed value must have become; left out, whatever. An amount that went the other way does
    /// not match; where that cannot be told the pattern matches with less confidence. Objects that came or
    /// went are not asked.
    #[serde(default)]
    pub becomes: Option<Becomes>,
    /// How the object bears on the workload.
    #[serde(default)]
    pub relation: String,
}

/// In which direction an amount was changed; of a NetworkPolicy, whether it takes a way from anybody.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Becomes {
    /// Less than it was.
    Less,
    /// More than it was.
    More,
}

impl Becomes {
    fn name(self) -> &'static str {
        match self {
            Becomes::Less => "less",
            Becomes::More => "more",
        }
    }
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

/// An object that words name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Kind of the object.
    pub kind: String,
    /// Regular expression with the groups `name` and, unless it is the workload's, `namespace`.
    pub text: String,
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
#[error("pattern {file}:{what}")]
pub struct PatternError {
    /// The file.
    pub file: String,
    /// What is wrong, with line and column.
    pub what: String,
}

/// The patterns in use, by name.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    all: Vec<Arc<Pattern>>,
    /// The files of those that are not built in.
    files: BTreeMap<String, String>,
    replaced: Vec<String>,
    /// What effects and names are held against: each once, for they are large and some are in many patterns.
    expressions: BTreeMap<String, Regex>,
}

fn unreadable(path: &Path, error: std::io::Error) -> PatternError {
    PatternError { file: path.display().to_string(), what: format!(" {error}") }
}

/// One pattern from its YAML text.
fn read(file: &str, text: &str) -> Result<Pattern, PatternError> {
    let pattern: Pattern = serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let told = error.without_snippet().to_string();
        let told = told.split(" at line ").next().unwrap_or_default();
        let keys = "processor/patterns/README.md lists the keys";
        PatternError { file: file.to_owned(), what: format!("{line}:{column}: {told}; {keys}") }
    })?;
    pattern.check().map_err(|flaw| flaw.in_file(file, text))?;
    Ok(pattern)
}

impl Patterns {
    /// The patterns that come with Tapio.
    pub fn builtin() -> Result<Self, PatternError> {
        let mut patterns = Patterns::default();
        for (name, text) in crate::files::PATTERNS {
            let pattern = read(&format!("{name}.yaml"), text)?;
            patterns.compile(&pattern);
            patterns.all.push(Arc::new(pattern));
        }
        Ok(patterns)
    }

    /// Adds every `*.yaml` in a folder, in the order of their names; one with a known `id` replaces it.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), PatternError> {
        let entries = fs::read_dir(folder).map_err(|e| unreadable(folder, e))?;
        let mut files: Vec<_> =
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        files.retain(|path| {
            path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
        });
        files.sort();
        if files.is_empty() {
            return Err(PatternError {
                file: folder.display().to_string(),
                what:
                    " no *.yaml in this folder; processor/patterns/README.md shows what one holds"
                        .to_owned(),
            });
        }
        let mut here: BTreeMap<String, String> = BTreeMap::new();
        for path in files {
            let text = fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
            let file = path.display().to_string();
            let pattern = read(&file, &text)?;
            if let Some(other) = here.insert(pattern.id.clone(), file.clone()) {
                let flaw = Flaw {
                    key: "id",
                    what: format!(
                        "id {:?}: {other} has it too, give one of them another",
                        pattern.id
                    ),
                    value: pattern.id,
                };
                return Err(flaw.in_file(&file, &text));
            }
            self.put(file, pattern);
        }
        Ok(())
    }

    /// Adds a file, or every `*.yaml` in a folder.
    pub fn add_path(&mut self, path: &Path) -> Result<(), PatternError> {
        if path.is_dir() {
            return self.add_folder(path);
        }
        let text = fs::read_to_string(path).map_err(|e| unreadable(path, e))?;
        self.add(&path.display().to_string(), &text)
    }

    /// All but those of these names.
    pub fn without(mut self, ids: &[String]) -> Self {
        self.all.retain(|pattern| !ids.contains(&pattern.id));
        self
    }

    /// Adds one pattern from its YAML text; one with a known `id` replaces it.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), PatternError> {
        self.put(file.to_owned(), read(file, text)?);
        Ok(())
    }

    fn compile(&mut self, pattern: &Pattern) {
        for (_, text) in pattern.heard() {
            if let Ok(expression) = Regex::new(text)
                && !self.expressions.contains_key(text)
            {
                self.expressions.insert(text.clone(), expression);
            }
        }
    }

    /// The regular expression of an effect or a name of these patterns.
    pub(crate) fn expression(&self, text: &str) -> Option<Regex> {
        self.expressions.get(text).cloned()
    }

    fn put(&mut self, file: String, pattern: Pattern) {
        self.compile(&pattern);
        let was = self.files.insert(pattern.id.clone(), file.clone());
        if let Some(at) = self.all.iter().position(|known| known.id == pattern.id) {
            self.all.remove(at);
            let was = was.as_deref().unwrap_or("the built-in one");
            self.replaced.push(format!("pattern {file}: {:?} in place of {was}", pattern.id));
        }
        self.all.push(Arc::new(pattern));
        self.all.sort_by(|a, b| a.id.cmp(&b.id));
    }

    /// Is there a pattern of that name, and is it told by words?
    pub(crate) fn by_words(&self, id: &str) -> bool {
        self.get(id).is_some_and(|pattern| pattern.by_words())
    }

    /// Is the pattern of that name a user's own?
    pub fn is_own(&self, id: &str) -> bool {
        self.files.contains_key(id)
    }

    /// What replaced what, a line each.
    pub fn replaced(&self) -> &[String] {
        &self.replaced
    }

    /// The pattern of that name.
    pub fn get(&self, id: &str) -> Option<&Arc<Pattern>> {
        self.all.iter().find(|pattern| pattern.id == id)
    }

    /// The pattern of that name, or of that [`Pattern::entry`].
    pub fn find(&self, name: &str) -> Option<&Arc<Pattern>> {
        self.get(name).or_else(|| self.all.iter().find(|pattern| pattern.entry() == name))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pattern>> {
        self.all.iter()
    }

    /// Fills the tables that the queries read.
    pub(crate) fn publish(&self, store: &Store) -> Result<(), CorrelationError> {
        let (rows, needs) = self.rows();
        store.table(PatternRow::TABLE)?.replace(vec![PatternRow::batch(&rows)?])?;
        store.table(NeedRow::TABLE)?.replace(vec![NeedRow::batch(&needs)?])?;
        Ok(())
    }

    /// What the queries read.
    pub fn rows(&self) -> (Vec<PatternRow>, Vec<NeedRow>) {
        let rows = self.all.iter().map(|p| PatternRow {
            pattern: p.id.clone(),
            source: p.cause.source.name().to_owned(),
            verb: p.cause.verb.clone(),
            kind: p.cause.kind.clone(),
            path: p.cause.path.clone(),
            becomes: p.cause.becomes.map(Becomes::name).unwrap_or_default().to_owned(),
            relation: p.cause.relation.clone(),
            within_s: p.within_seconds().unwrap_or_default(),
            prior: p.prior,
            likely: false,
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

/// What the texts of a pattern may hold in braces: what `story/assemble.rs` fills in.
const BLANKS: [&str; 13] = [
    "object",
    "kind",
    "namespace",
    "name",
    "workload",
    "workload_name",
    "workload_kind",
    "service",
    "change",
    "path",
    "old",
    "new",
    "undo",
];

/// What is wrong with a pattern that can be read: the key, its value, and the words.
struct Flaw {
    key: &'static str,
    value: String,
    what: String,
}

impl Flaw {
    fn in_file(&self, file: &str, text: &str) -> PatternError {
        let (line, column) = place(text, self);
        PatternError { file: file.to_owned(), what: format!("{line}:{column}: {}", self.what) }
    }
}

/// Line and column of the value of a key in a YAML text; of the whole where it is not found.
fn place(text: &str, flaw: &Flaw) -> (u64, u64) {
    for (number, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices(flaw.key) {
            let (before, rest) = (&line[..at], &line[at + flaw.key.len()..]);
            if !before.ends_with(|c: char| c.is_alphanumeric())
                && rest.starts_with(':')
                && rest.contains(&flaw.value)
            {
                return (number as u64 + 1, before.chars().count() as u64 + 1);
            }
        }
    }
    (1, 1)
}

impl Pattern {
    /// Its name with its entry in the failure catalogue before it: `E4_network_policy_blocks`.
    pub fn entry(&self) -> String {
        format!("{}_{}", self.catalogue, self.id)
    }

    /// Is it told by what services log?
    pub(crate) fn by_words(&self) -> bool {
        self.see.iter().any(|effect| effect.required && effect.r#type.contains(r"log\.error"))
    }

    /// Is it told of services that nobody asks any more?
    pub(crate) fn by_silence(&self) -> bool {
        self.see.iter().any(|effect| effect.required && effect.r#type.contains(SILENCE))
    }

    fn check(&self) -> Result<(), Flaw> {
        let flaw = |key, value: &str, expected: &str| Flaw {
            key,
            value: value.to_owned(),
            what: format!("{key} {value:?}: expected {expected}"),
        };
        if self.id.is_empty()
            || !self.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            return Err(flaw("id", &self.id, "letters, digits, '_' and '-'"));
        }
        if self.catalogue.trim().is_empty() {
            let expected = "the entry of the catalogue that it stands for, or a word of your own";
            return Err(flaw("catalogue", &self.catalogue, expected));
        }
        if !(0.0..=1.0).contains(&self.prior) {
            return Err(flaw("prior", &self.prior.to_string(), "0 to 1"));
        }
        if self.within_seconds().is_none() {
            return Err(flaw("within", &self.within, "a time such as 90s, 10m or 2h"));
        }
        if !self.see.iter().any(|effect| effect.weight > 0.0) {
            return Err(flaw("see", "", "at least one effect with a weight above 0"));
        }
        if !self.see.iter().any(|effect| effect.required) {
            return Err(flaw("see", "", "at least one effect with 'required: true'"));
        }
        for effect in self.see.iter().chain(&self.unless) {
            if [&effect.r#type, &effect.reason, &effect.text].iter().all(|text| text.is_empty()) {
                let expected = "a 'type', 'reason' or 'text' beside it, or everything matches";
                return Err(flaw("what", &effect.what, expected));
            }
        }
        for effect in self.see.iter().chain(&self.unless) {
            if !(effect.weight.is_finite() && effect.weight >= 0.0) {
                let weight = effect.weight.to_string().to_lowercase();
                return Err(flaw("weight", &weight, "a number from 0 on"));
            }
        }
        let said = self.r#do.iter().flat_map(|r| [("say", &r.say), ("run", &r.run)]);
        let said = said.chain([("title", &self.title), ("mechanism", &self.mechanism)]);
        for (key, text) in said {
            if let Some(unknown) = unknown_blank(text) {
                let expected = format!("one of {{{}}}", BLANKS.join("}, {"));
                return Err(flaw(key, unknown, &expected));
            }
        }
        if let Some(named) = self.names.iter().find(|named| !named.text.contains("(?P<name>")) {
            return Err(flaw("text", &named.text, "a group (?P<name>...) that holds the name"));
        }
        let cause = &self.cause;
        if let Some(becomes) = cause.becomes.filter(|_| cause.source != Source::Change) {
            let expected = "it only where the source is 'change'";
            return Err(flaw("becomes", becomes.name(), expected));
        }
        let mut texts = vec![
            ("verb", &cause.verb),
            ("kind", &cause.kind),
            ("path", &cause.path),
            ("relation", &cause.relation),
        ];
        texts.extend(self.heard());
        for (key, text) in texts {
            if let Err(error) = Regex::new(text) {
                let told = error.to_string();
                let why = told.lines().last().unwrap_or_default().trim_start_matches("error: ");
                return Err(flaw(key, text, &format!("a regular expression: {why}")));
            }
        }
        Ok(())
    }

    /// The regular expressions of its effects and names, each with its key.
    fn heard(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let effects = self.see.iter().chain(&self.unless).flat_map(|effect| {
            [("type", &effect.r#type), ("reason", &effect.reason), ("text", &effect.text)]
        });
        effects.chain(self.names.iter().map(|named| ("text", &named.text)))
    }

    /// Is its cause read from requests, so that steps on objects and logs cannot try it?
    pub fn is_measured(&self) -> bool {
        self.cause.source == Source::Measured
    }

    /// `within` in seconds.
    pub fn within_seconds(&self) -> Option<f64> {
        seconds(&self.within).filter(|seconds| *seconds > 0.0)
    }
}

/// The first `{word}` of a text that nothing is filled into; `${word}` and `{.path}` are of commands.
fn unknown_blank(text: &str) -> Option<&str> {
    text.match_indices('{').find_map(|(at, _)| {
        let end = at + text[at..].find('}')?;
        let name = &text[at + 1..end];
        let word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (word && !text[..at].ends_with('$') && !BLANKS.contains(&name)).then(|| &text[at..=end])
    })
}

/// `90s`, `10m` or `2h` in seconds.
fn seconds(text: &str) -> Option<f64> {
    let unit = text.chars().last()?;
    let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    let factor = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        _ => return None,
    };
    (number >= 0.0 && number.is_finite()).then_some(number * factor)
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

    /// Guarantees: each pattern blames what it is meant for, before all others, and leaves its
    /// look-alikes alone; and each effect that it names is told by the engine's own readers in one of
    /// these tests.
    #[test]
    fn every_pattern_passes_its_own_tests_among_all_others() {
        let patterns = Patterns::builtin().unwrap();
        let mut bench = Bench::new(patterns.clone()).unwrap();
        let (mut wrong, mut facts) = (Vec::new(), Vec::new());
        // What is measured on requests is tried over whole stories, in tests/story/measured.rs.
        let told = || patterns.iter().filter(|p| !p.is_measured());
        for pattern in told() {
            let blames = |blames: bool| pattern.tests.iter().any(|t| t.blames.is_empty() != blames);
            assert!(blames(true) && blames(false), "{}: a match and a look-alike", pattern.id);
            for trial in &pattern.tests {
                let result = bench.run(pattern, trial);
                println!("{}: {} ... {result:?}", pattern.id, trial.say);
                wrong.extend(
                    result.err().map(|why| format!("{}: {}: {why}", pattern.id, trial.say)),
                );
                facts.extend(bench.facts(trial).unwrap());
            }
        }
        for pattern in told() {
            for effect in pattern.see.iter().chain(&pattern.unless) {
                let is = |of: &str, text: &str| Regex::new(of).unwrap().is_match(text);
                let told = facts.iter().any(|(kind, reason, text)| {
                    is(&effect.r#type, kind) && is(&effect.reason, reason) && is(&effect.text, text)
                });
                if !told {
                    wrong.push(format!("{}: {:?} is told in no test", pattern.id, effect.what));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Guarantees: where any edit could precede the effect, the edit and the effect alone convict nobody.
    #[test]
    fn what_has_many_causes_needs_more_than_one_effect_to_be_sure() {
        let unspecific = Patterns::builtin().unwrap();
        let w = &crate::correlation::weights::weights().patterns;
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
            let share = weight(|e| e.required) / weight(|_| true);
            let alone = p.prior + w.evidence * share + w.nearness;
            assert!(alone < 0.7, "{id}: {alone}");
        }
    }

    #[test]
    fn a_malformed_pattern_is_refused_with_its_place() {
        let mut patterns = Patterns::builtin().unwrap();
        let good =
            crate::files::PATTERNS.iter().find(|(name, _)| *name == "memory_leak").unwrap().1;
        for (from, to, says) in [
            ("prior: 0.45", "prior: 4.5", "5:1: prior \"4.5\": expected 0 to 1"),
            ("within: 2h", "within: soon", "4:1: within \"soon\": expected a time such as"),
            ("catalogue: B3", "katalog: B3", "2:1: "),
            ("reason: OOMKilled", "reason: '('", "7:96: reason \"(\": expected a regular"),
            ("relation: self", "becomes: smaller", "3:"),
            ("relation: self", "becomes: less", "3:24: becomes \"less\": expected it only where"),
        ] {
            let error = patterns.add("mine.yaml", &good.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with("pattern mine.yaml:") && error.contains(says), "{error}");
        }
    }

    /// Guarantees: a weight that is no share of the evidence is refused, since one of them would make
    /// the confidence no number; so is a misspelt blank, which would be told as it stands. What braces
    /// mean in commands is left alone.
    #[test]
    fn a_weight_that_is_none_and_a_blank_that_nothing_fills_are_refused() {
        let mut patterns = Patterns::default();
        let good = crate::files::PATTERNS.iter().find(|(name, _)| *name == "oom_killed").unwrap().1;
        for (from, to, says) in [
            ("weight: 2", "weight: -2", "8:70: weight \"-2\": expected a number from 0 on"),
            ("weight: 2", "weight: .nan", "8:70: weight \"nan\": expected a number from 0 on"),
            ("weight: 2", "weight: .inf", "8:70: weight \"inf\": expected a number from 0 on"),
            (
                "{workload} is",
                "{workloadd} is",
                "9:1: title \"{workloadd}\": expected one of {object}",
            ),
            ("{undo}", "{undone}", "12:25: run \"{undone}\": expected one of {object}"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good, "{from}");
            let error = patterns.add("mine.yaml", &bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("pattern mine.yaml:{says}")), "{error}");
        }
        let command = good.replace("{undo}", "kubectl get pod -o jsonpath={.status} ${pod}");
        patterns.add("mine.yaml", &command).unwrap();
    }
}
