//! Releases, flags, providers and alerts: who is blamed where they are all that is told, or where many
//! innocent ones are told beside the guilty one.

use serde_json::{Value, json};
use tapio_proto::{Request, Signal, model::Story};

use crate::{
    hostile::{SECOND, START, request},
    played::play,
};

/// Who asks whom: `gate` is what users meet.
const CALLS: [(&str, &str); 5] = [
    ("gate", "cart"),
    ("gate", "order"),
    ("order", "pay"),
    ("order", "stock"),
    ("pay", "api.bank.com"),
];

/// What a service does with a request.
#[derive(Clone, Copy, Default)]
struct Does {
    fails: bool,
    ms: u64,
    new: bool,
}

#[derive(Default)]
struct Case {
    seen: Vec<(u64, Request)>,
    /// Which of the users these are.
    crowd: u64,
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn texts(all: &[(&str, &str)]) -> Vec<Value> {
    all.iter().map(|(key, value)| text(key, value)).collect()
}

impl Case {
    fn record(&mut self, second: u64, scope: &str, name: &str, service: &str, record: Value) {
        let time = START + second * SECOND;
        let mut record = record;
        record["timeUnixNano"] = json!(time.to_string());
        record["eventName"] = json!(name);
        let resource =
            if service.is_empty() { vec![] } else { vec![text("service.name", service)] };
        let body = json!({"resourceLogs": [{"resource": {"attributes": resource},
            "scopeLogs": [{"scope": {"name": scope}, "logRecords": [record]}]}]});
        self.seen.push((time, request(Signal::Logs, &body)));
    }

    fn tell(&mut self, second: u64, name: &str, service: &str, of: &[(&str, &str)]) {
        self.record(second, "tapio.change", name, service, json!({"attributes": texts(of)}));
    }

    fn deploy(&mut self, second: u64, service: &str, version: &str, id: &str) {
        for (after, status) in [(0, "started"), (5, "in_progress"), (20, "succeeded")] {
            let of = [
                ("deployment.name", service),
                ("deployment.id", id),
                ("deployment.status", status),
                ("service.version", version),
            ];
            self.tell(second + after, "deployment", service, &of);
        }
    }

    fn commit(
        &mut self,
        second: u64,
        service: &str,
        id: &str,
        title: &str,
        files: &str,
        diff: &str,
    ) {
        let value = |text: &str| json!({"stringValue": text});
        let body = json!({"kvlistValue": {"values": [
            {"key": "message", "value": value(title)},
            {"key": "files_changed", "value": {"arrayValue": {"values": [value(files)]}}},
            {"key": "diff", "value": value(diff)}]}});
        let of = [
            ("vcs.ref.head.revision", id),
            ("vcs.change.title", title),
            ("vcs.change.files", files),
            ("user.name", "ann"),
        ];
        let record = json!({"attributes": texts(&of), "body": body});
        self.record(second, "tapio.change", "vcs.commit", service, record);
    }

    fn flag(&mut self, second: u64, service: &str, key: &str, turn: &str) {
        let of = [("feature_flag.key", key), ("feature_flag.change", turn), ("user.name", "bo")];
        self.tell(second, "feature_flag.change", service, &of);
    }

    fn alert(&mut self, second: u64, service: &str, name: &str) {
        let of = [("alert.name", name), ("alert.severity", "critical"), ("alert.status", "firing")];
        let record = json!({"attributes": texts(&of), "body": {"stringValue": format!("{name} on {service}")}});
        self.record(second, "alertmanager", "alert", service, record);
    }

    fn status(&mut self, second: u64, provider: &str, status: &str, words: &str) {
        let of = [("external.provider", provider), ("external.status", status)];
        let record = json!({"attributes": texts(&of), "body": {"stringValue": words}});
        self.record(second, "statuspage", "external.status", "", record);
    }

    fn line(&mut self, second: u64, service: &str, level: &str, words: &str) {
        let record = json!({"severityText": level, "severityNumber": if level == "ERROR" { 17 } else { 9 },
            "body": {"stringValue": words}});
        self.record(second, "app", "", service, record);
    }

    /// Five requests of users a second. Whoever asks one that fails fails as well, and waits as long.
    fn traffic(&mut self, seconds: std::ops::Range<u64>, does: impl Fn(u64, u64, &str) -> Does) {
        for second in seconds {
            for n in 0..5 {
                let start = START + second * SECOND + n * SECOND / 5;
                let mut spans = Vec::new();
                let trace = format!("{:032x}", (self.crowd * 10_000 + second) * 10 + n + 1);
                let (mut next, root) = (1, "gate");
                let place = (second, n);
                let (_, end) = serve(root, "", place, &does, start, &trace, &mut next, &mut spans);
                let body = json!({"resourceSpans": spans});
                self.seen.push((end, request(Signal::Traces, &body)));
            }
        }
    }

    fn stories(mut self) -> Vec<Story> {
        self.seen.sort_by_key(|(time, _)| *time);
        let mut seen = self.seen.into_iter();
        let played = play(|| seen.next().map(|(_, request)| request));
        played.stories.into_iter().map(|(story, _)| story).collect()
    }
}

/// The spans of a service that is asked at this time, and of all that it asks one after the other; did it
/// fail, and when did it answer?
#[expect(clippy::too_many_arguments, reason = "one request, walked down")]
fn serve(
    service: &str,
    parent: &str,
    (second, n): (u64, u64),
    does: &impl Fn(u64, u64, &str) -> Does,
    start: u64,
    trace: &str,
    next: &mut u64,
    out: &mut Vec<Value>,
) -> (bool, u64) {
    const MS: u64 = 1_000_000;
    let mine = does(second, n, service);
    let mut failed = mine.fails;
    let mut at = start + (2 + mine.ms + (second + n) % 3) * MS;
    if service.contains('.') {
        return (failed, at);
    }
    let id = |next: &mut u64| {
        *next += 1;
        format!("{next:016x}")
    };
    let own = id(next);
    let version = if mine.new { "2.0" } else { "1.0" };
    let place = match service {
        "stock" => text("k8s.node.name", "node-7"),
        "cart" => text("host.name", "vm-3"),
        _ => text("k8s.node.name", "node-1"),
    };
    let resource = json!({"attributes": [text("service.name", service), text("service.version", version), place]});
    let span = |id: &str,
                parent: &str,
                kind: u8,
                peer: &str,
                failed: bool,
                (from, to): (u64, u64)| {
        let mut span = json!({"traceId": trace, "spanId": id, "name": format!("{service}-op"), "kind": kind,
            "status": {"code": if failed { 2 } else { 0 }},
            "startTimeUnixNano": from.to_string(), "endTimeUnixNano": to.to_string()});
        if !parent.is_empty() {
            span["parentSpanId"] = json!(parent);
        }
        if !peer.is_empty() {
            span["attributes"] = json!([text("server.address", peer)]);
        }
        span
    };
    let mut spans = Vec::new();
    for (_, callee) in CALLS.iter().filter(|(caller, _)| *caller == service) {
        let call = id(next);
        let (fails, end) = serve(callee, &call, (second, n), does, at + MS, trace, next, out);
        spans.push(span(&call, &own, 3, callee, fails, (at, end + MS)));
        (failed, at) = (failed || fails, end + 2 * MS);
    }
    spans.push(span(&own, parent, 2, "", failed, (start, at)));
    out.push(json!({"resource": resource, "scopeSpans": [{"spans": spans}]}));
    (failed, at)
}

/// Who is blamed by the surest story: service, pattern and change.
fn blamed(stories: &[Story]) -> (String, String, String, f64) {
    let best = stories.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let Some(best) = best else { return Default::default() };
    let root = best.root_cause.as_ref();
    (
        root.map(|r| r.service.clone()).unwrap_or_default(),
        root.map(|r| r.pattern.clone()).unwrap_or_default(),
        root.and_then(|r| r.change.clone()).unwrap_or_default(),
        best.confidence,
    )
}

/// Guarantees: of several deployments the one whose service fails first is blamed, with its id, and with
/// the way back to the version before; those of the others are not.
#[test]
fn the_deployment_whose_service_fails_is_blamed() {
    for slow in [false, true] {
        let mut case = Case::default();
        for (second, service, version, id) in [
            (20, "order", "3.9", "dep-1000001"),
            (40, "stock", "4.0", "dep-1000002"),
            (150, "cart", "7.0", "dep-1000003"),
            (200, "stock", "4.1", "dep-1000004"),
            (250, "gate", "5.0", "dep-1000005"),
        ] {
            case.deploy(second, service, version, id);
        }
        case.traffic(0..420, |second, n, service| Does {
            fails: !slow && service == "stock" && second >= 280 && n < 3,
            ms: if slow && service == "stock" && second >= 280 { 400 } else { 5 },
            ..Does::default()
        });
        for second in 282..420 {
            if !slow && second % 3 == 0 {
                case.line(second, "stock", "ERROR", "NullPointerException in reservation ledger");
            }
        }
        case.alert(320, "gate", "HighErrorRate");
        let stories = case.stories();
        let (service, pattern, change, confidence) = blamed(&stories);
        assert_eq!(
            (&*service, &*pattern, &*change),
            ("stock", "bad_release", "dep-1000004"),
            "{stories:#?}"
        );
        assert!(confidence >= 0.6, "{confidence}");
        let best = stories.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence)).unwrap();
        assert!(best.recommendations[0].contains("4.0"), "{:?}", best.recommendations);
        assert_eq!(stories.len(), 1, "{stories:#?}");
    }
}

/// Guarantees: a deployment just before is not blamed for what fails below it.
#[test]
fn a_deployment_of_a_caller_is_not_blamed_for_what_it_asks() {
    let mut case = Case::default();
    case.deploy(250, "order", "3.0", "dep-1000001");
    case.traffic(0..420, |second, n, service| Does {
        fails: service == "stock" && second >= 280 && n < 3,
        ms: 5,
        ..Does::default()
    });
    let stories = case.stories();
    assert!(!stories.is_empty());
    let (.., change, confidence) = blamed(&stories);
    assert!(change.is_empty() || confidence < 0.4, "{stories:#?}");
}

/// Guarantees: a canary whose requests fail while the others' do not is guilty; one that fails no more
/// than the others beside it is cleared.
#[test]
fn a_canary_is_held_against_the_version_beside_it() {
    for guilty in [true, false] {
        let mut case = Case::default();
        for (step, second) in [(1, 240), (2, 300)] {
            let step = step.to_string();
            let of = [
                ("deployment.name", "pay"),
                ("deployment.id", "dep-2000001"),
                ("deployment.status", "in_progress"),
                ("service.version", "2.0"),
                ("deployment.step", &*step),
                ("deployment.steps", "3"),
            ];
            case.tell(second, "deployment", "pay", &of);
        }
        case.traffic(0..460, |second, n, service| {
            let new = service == "pay" && second >= 240 && n < 2;
            let broken = second >= 270 && service == "pay";
            Does { fails: broken && if guilty { new } else { (second + n) % 2 == 0 }, ms: 5, new }
        });
        let stories = case.stories();
        let (service, _, change, confidence) = blamed(&stories);
        if guilty {
            assert_eq!((&*service, &*change), ("pay", "dep-2000001"), "{stories:#?}");
            assert!(confidence >= 0.8, "{stories:#?}");
        } else {
            assert!(!stories.is_empty() && change.is_empty(), "{stories:#?}");
        }
    }
}

/// Guarantees: a canary of which few requests are slow, so few that its service as a whole is as fast as ever, is
/// told beside the others; one that is as fast as they are is not.
#[test]
fn a_canary_that_is_slow_is_told_however_few_ask_it() {
    for guilty in [true, false] {
        let mut case = Case::default();
        let of = [
            ("deployment.name", "pay"),
            ("deployment.id", "dep-2000001"),
            ("deployment.status", "in_progress"),
            ("service.version", "2.0"),
        ];
        case.tell(240, "deployment", "pay", &of);
        case.traffic(0..720, |second, n, service| {
            let new = service == "pay" && second >= 240 && second % 4 == 0 && n == 0;
            Does { fails: false, ms: if new && guilty { 400 } else { 5 }, new }
        });
        let stories = case.stories();
        if guilty {
            let (service, pattern, change, confidence) = blamed(&stories);
            assert_eq!(
                (&*service, &*pattern, &*change),
                ("pay", "bad_release", "dep-2000001"),
                "{stories:#?}"
            );
            assert!(confidence >= 0.6, "{confidence}");
        } else {
            assert!(stories.is_empty(), "{stories:#?}");
        }
    }
}

/// Guarantees: of the commits that a deployment brought the one is named that speaks of what fails.
#[test]
fn the_commit_that_speaks_of_what_fails_is_named() {
    let mut case = Case::default();
    let ids = ["1111111aaaaaaa", "2222222bbbbbbb", "3333333ccccccc", "4444444ddddddd"];
    case.commit(10, "pay", ids[0], "Bump dependencies", "go.mod", "-lib v1\n+lib v2");
    let diff = "-  pool := newPool(maxConns)\n+  pool := newPool(1)\n   ledger.Open(pool)";
    case.commit(20, "pay", ids[1], "Tune ledger pool", "internal/ledger/pool.go", diff);
    case.commit(30, "pay", ids[2], "Polish README", "README.md", "-old words\n+new words");
    case.commit(35, "cart", ids[3], "Tune basket pool of ledger", "basket.go", "-pool\n+pool");
    for status in ["started", "succeeded"] {
        let of = [
            ("deployment.name", "pay"),
            ("deployment.id", "dep-1"),
            ("deployment.status", status),
            ("service.version", "2.0"),
            ("vcs.ref.head.revision", ids[2]),
        ];
        case.tell(240, "deployment", "pay", &of);
    }
    case.traffic(0..400, |second, _, service| Does {
        fails: service == "pay" && second >= 260,
        ms: 5,
        ..Does::default()
    });
    for second in (0..260).step_by(10) {
        case.line(second, "pay", "INFO", "paid");
    }
    for second in 261..400 {
        case.line(second, "pay", "ERROR", "timeout: no free connection in ledger pool");
    }
    let stories = case.stories();
    let (service, _, change, _) = blamed(&stories);
    assert_eq!((&*service, &*change), ("pay", ids[1]), "{stories:#?}");
}

/// Guarantees: a flag that is turned is blamed like a release, and named by its key; one that was turned
/// back before is not.
#[test]
fn a_flag_that_is_turned_is_blamed() {
    let mut case = Case::default();
    case.flag(100, "stock", "new-shelf-map", "off->on");
    case.flag(160, "stock", "new-shelf-map", "on->off");
    case.flag(255, "pay", "instant-refund", "off->on");
    case.flag(265, "cart", "dark-mode", "off->on");
    case.traffic(0..400, |second, n, service| Does {
        fails: service == "pay" && second >= 270 && n < 4,
        ms: 5,
        ..Does::default()
    });
    let stories = case.stories();
    let (service, pattern, change, confidence) = blamed(&stories);
    assert_eq!(
        (&*service, &*pattern, &*change),
        ("pay", "bad_flag", "instant-refund"),
        "{stories:#?}"
    );
    assert!(confidence >= 0.6, "{confidence}");
}

/// Guarantees: a flag that is told by the system that turns flags may be anybody's.
#[test]
fn a_flag_of_who_turns_flags_is_anybodys() {
    let mut case = Case::default();
    case.flag(265, "flagd", "instant-refund", "off->on");
    case.traffic(0..400, |second, n, service| Does {
        fails: service == "pay" && second >= 270 && n < 4,
        ms: 5,
        ..Does::default()
    });
    let stories = case.stories();
    let (service, pattern, change, _) = blamed(&stories);
    assert_eq!(
        (&*service, &*pattern, &*change),
        ("pay", "bad_flag", "instant-refund"),
        "{stories:#?}"
    );
}

/// Guarantees: who says in its log that a host outside fails it is not to blame for it; a line that only tells where to
/// read on accuses nobody.
#[test]
fn who_is_failed_from_outside_is_not_to_blame() {
    for (line, says) in [
        ("charge failed: POST https://api.bank.com/charge answered 503", "api.bank.com"),
        ("NullPointerException in ledger, see https://docs.ledger.io/npe", ""),
    ] {
        let mut case = Case::default();
        case.traffic(0..420, |second, n, service| Does {
            fails: second >= 280
                && n < 4
                && service == if says.is_empty() { "pay" } else { "api.bank.com" },
            ms: 5,
            ..Does::default()
        });
        for second in (0..280).step_by(10) {
            case.line(second, "pay", "INFO", "charged");
        }
        for second in 281..420 {
            case.line(second, "pay", "ERROR", line);
        }
        let stories = case.stories();
        let sure: Vec<&Story> = stories.iter().filter(|story| story.confidence >= 0.4).collect();
        let [story] = &sure[..] else { panic!("{line}: {stories:#?}") };
        let root = story.root_cause.as_ref().map(|root| &*root.service);
        assert_eq!(root, says.is_empty().then_some("pay"), "{stories:#?}");
        assert!(story.title.contains(says), "{stories:#?}");
    }
}

/// Guarantees: where a provider says that it is not well, and the calls to it fail, nothing inside is
/// blamed, whatever was deployed; where the calls to it are well it is not held responsible.
#[test]
fn a_provider_that_is_not_well_is_no_internal_cause() {
    for theirs in [true, false] {
        let mut case = Case::default();
        case.deploy(240, "order", "3.0", "dep-1000001");
        case.deploy(262, if theirs { "pay" } else { "stock" }, "4.1", "dep-1000002");
        case.status(300, "Bank", "major_outage", "Elevated errors on api.bank.com");
        case.traffic(0..420, |second, n, service| Does {
            fails: second >= 280
                && n < 4
                && service == if theirs { "api.bank.com" } else { "stock" },
            ms: 5,
            ..Does::default()
        });
        let stories = case.stories();
        let best = stories.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence)).unwrap();
        if theirs {
            assert_eq!(best.root_cause, None, "{stories:#?}");
            assert_eq!(best.reason.as_deref(), Some("no_internal_cause"));
            assert!(best.confidence >= 0.7, "{stories:#?}");
        } else {
            assert_eq!(blamed(&stories).2, "dep-1000002", "{stories:#?}");
        }
    }
}

/// Guarantees: where nothing is told but an alert and what was released, the release of the service that
/// the alert names is the best guess, and no more than that.
#[test]
fn an_alert_and_a_release_alone_are_a_guess() {
    let mut case = Case::default();
    case.deploy(100, "auth", "1.9", "dep-3000001");
    case.deploy(1000, "mail", "8.0", "dep-3000002");
    case.deploy(1200, "auth", "2.0", "dep-3000003");
    case.alert(1300, "auth", "AuthLatencyHigh");
    case.line(1400, "mail", "INFO", "sent 3 messages");
    let stories = case.stories();
    let (service, _, change, confidence) = blamed(&stories);
    assert_eq!((&*service, &*change), ("auth", "dep-3000003"), "{stories:#?}");
    assert!((0.4..0.7).contains(&confidence), "{confidence}");
}

/// Guarantees: an alert in the middle of health wakes nobody, though something was released.
#[test]
fn an_alert_out_of_health_is_no_story() {
    let mut case = Case::default();
    case.deploy(200, "pay", "2.0", "dep-4000001");
    case.alert(300, "pay", "Watchdog");
    case.status(310, "Bank", "degraded_performance", "Some requests are slow");
    case.traffic(0..400, |_, _, _| Does { ms: 5, ..Does::default() });
    for story in case.stories() {
        assert!(story.confidence < 0.4, "{story:#?}");
    }
}

/// Guarantees: where a unit of systemd fails on a node, and then the services that run there, the node is
/// blamed; a unit that fails on another node is not.
#[test]
fn a_unit_that_fails_takes_its_node_down() {
    for (key, node, service) in [
        ("k8s.node.name", "node-7", "stock"),
        ("k8s.node.name", "node-8", "stock"),
        ("host.name", "vm-3", "cart"),
    ] {
        let mut case = Case::default();
        let of = [
            ("systemd.unit", "containerd.service"),
            ("systemd.unit.active_state", "failed"),
            (key, node),
        ];
        let record = json!({"attributes": texts(&of),
            "body": {"stringValue": "containerd.service: Main process exited, status=1/FAILURE"}});
        case.record(270, "journald", "systemd.unit.status", "", record);
        case.traffic(0..400, |second, n, of| Does {
            fails: of == service && second >= 280 && n < 4,
            ms: 5,
            ..Does::default()
        });
        let stories = case.stories();
        let best = stories.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence)).unwrap();
        let root = best.root_cause.as_ref().map(|r| (&*r.kind, &*r.name, &*r.pattern));
        if node != "node-8" {
            assert_eq!(root, Some(("Node", node, "containerd_unavailable")), "{stories:#?}");
        } else {
            assert_eq!(root.map(|(_, name, _)| name), Some("stock"), "{stories:#?}");
            assert!(best.confidence < 0.7, "{stories:#?}");
        }
    }
}

/// Guarantees: users who suddenly ask much more are no internal cause, nor are those who come one after the other
/// within two minutes.
#[test]
fn a_surge_of_users_is_no_internal_cause() {
    for ramp in [0, 30] {
        let mut case = Case::default();
        let fails = |second: u64, n: u64, service: &str| Does {
            fails: service == "stock" && second >= 400 + 3 * ramp && n < 3,
            ms: 5,
            ..Does::default()
        };
        case.traffic(0..550, fails);
        for copy in 1..4 {
            // The same users once more, beside themselves.
            case.crowd = copy;
            case.traffic(400 + (copy - 1) * ramp..550, fails);
        }
        let stories = case.stories();
        let best = stories.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence)).unwrap();
        assert_eq!(best.root_cause, None, "{stories:#?}");
        assert_eq!(best.reason.as_deref(), Some("no_internal_cause"));
    }
}
