//! Who may send to whom by all NetworkPolicies together, as Kubernetes reads them: a pod of which none speaks may
//! all; one of which some speak may what one of them allows. What is not known may be.

use std::net::IpAddr;

use serde_json::Value;
use tapio_proto::model::Entity;

use super::sick::Sick;
use crate::kubernetes::{
    cluster::Cluster,
    links,
    passage::{self, SIDES, Side},
    value::{at, boolean, list, number, plain, text},
};

/// Pods at one end of a way.
pub(super) struct End<'a> {
    namespace: &'a str,
    /// The labels that each has; none where they are not known.
    labels: Vec<Option<&'a Value>>,
    spec: &'a Value,
    /// Their addresses; none where they are not known.
    addresses: Vec<IpAddr>,
}

/// A port at the pods, by its number where that is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Port {
    pub(super) number: Option<i64>,
    pub(super) protocol: String,
}

impl<'a> End<'a> {
    /// The pods of a workload; of one without any, those that it would make.
    pub(super) fn of(sick: &Sick<'a>, template: Option<&'a Value>) -> Self {
        let pods = || sick.pods.iter().map(|(_, pod)| *pod);
        let mut labels: Vec<_> = pods().map(|pod| at(pod, &["metadata", "labels"])).collect();
        if labels.is_empty() {
            labels.push(template);
        }
        let addresses = pods().filter_map(|pod| text(pod, &["status", "podIP"]).parse().ok());
        let (namespace, addresses) = (&*sick.workload.namespace, addresses.collect());
        End { namespace, labels, spec: sick.spec, addresses }
    }

    /// Who resolves names: where it listens may be on every node.
    pub(super) fn resolver(of: Option<End<'a>>) -> Self {
        let (namespace, spec) = ("kube-system", &Value::Null);
        let labels = of.map_or(Vec::new(), |of| of.labels);
        End { namespace, labels, spec, addresses: Vec::new() }
    }

    /// Pods on the network of their node are no pods for a policy.
    fn is_outside(&self) -> bool {
        boolean(self.spec, &["hostNetwork"]) == Some(true)
    }

    /// The ports at these pods that a Service leads to: those of which a text speaks, else all.
    pub(super) fn ports(&self, service: &Value, said: &str) -> Vec<Port> {
        let all = list(service, &["spec", "ports"]);
        let spoken = |port: &&Value| {
            let number = number(port, &["port"]).unwrap_or(0).to_string();
            said.match_indices(&format!(":{number}")).any(|(at, mark)| {
                !said[at + mark.len()..].starts_with(|c: char| c.is_ascii_digit())
            })
        };
        let some: Vec<&Value> = all.iter().filter(spoken).collect();
        let of = if some.is_empty() { all.iter().collect() } else { some };
        of.into_iter()
            .map(|port| {
                let target = at(port, &["targetPort"]).or_else(|| at(port, &["port"])).map(plain);
                Port {
                    number: target.and_then(|target| self.number(&target)),
                    protocol: protocol(port),
                }
            })
            .collect()
    }

    /// The number of a port of its containers, by number or name.
    fn number(&self, port: &str) -> Option<i64> {
        port.parse().ok().or_else(|| {
            let all = list(self.spec, &["containers"]).iter();
            let mut all = all.flat_map(|container| list(container, &["ports"]));
            number(all.find(|of| text(of, &["name"]) == port)?, &["containerPort"])
        })
    }
}

impl Cluster {
    /// The policies that together do not let `from` send to `to` on any of these ports, with the side on which
    /// they stand, the one first that speaks most of these pods; none where it may.
    pub(super) fn shut<'a>(
        &'a self,
        from: &End<'_>,
        to: &End<'_>,
        ports: &[Port],
    ) -> Vec<(&'a Entity, Side)> {
        for (side, here, there) in [(SIDES[0], to, from), (SIDES[1], from, to)] {
            let mut of_it: Vec<(&'a Entity, &'a Value)> = self
                .objects
                .of_kind("NetworkPolicy")
                .filter(|policy| &*policy.namespace == here.namespace)
                .filter_map(|policy| Some((policy, self.object(policy)?)))
                .filter(|(_, policy)| {
                    let mut all = here.labels.iter().peekable();
                    passage::speaks(policy, side)
                        && !here.is_outside()
                        && all.peek().is_some()
                        && all.all(|labels| passage::holds(policy, *labels))
                })
                .collect();
            let opens = |(policy, value): &(&Entity, &Value)| {
                list(value, &["spec", side.0]).iter().any(|rule| {
                    self.admits(rule, side, &policy.namespace, there) && leads(rule, to, ports)
                })
            };
            if of_it.is_empty() || of_it.iter().any(opens) {
                continue;
            }
            of_it.sort_by_key(|(_, value)| {
                let selector = at(value, &["spec", "podSelector"]).and_then(Value::as_object);
                let all = selector.is_none_or(serde_json::Map::is_empty);
                let made = super::created(value);
                (all, std::cmp::Reverse(made))
            });
            return of_it.into_iter().map(|(policy, _)| (policy, side)).collect();
        }
        Vec::new()
    }

    /// May a rule mean who is at the other end?
    fn admits(&self, rule: &Value, side: Side, namespace: &str, there: &End<'_>) -> bool {
        let peers = list(rule, &[side.1]);
        let labels = || {
            let of = self.objects.alive(&Entity::new("Namespace", "", there.namespace));
            of.map(|of| at(&of.value, &["metadata", "labels"]).unwrap_or(&Value::Null))
        };
        peers.is_empty()
            || there.is_outside()
            || peers.iter().any(|peer| {
                if let Some(block) = at(peer, &["ipBlock"]) {
                    let mut all = there.addresses.iter().peekable();
                    return all.peek().is_none() || all.any(|of| is_in(block, *of));
                }
                let near = match at(peer, &["namespaceSelector"]) {
                    None => there.namespace == namespace,
                    Some(selector) => passage::may_mean(selector, there.namespace, labels()),
                };
                let chosen = |selector| {
                    let mut all = there.labels.iter().peekable();
                    all.peek().is_none() || all.any(|labels| links::chosen(selector, *labels))
                };
                near && at(peer, &["podSelector"]).is_none_or(chosen)
            })
    }
}

/// Does a rule open one of these ports of the pods?
fn leads(rule: &Value, to: &End<'_>, ports: &[Port]) -> bool {
    let open = list(rule, &["ports"]);
    open.is_empty()
        || ports.is_empty()
        || ports.iter().any(|port| {
            open.iter().any(|of| {
                let (Some(first), Some(asked)) = (at(of, &["port"]).map(plain), port.number) else {
                    return protocol(of) == port.protocol;
                };
                let first = to.number(&first);
                let last = number(of, &["endPort"]).or(first);
                let within = first.zip(last).is_some_and(|(a, b)| (a..=b).contains(&asked));
                within && protocol(of) == port.protocol
            })
        })
}

fn protocol(port: &Value) -> String {
    match text(port, &["protocol"]) {
        "" => "TCP".to_owned(),
        other => other.to_owned(),
    }
}

/// Is an address in a block? In one that does not read it may be.
fn is_in(block: &Value, address: IpAddr) -> bool {
    let within = |cidr: &str| -> Option<bool> {
        let (net, bits) = cidr.split_once('/')?;
        let bits: u32 = bits.parse().ok()?;
        Some(match (net.parse().ok()?, address) {
            (IpAddr::V4(net), IpAddr::V4(of)) => {
                let kept = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
                net.to_bits() & kept == of.to_bits() & kept
            }
            (IpAddr::V6(net), IpAddr::V6(of)) => {
                let kept = u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0);
                net.to_bits() & kept == of.to_bits() & kept
            }
            _ => false,
        })
    };
    let except = list(block, &["except"]).iter().filter_map(Value::as_str);
    within(text(block, &["cidr"])).unwrap_or(true)
        && !except.into_iter().any(|cidr| within(cidr).unwrap_or(false))
}
