//! Who is shown to hold a lock, and how many wait for it.

use crate::common::{Tree, eventually, sys};

/// Waits until so many wait for a file.
#[track_caller]
pub(crate) fn wait_for_waiters(tree: &Tree, name: &str, count: usize) {
    let count = count.to_string();
    eventually(&format!("{count} wait for {name}"), || {
        sys::getxattr(tree.path(name), "user.lock.waiting").is_ok_and(|waiting| waiting == count)
    });
}
