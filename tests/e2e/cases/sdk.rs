//! The OpenTelemetry SDKs as they are used: what they send arrives, whole, by both protocols, compressed or not.

use std::time::Duration;

use crate::e2e::{
    backend::{Backend, Inbox},
    cases::lossless::exporter,
    parts,
    program::{Program, Tapio, block_on, folder, free_port},
    runner::Skipped,
    wire::Signal,
};

const ITEMS: usize = 50;

pub(crate) fn go() -> Result<(), Skipped> {
    sends("go")
}

pub(crate) fn python() -> Result<(), Skipped> {
    sends("python")
}

pub(crate) fn javascript() -> Result<(), Skipped> {
    sends("js")
}

fn sends(language: &str) -> Result<(), Skipped> {
    parts::sdk(language)?;
    block_on(async {
        let folder = folder(&format!("sdk_{language}"));
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let (id, body) = exporter("grpc", backend.port, "none");
        let mut tapio = Tapio::start(&folder, "tapio", (id, &body)).await;
        for (protocol, port) in [("grpc", tapio.grpc), ("http", tapio.http)] {
            for compression in ["none", "gzip"] {
                let mut command = parts::sdk(language)?;
                command.args([protocol, &format!("127.0.0.1:{port}"), compression]);
                let name = format!("{protocol}_{compression}");
                let mut program = Program::start(&name, command, &folder);
                let status = program.ends(Duration::from_secs(60)).await;
                assert!(status.success(), "{name}: {status}: {}", program.tail());
                arrived(&inbox, &format!("sdk-{language}"), &name);
            }
        }
        tapio.program.stop_well().await;
        Ok(())
    })
}

/// Every item of the three signals is among what came, and nothing came twice.
fn arrived(inbox: &Inbox, service: &str, run: &str) {
    let received = inbox.take();
    let of = |signal: Signal| {
        let here = received.iter().filter(|one| one.path == signal.grpc_path());
        here.map(|one| String::from_utf8_lossy(&one.message).into_owned()).collect::<String>()
    };
    for (signal, item) in [(Signal::Traces, "sdk-span-"), (Signal::Logs, "sdk-log-")] {
        let text = of(signal);
        assert!(text.contains(service), "{run}: {signal:?} of {service}");
        for number in 0..ITEMS {
            let count = text.matches(&format!("{item}{number:02}")).count();
            assert_eq!(count, 1, "{run}: {item}{number:02}");
        }
    }
    let metrics = of(Signal::Metrics);
    assert!(metrics.contains("sdk.counter") && metrics.contains(service), "{run}: {metrics:?}");
}
