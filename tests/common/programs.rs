//! Programs that tests run: that they are there, and what they said.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Fails where a program is missing.
pub fn need(program: &str) {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = env::split_paths(&path).any(|directory| directory.join(program).is_file());
    assert!(is_there, "{program} is missing: run scripts/install-test-deps");
}

/// Where the libraries of a language are; fails where one is missing.
pub fn need_library(language: &str, library: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-deps").join(language);
    assert!(
        directory.join(library).is_dir(),
        "{language}'s {library} is missing: run scripts/install-test-deps"
    );
    directory
}

/// What a program printed, for people to read.
pub fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

/// What a program that must succeed printed.
#[track_caller]
pub fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "it failed: {}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A program that must fail with this exit status, and say this.
#[track_caller]
pub fn fails(output: &Output, status: i32, message: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(status) && error.contains(message),
        "not {status} and {message:?}: {}",
        said(output)
    );
}
