//! Runs cases one after another and says what passed, failed and was skipped, in libtest's words.

use std::{panic, process::ExitCode, time::Instant};

/// A case could not run for want of a part; the text says which and how to get it.
pub(crate) struct Skipped(pub(crate) String);

/// A case fails by panicking, as a test does.
pub(crate) type Case = fn() -> Result<(), Skipped>;

/// Runs the cases whose names contain one of the arguments (all without arguments).
///
/// Understands `--list`, `--exact` and `--skip NAME` as libtest does; other options are ignored.
pub(crate) fn run(cases: &[(&str, Case)]) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut wanted, mut unwanted, mut exact, mut list) = (vec![], vec![], false, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => list = true,
            "--exact" => exact = true,
            "--skip" => unwanted.extend(arguments.next()),
            "--test-threads" | "--color" | "--format" | "-Z" => drop(arguments.next()),
            option if option.starts_with('-') => {}
            name => wanted.push(name.to_owned()),
        }
    }
    let matches = |name: &str, pattern: &String| {
        if exact { name == pattern } else { name.contains(pattern) }
    };
    let selected: Vec<_> = cases
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| matches(name, w)))
        .filter(|(name, _)| !unwanted.iter().any(|u| matches(name, u)))
        .collect();
    if list {
        selected.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }

    println!("\nrunning {} tests", selected.len());
    let (mut passed, mut failed, mut skipped) = (0, vec![], 0);
    for &&(name, case) in &selected {
        let started = Instant::now();
        match panic::catch_unwind(case) {
            Ok(Ok(())) => {
                passed += 1;
                println!("test {name} ... ok ({:.1} s)", started.elapsed().as_secs_f64());
            }
            Ok(Err(Skipped(why))) => {
                skipped += 1;
                println!("test {name} ... SKIPPED: {why}");
            }
            Err(_) => {
                failed.push(name);
                println!("test {name} ... FAILED");
            }
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {skipped} ignored; 0 measured; {} filtered out\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len(),
        cases.len() - selected.len(),
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
