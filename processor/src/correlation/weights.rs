//! The numbers from which confidence is made: `weights.yaml`, where each says what it is.

use std::sync::LazyLock;

use serde::Deserialize;

use super::CorrelationError;

const FILE: &str = include_str!("../../weights.yaml");
/// What is told as a story, not as a hypothesis, stays so however it is stretched.
const TURN: f64 = 0.7;
/// Nothing is told to be surer, or less sure, than this.
const LEAST: f64 = 0.02;
const MOST: f64 = 0.97;

static READ: LazyLock<(Weights, Option<String>)> = LazyLock::new(|| match Weights::read(FILE) {
    Ok(weights) => (weights, None),
    Err(error) => (Weights::default(), Some(error)),
});

/// The weights; [`check`] says whether they could be read.
pub(crate) fn weights() -> &'static Weights {
    &READ.0
}

/// No engine runs without its weights.
pub(crate) fn check() -> Result<(), CorrelationError> {
    READ.1.as_ref().map_or(Ok(()), |error| Err(CorrelationError::Weights(error.clone())))
}

/// One section of the file: each of its names, and no other.
macro_rules! section {
    ($name:ident { $($weight:ident),+ $(,)? }) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name { $(pub(crate) $weight: f64),+ }

        impl $name {
            fn each(&self) -> impl Iterator<Item = (&'static str, f64)> {
                [$((stringify!($weight), self.$weight)),+].into_iter()
            }
        }
    };
}

/// The whole file.
macro_rules! sections {
    ($($section:ident: $type:ident),+ $(,)?) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Weights {
            $(pub(crate) $section: $type,)+
            calibration: Vec<Family>,
        }

        impl Weights {
            /// All of them, with their sections.
            fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, f64)> {
                let all = std::iter::empty();
                $(let all = all.chain(self.$section.each().map(|(n, w)| (stringify!($section), n, w)));)+
                all
            }
        }
    };
}

sections! {
    patterns: Explained,
    bare: Bare,
    requests: Measured,
    metrics: Metrics,
    failing: Failing,
    backends: Backends,
    releases: Released,
    providers: Providers,
    standing: Stands,
    twins: Twins,
    units: Units,
    filling: Fills,
    outside: Outside,
    judgement: Judgement,
}

section!(Explained {
    evidence,
    nearness,
    rival,
    rival_unchanged,
    acted_unchanged,
    direction,
    most
});
section!(Bare { lasting, young, dies, nearness, rival, rival_unchanged, passed_on, most });
section!(Measured {
    second,
    unfelt,
    backend,
    part,
    few,
    many,
    starves,
    waits,
    steps,
    steps_unclear,
    steps_doubtful,
    steps_both,
});
section!(Metrics { borne_out, borne_out_share, alone_share });
section!(Backends { shared, alone });
section!(Failing { deepest, deepest_share, surge });
section!(Released {
    fails,
    fails_deeper,
    only_deeper,
    well,
    unmeasured,
    late_share,
    soon,
    new_errors,
    likeness,
    commit_factor,
    older_factor,
    worse,
    cleared,
    nobodys,
    most,
});
section!(Providers { calls_fail, errors_name, unknown_caller });
section!(Stands {
    plain,
    image,
    missing,
    claim,
    unfit,
    unheard,
    probe,
    bad_command,
    crashes,
    last_words,
    signal,
    heard,
    blind,
    zero_counted_on,
    zero,
    port_sick,
    port,
    host_sick,
    host,
    host_unmissed,
    node,
    scheduler,
    selects_nothing,
    wrong_port,
    misroute,
    certain,
    below,
});
section!(Twins { node, node_alone, pod, alike, proven });
section!(Units { known, other });
section!(Fills { alone, changed });
section!(Outside { certain, faint, weak });
section!(Judgement { worth, unseen, below_change, covers, surer, put_back });

/// Patterns that are stretched alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    family: String,
    /// None: all that no other family has.
    patterns: Vec<String>,
    stretch: f64,
}

impl Weights {
    fn read(file: &str) -> Result<Self, String> {
        let weights: Weights = serde_saphyr::from_str(file)
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
        if let Some((section, name, weight)) =
            weights.each().find(|(_, _, weight)| !(0.0..=1.0).contains(weight))
        {
            return Err(format!("{section}.{name} {weight}: expected 0 to 1"));
        }
        if let Some(family) = weights.calibration.iter().find(|f| !(0.2..=3.0).contains(&f.stretch))
        {
            return Err(format!(
                "calibration {} stretch {}: expected 0.2 to 3",
                family.family, family.stretch
            ));
        }
        Ok(weights)
    }

    /// How sure a hypothesis of this pattern is told to be: its confidence stretched around [`TURN`]. What
    /// has no pattern is told as it is.
    pub(crate) fn told(&self, pattern: &str, confidence: f64) -> f64 {
        let own = |family: &&Family| family.patterns.iter().any(|p| p == pattern);
        let others = |family: &&Family| family.patterns.is_empty();
        let family = self.calibration.iter().find(own);
        match family.or_else(|| self.calibration.iter().find(others)) {
            Some(family) if !pattern.is_empty() => stretched(family.stretch, confidence),
            _ => confidence,
        }
    }
}

fn stretched(stretch: f64, confidence: f64) -> f64 {
    if (stretch - 1.0).abs() < f64::EPSILON {
        return confidence;
    }
    let logit = |p: f64| {
        let p = p.clamp(1e-3, 1.0 - 1e-3);
        (p / (1.0 - p)).ln()
    };
    let x = logit(TURN) + stretch * (logit(confidence) - logit(TURN));
    (1.0 / (1.0 + (-x).exp())).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patterns::Patterns;

    fn stretches(by: &str) -> Weights {
        let file: Vec<String> = FILE
            .lines()
            .map(|line| match line.split_once("stretch: ") {
                Some((before, _)) => format!("{before}stretch: {by}"),
                None => line.to_owned(),
            })
            .collect();
        Weights::read(&file.join("\n")).unwrap()
    }

    /// Guarantees: an engine never starts on weights that could not be read.
    #[test]
    fn the_file_reads() {
        check().unwrap();
        assert!(weights().each().count() > 60);
        assert!(weights().each().all(|(_, _, weight)| weight > 0.0));
    }

    /// Guarantees: a stretch is fitted to patterns that there are, each in one family.
    #[test]
    fn each_family_has_patterns_of_its_own_and_one_has_all_others() {
        let mut all: Vec<&String> =
            weights().calibration.iter().flat_map(|family| &family.patterns).collect();
        let builtin = Patterns::builtin().unwrap();
        assert!(all.iter().all(|id| builtin.get(id).is_some()), "{all:?}");
        let n = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), n);
        assert_eq!(weights().calibration.iter().filter(|f| f.patterns.is_empty()).count(), 1);
    }

    /// Guarantees: a weight that is misspelt, missing or no number from 0 to 1 stops the engine, and is named.
    #[test]
    fn a_file_that_says_less_or_other_is_refused() {
        for (from, to, says) in [
            ("evidence: 0.25", "evidense: 0.25", "evidense"),
            ("  worth: 0.40", "", "worth"),
            ("  unseen: 0.60", "  unseen: 6", "judgement.unseen 6: expected 0 to 1"),
            ("  unseen: 0.60", "  unseen: .nan", "judgement.unseen NaN: expected 0 to 1"),
            ("units:", "unit:", "unit"),
            ("calibration:", "kalibration:", "kalibration"),
        ] {
            let bad = FILE.replacen(from, to, 1);
            assert_ne!(bad, FILE, "{from}");
            let error = Weights::read(&bad).unwrap_err();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
        let bad = FILE.replace("stretch: 1", "stretch: 31");
        assert!(Weights::read(&bad).unwrap_err().contains("expected 0.2 to 3"));
    }

    /// Guarantees: without a stretch nothing moves; with one 0.7 stays, what is surer stays so, a hypothesis
    /// stays one, and nothing is certain.
    #[test]
    fn a_stretch_keeps_the_turn_and_the_order() {
        for by in ["0.5", "1.00", "1.36", "3"] {
            let weights = stretches(by);
            for pattern in ["cpu_contention", "service_slow", "oom_killed"] {
                let told = |percent: i32| weights.told(pattern, f64::from(percent) / 100.0);
                assert!((told(70) - 0.7).abs() < 1e-12, "{by} {}", told(70));
                for percent in 0..100 {
                    assert!(told(percent) <= told(percent + 1), "{by} {percent}");
                    let (plain, said) = (f64::from(percent) / 100.0, told(percent));
                    assert_eq!(plain < 0.7, said < 0.7 - 1e-12, "{by} {plain} {said}");
                    if by == "1.00" {
                        assert_eq!(plain, said);
                    } else {
                        assert!((LEAST..=MOST).contains(&said), "{by} {plain} {said}");
                    }
                }
            }
        }
        let wider = stretches("1.36");
        assert!(
            wider.told("cpu_contention", 0.85) > 0.85 && wider.told("cpu_contention", 0.55) < 0.55
        );
    }

    /// Guarantees: each pattern is stretched as its family is; what has none is told as it is.
    #[test]
    fn a_stretch_is_that_of_the_patterns_family() {
        let mut weights = stretches("1.00");
        for (family, by) in weights.calibration.iter_mut().zip([2.0, 1.5, 1.2]) {
            family.stretch = by;
        }
        let told = |pattern| weights.told(pattern, 0.85);
        assert!((told("cpu_contention") - stretched(2.0, 0.85)).abs() < 1e-12);
        assert!((told("service_slow") - stretched(1.5, 0.85)).abs() < 1e-12);
        assert!((told("one_of_the_users_own") - stretched(1.2, 0.85)).abs() < 1e-12);
        assert_eq!((told(""), weights.told("", 0.6)), (0.85, 0.6));
    }
}
