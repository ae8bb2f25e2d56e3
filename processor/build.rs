//! Lists the SQL files in `queries/` and the YAML files in `patterns/`, so that a new query or a
//! new pattern is one file and no line elsewhere.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let here = env::var("CARGO_MANIFEST_DIR")?;
    let mut out = String::new();
    for (constant, folder, ending) in
        [("QUERIES", "queries", "sql"), ("PATTERNS", "patterns", "yaml")]
    {
        println!("cargo::rerun-if-changed={folder}");
        let mut files: Vec<_> = fs::read_dir(Path::new(&here).join(folder))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|e| e == ending))
            .collect();
        files.sort();
        writeln!(out, "pub(crate) const {constant}: &[(&str, &str)] = &[")?;
        for file in files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            println!("cargo::rerun-if-changed={}", file.display());
            writeln!(out, "    ({name:?}, include_str!({:?})),", file.display().to_string())?;
        }
        out.push_str("];\n");
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("files.rs"), out)?;
    Ok(())
}
