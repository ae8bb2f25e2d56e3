//! What helps with what is found, where who found it does not say: by the failure, then by its pattern, and in any
//! case to look at it.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use super::{Finding, Known, look_at};
use crate::{
    kubernetes::{
        cluster::Cluster,
        objects::pod_template,
        value::{list, text},
    },
    patterns::Remedy,
    story::fill,
};

const FILE: &str = include_str!("remedies.yaml");

/// By failure.
static READ: LazyLock<BTreeMap<String, Vec<Remedy>>> =
    LazyLock::new(|| serde_saphyr::from_str(FILE).unwrap_or_default());

impl Cluster {
    /// Adds what helps to what was found.
    pub(super) fn advise(&self, found: &mut Finding, known: &[Known]) {
        // Told in the words of its pattern it has its remedies.
        if found.known {
            return;
        }
        let of_pattern = || known.iter().find(|pattern| pattern.id() == found.pattern);
        let own = found.advice.is_empty();
        let all = READ.get(&found.pattern).filter(|_| own || found.is_death());
        let all = all.map(Vec::as_slice);
        let all = all.or_else(|| of_pattern().filter(|_| own).map(Known::remedies));
        let mut advice: Vec<String> = match all {
            Some(all) => {
                let values = self.values(found);
                let all = all.iter().filter(|remedy| !remedy.run.contains("{undo}"));
                all.map(|remedy| {
                    let (say, run) = (fill(&remedy.say, &values), fill(&remedy.run, &values));
                    if run.is_empty() { say } else { format!("{say}: {run}") }
                })
                .collect()
            }
            None => Vec::new(),
        };
        if let Some(first) = advice.first_mut()
            && let Some(rest) = first.strip_prefix("or ")
        {
            *first = rest.to_owned();
        }
        // One cannot look at what is not there.
        let there = [&found.object, &found.workload].into_iter().find(|of| self.exists(of));
        if advice.is_empty() && (found.advice.is_empty() || found.is_death()) {
            advice.extend(there.map(look_at));
        }
        advice.append(&mut found.advice);
        found.advice = advice;
    }

    /// What remedies may hold in braces.
    fn values(&self, found: &Finding) -> BTreeMap<&'static str, String> {
        let template = self.objects.get(&found.workload).and_then(|object| {
            pod_template(&found.workload.kind, &object.value).map(|(_, spec)| spec)
        });
        let containers = ["containers", "initContainers"];
        let containers = || {
            containers
                .into_iter()
                .flat_map(move |part| template.map_or(&[][..], |of| list(of, &[part])))
        };
        let spoken = |of: &&Value| {
            let image = text(of, &["image"]);
            !image.is_empty() && found.what.contains(image)
                || found.what.contains(&format!("container {} ", text(of, &["name"])))
        };
        let container = containers().find(spoken).or_else(|| containers().next());
        let of = |key| container.map_or("...", |of| text(of, &[key])).to_owned();
        let node = if &*found.object.kind == "Node" { &*found.object.name } else { "..." };
        BTreeMap::from([
            ("object", found.object.to_string()),
            ("kind", found.object.kind.to_lowercase()),
            ("namespace", found.workload.namespace.to_string()),
            ("name", found.object.name.to_string()),
            ("node", node.to_owned()),
            ("workload", found.workload.path()),
            ("workload_name", found.workload.name.to_string()),
            ("workload_kind", found.workload.kind.to_lowercase()),
            ("service", found.service.clone()),
            ("image", of("image")),
            ("container", of("name")),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guarantees: the file can be read, says something in each remedy, and fills in nothing that is not known.
    #[test]
    fn the_remedies_can_be_read() {
        assert!(READ.len() > 30);
        let known = [
            "object",
            "kind",
            "namespace",
            "name",
            "node",
            "workload",
            "workload_name",
            "workload_kind",
            "service",
            "image",
            "container",
        ];
        for (failure, all) in &*READ {
            for text in all.iter().flat_map(|remedy| [&remedy.say, &remedy.run]) {
                for part in text.split('{').skip(1) {
                    let name = part.split('}').next().unwrap_or_default();
                    let word = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                    assert!(!word || known.contains(&name), "{failure}: {name}");
                }
            }
            assert!(all.iter().all(|remedy| !remedy.say.is_empty()), "{failure}");
        }
    }
}
