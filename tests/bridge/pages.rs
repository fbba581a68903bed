//! What the pages say of the tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file below.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// What stands in backquotes.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A sentence in one word, and no metric.
fn is_named_like_a_test(name: &str) -> bool {
    let is_word = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    is_word && name.matches('_').count() >= 3 && !name.starts_with("chat_bridge_")
}

#[test]
fn every_test_that_the_page_of_promises_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/durability.md")).unwrap();
    let names: Vec<&str> = quoted(&page).filter(|name| is_named_like_a_test(name)).collect();
    assert!(names.len() >= 30, "{names:?}");
    let code: String =
        ["src", "tests/bridge"].iter().flat_map(|dir| sources(&root.join(dir))).map(|path| fs::read_to_string(path).unwrap()).collect();
    // At the edge of its file, or in a module of tests.
    let is_there = |name: &&&str| ["", "    "].iter().any(|edge| code.contains(&format!("#[test]\n{edge}fn {name}()")));
    let missing: Vec<&&str> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "docs/durability.md names tests that are not there: {missing:#?}");
}
