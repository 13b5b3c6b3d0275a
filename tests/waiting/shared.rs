//! Memory that a test shares with the processes that it forks.

use std::ops::Deref;
use std::ptr::{self, NonNull};

/// A value that forked processes see too. It lives in pages of its own until the test drops it.
///
/// `T` is made of atomics: of nothing else does it make sense to share changes.
#[derive(Debug)]
pub(crate) struct Shared<T>(NonNull<T>);

impl<T: Sync> Shared<T> {
    /// Shares a value.
    pub(crate) fn new(value: T) -> Self {
        assert!(!std::mem::needs_drop::<T>(), "what is shared owns nothing");
        // SAFETY: a new mapping, that nobody else knows.
        let pages = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), size_of::<T>(), access, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(pages, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let place = NonNull::new(pages.cast::<T>()).expect("a mapping that did not fail");
        // SAFETY: the mapping is as long as the value, aligned to a page, and nobody reads it yet.
        unsafe { place.write(value) };
        Self(place)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping holds a value from its beginning to the end of `self`.
        unsafe { self.0.as_ref() }
    }
}

// SAFETY: it gives nothing but shared references to a value that may be shared.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is its own, and nobody uses it after this.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<T>()) };
    }
}
