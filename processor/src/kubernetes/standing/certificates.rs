//! Certificates: whose an expired one is that a caller meets, and those that cert-manager does not renew.

use std::{sync::LazyLock, time::Duration};

use regex::Regex;
use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, Said, beneath, created, network::names, words};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        links,
        objects::pod_template,
        unfit,
        value::{list, number, text},
    },
};

/// A certificate that is not there so long after it was asked for does not come.
const LATE: Duration = Duration::from_secs(600);

/// Words of somebody who meets a certificate that is out of date.
static EXPIRED: LazyLock<Regex> = LazyLock::new(|| {
    let words = r"(?i)certificate (has|is) expired|certificate_?expired|CERT_HAS_EXPIRED|expired certificate|validity check failed|NotTimeValid";
    #[allow(clippy::expect_used)]
    Regex::new(words).expect("constant pattern")
});

/// What is wrong with a certificate.
struct Ill {
    pattern: &'static str,
    what: String,
    confidence: f64,
    since: Option<Time>,
}

impl Cluster {
    /// Lays expired certificates to who serves them, Secrets that are not there to the certificate that should
    /// make them, and tells of the certificates that are out of date or not made.
    pub(super) fn certificates(&self, said: &Said, now: Time, out: &mut Vec<Finding>) {
        let addresses = self.addresses();
        let mut causes: Vec<Finding> = Vec::new();
        for found in out.iter_mut() {
            let lines = found.complaints.iter().flat_map(|text| text.lines());
            let met = lines.filter(|line| EXPIRED.is_match(line)).map(str::to_owned).next();
            let of_it = matches!(
                found.pattern.as_str(),
                "certificate_expired_logged" | "webhook_not_trusted"
            );
            if let Some(line) = met.filter(|_| of_it) {
                let own = |of: &Entity| self.workloads_of(of).contains(&found.workload);
                let asked = self.spoken(&line, &found.workload.namespace, &addresses);
                let service = asked.into_iter().find(|of| *of != found.workload && !own(of));
                match service.and_then(|of| self.served(&of, &line, found.since, now)) {
                    Some(cause) => {
                        let what = format!(
                            "{} does not trust {}: {}",
                            found.workload.path(),
                            cause.workload.path(),
                            words::sentence(&line, 0, 0)
                        );
                        beneath::follows(found, &cause, what);
                        if !causes.iter().any(|other| other.workload == cause.workload) {
                            causes.push(cause);
                        }
                    }
                    None => {
                        if let Some(host) = host(&line).filter(|host| !host.contains(".svc")) {
                            found.mechanism = format!("{host}, which is not of this cluster");
                        }
                    }
                }
            }
            if &*found.object.kind == "Secret" && !self.exists(&found.object) {
                let makes = self.maker(&found.object);
                let ill = makes.and_then(|of| Some((of, self.ill(of, said, now)?)));
                if let Some((certificate, ill)) = ill {
                    found.what =
                        format!("Secret {} does not exist, since {}", found.object.name, ill.what);
                    found.object = certificate.clone();
                    ill.pattern.clone_into(&mut found.pattern);
                    found.advice = remedies(certificate);
                }
            }
        }
        out.append(&mut causes);
        for certificate in self.objects.of_kind("Certificate") {
            if out.iter().any(|found| found.object == *certificate) {
                continue;
            }
            let Some(ill) = self.ill(certificate, said, now) else { continue };
            let secret = self.secret_of(certificate);
            let workload = secret.and_then(|secret| self.user_of(&secret));
            let workload = workload.unwrap_or_else(|| certificate.clone());
            out.push(Finding {
                object: certificate.clone(),
                service: self.service_name(&workload),
                workload,
                pattern: ill.pattern.to_owned(),
                title: ill.what.clone(),
                what: ill.what,
                mechanism:
                    "who is shown a certificate that is out of date, or none, does not trust it"
                        .to_owned(),
                advice: remedies(certificate),
                confidence: ill.confidence,
                since: ill.since.unwrap_or(now).min(now),
                ..Finding::default()
            });
        }
    }

    /// That a certificate has expired which is served behind a Service, or by a workload.
    fn served(&self, by: &Entity, line: &str, since: Time, now: Time) -> Option<Finding> {
        let workload = match &*by.kind {
            "Service" => self.workloads_of(by).into_iter().next()?,
            _ => by.clone(),
        };
        let object = self.objects.get(&workload)?;
        let secrets = links::references(&workload.kind, &object.value, &workload.namespace);
        let mut secrets = secrets.into_iter().map(|(_, to)| to).filter(|to| {
            let tls = |of: &Value| text(of, &["type"]) == "kubernetes.io/tls";
            &*to.kind == "Secret" && (self.maker(to).is_some() || self.object(to).is_some_and(tls))
        });
        let secret = secrets.next().filter(|_| secrets.next().is_none());
        let certificates = || {
            let all = self.objects.of_kind("Certificate");
            all.filter(|of| of.namespace == workload.namespace)
        };
        let named = |of: &&Entity| {
            let all = self.object(of).map(|of| list(of, &["spec", "dnsNames"]));
            let mut all = all.into_iter().flatten().filter_map(Value::as_str);
            all.any(|name| names(&line.to_lowercase(), name))
        };
        let certificate = secret.as_ref().and_then(|secret| self.maker(secret));
        let certificate = certificate.or_else(|| certificates().find(named));
        let value = certificate.and_then(|of| self.object(of));
        let until = value.and_then(|of| Time::parse_rfc3339(text(of, &["status", "notAfter"])));
        let renewed = until.is_some_and(|until| until > now);
        let restart = format!(
            "have it read the new one: kubectl -n {} rollout restart {} {}",
            workload.namespace,
            workload.kind.to_lowercase(),
            workload.name
        );
        let (object, what, advice) = match (certificate, secret) {
            (Some(certificate), _) if renewed => (
                workload.clone(),
                format!(
                    "Certificate {} was renewed, but it still serves the old one",
                    certificate.name
                ),
                vec![restart],
            ),
            (Some(certificate), _) => {
                let mut advice = remedies(certificate);
                advice.push(restart);
                (certificate.clone(), format!("it is Certificate {}", certificate.name), advice)
            }
            (None, Some(secret)) => {
                let (space, name) = (&secret.namespace, &secret.name);
                let look = format!(
                    "see until when it is valid: kubectl -n {space} get secret {name} -o jsonpath='{{.data.tls\\.crt}}' | base64 -d | openssl x509 -noout -enddate"
                );
                let renew = "renew it, with the tool that made it".to_owned();
                let what = format!("it is in Secret {name}");
                (secret, what, vec![look, renew, restart])
            }
            (None, None) => (
                workload.clone(),
                "where it has it from is not known".to_owned(),
                vec!["renew the certificate that it serves".to_owned(), restart],
            ),
        };
        let w = weights();
        Some(Finding {
            service: self.service_name(&workload),
            title: format!("the certificate of {} has expired: {what}", workload.path()),
            what: format!("the certificate of {} has expired: {what}", workload.path()),
            mechanism: "the time of the certificate is over, so that no client trusts it any more"
                .to_owned(),
            workload,
            object,
            pattern: "certificate_expired".to_owned(),
            advice,
            confidence: w.standing.plain,
            since,
            ..Finding::default()
        })
    }

    /// A Secret with the certificate of an Ingress that is not there, so that another one is shown.
    pub(super) fn unsecured(
        &self,
        route: &Entity,
        value: &Value,
        said: &Said,
        now: Time,
    ) -> Option<Finding> {
        let space = &*route.namespace;
        self.objects.of("Secret", space).next()?;
        let (secret, hosts) = list(value, &["spec", "tls"]).iter().find_map(|of| {
            let secret = Entity::new("Secret", space, text(of, &["secretName"]));
            let hosts = list(of, &["hosts"]).iter().filter_map(Value::as_str);
            let gone = !secret.name.is_empty() && !self.exists(&secret);
            gone.then(|| (secret, hosts.collect::<Vec<_>>().join(", ")))
        })?;
        let path = format!("{space}/{}", secret.name);
        let missed = said.values().flatten().any(|saying| saying.message.contains(&path));
        let (service, _) = unfit::backends(value).into_iter().next()?;
        let what = format!(
            "Ingress {} refers to Secret {}, which does not exist, so that {hosts} is served with another certificate or none",
            route.name, secret.name
        );
        let w = &weights().standing;
        let name = &secret.name;
        let advice = vec![
            format!(
                "see what there is, a name may be misspelt: kubectl -n {space} get secrets --field-selector type=kubernetes.io/tls"
            ),
            format!("correct the reference: kubectl -n {space} edit ingress {}", route.name),
            format!(
                "or make the Secret: kubectl -n {space} create secret tls {name} --cert=... --key=..."
            ),
        ];
        Some(Finding {
            advice,
            object: secret,
            workload: route.clone(),
            service,
            pattern: "missing_secret_binding".to_owned(),
            title: what.clone(),
            what,
            mechanism: "who serves an Ingress takes its certificate from the Secret that it names; browsers do not trust the one that is shown instead".to_owned(),
            confidence: if missed { w.plain } else { w.blind },
            since: created(value).unwrap_or(now).min(now),
            ..Finding::default()
        })
    }

    /// The certificate that is to be in a Secret.
    fn maker(&self, secret: &Entity) -> Option<&Entity> {
        let mut all = self.objects.of_kind("Certificate");
        all.find(|of| self.secret_of(of).as_ref() == Some(secret))
    }

    fn secret_of(&self, certificate: &Entity) -> Option<Entity> {
        let name = text(self.object(certificate)?, &["spec", "secretName"]);
        (!name.is_empty()).then(|| Entity::new("Secret", &certificate.namespace, name))
    }

    /// A workload whose pods need a Secret.
    fn user_of(&self, secret: &Entity) -> Option<Entity> {
        let uses = |(workload, value): &(&Entity, &Value)| {
            pod_template(&workload.kind, value).is_some()
                && links::references(&workload.kind, value, &workload.namespace)
                    .iter()
                    .any(|(_, to)| to == secret)
        };
        let mut all = self.objects.workloads(&secret.namespace).map(|(of, o)| (of, &*o.value));
        all.find(uses).map(|(workload, _)| workload.clone())
    }

    /// What is wrong with a certificate of cert-manager, by its status and what is said of it.
    fn ill(&self, certificate: &Entity, said: &Said, now: Time) -> Option<Ill> {
        let value = self.object(certificate)?;
        let conditions = list(value, &["status", "conditions"]);
        let is = |kind: &str| conditions.iter().find(|of| text(of, &["type"]) == kind);
        let until = text(value, &["status", "notAfter"]);
        let ends = Time::parse_rfc3339(until);
        let unready = is("Ready").filter(|of| text(of, &["status"]) == "False");
        let failed = is("Issuing").filter(|of| {
            text(of, &["status"]) == "False"
                && text(of, &["reason"]) == "Failed"
                && number(value, &["status", "failedIssuanceAttempts"]).unwrap_or(0) > 0
        });
        // Why, by who makes it: its requests, orders and challenges are called after it.
        let mine = |of: &&Entity| {
            let part = of.name.strip_prefix(&*certificate.name);
            of.namespace == certificate.namespace
                && matches!(&*of.kind, "Certificate" | "CertificateRequest" | "Order" | "Challenge")
                && part.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let events = said.iter().filter(|(of, _)| mine(of)).flat_map(|(_, all)| all);
        let last = events.max_by_key(|saying| saying.time).map(|saying| saying.message.clone());
        let why = last
            .or_else(|| Some(text(failed?, &["message"]).to_owned()))
            .or_else(|| Some(text(unready?, &["message"]).to_owned()));
        let why = match why.as_deref() {
            Some("") | None => String::new(),
            Some(why) => format!(": {}", words::sentence(why, 0, 0)),
        };
        let (name, w) = (&certificate.name, &weights().standing);
        let since = |of: &Value| Time::parse_rfc3339(text(of, &["lastTransitionTime"]));
        if ends.is_some_and(|ends| ends <= now) {
            let what =
                format!("Certificate {name} has expired at {until}, and is not renewed{why}");
            let (pattern, confidence) = ("certificate_expired", w.plain);
            return Some(Ill { pattern, what, confidence, since: ends });
        }
        let pattern = "D10_certificate_not_issued";
        if let Some(unready) = unready {
            let begun = since(unready).or_else(|| created(value))?;
            let what = format!("Certificate {name} is not issued{why}");
            let late = begun + LATE <= now;
            return late.then_some(Ill { pattern, what, confidence: w.plain, since: Some(begun) });
        }
        let what = format!("Certificate {name} is not renewed, and ends at {until}{why}");
        Some(Ill { pattern, what, confidence: w.blind, since: since(failed?) })
    }
}

/// What helps a certificate of cert-manager.
fn remedies(certificate: &Entity) -> Vec<String> {
    let (space, name) = (&certificate.namespace, &certificate.name);
    vec![
        format!(
            "see why it is not renewed: kubectl -n {space} describe certificate {name}; kubectl -n {space} get certificaterequests,orders,challenges"
        ),
        format!("when that is mended, have it renewed at once: cmctl -n {space} renew {name}"),
    ]
}

/// The host of the first secure address in a line.
fn host(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("https://")?;
    let end = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-');
    let host = rest.split(end).next().unwrap_or_default();
    host.contains('.').then_some(host)
}
