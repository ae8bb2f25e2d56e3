//! Where trouble arises when nothing is seen but requests: who lets the others wait, and who no longer
//! does what it always does. Each case with its look-alike.

use serde_json::{Value, json};
use tapio_proto::{
    Request, Signal, check,
    json::to_proto,
    model::{Story, StoryState},
};

use crate::played::play;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// 2026-11-22T03:00:00Z
const START: u64 = 1_795_316_400 * SECOND;

/// What one request meets: `gate` asks `shop`, which asks `stock` and `cart`; ms beyond the usual.
#[derive(Clone, Copy, Default)]
struct Meets {
    /// On the way from `shop` to `stock`, and to `cart`.
    way_to_stock: u64,
    way_to_cart: u64,
    /// In `stock` itself, and from `stock` to its database, which sends no spans.
    in_stock: u64,
    from_stock: u64,
    /// `stock` looks nothing up.
    no_lookup: bool,
    /// `stock` logs nothing at all.
    mute: bool,
    /// `shop` breaks off with an exception before it asks anybody.
    exception: bool,
    /// Users ask for something else, for which `shop` need not ask `cart`.
    browse: bool,
}

#[derive(Default)]
struct Town {
    seen: Vec<(u64, Request)>,
    number: u64,
    /// Who asks the database says whom it asks.
    names_database: bool,
    /// Spans say on which node they were made: those of `stock` on one of its own.
    places: bool,
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn resource(service: &str) -> Value {
    json!({"attributes": [text("service.name", service), text("k8s.namespace.name", "town")]})
}

impl Town {
    fn add(&mut self, time: u64, signal: Signal, value: &Value) {
        let bytes = to_proto(signal, value.to_string().as_bytes()).unwrap();
        let items = check(signal, &bytes).unwrap();
        self.seen.push((time, Request::new(signal, bytes, items)));
    }

    /// Two requests of users in this second.
    fn second(&mut self, second: u64, meets: impl Fn(u64) -> Meets) {
        for half in 0..2 {
            self.number += 1;
            self.request(START + second * SECOND + half * SECOND / 2, meets(self.number));
        }
    }

    fn request(&mut self, at: u64, m: Meets) {
        let (names_database, places) = (self.names_database, self.places);
        let n = self.number;
        let trace = format!("{:032x}", n * 7919);
        let id = |span: u64| format!("{:016x}", n * 100 + span);
        let mut spans: Vec<(&str, Value)> = Vec::new();
        let mut lines: Vec<(&str, Value)> = Vec::new();
        // Ordinary work is not the same each time.
        let jitter = (n * 37 % 5) * MS / 2;
        let mut span = |service, number, parent: u64, name: &str, kind, from: u64, to: u64| {
            let parent = if parent == 0 { String::new() } else { id(parent) };
            let database = names_database && name.starts_with("SELECT");
            let asks = database.then(|| text("server.address", "stockdb"));
            let asks: Vec<Value> = asks.into_iter().collect();
            spans.push((
                service,
                json!({"traceId": trace, "spanId": id(number), "parentSpanId": parent, "name": name, "attributes": asks,
                "kind": kind, "startTimeUnixNano": from.to_string(), "endTimeUnixNano": to.to_string()}),
            ));
        };
        let mut line = |service, number, time: u64, severity: u8, body: &str| {
            lines.push((
                service,
                json!({"timeUnixNano": time.to_string(), "severityNumber": severity, "traceId": trace,
                "spanId": id(number), "body": {"stringValue": body}}),
            ));
        };
        let mut now = at + 4 * MS;
        if m.exception {
            line(
                "shop",
                3,
                now,
                17,
                "cannot serve: java.lang.IllegalStateException: no instance of stock",
            );
        } else {
            line("shop", 3, now, 9, "Shop#12 order is taken");
            let (asked, way) = (now, 2 * MS + m.way_to_stock * MS);
            let got = asked + way / 2;
            let work = 6 * MS + jitter + (m.in_stock + m.from_stock) * MS;
            if !m.mute {
                line("stock", 5, got, 9, &format!("Stock#40 asked for item {n}"));
            }
            if !m.no_lookup {
                span("stock", 6, 5, "lookup", 1, got + MS, got + 3 * MS);
                if !m.mute {
                    line("stock", 5, got + 2 * MS, 9, &format!("Stock#44 item {n} is there"));
                }
            }
            span("stock", 5, 4, "GET /stock", 2, got, got + work);
            let read = got + 3 * MS;
            span("stock", 9, 5, "SELECT stock", 3, read, read + 2 * MS + m.from_stock * MS);
            now = asked + way + work;
            span("shop", 4, 3, "GET", 3, asked, now);
            if !m.browse {
                let (asked, way) = (now, 2 * MS + m.way_to_cart * MS);
                span("cart", 8, 7, "GET /cart", 2, asked + way / 2, asked + way / 2 + 5 * MS);
                now = asked + way + 5 * MS;
                span("shop", 7, 3, "GET", 3, asked, now);
            }
        }
        span("shop", 3, 2, "POST /order", 2, at + 3 * MS, now + MS);
        span("gate", 2, 1, "POST", 3, at + 2 * MS, now + 2 * MS);
        span("gate", 1, 0, "POST /order", 2, at, now + 3 * MS + jitter);
        let end = now + 4 * MS + jitter;
        let spans: Vec<Value> = spans
            .into_iter()
            .map(|(service, span)| {
                let mut from = resource(service);
                if places {
                    let node = if service == "stock" { "node-2" } else { "node-1" };
                    from["attributes"].as_array_mut().unwrap().push(text("k8s.node.name", node));
                }
                json!({"resource": from, "scopeSpans": [{"spans": [span]}]})
            })
            .collect();
        let lines: Vec<Value> = lines
            .into_iter()
            .map(|(service, line)| json!({"resource": resource(service), "scopeLogs": [{"logRecords": [line]}]}))
            .collect();
        self.add(end, Signal::Traces, &json!({"resourceSpans": spans}));
        if !lines.is_empty() {
            self.add(end, Signal::Logs, &json!({"resourceLogs": lines}));
        }
    }

    /// A metric that says nothing, once a minute: time goes on though nobody sends spans.
    fn minute(&mut self, second: u64) {
        let time = START + second * SECOND;
        let point = json!({"timeUnixNano": time.to_string(), "asInt": "1"});
        let metric = json!({"name": "up", "gauge": {"dataPoints": [point]}});
        self.add(time, Signal::Metrics,
            &json!({"resourceMetrics": [{"resource": resource("gate"), "scopeMetrics": [{"metrics": [metric]}]}]}));
    }

    /// A gauge, or a sum that counts up, told with these attributes of its resource and of its point.
    fn metric(
        &mut self,
        second: u64,
        name: &str,
        (value, counts): (f64, bool),
        of: [&[(&str, &str)]; 2],
    ) {
        let [from, labels] =
            of.map(|all| all.iter().map(|(key, value)| text(key, value)).collect::<Vec<_>>());
        let time = START + second * SECOND;
        let points =
            json!([{"timeUnixNano": time.to_string(), "asDouble": value, "attributes": labels}]);
        let metric = if counts {
            json!({"name": name, "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": points}})
        } else {
            json!({"name": name, "gauge": {"dataPoints": points}})
        };
        self.add(
            time,
            Signal::Metrics,
            &json!({"resourceMetrics": [
            {"resource": {"attributes": from}, "scopeMetrics": [{"metrics": [metric]}]}]}),
        );
    }

    fn stories(mut self) -> Vec<Story> {
        self.seen.sort_by_key(|(time, _)| *time);
        let mut seen = self.seen.into_iter();
        let played = play(|| seen.next().map(|(_, request)| request));
        played.stories.into_iter().map(|(story, _)| story).collect()
    }
}

/// A town in health until `from`, and meeting this from then on.
fn told(from: u64, to: u64, then: impl Fn(u64) -> Meets) -> Vec<Story> {
    let mut town = Town::default();
    for second in 0..to {
        town.second(second, |n| if second >= from { then(n) } else { Meets::default() });
    }
    town.stories()
}

fn blamed(stories: &[Story]) -> (&str, &str, &Story) {
    let [story] = stories else { panic!("{stories:#?}") };
    let root = story.root_cause.as_ref().unwrap_or_else(|| panic!("{story:#?}"));
    (&root.service, &root.pattern, story)
}

/// Guarantees: where every request takes longer on the way to a service the way is to blame, not the
/// service, and not those who wait; the chain leads from there to the users.
#[test]
fn a_network_that_delays_is_told_from_a_service_that_is_slow() {
    let stories = told(120, 220, |_| Meets { way_to_stock: 300, ..Meets::default() });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("stock", "network_delay"), "{story:#?}");
    assert!(story.confidence >= 0.7, "{story:#?}");
    let chain: Vec<&str> = story.chain.iter().map(|link| link.service.as_str()).collect();
    assert_eq!(chain, ["stock", "shop", "gate"]);

    // Some of the packets to and from a service are lost, and sent again.
    let stories = told(120, 220, |n| {
        let sent_again = |n: u64| if n.is_multiple_of(3) { 204 } else { 0 };
        Meets { way_to_stock: sent_again(n), from_stock: sent_again(n + 1), ..Meets::default() }
    });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("stock", "packet_loss"), "{story:#?}");

    let stories = told(120, 220, |n| Meets { in_stock: n % 4 * 150, ..Meets::default() });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("stock", "cpu_contention"), "{story:#?}");

    // A database that sends no spans answers late: nobody says why, so it stays a hypothesis.
    let stories = told(120, 220, |_| Meets { from_stock: 300, ..Meets::default() });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("stock", "slow_backend"), "{story:#?}");
    assert!(story.confidence < 0.7, "{story:#?}");
}

/// Guarantees: when calls of one service to all others are slow, unevenly, it is that service and not
/// the others or the network.
#[test]
fn a_service_that_starves_is_not_mistaken_for_those_that_it_asks() {
    let stories = told(120, 220, |n| {
        let wait = n % 4 * 120;
        Meets { way_to_stock: wait, way_to_cart: (n + 1) % 4 * 120, ..Meets::default() }
    });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("shop", "cpu_contention"), "{story:#?}");
}

/// Guarantees: a step that each request had and that is left out is found in the service that leaves
/// it out, with the line that is no longer logged; a service whose lines do not come any more at all
/// has lost its log pipeline, which is no such thing.
#[test]
fn the_step_that_is_left_out_is_found_and_a_lost_log_pipeline_is_none() {
    let stories = told(120, 220, |_| Meets { no_lookup: true, ..Meets::default() });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("stock", "missing_step"), "{story:#?}");
    let place = story.root_cause.as_ref().unwrap().r#where.as_ref().unwrap();
    assert!(place.contains("Stock#44"), "{place}");

    let stories = told(120, 220, |_| Meets { mute: true, ..Meets::default() });
    assert!(stories.is_empty(), "{stories:#?}");
}

/// Guarantees: users who ask more often for another thing that they always asked for change the mix,
/// and nothing is wrong.
#[test]
fn another_mix_of_requests_is_no_story() {
    let mut town = Town::default();
    for second in 0..260 {
        let few = second < 150 && second / 20 % 2 == 0;
        town.second(second, |n| Meets {
            browse: n % 10 < if few { 3 } else { 7 },
            ..Meets::default()
        });
    }
    let stories = town.stories();
    assert!(stories.is_empty(), "{stories:#?}");
}

/// Guarantees: an exception with which some requests break off all day is no news on the day when a few
/// more do; one that nobody logged before is.
#[test]
fn an_exception_of_every_day_is_no_news_and_a_new_one_is() {
    let mut town = Town::default();
    for second in 0..260 {
        let often = if second >= 200 { 2 } else { 9 };
        town.second(second, |n| Meets { exception: n % often == 0, ..Meets::default() });
    }
    let stories = town.stories();
    assert!(stories.is_empty(), "{stories:#?}");

    let stories = told(120, 200, |n| Meets { exception: n % 2 == 0, ..Meets::default() });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("shop", "application_exception"), "{story:#?}");
    assert!(story.root_cause.as_ref().unwrap().r#where.as_ref().unwrap().contains("IllegalState"));
}

/// Guarantees: spans that stop for all services at once are a hole in what is seen. It opens no story
/// and ends none; what is well when they come back does.
#[test]
fn a_hole_neither_opens_nor_resolves_a_story() {
    for (slow_until, state) in [(300, StoryState::Resolved), (400, StoryState::Open)] {
        let mut town = Town::default();
        for second in (0..120).chain(280..400) {
            let slow = (90..slow_until).contains(&second);
            let way_to_stock = if slow { 300 } else { 0 };
            town.second(second, |_| Meets { way_to_stock, ..Meets::default() });
        }
        (0..400).step_by(60).for_each(|second| town.minute(second));
        let stories = town.stories();
        let (service, _, story) = blamed(&stories);
        assert_eq!(service, "stock");
        assert_eq!(story.state, state, "{story:#?}");
        let resolved = story.resolved.map(|at| (u64::try_from(at.0).unwrap() - START) / SECOND);
        assert!(resolved.is_none_or(|at| at >= 290), "resolved in the hole, at {resolved:?}");
    }
    let mut town = Town::default();
    for second in (0..100).chain(300..400) {
        town.second(second, |_| Meets::default());
    }
    (0..400).step_by(60).for_each(|second| town.minute(second));
    let stories = town.stories();
    assert!(stories.is_empty(), "{stories:#?}");
}

/// Guarantees: packets that are lost on the way to a service that asks nobody are told by it alone.
#[test]
fn packets_to_a_service_that_asks_nobody_are_lost() {
    let stories = told(120, 240, |n| {
        let way_to_cart = if n.is_multiple_of(3) { 204 } else { 0 };
        Meets { way_to_cart, ..Meets::default() }
    });
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("cart", "packet_loss"), "{story:#?}");
}

/// Guarantees: a database that sends no spans, whose pod writes to its disk as never before while who asks it
/// waits, is to blame, by whichever labels its metrics name it; one that writes as ever is not.
#[test]
fn a_database_whose_disk_is_busy_is_to_blame_for_who_waits_for_it() {
    for (writes, cause) in [(5e6, ("stockdb", "disk_overload")), (9e3, ("stock", "slow_backend"))] {
        let mut town = Town { names_database: true, ..Town::default() };
        let mut written = 1e9;
        for second in 0..700 {
            let late = second >= 560;
            let from_stock = if late { 300 } else { 0 };
            town.second(second, |_| Meets { from_stock, ..Meets::default() });
            if second % 15 == 0 {
                written += 15.0 * if late { writes } else { 8e3 + (second % 7) as f64 * 300.0 };
                let pod = [("namespace", "town"), ("pod", "stockdb-7d9f8c6b54-x2x4z")];
                let scraper = [("service.name", "kubelet")];
                let name = "container_fs_writes_bytes_total";
                town.metric(second, name, (written, true), [&scraper, &pod]);
            }
        }
        let stories = town.stories();
        let (service, pattern, story) = blamed(&stories);
        assert_eq!((service, pattern), cause, "{story:#?}");
    }
}

/// Guarantees: a service that is slow while the processors of its node are busy, and no pod is seen to use them,
/// suffers from its node.
#[test]
fn a_node_that_is_busy_is_to_blame_for_what_is_slow_on_it() {
    for (busy, kind) in [(0.97, "Node"), (0.32, "Service")] {
        let mut town = Town { places: true, ..Town::default() };
        for second in 0..700 {
            let late = second >= 560;
            town.second(second, |n| {
                let in_stock = if late { n % 4 * 150 } else { 0 };
                Meets { in_stock, ..Meets::default() }
            });
            if second % 15 == 0 {
                for node in ["node-1", "node-2", "node-3"] {
                    let here = late && node == "node-2";
                    let value = if here { busy } else { 0.3 + (second % 4) as f64 / 100.0 };
                    let of = [("k8s.node.name", node)];
                    town.metric(second, "system.cpu.utilization", (value, false), [&of, &[]]);
                }
            }
        }
        let stories = town.stories();
        let (_, _, story) = blamed(&stories);
        assert_eq!(story.root_cause.as_ref().unwrap().kind, kind, "{story:#?}");
    }
}

/// Services that tell by metrics alone, in units that nobody says: `gate` asks `shop`, which asks `stock`.
fn gauges(then: impl Fn(&str) -> (f64, f64)) -> Vec<Story> {
    let mut town = Town::default();
    for second in (0..1_200).step_by(5) {
        for (service, usual) in [("gate", 0.09), ("shop", 0.05), ("stock", 0.02), ("cart", 0.02)] {
            let times = if second >= 900 { then(service) } else { (1.0, 1.0) };
            let wobble = 1.0 + (second / 5 * 7 % 11) as f64 / 50.0;
            let from = [("service.name", service)];
            town.metric(second, "cpu", (0.05 * wobble * times.0, false), [&from, &[]]);
            town.metric(second, "latency-90", (usual * wobble * times.1, false), [&from, &[]]);
        }
    }
    town.stories()
}

/// Guarantees: of services of which only gauges without units tell, the one whose processor leaps while it gets
/// slower is to blame; and a processor that is busy while nobody waits is no story.
#[test]
fn gauges_without_units_tell_who_strains() {
    let waits = |service: &str| match service {
        "stock" => 6.0,
        "shop" => 3.0,
        "gate" => 2.0,
        _ => 1.0,
    };
    let stories = gauges(|service| (if service == "stock" { 9.0 } else { 1.0 }, waits(service)));
    let (service, pattern, story) = blamed(&stories);
    assert_eq!((service, pattern), ("stock", "cpu_contention"), "{story:#?}");

    let stories = gauges(|service| (if service == "cart" { 9.0 } else { 1.0 }, 1.0));
    assert!(stories.is_empty(), "{stories:#?}");
}
