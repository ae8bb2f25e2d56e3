//! What a metric says of how a pod or a node strains, by the words in its name, and from where on a value of it is far
//! from usual.

/// So many times what is seldom exceeded is far from usual: of what a processor does, of memory, which hardly moves,
/// of a disk, which works in bursts, and of answers in a unit that nobody says.
const FAR: f64 = 3.0;
const FAR_MEMORY: f64 = 2.0;
const FAR_DISK: f64 = 10.0;
const FAR_ANSWER: f64 = 1.5;
/// The same of the processors of a node, on which always something works.
const FAR_NODE: f64 = 1.5;
/// The least share of its limit that a pod strained uses; the least cores where no limit is known.
const SHARE: f64 = 0.5;
const CORES: f64 = 0.5;
/// The least packets a second whose loss anybody feels.
const PACKETS: f64 = 0.1;
/// The least that answers take longer, seconds.
const LONGER: f64 = 0.05;

/// What a pod may want more of than there is. Of several it is the one that is farthest from usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// It reads and writes.
    Disk,
    /// Bytes in memory.
    Memory,
    /// Time of a processor.
    Cpu,
    /// Packets that were dropped, or came damaged.
    Packets,
}

/// What a metric measures, as far as its name says: whoever writes it, cAdvisor, a runtime or a program itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// What it measures that a pod uses. What it may use, what is left and what its node uses are something else.
    pub want: Option<Want>,
    /// It measures how busy the processors of a node are.
    pub node: bool,
}

impl Named {
    /// By the words in a metric's name.
    pub fn of(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        Named { want: Want::named(&name), node: is_of_node(&name) }
    }
}

impl Want {
    /// By the words in a name in lower case.
    fn named(name: &str) -> Option<Self> {
        const OTHERS: [&str; 12] = [
            "limit",
            "request",
            "quota",
            "max",
            "node",
            "system",
            "host",
            "throttl",
            "avail",
            "free",
            "committed",
            "virtual",
        ];
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        let word =
            |is: &dyn Fn(&str) -> bool| name.split(|c: char| !c.is_ascii_alphanumeric()).any(is);
        let begins = |starts: &'static [&str]| {
            move |word: &str| starts.iter().any(|start| word.starts_with(start))
        };
        if has(&OTHERS) {
            None
        } else if has(&["cpu"])
            && !has(&["cfs", "period", "share", "count", "load", "idle", "freq"])
        {
            Some(Want::Cpu)
        } else if (has(&["memory"]) || word(&|word| matches!(word, "mem" | "memusage" | "heap")))
            && !has(&["cache", "fail", "fault", "swap", "init", "mapped", "kernel", "gc"])
        {
            Some(Want::Memory)
        } else if word(&|word| matches!(word, "fs" | "disk" | "diskio" | "blkio"))
            && word(&begins(&["read", "writ", "io", "diskio", "blkio"]))
        {
            Some(Want::Disk)
        } else if word(&begins(&["net", "rx", "tx"])) && has(&["drop", "err", "retrans"]) {
            Some(Want::Packets)
        } else {
            None
        }
    }
}

/// Does a metric of this name, in lower case, measure how busy the processors of a node are?
fn is_of_node(name: &str) -> bool {
    let says = ["usage", "util", "percent", "busy"];
    ["node", "system", "host", "k8s.node", "k8s_node"].iter().any(|start| name.starts_with(start))
        && name.contains("cpu")
        && says.iter().any(|word| name.contains(word))
}

/// What a metric says of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gauge {
    /// CPU as a share of the limit, of a container or of the pod.
    Share(String),
    /// Cores in use, of a container or of the pod.
    Cores(String),
    /// What it uses of something, in whichever unit, by metric and container.
    Used(Want, String),
    /// Seconds that an answer takes, by metric and statistic.
    Answer(String),
    /// How long an answer takes in a unit that is not said, by metric.
    Wait(String),
    /// What the processors of a node do, by metric.
    Node(String),
}

impl Gauge {
    /// What a CPU metric of the `kubeletstats` receiver measures.
    pub fn of_cpu(name: &str, container: &str) -> Option<Self> {
        match name {
            "k8s.pod.cpu_limit_utilization" | "k8s.container.cpu_limit_utilization" => {
                Some(Gauge::Share(container.to_owned()))
            }
            "k8s.pod.cpu.usage" | "container.cpu.usage" => Some(Gauge::Cores(container.to_owned())),
            _ => None,
        }
    }

    /// What a metric measures of what a pod uses, and a container where it names one.
    pub fn of_use(want: Want, name: &str, container: &str) -> Self {
        Gauge::Used(want, format!("{name} {container}").trim_end().to_owned())
    }

    /// What it measures the use of; none of answers and of nodes.
    pub fn want(&self) -> Option<Want> {
        match self {
            Gauge::Share(_) | Gauge::Cores(_) => Some(Want::Cpu),
            Gauge::Used(want, _) => Some(*want),
            Gauge::Answer(_) | Gauge::Wait(_) | Gauge::Node(_) => None,
        }
    }

    /// The metric, or the container.
    pub fn name(&self) -> &str {
        match self {
            Gauge::Share(name)
            | Gauge::Cores(name)
            | Gauge::Used(_, name)
            | Gauge::Answer(name)
            | Gauge::Wait(name)
            | Gauge::Node(name) => name,
        }
    }

    /// Below this it is never far from usual.
    pub(super) fn floor(&self, usual: f64) -> f64 {
        let least = match self {
            Gauge::Share(_) => SHARE,
            Gauge::Cores(_) => CORES,
            Gauge::Used(Want::Packets, _) => PACKETS,
            Gauge::Used(..) | Gauge::Wait(_) | Gauge::Node(_) => f64::MIN_POSITIVE,
            Gauge::Answer(_) => usual + LONGER,
        };
        let times = match self {
            Gauge::Used(Want::Memory, _) => FAR_MEMORY,
            Gauge::Used(Want::Disk, _) => FAR_DISK,
            Gauge::Wait(_) => FAR_ANSWER,
            Gauge::Node(_) => FAR_NODE,
            _ => FAR,
        };
        least.max(times * usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guarantees: what a metric measures is known by its words, whoever writes it; what may be used, what is left and
    /// what a node uses is not taken for it.
    #[test]
    fn what_is_used_is_known_by_its_words() {
        let want = |name: &str| Named::of(name).want;
        for (name, is) in [
            ("container_cpu_usage_seconds_total", Want::Cpu),
            ("process.cpu.utilization", Want::Cpu),
            ("jvm.cpu.recent_utilization", Want::Cpu),
            ("worker_cpu_pct", Want::Cpu),
            ("cpu", Want::Cpu),
            ("container_memory_working_set_bytes", Want::Memory),
            ("jvm.memory.used", Want::Memory),
            ("mem", Want::Memory),
            ("container_fs_writes_bytes_total", Want::Disk),
            ("diskio", Want::Disk),
            ("container_network_receive_packets_dropped_total", Want::Packets),
        ] {
            assert_eq!(want(name), Some(is), "{name}");
        }
        for name in [
            "k8s.container.cpu_limit",
            "kube_pod_container_resource_requests_cpu_cores",
            "container_cpu_cfs_throttled_seconds_total",
            "NodeCpuUsageRate",
            "system.memory.usage",
            "jvm.memory.committed",
            "container_fs_usage_bytes",
            "container_network_receive_bytes_total",
            "http_requests_total",
            "version_ratio",
        ] {
            assert_eq!(want(name), None, "{name}");
        }
    }
}
