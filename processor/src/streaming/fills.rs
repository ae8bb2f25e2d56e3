//! What fills up: memory, volumes, disks of nodes, pools of connections, file descriptors. How full each is over
//! the last hour, how fast it grows and since when, and when it is full at that rate.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

/// One point of a series covers this.
const STEP: Duration = Duration::from_secs(30);
/// Points kept: an hour.
const KEEP: usize = 120;
/// Series kept; those that were silent for longest make room.
const MOST: usize = 20_000;
/// What no point tells of for so long is not known to go on.
const FRESH: Duration = Duration::from_secs(120);
/// Time from one judgement to the next.
const PAUSE: Duration = Duration::from_secs(10);
/// Below this share nothing is about to be full.
const FULL_ENOUGH: f64 = 0.5;
/// A fall by so much is a new beginning: a restart, or somebody made room.
const FALL: f64 = 0.1;
/// What is so near the least is where it stood before it grew.
const FLOOR: f64 = 0.02;
/// The least that it grew, over the least time, in the least number of points.
const GREW: f64 = 0.15;
const LONG: Duration = Duration::from_secs(180);
const POINTS: usize = 6;
/// The least share of pairs of points of which the later is higher.
const STEADY: f64 = 0.9;
/// Its newest third may have this much less of a slope: what comes to a rest fills nothing.
const SLOWING: f64 = 0.6;
/// What was about as full before, and not so full that harm came of it, is as it always is.
const USUAL: f64 = 0.05;
const HARM: f64 = 0.95;
/// What is full later than this is no news now.
const SOON: Duration = Duration::from_secs(1800);

/// What fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vessel {
    /// The memory of a container, against its limit.
    Memory,
    /// A volume that is claimed.
    Volume,
    /// The file system of a node.
    NodeDisk,
    /// The memory of a node.
    NodeMemory,
    /// A pool of connections.
    Pool,
    /// File descriptors of a process.
    Files,
}

impl Vessel {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Vessel::Memory => "memory",
            Vessel::Volume => "volume",
            Vessel::NodeDisk => "disk",
            Vessel::NodeMemory => "memory of the node",
            Vessel::Pool => "connection pool",
            Vessel::Files => "table of open files",
        }
    }

    /// The pattern of what it comes to.
    pub fn pattern(self) -> &'static str {
        match self {
            Vessel::Memory => "memory_leak",
            Vessel::Volume => "disk_full",
            Vessel::NodeDisk => "node_disk_pressure",
            Vessel::NodeMemory => "node_memory_pressure",
            Vessel::Pool => "pool_exhausted",
            Vessel::Files => "file_descriptors_exhausted",
        }
    }
}

/// What a metric says of a vessel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// What is in it.
    Used,
    /// What is left.
    Free,
    /// What it holds.
    Most,
}

/// What metrics tell of, by their names with `_` for `.`; a value of another `state` than `used` is not it.
const KNOWN: &[(&str, Vessel, Content)] = &[
    ("k8s_volume_available", Vessel::Volume, Content::Free),
    ("k8s_volume_capacity", Vessel::Volume, Content::Most),
    ("k8s_node_filesystem_available", Vessel::NodeDisk, Content::Free),
    ("k8s_node_filesystem_capacity", Vessel::NodeDisk, Content::Most),
    ("k8s_node_memory_available", Vessel::NodeMemory, Content::Free),
    ("k8s_node_memory_working_set", Vessel::NodeMemory, Content::Used),
    ("db_client_connection_count", Vessel::Pool, Content::Used),
    ("db_client_connection_max", Vessel::Pool, Content::Most),
    ("db_client_connections_usage", Vessel::Pool, Content::Used),
    ("db_client_connections_max", Vessel::Pool, Content::Most),
    ("hikaricp_connections_active", Vessel::Pool, Content::Used),
    ("hikaricp_connections_max", Vessel::Pool, Content::Most),
    ("process_open_fds", Vessel::Files, Content::Used),
    ("process_max_fds", Vessel::Files, Content::Most),
    ("process_files_open_files", Vessel::Files, Content::Used),
    ("process_files_max_files", Vessel::Files, Content::Most),
    ("process_open_file_descriptor_count", Vessel::Files, Content::Used),
    ("process_open_file_descriptor_limit", Vessel::Files, Content::Most),
];

/// What a metric of this name says of a vessel.
pub fn vessel(name: &str) -> Option<(Vessel, Content)> {
    let is = |known: &str| {
        known.len() == name.len()
            && known.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'.'))
    };
    KNOWN.iter().find(|(known, ..)| is(known)).map(|(_, vessel, content)| (*vessel, *content))
}

/// Something that will be full.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// What fills.
    pub vessel: Vessel,
    /// Whose it is.
    pub on: Entity,
    /// The container, claim or pool; may be empty.
    pub name: String,
    /// Since when it grows, and when it was measured last.
    pub since: Time,
    /// When it was measured last.
    pub last: Time,
    /// How full it was when it began to grow, and is, 0 to 1.
    pub from: f64,
    /// How full it is.
    pub share: f64,
    /// How much it grows in a minute.
    pub a_minute: f64,
    /// Until it is full.
    pub left: Duration,
}

/// One vessel of one pod, node or process.
type Key = (Vessel, Entity, String, String);

#[derive(Debug, Default)]
struct Series {
    /// Means of steps, of shares where the size is known when they are added.
    points: VecDeque<(Time, f64, u32)>,
    used: Option<f64>,
    free: Option<f64>,
    most: Option<f64>,
    last: Time,
}

/// All that may fill.
#[derive(Debug, Default)]
pub struct Fills {
    series: BTreeMap<Key, Series>,
    judged: Time,
    filling: Vec<Filling>,
}

impl Fills {
    /// Adds a point of a vessel of `on`; `part` tells pods or processes of the same owner apart.
    pub fn add(
        &mut self,
        (vessel, content): (Vessel, Content),
        (on, part, name): (&Entity, &str, &str),
        time: Time,
        value: f64,
    ) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        let key = (vessel, on.clone(), part.to_owned(), name.to_owned());
        if !self.series.contains_key(&key) && self.series.len() >= MOST {
            let silent = self.series.iter().min_by_key(|(_, series)| series.last);
            if let Some(silent) = silent.map(|(key, _)| key.clone()) {
                self.series.remove(&silent);
            }
        }
        let series = self.series.entry(key).or_default();
        match content {
            Content::Used => series.used = Some(value),
            Content::Free => series.free = Some(value),
            Content::Most => {
                series.most = Some(value);
                return;
            }
        }
        let share = match (series.used, series.free, series.most) {
            (_, Some(free), Some(most)) if most > 0.0 => 1.0 - free / most,
            (Some(used), _, Some(most)) if most > 0.0 => used / most,
            (Some(used), Some(free), _) if used + free > 0.0 => used / (used + free),
            _ => return,
        };
        series.add(time, share.clamp(0.0, 1.0));
    }

    /// Adds how full the memory of a container is.
    pub fn share(&mut self, on: &Entity, pod: &str, container: &str, time: Time, share: f64) {
        let of = (on, pod, container);
        self.add((Vessel::Memory, Content::Most), of, time, 1.0);
        self.add((Vessel::Memory, Content::Used), of, time, share);
    }

    /// What will be full within half an hour, of each owner and vessel the one that is first.
    pub fn judge(&mut self, now: Time) -> &[Filling] {
        if self.judged + PAUSE > now && self.judged <= now {
            return &self.filling;
        }
        self.judged = now;
        let mut first: BTreeMap<(Vessel, &Entity), Filling> = BTreeMap::new();
        for ((vessel, on, _, name), series) in &self.series {
            let Some(growth) = series.growth(now) else { continue };
            let filling = Filling { vessel: *vessel, on: on.clone(), name: name.clone(), ..growth };
            let known = first.entry((*vessel, on)).or_insert_with(|| filling.clone());
            let since = known.since.min(filling.since);
            if filling.left < known.left {
                *known = filling;
            }
            known.since = since;
        }
        self.filling = first.into_values().collect();
        &self.filling
    }
}

impl Series {
    fn add(&mut self, time: Time, share: f64) {
        self.last = self.last.max(time);
        let step = time.bucket(STEP.as_nanos() as i64);
        match self.points.back_mut() {
            Some((last, ..)) if *last > step => {}
            Some((last, mean, n)) if *last == step => {
                *n += 1;
                *mean += (share - *mean) / f64::from(*n);
            }
            _ => {
                if self.points.len() >= KEEP {
                    self.points.pop_front();
                }
                self.points.push_back((step, share, 1));
            }
        }
    }

    fn growth(&self, now: Time) -> Option<Filling> {
        let (_, share, _) = *self.points.back()?;
        if share < FULL_ENOUGH || self.last + FRESH < now {
            return None;
        }
        let points: Vec<(f64, f64)> = self
            .points
            .iter()
            .map(|(at, share, _)| (at.seconds_since(Time::default()), *share))
            .collect();
        // Since it was emptied last.
        let fell = points.windows(2).rposition(|two| two[1].1 < two[0].1 - FALL);
        let emptied = fell.map_or(0, |at| at + 1);
        let least = points[emptied..].iter().map(|(_, share)| *share).fold(f64::INFINITY, f64::min);
        let start = points.iter().rposition(|(_, share)| *share <= least + FLOOR)?;
        let (before, grows) = points.split_at(start.max(emptied));
        // How full it was before, and came to no harm.
        let before = before.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        if before < HARM && share <= before + USUAL {
            return None;
        }
        let ((begin, from), (end, _)) = (*grows.first()?, *grows.last()?);
        let known = grows.len() >= POINTS && end - begin >= LONG.as_secs_f64();
        if !known || share - from < GREW {
            return None;
        }
        let (slope, steady) = slope(grows);
        let (late, _) = slope_of_newest(grows);
        if steady < STEADY || late < SLOWING * slope {
            return None;
        }
        let left = Duration::try_from_secs_f64((1.0 - share) / slope.max(late)).ok()?;
        let at = |seconds: f64| Time((seconds * 1e9) as i64);
        (left <= SOON).then(|| Filling {
            vessel: Vessel::Memory,
            on: Entity::new("", "", ""),
            name: String::new(),
            since: at(begin),
            last: self.last,
            from,
            share,
            a_minute: slope * 60.0,
            left,
        })
    }
}

fn slope_of_newest(points: &[(f64, f64)]) -> (f64, f64) {
    slope(&points[points.len() - points.len().div_ceil(3).max(3).min(points.len())..])
}

/// The median of the slopes between all pairs of points, and the share of them that rise (Theil 1950, Sen 1968).
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (at, (from, low)) in points.iter().enumerate() {
        let after = &points[at + 1..];
        slopes.extend(after.iter().map(|(to, high)| (high - low) / (to - from).max(1e-9)));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let rising = slopes.iter().filter(|slope| **slope > 0.0).count();
    let middle = slopes.get(slopes.len() / 2).copied().unwrap_or_default();
    (middle, rising as f64 / slopes.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told after so many seconds of a container whose memory is so full at each.
    fn told(seconds: i64, share: impl Fn(f64) -> f64) -> Vec<Filling> {
        let mut fills = Fills::default();
        let on = Entity::new("Deployment", "shop", "cart");
        for s in (0..seconds).step_by(10) {
            let noise = if s % 20 == 0 { 0.004 } else { -0.004 };
            let time = Time((1_000_000 + s) * 1_000_000_000);
            fills.share(&on, "cart-1", "cart", time, share(s as f64) + noise);
        }
        fills.judge(Time((1_000_000 + seconds) * 1_000_000_000)).to_vec()
    }

    /// Guarantees: what grows slowly and steadily is told with its beginning and with the time that is left.
    #[test]
    fn a_slow_leak_is_told_with_the_time_that_is_left() {
        let leak = |s: f64| 0.4 + 0.5 * ((s - 300.0) / 1200.0).max(0.0);
        let all = told(1500, leak);
        let [leak] = &all[..] else { panic!("{all:?}") };
        let began = leak.since.0 / 1_000_000_000 - 1_000_000;
        assert!((270..=390).contains(&began), "{began}");
        assert!((200..=280).contains(&leak.left.as_secs()), "{leak:?}");
        assert!((leak.a_minute - 0.025).abs() < 0.003, "{leak:?}");
    }

    /// Guarantees: what stands near its limit, comes to a rest, goes up and down or has just been started is
    /// not told to fill.
    #[test]
    fn what_comes_to_a_rest_fills_nothing() {
        assert_eq!(told(1500, |_| 0.97), []);
        assert_eq!(told(1500, |s| 0.95 - 0.5 * (-s / 300.0).exp()), []);
        assert_eq!(told(1500, |s| 0.6 + 0.3 * (s / 200.0).sin()), []);
        assert_eq!(told(120, |s| 0.3 + s / 200.0), []);
        assert_eq!(told(3000, |s| 0.3 + 0.2 * (s % 600.0) / 600.0), []);
        assert_eq!(told(1500, |s| 0.5 + 0.1 * s / 1500.0), []);
    }

    /// Guarantees: a growth begins with the last restart.
    #[test]
    fn a_restart_begins_anew() {
        let all = told(1000, |s| 0.3 + 0.7 * (s % 600.0) / 600.0);
        let since = all.first().map(|filling| filling.since.0 / 1_000_000_000 - 1_000_000);
        assert!(since.is_some_and(|since| (570..=660).contains(&since)), "{all:?}");
    }

    /// Guarantees: volumes, nodes, pools and descriptors are known by what OpenTelemetry and Prometheus call
    /// them.
    #[test]
    fn vessels_are_known_by_their_metrics() {
        let known = vessel;
        assert_eq!(known("k8s.volume.available"), Some((Vessel::Volume, Content::Free)));
        assert_eq!(known("k8s.node.filesystem.capacity"), Some((Vessel::NodeDisk, Content::Most)));
        assert_eq!(known("db.client.connection.count"), Some((Vessel::Pool, Content::Used)));
        assert_eq!(known("hikaricp_connections_max"), Some((Vessel::Pool, Content::Most)));
        assert_eq!(known("process_open_fds"), Some((Vessel::Files, Content::Used)));
        assert_eq!(known("k8s.volume.inodes"), None);
        let mut fills = Fills::default();
        let on = Entity::new("StatefulSet", "shop", "db");
        for s in (0..1200_i64).step_by(10) {
            let time = Time(s * 1_000_000_000);
            let of = (&on, "db-0", "data");
            fills.add((Vessel::Volume, Content::Most), of, time, 100.0);
            fills.add((Vessel::Volume, Content::Free), of, time, 65.0 - s as f64 / 20.0);
        }
        let all = fills.judge(Time(1_200_000_000_000)).to_vec();
        let name = |filling: &Filling| (filling.vessel, filling.name.clone());
        assert_eq!(all.iter().map(name).collect::<Vec<_>>(), [(Vessel::Volume, "data".to_owned())]);
    }
}
