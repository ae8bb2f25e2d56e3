//! Every input in `corpus/` goes through its target: those that found something, and those that reach most.

fn replay(target: &str, run: fn(&[u8])) {
    let folder = format!("{}/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let (mut inputs, mut seeds) = (0, 0);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        let done = std::panic::catch_unwind(|| run(&data));
        assert!(done.is_ok(), "{}", path.display());
        inputs += 1;
        seeds += usize::from(
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-")),
        );
    }
    // Without something real to begin with a run does not come far.
    assert!(inputs > 10 && seeds > 0, "{folder} holds {inputs} inputs, {seeds} of them real");
}

#[test]
fn views() {
    replay("views", tapio_fuzz::views::run);
}

#[test]
fn splice() {
    replay("splice", tapio_fuzz::splice::run);
}

#[test]
fn json() {
    replay("json", tapio_fuzz::json::run);
}

#[test]
fn config() {
    replay("config", tapio_fuzz::config::run);
}

#[test]
fn queue() {
    replay("queue", tapio_fuzz::queue::run);
}
