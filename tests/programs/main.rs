//! Real programs, unchanged, on a real mount: that what excludes on a local disk excludes here, what refuses
//! refuses, and what merely works works.
//!
//! A test whose program is missing fails, and says what installs it; it never passes by skipping.

#[path = "../common/mod.rs"]
mod common;
mod contest;
mod exclusion;
mod held;
mod stale;
mod trees;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Two users that are not root. They need no entry in `/etc/passwd`.
const ALICE: u32 = 1001;
/// See [`ALICE`].
const BOB: u32 = 1002;

/// Fails where a program is missing.
fn need(program: &str) {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = env::split_paths(&path).any(|directory| directory.join(program).is_file());
    assert!(is_there, "{program} is missing: run scripts/install-test-deps");
}

/// Where the libraries of a language are; fails where one is missing.
fn need_library(language: &str, library: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-deps").join(language);
    assert!(
        directory.join(library).is_dir(),
        "{language}'s {library} is missing: run scripts/install-test-deps"
    );
    directory
}

/// A script that stands beside this file.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// What a program printed, for people to read.
fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

/// What a program that must succeed printed.
#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "it failed: {}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A program that must fail with this exit status, and say this.
#[track_caller]
fn fails(output: &Output, status: i32, message: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(status) && error.contains(message),
        "not {status} and {message:?}: {}",
        said(output)
    );
}
