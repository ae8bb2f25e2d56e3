//! What is said of a workload as it stands, held against the patterns: those that need no change, and of which
//! all that they ask for is heard.

use regex::Regex;
use serde_json::Value;
use tapio_proto::model::Entity;

use super::{Finding, Saying, look_at, sick::Sick, words};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        value::{list, text},
    },
    patterns::{Effect, Pattern, Patterns, Remedy, Source},
};

/// Of a name that is spoken of: what is behind the Service of this name.
const WORKLOAD: &str = "Workload";

/// A pattern that can be told of what stands.
#[derive(Clone, Debug)]
pub struct Known {
    id: String,
    prior: f64,
    required: Vec<Need>,
    unless: Vec<Need>,
    names: Vec<(String, Regex)>,
    remedies: Vec<Remedy>,
    /// It holds without a change that was seen; of another only the remedies are of use.
    stands: bool,
}

/// An effect to be heard.
#[derive(Clone, Debug)]
struct Need {
    kind: Regex,
    reason: Regex,
    text: Regex,
    /// It asks for words.
    words: bool,
}

impl Need {
    fn new(effect: &Effect, patterns: &Patterns) -> Option<Self> {
        Some(Need {
            kind: patterns.expression(&effect.r#type)?,
            reason: patterns.expression(&effect.reason)?,
            text: patterns.expression(&effect.text)?,
            words: !effect.text.is_empty(),
        })
    }

    fn is_met(&self, saying: &Saying) -> bool {
        self.kind.is_match(&saying.kind)
            && self.reason.is_match(&saying.reason)
            && self.text.is_match(&saying.message)
    }
}

impl Known {
    /// The patterns, each with whether it holds without a change that was seen.
    pub fn of(patterns: &Patterns) -> Vec<Known> {
        patterns.iter().filter_map(|pattern| Known::new(pattern, patterns)).collect()
    }

    fn new(pattern: &Pattern, patterns: &Patterns) -> Option<Known> {
        let stands = pattern.cause.source == Source::None || pattern.stands;
        let needs = |effects: Vec<&Effect>| -> Option<Vec<Need>> {
            effects.into_iter().map(|effect| Need::new(effect, patterns)).collect()
        };
        let names = pattern
            .names
            .iter()
            .map(|named| Some((named.kind.clone(), patterns.expression(&named.text)?)));
        Some(Known {
            stands,
            remedies: pattern.r#do.clone(),
            id: pattern.id.clone(),
            prior: pattern.prior,
            required: needs(pattern.see.iter().filter(|effect| effect.required).collect())?,
            unless: needs(pattern.unless.iter().collect())?,
            names: names.collect::<Option<_>>()?,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn remedies(&self) -> &[Remedy] {
        &self.remedies
    }

    /// Does a text have the words that it requires?
    pub(super) fn is_said(&self, saying: &Saying) -> bool {
        let mut words = self.required.iter().filter(|need| need.words).peekable();
        words.peek().is_some() && words.all(|need| need.text.is_match(&saying.message))
    }

    /// Is it told by words, and which saying has them, from where to where?
    fn heard<'a>(&self, all: &'a [Saying]) -> Option<Option<(&'a Saying, usize, usize)>> {
        let met = |need: &Need| all.iter().find(|saying| need.is_met(saying));
        if !self.stands || self.unless.iter().any(|need| met(need).is_some()) {
            return None;
        }
        let mut quoted = None;
        for need in &self.required {
            let saying = met(need)?;
            if need.words && quoted.is_none() {
                quoted = need.text.find(&saying.message).map(|at| (saying, at.start(), at.end()));
            }
        }
        Some(quoted)
    }
}

impl Cluster {
    /// The pattern that explains best what is said of a workload: one that is told by words before those that
    /// only know its state, then the surest.
    pub(super) fn known(&self, sick: &Sick<'_>, known: &[Known]) -> Option<Finding> {
        let heard = known.iter().filter_map(|pattern| Some((pattern, pattern.heard(&sick.heard)?)));
        let length =
            |quoted: &Option<(&Saying, usize, usize)>| quoted.map_or(0, |(_, from, to)| to - from);
        let (pattern, quoted) = heard.max_by(|(a, x), (b, y)| {
            let words = x.is_some().cmp(&y.is_some());
            words.then(a.prior.total_cmp(&b.prior)).then(length(x).cmp(&length(y)))
        })?;
        let quote = quoted.map(|(saying, from, to)| {
            let said = words::sentence(&saying.message, from, to);
            let container = &saying.container;
            let mut inits = list(sick.spec, &["initContainers"]).iter();
            match inits.any(|of| text(of, &["name"]) == container) {
                true => format!("init container {container} says {said}"),
                false => said,
            }
        });
        let named = quoted.and_then(|(saying, ..)| self.named(sick, pattern, &saying.message));
        let named = named.or_else(|| {
            let file = self.mounted(sick, quote.as_deref()?)?;
            Some((file.clone(), format!("{} {}", file.kind, file.name)))
        });
        let (object, because) = match named {
            Some((object, because)) => (object, because),
            None => (sick.workload.clone(), String::new()),
        };
        let look = object != *sick.workload && self.exists(&object);
        let advice = if look { vec![look_at(&object)] } else { Vec::new() };
        let w = &weights();
        let confidence = (pattern.prior + w.standing.heard).min(w.patterns.most);
        Some(Finding {
            known: true,
            // Why the object is named; the pattern has the rest.
            mechanism: because,
            advice,
            confidence,
            ..self.found(sick, object, &pattern.id, quote.unwrap_or_default())
        })
    }

    /// A Service that does not exist, of which a workload that runs complains.
    pub(super) fn misses(&self, sick: &Sick<'_>, known: &[Known]) -> Option<Finding> {
        let said = || sick.heard.iter().filter(|saying| saying.kind == "log.error");
        known.iter().filter(|pattern| pattern.stands).find_map(|pattern| {
            let words = pattern.required.iter().find(|need| need.words)?;
            let saying = said().find(|saying| words.is_met(saying))?;
            let (object, because) = self.named(sick, pattern, &saying.message)?;
            if &*object.kind != "Service" || self.exists(&object) {
                return None;
            }
            let line = words::telling(&saying.message);
            let what = format!("{} asks for {because}: {line}", sick.workload.path());
            let mut found = self.found(sick, object, "service_env_var_address_mismatch", what);
            found.confidence = weights().standing.host;
            (found.title, found.since) = (found.what.clone(), saying.time);
            Some(found)
        })
    }

    /// The object that a text names, as its pattern reads it, and what it is to the failure.
    fn named(&self, sick: &Sick<'_>, pattern: &Known, message: &str) -> Option<(Entity, String)> {
        pattern.names.iter().find_map(|(kind, names)| {
            let found = names.captures(message)?;
            let name = found.name("name")?.as_str();
            let own = &*sick.workload.namespace;
            let namespace = found.name("namespace").map_or(own, |m| m.as_str());
            if !self.has_namespace(namespace) {
                return None;
            }
            let object = Entity::new(kind, namespace, name);
            if kind == WORKLOAD {
                let behind = self.workloads_of(&Entity::new("Service", namespace, name));
                let other = behind.into_iter().find(|of| of != sick.workload)?;
                let because = format!("{} {namespace}/{}", other.kind, other.name);
                return Some((other, because));
            }
            let seen = self.objects.of(kind, namespace).next().is_some();
            // A single word behind "connect" need not be a host.
            let whole = kind != "Service" || found.name("namespace").is_some();
            if !whole && !self.exists(&object) {
                return None;
            }
            let because = if self.exists(&object) || !seen {
                format!("{kind} {namespace}/{name}")
            } else {
                format!("{kind} {namespace}/{name}, which does not exist")
            };
            // A program has an account, whether that is seen or not; another object must be there, or plainly
            // not be there.
            (seen || kind == "ServiceAccount").then_some((object, because))
        })
    }

    /// The ConfigMap or Secret that a file which is spoken of comes from.
    fn mounted(&self, sick: &Sick<'_>, quote: &str) -> Option<Entity> {
        spoken_volumes(sick.spec, quote).find_map(|volume| {
            let at = |kind, path: [&str; 2]| {
                let name = text(volume, &path);
                (!name.is_empty()).then(|| Entity::new(kind, &sick.workload.namespace, name))
            };
            at("ConfigMap", ["configMap", "name"])
                .or_else(|| at("Secret", ["secret", "secretName"]))
        })
    }
}

/// The volume of a pod below whose mount a path lies that is spoken of.
pub(super) fn spoken_volume<'a>(spec: &'a Value, quote: &'a str) -> Option<&'a Value> {
    spoken_volumes(spec, quote).next()
}

fn spoken_volumes<'a>(spec: &'a Value, quote: &'a str) -> impl Iterator<Item = &'a Value> {
    let containers =
        ["containers", "initContainers"].into_iter().flat_map(move |part| list(spec, &[part]));
    let mounts = containers.flat_map(|container| list(container, &["volumeMounts"]));
    mounts.filter_map(move |mount| {
        let path = text(mount, &["mountPath"]).trim_end_matches('/');
        let begins = |at: usize| {
            !quote[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '.')
        };
        let ends = |at: usize| quote[at + path.len()..].starts_with('/');
        let spoken =
            path.len() > 1 && quote.match_indices(path).any(|(at, _)| begins(at) && ends(at));
        let of = |volume: &&Value| text(volume, &["name"]) == text(mount, &["name"]);
        list(spec, &["volumes"]).iter().find(of).filter(|_| spoken)
    })
}
