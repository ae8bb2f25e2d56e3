//! `--feature-gates`: switches of the Collector's. Tapio has none of its own; a command line that was written for
//! a Collector starts, and what it asks for that Tapio does not do is told.

/// A gate of a Collector, and what Tapio does about it.
pub(crate) struct Gate {
    pub(crate) id: &'static str,
    pub(crate) stage: &'static str,
    /// Whether Tapio does what the gate switches on; `None` where it is about what Tapio does not have.
    pub(crate) does: Option<bool>,
    pub(crate) description: &'static str,
}

const fn gate(
    id: &'static str,
    stage: &'static str,
    does: Option<bool>,
    description: &'static str,
) -> Gate {
    Gate { id, stage, does, description }
}

/// Of the Collector 0.149, and a newer one that reloads by parts; sorted.
pub(crate) const GATES: &[Gate] = &[
    gate(
        "confighttp.framedSnappy",
        "Beta",
        Some(true),
        "Content encodings 'snappy' (blocks) and 'x-snappy-framed' (frames) are told apart",
    ),
    gate("configoptional.AddEnabledField", "Beta", None, "Optional fields have a key 'enabled'"),
    gate(
        "confmap.enableMergeAppendOption",
        "Alpha",
        Some(false),
        "Lists of several --config are appended; without it the last one replaces those before",
    ),
    gate(
        "confmap.newExpandedValueSanitizer",
        "Beta",
        Some(true),
        "Texts of environment variables stay texts where a text is expected",
    ),
    gate(
        "exporter.PersistRequestContext",
        "Beta",
        Some(false),
        "Metadata of senders is kept with requests on disk",
    ),
    gate(
        "extension.healthcheck.useComponentStatus",
        "Alpha",
        Some(false),
        "health_check is healthcheckv2",
    ),
    gate("filter.filterlog.useOTTLBridge", "Alpha", None, "Inside of the filter processor"),
    gate("filter.filtermetric.useOTTLBridge", "Alpha", None, "Inside of the filter processor"),
    gate("filter.filterspan.useOTTLBridge", "Alpha", None, "Inside of the filter processor"),
    gate("otelcol.printInitialConfig", "Beta", Some(true), "There is a command print-config"),
    gate("ottl.PanicDuplicateName", "Beta", None, "Inside of OTTL"),
    gate("ottl.contexts.enableOTelColContext", "Beta", None, "Inside of OTTL"),
    gate("pdata.enableRefCounting", "Beta", None, "Inside of the Collector's memory"),
    gate("pdata.useCustomProtoEncoding", "Stable", None, "Inside of the Collector's memory"),
    gate("pdata.useProtoPooling", "Alpha", None, "Inside of the Collector's memory"),
    gate(
        "receiverhelper.newReceiverMetrics",
        "Alpha",
        Some(false),
        "Receivers tell errors of what follows them from their own",
    ),
    gate("service.AllowNoPipelines", "Alpha", Some(false), "A configuration needs no pipeline"),
    gate("service.partialReload", "Alpha", Some(true), "SIGHUP starts anew only what has changed"),
    gate("service.profilesSupport", "Alpha", Some(true), "Pipelines may carry profiles"),
    gate(
        "telemetry.UseLocalHostAsDefaultMetricsAddress",
        "Beta",
        Some(true),
        "The metrics page is on localhost where nothing else is said",
    ),
    gate(
        "telemetry.newPipelineTelemetry",
        "Alpha",
        Some(false),
        "Metrics name their component in their scope",
    ),
];

/// One line for each gate that is asked to be other than Tapio is, or that it does not know.
pub(crate) fn warnings(asked: &[String]) -> Vec<String> {
    let asked = asked.iter().flat_map(|list| list.split(',')).map(str::trim);
    let asked = asked.filter(|one| !one.is_empty());
    asked
        .filter_map(|one| {
            let (id, on) = match one.strip_prefix('-') {
                Some(id) => (id, false),
                None => (one.strip_prefix('+').unwrap_or(one), true),
            };
            let wanted = if on { "on" } else { "off" };
            match GATES.iter().find(|gate| gate.id == id) {
                None => Some(format!(
                    "--feature-gates={one}: Tapio knows no such gate, and ignores it; `tapio featuregate` lists those that it knows"
                )),
                Some(Gate { does: Some(does), description, .. }) if *does != on => Some(format!(
                    "--feature-gates={one}: Tapio cannot switch it {wanted}, and ignores it ({description})"
                )),
                Some(_) => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guarantees: of the gates that are asked for those are told that Tapio does not know, or does the other way
    /// round; what it does anyway, or has no part in, is silent.
    #[test]
    fn gates_that_change_nothing_are_silent() {
        let told = |asked: &str| warnings(&[asked.to_owned()]).len();
        assert_eq!(
            told("service.profilesSupport,+otelcol.printInitialConfig,-pdata.useProtoPooling,"),
            0
        );
        assert_eq!(told("-service.profilesSupport"), 1);
        assert_eq!(told("confmap.enableMergeAppendOption, nope"), 2);
        assert!(warnings(&["-nope".into()])[0].contains("--feature-gates=-nope"));
    }

    #[test]
    fn the_list_is_sorted() {
        assert!(GATES.is_sorted_by_key(|gate| gate.id));
    }
}
