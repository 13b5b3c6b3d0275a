//! What lockfs says of a lock and of itself, as text.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{About, Meters};
use crate::clock::Now;
use crate::lock::{EventKind, Kind, Ttl};
use crate::store::{Health, LockStore, StoreError};
use crate::table::View;

/// `key: value` lines.
#[derive(Debug, Default)]
pub(super) struct Lines(String);

impl Lines {
    pub(super) fn add(&mut self, key: &str, value: impl Display) {
        // A value stays on its line, whatever a command or a user is called.
        let value = value.to_string().replace(|c: char| c.is_control(), "?");
        writeln!(self.0, "{key}: {value}").ok();
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// The seconds until a lock expires, rounded up, or `never`.
pub(super) fn ttl_left(view: &View, now: Now) -> String {
    match view.deadline {
        Some(deadline) => deadline.since(now.boot).as_nanos().div_ceil(1_000_000_000).to_string(),
        None => "never".to_owned(),
    }
}

/// The moment a lock expires, RFC 3339, or `never`.
pub(super) fn expires(view: &View, now: Now) -> String {
    match view.deadline {
        Some(deadline) => (now.wall + deadline.since(now.boot)).to_string(),
        None => "never".to_owned(),
    }
}

/// `held` while its holder is alive as far as is known, `ended` once its job has ended, `free` of what
/// nobody holds.
pub(super) fn state(view: &View) -> &'static str {
    match &view.session {
        Some(session) if session.ended => "ended",
        Some(_) => "held",
        None => "free",
    }
}

/// What `cat` of an empty lock prints to others than its holder.
pub(super) fn describe(view: &View, now: Now, scope: &str) -> Vec<u8> {
    let mut lines = Lines::default();
    lines.add("lock", &view.path);
    lines.add("state", state(view));
    if let Some(session) = &view.session {
        lines.add("holder", session.holder());
        lines.add("session", &session.id);
    }
    lines.add("token", view.record.token);
    lines.add("since", view.record.since);
    lines.add("expires", expires(view, now));
    lines.add("ttl", view.record.ttl);
    lines.add("scope", scope);
    lines.add("waiting", 0);
    lines.into_bytes()
}

/// Everything known of a lock: what `cat` prints, and the rest.
pub(super) fn info(view: &View, now: Now, scope: &str) -> Vec<u8> {
    let mut lines = Lines(String::from_utf8_lossy(&describe(view, now, scope)).into_owned());
    let record = &view.record;
    lines.add(
        "kind",
        match record.body.kind() {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
        },
    );
    lines.add("inode", record.ino);
    lines.add("names", record.places.len());
    lines.add("mode", format_args!("{:04o}", record.mode));
    lines.add("uid", record.uid);
    lines.add("gid", record.gid);
    lines.add("modified", record.mtime);
    lines.add("changed", record.ctime);
    lines.add("note", format_args!("{} bytes", record.body.size()));
    if let Some(session) = &view.session {
        lines.add("host", &session.origin.host);
        lines.add("user", &session.origin.user);
        lines.add("pid", session.origin.pid);
        lines.add("command", &session.origin.command);
        lines.add("session_since", session.since);
        lines.add("seen", format_args!("{}s ago", now.boot.since(session.seen).as_secs()));
    }
    lines.into_bytes()
}

/// `.lockfs/status`.
pub(super) fn status(about: &About, store: &dyn LockStore) -> Vec<u8> {
    let Health { backend, scope, trouble, details } = store.health();
    let now = store.now();
    let mut lines = Lines::default();
    lines.add("state", if trouble.is_none() { "ok" } else { "failed" });
    if let Some(trouble) = trouble {
        lines.add("trouble", trouble);
    }
    lines.add("version", env!("CARGO_PKG_VERSION"));
    lines.add("pid", std::process::id());
    lines.add("mountpoint", about.mountpoint.display());
    lines.add("namespace", &about.namespace);
    lines.add("host", &about.host);
    lines.add("backend", backend);
    lines.add("scope", scope);
    lines.add("ttl", about.ttl);
    lines.add("since", about.since.wall);
    lines.add("uptime", format_args!("{}s", now.boot.since(about.since.boot).as_secs()));
    if let Ok(counts) = store.counts() {
        lines.add("locks", counts.locks);
        lines.add("sessions", counts.sessions);
        for kind in KINDS {
            lines.add(plural(kind), counts.of(kind));
        }
    }
    for (key, value) in details {
        lines.add(key, value);
    }
    lines.into_bytes()
}

const KINDS: [EventKind; 6] = [
    EventKind::Acquire,
    EventKind::Release,
    EventKind::Expire,
    EventKind::Break,
    EventKind::Transfer,
    EventKind::Lost,
];

fn plural(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Acquire => "acquired",
        EventKind::Release => "released",
        EventKind::Expire => "expired",
        EventKind::Break => "broken",
        EventKind::Transfer => "transferred",
        EventKind::Begin => "begun",
        EventKind::End => "ended",
        EventKind::Lost => "lost",
    }
}

/// `.lockfs/metrics`: the same as Prometheus text.
pub(super) fn metrics(about: &About, store: &dyn LockStore, meters: &Meters) -> Result<Vec<u8>, StoreError> {
    let health = store.health();
    let counts = store.counts()?;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        writeln!(text, "# HELP lockfs_{name} {help}\n# TYPE lockfs_{name} {kind}").ok();
        for (labels, value) in samples {
            writeln!(text, "lockfs_{name}{labels} {value}").ok();
        }
    };
    let uptime: Duration = store.now().boot.since(about.since.boot);
    let labels = format!(
        "{{version=\"{}\",backend=\"{}\",scope=\"{}\",namespace=\"{}\",host=\"{}\"}}",
        env!("CARGO_PKG_VERSION"),
        health.backend,
        health.scope,
        about.namespace,
        about.host
    );
    family("info", "gauge", "What is mounted.", &[(labels, 1)]);
    let up = u64::from(health.trouble.is_none());
    family("up", "gauge", "Whether the store works.", &[(String::new(), up)]);
    family("uptime_seconds", "gauge", "Since the mount.", &[(String::new(), uptime.as_secs())]);
    family("locks", "gauge", "Locks and directories.", &[(String::new(), counts.locks)]);
    family("sessions", "gauge", "Sessions.", &[(String::new(), counts.sessions)]);
    let events = KINDS.map(|kind| (format!("{{event=\"{}\"}}", kind.as_str()), counts.of(kind)));
    family("events_total", "counter", "What happened to locks.", &events);
    let requests: Vec<(String, u64)> = meters
        .iter()
        .map(|(name, count)| (format!("{{request=\"{name}\"}}"), count.load(Ordering::Relaxed)))
        .collect();
    family("requests_total", "counter", "Requests of the kernel.", &requests);
    let ttl = about.ttl.span().map_or(0, |span| span.as_secs());
    family("default_ttl_seconds", "gauge", "0 for never.", &[(String::new(), ttl)]);
    Ok(text.into_bytes())
}

/// The ttl of a directory's new entries, as `.default_ttl` prints it.
pub(super) fn default_ttl(ttl: Ttl) -> String {
    ttl.span().map_or_else(|| "never".to_owned(), |span| span.as_secs().to_string())
}
