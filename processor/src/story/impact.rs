//! What an incident costs: requests that failed, error budget that is gone, and how much the business misses
//! the services that it touches.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use serde_json::Value;
use tapio_proto::model::{Budget, Entity, Harm, Impact, Time};

use super::{
    assemble::{Failure, View},
    words::{count, lasting, percent},
};

/// Prefix of the annotations by which a Service, its workload or its namespace says what it promises and what it
/// is worth.
const PREFIX: &str = "tapio/";
const DAY: f64 = 86_400.0;

/// What services promise their callers, and how much the business misses them.
///
/// An annotation on the Service or its workload (`tapio/availability`, `tapio/within-ms`, `tapio/window-days`,
/// `tapio/weight`; the last also on the namespace) comes before these.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    /// The first that fits a service is its objective.
    pub objectives: Vec<Objective>,
    /// The first that fits a service is its weight; without one it is 1.
    pub weights: Vec<Weight>,
}

/// A service level objective.
#[derive(Clone, Debug)]
pub struct Objective {
    /// `namespace/name` of the service, either of which may be `*`.
    pub service: String,
    /// Percent of requests that must be answered well, more than 0 and less than 100.
    pub availability: f64,
    /// An answer that takes longer is none.
    pub within: Option<Duration>,
    /// Days over which it holds.
    pub window_days: f64,
}

/// How much the business misses some services.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Only those of this namespace.
    pub namespace: Option<String>,
    /// Only those whose Service, workload or namespace has all of these labels.
    pub labels: BTreeMap<String, String>,
    /// So many times as much as a service of which nothing is said.
    pub weight: f64,
}

impl Objective {
    /// Of one that says none, the rolling window that teams take most often.
    pub const WINDOW_DAYS: f64 = 30.0;

    /// Why it can be none, in words that end a sentence which names it.
    pub fn check(availability: f64, window_days: f64) -> Result<(), &'static str> {
        if !(availability > 0.0 && availability < 100.0) {
            return Err("availability must be more than 0 and less than 100 percent");
        }
        if !(window_days > 0.0 && window_days <= 366.0) {
            return Err("the window must be more than 0 and at most 366 days");
        }
        Ok(())
    }

    fn fits(&self, service: &Entity) -> bool {
        let (namespace, name) = self.service.split_once('/').unwrap_or(("*", &self.service));
        let is = |pattern: &str, name: &str| pattern == "*" || pattern == name;
        is(namespace, &service.namespace) && is(name, &service.name)
    }
}

/// The objects by which a service is found in the cluster, the nearest first.
struct Bearers<'a>(Vec<&'a Value>);

impl<'a> Bearers<'a> {
    fn of(service: &Entity, view: &View<'a>) -> Self {
        let mut all = vec![service.clone()];
        all.extend(view.graph.workloads(service));
        for workload in all.split_off(1) {
            all.extend(view.cluster.services_of(&workload));
            all.push(workload);
        }
        all.push(Entity::new("Namespace", "", &service.namespace));
        Bearers(all.iter().filter_map(|entity| view.cluster.object(entity)).collect())
    }

    fn annotation(&self, name: &str) -> Option<&'a str> {
        let key = format!("{PREFIX}{name}");
        self.0.iter().find_map(|object| object["metadata"]["annotations"][&key].as_str())
    }

    fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        let all = |object: &&Value| {
            labels.iter().all(|(key, value)| object["metadata"]["labels"][key] == **value)
        };
        labels.is_empty() || self.0.iter().any(all)
    }
}

/// What one service promises and is worth.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub objective: Option<Objective>,
    pub weight: f64,
    /// What it seems to promise and cannot be read.
    pub doubt: Option<String>,
}

impl Importance {
    /// What a service promises now.
    pub(super) fn promise(&self, service: &Entity, view: &View<'_>) -> Promise {
        let bearers = Bearers::of(service, view);
        let (objective, doubt) = match self.objective(service, &bearers) {
            Ok(objective) => (objective, None),
            Err(doubt) => (None, Some(doubt)),
        };
        Promise { objective, weight: self.weight(service, &bearers), doubt }
    }

    fn objective(
        &self,
        service: &Entity,
        bearers: &Bearers<'_>,
    ) -> Result<Option<Objective>, String> {
        let Some(availability) = bearers.annotation("availability") else {
            return Ok(self.objectives.iter().find(|o| o.fits(service)).cloned());
        };
        let number = |name: &str, text: &str| {
            let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
            number.filter(|n| n.is_finite()).ok_or_else(|| {
                format!("annotation {PREFIX}{name} of {} is no number: {text:?}", service.path())
            })
        };
        let optional = |name| bearers.annotation(name).map(|text| number(name, text)).transpose();
        let availability = number("availability", availability)?;
        let window_days = optional("window-days")?.unwrap_or(Objective::WINDOW_DAYS);
        Objective::check(availability, window_days)
            .map_err(|error| format!("annotations {PREFIX}... of {}: {error}", service.path()))?;
        let within = optional("within-ms")?.filter(|ms| *ms > 0.0);
        Ok(Some(Objective {
            service: service.path(),
            availability,
            within: within.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()),
            window_days,
        }))
    }

    fn weight(&self, service: &Entity, bearers: &Bearers<'_>) -> f64 {
        let annotated =
            bearers.annotation("weight").and_then(|text| text.trim().parse::<f64>().ok());
        let fits = |rule: &&Weight| {
            rule.namespace.as_ref().is_none_or(|namespace| **namespace == *service.namespace)
                && bearers.has(&rule.labels)
        };
        annotated
            .filter(|weight| weight.is_finite() && *weight >= 0.0)
            .or_else(|| self.weights.iter().find(fits).map(|rule| rule.weight))
            .unwrap_or(1.0)
    }
}

/// What it costs so far, service by service, and what could not be made out of what services promise.
pub(super) fn impact(
    failures: &BTreeMap<Entity, Failure>,
    until: Time,
    view: &View<'_>,
) -> (Impact, Vec<String>) {
    let mut doubts = Vec::new();
    let mut services: Vec<Harm> = Vec::new();
    for (service, failure) in failures {
        let inside = view.graph.outside(service).is_none();
        let Some((_, promise)) = failure.promise.as_ref().filter(|_| inside) else { continue };
        doubts.extend(promise.doubt.clone());
        // What is not there to answer says nothing of the requests that it fails.
        let (own, callers) = (failure.count.own(), failure.count.callers());
        let tally = if own.failed == 0 && callers.failed > 0 { callers } else { own };
        let objective = promise.objective.as_ref().filter(|_| tally.requests > 0);
        let budget = objective.map(|objective| {
            let bad = (tally.failed + tally.slow) as f64 / tally.requests as f64;
            let burn_rate = bad / (1.0 - objective.availability / 100.0);
            let lasted = until.seconds_since(failure.since).max(1.0);
            Budget {
                availability: objective.availability,
                within_ms: objective.within.map(|within| within.as_secs_f64() * 1e3),
                window_days: objective.window_days,
                burn_rate,
                spent: burn_rate * lasted / (objective.window_days * DAY),
            }
        });
        let within = budget.as_ref().and_then(|budget| budget.within_ms);
        services.push(Harm {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            users: !view.graph.is_called(service),
            requests: tally.requests,
            failed: tally.failed,
            slow: within.map(|_| tally.slow),
            usual: (failure.kind != "latency").then_some(failure.baseline),
            weight: promise.weight,
            budget,
        });
    }
    services.sort_by(|a, b| {
        let first = (b.users, b.weight).partial_cmp(&(a.users, a.weight));
        first
            .unwrap_or(Ordering::Equal)
            .then((&a.namespace, &a.service).cmp(&(&b.namespace, &b.service)))
    });
    let weight = services.iter().map(|harm| harm.weight).reduce(f64::max);
    (Impact { weight: weight.unwrap_or(1.0), services }, doubts)
}

/// What of it goes beyond figures that a story has anyway: error budgets and weights, one line each.
pub(super) fn lines(impact: &Impact) -> Vec<String> {
    let mut out = Vec::new();
    for harm in &impact.services {
        let Some(budget) = &harm.budget else { continue };
        let bad = harm.failed + harm.slow.unwrap_or(0);
        let within = budget.within_ms.map(|ms| format!(" within {ms:.0} ms")).unwrap_or_default();
        let left = (1.0 - budget.spent) * budget.window_days * DAY / budget.burn_rate;
        let ends = if bad == 0 {
            String::new()
        } else if budget.spent >= 1.0 {
            ", all of it".to_owned()
        } else {
            format!(", all of it in {}", lasting(left))
        };
        out.push(format!(
            "{}/{} promises {} %{within} in {} days: {} of {} requests fell short, {} times what it may; {} of its error budget is gone{ends}",
            harm.namespace,
            harm.service,
            budget.availability,
            budget.window_days,
            count(bad),
            count(harm.requests),
            times(budget.burn_rate),
            percent(budget.spent),
        ));
    }
    if impact.weight != 1.0 {
        let heaviest = impact.services.iter().filter(|harm| harm.weight == impact.weight);
        let names: Vec<String> =
            heaviest.map(|harm| format!("{}/{}", harm.namespace, harm.service)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        out.push(format!("weighs {} ({})", impact.weight, super::words::some(&names, 3)));
    }
    out
}

/// `90`, `2.5`
fn times(rate: f64) -> String {
    if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_names_one_service_or_many() {
        let fits = |service: &str| {
            let objective = Objective {
                service: service.to_owned(),
                availability: 99.5,
                within: None,
                window_days: 30.0,
            };
            objective.fits(&Entity::new("Service", "shop", "frontend"))
        };
        assert!(fits("shop/frontend") && fits("*/frontend") && fits("shop/*") && fits("frontend"));
        assert!(!fits("shop/cart") && !fits("bank/*") && !fits("cart"));
    }

    #[test]
    fn what_no_objective_can_be_is_refused() {
        assert_eq!(Objective::check(99.9, 30.0), Ok(()));
        for (availability, days) in
            [(100.0, 30.0), (0.0, 30.0), (f64::NAN, 30.0), (99.9, 0.0), (99.9, 1e9)]
        {
            assert!(Objective::check(availability, days).is_err(), "{availability} {days}");
        }
    }

    #[test]
    fn a_budget_is_told_with_how_long_it_lasts() {
        let budget = Budget {
            availability: 99.5,
            within_ms: Some(300.0),
            window_days: 30.0,
            burn_rate: 90.0,
            spent: 0.0087,
        };
        let harm = Harm {
            namespace: "shop".to_owned(),
            service: "frontend".to_owned(),
            users: true,
            requests: 1285,
            failed: 572,
            slow: Some(6),
            usual: Some(0.0),
            weight: 5.0,
            budget: Some(budget),
        };
        let told = lines(&Impact { weight: 5.0, services: vec![harm] });
        assert_eq!(
            told,
            [
                "shop/frontend promises 99.5 % within 300 ms in 30 days: 578 of 1,285 requests fell short, 90 times what it may; 0.9 % of its error budget is gone, all of it in 7 h 55 m",
                "weighs 5 (shop/frontend)",
            ]
        );
    }
}
