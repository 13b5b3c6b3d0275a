//! What lockfs says of a lock and of itself, as text.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{About, Meters, Restart};
use crate::clock::Now;
use crate::lock::{EventKind, Grant, Kind, Range, Style, Ttl, Waiter};
use crate::locks::Bearing;
use crate::store::{Health, LockStore, Metric, State, Value};
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

/// `held` while its holder is alive as far as is known, `ended` once its job has ended, `locked` of an advisory
/// file that somebody has locked, `free` of what nobody has; `degraded` of what is held without the store that should
/// say so.
pub(super) fn state(view: &View, is_degraded: bool) -> &'static str {
    match &view.session {
        Some(session) if session.ended => "ended",
        Some(_) if is_degraded => "degraded",
        Some(_) => "held",
        None if !view.grants.is_empty() => "locked",
        None => "free",
    }
}

/// What `cat` of an empty lock prints to others than its holder.
pub(super) fn describe(view: &View, now: Now, bearing: Bearing) -> Vec<u8> {
    let mut lines = Lines::default();
    lines.add("lock", &view.path);
    lines.add("state", state(view, bearing.is_degraded));
    if let Some(session) = &view.session {
        lines.add("holder", session.origin.holder());
        lines.add("session", &session.id);
    }
    if bearing.has_token {
        lines.add("token", view.record.token);
    }
    lines.add("since", view.record.since);
    lines.add("expires", expires(view, now));
    lines.add("ttl", view.record.ttl);
    lines.add("scope", bearing.scope);
    lines.add("waiting", view.waiting);
    for grant in &view.grants {
        lines.add(grant.style.as_str(), describe_grant(grant));
    }
    lines.into_bytes()
}

/// `exclusive alice@dev1 make[4711] pid 4712 since ...`; of fcntl(2) with the bytes.
fn describe_grant(grant: &Grant) -> String {
    let Grant { style, mode, range, pid, since, origin, .. } = grant;
    let bytes = match (style, range.last()) {
        (Style::Flock, _) => String::new(),
        (Style::Fcntl, Range::END) => format!(" {}-", range.first()),
        (Style::Fcntl, last) => format!(" {}-{last}", range.first()),
    };
    format!("{}{bytes} {} pid {pid} since {since}", mode.as_str(), origin.holder())
}

/// What reading a door shows: what stands at its name, and who waits, the first in front.
pub(super) fn queue(view: Option<(&View, Bearing)>, waiters: &[Waiter], now: Now) -> Vec<u8> {
    let mut lines = Lines::default();
    match view {
        Some((view, bearing)) => {
            lines = Lines(String::from_utf8_lossy(&describe(view, now, bearing)).into_owned());
        }
        None => {
            lines.add("state", "free");
            lines.add("waiting", waiters.len());
        }
    }
    for waiter in waiters {
        let what = match waiter.claim.style {
            Style::Fcntl => " fcntl",
            Style::Flock => "",
        };
        let mode = waiter.claim.mode.as_str();
        lines.add("waiter", format_args!("{} {mode}{what} since {}", waiter.origin.holder(), waiter.since));
    }
    lines.into_bytes()
}

/// Everything known of a lock: what `cat` prints, and the rest.
pub(super) fn info(view: &View, now: Now, bearing: Bearing) -> Vec<u8> {
    let mut lines = Lines(String::from_utf8_lossy(&describe(view, now, bearing)).into_owned());
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

/// `.lockfs/status`. It asks nobody, and so is answered whatever the store does.
pub(super) fn status(about: &About, restart: Option<Restart>, store: &dyn LockStore) -> Vec<u8> {
    let health = store.health();
    let now = store.now();
    let mut lines = Lines::default();
    lines.add("state", health.state.as_str());
    if let Some(trouble) = health.state.trouble() {
        lines.add("trouble", trouble);
    }
    lines.add("version", env!("CARGO_PKG_VERSION"));
    lines.add("pid", std::process::id());
    lines.add("mountpoint", about.mountpoint.display());
    lines.add("namespace", &about.namespace);
    lines.add("host", &about.host);
    lines.add("backend", health.backend);
    lines.add("scope", health.scope);
    lines.add("ttl", about.ttl);
    lines.add("since", about.since.wall);
    lines.add("uptime", format_args!("{}s", now.boot.since(about.since.boot).as_secs()));
    if let Some(restart) = restart {
        lines.add("restart", restart);
    }
    if let Some(address) = about.metrics {
        lines.add("metrics", format_args!("http://{address}/metrics"));
    }
    if let Some(counts) = health.counts {
        lines.add("locks", counts.locks);
        lines.add("sessions", counts.sessions);
        lines.add("waiting", counts.waits);
        for kind in KINDS {
            lines.add(plural(kind), counts.of(kind));
        }
    }
    for fact in health.facts {
        lines.add(fact.key, fact.value);
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

/// Prometheus text (prometheus.io, "Exposition formats").
#[derive(Debug, Default)]
struct Families {
    text: String,
    last: String,
}

impl Families {
    /// One sample; those of a family come one after the other.
    fn add(&mut self, (name, help): (&str, &str), kind: &str, labels: &[(&str, &str)], value: impl Display) {
        if self.last != name {
            name.clone_into(&mut self.last);
            writeln!(self.text, "# HELP lockfs_{name} {help}\n# TYPE lockfs_{name} {kind}").ok();
        }
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", label(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.text, "lockfs_{name}{labels} {value}").ok();
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.add((name, help), "gauge", &[], value);
    }

    fn fact(&mut self, Metric { name, help }: Metric, value: &Value) {
        let metric = (name, help);
        match value {
            Value::Text(_) | Value::Passing(_) => {}
            Value::Count(count) => self.add(metric, "counter", &[], count),
            Value::Number(number) => self.add(metric, "gauge", &[], number),
            Value::Seconds(seconds) => self.add(metric, "gauge", &[], seconds),
            Value::Quantile(part, span) => {
                self.add(metric, "summary", &[("quantile", part)], span.as_secs_f64());
            }
        }
    }
}

/// The value of a label: a backslash, a quote and a line feed are escaped.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `.lockfs/metrics`: the same as Prometheus text. Words of the store are labels of its `info`.
pub(super) fn metrics(about: &About, store: &dyn LockStore, meters: &Meters) -> Vec<u8> {
    let Health { backend, scope, state, counts, facts } = store.health();
    let mut families = Families::default();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("backend", backend),
        ("scope", scope),
        ("namespace", &about.namespace),
        ("host", &about.host),
    ];
    families.add(("info", "What is mounted."), "gauge", &labels, 1);
    families.gauge("up", "Whether the store works.", u64::from(state == State::Ok));
    let uptime: Duration = store.now().boot.since(about.since.boot);
    families.gauge("uptime_seconds", "Since the mount.", uptime.as_secs());
    if let Some(counts) = counts {
        families.gauge("locks", "Locks and directories.", counts.locks);
        families.gauge("sessions", "Sessions.", counts.sessions);
        families.gauge("waiting", "Calls that wait.", counts.waits);
        let events = ("events_total", "What happened to locks.");
        for kind in KINDS {
            families.add(events, "counter", &[("event", kind.as_str())], counts.of(kind));
        }
    }
    let requests = ("requests_total", "Requests of the kernel.");
    for (name, count) in meters.iter() {
        families.add(requests, "counter", &[("request", name)], count.load(Ordering::Relaxed));
    }
    let ttl = about.ttl.span().map_or(0, |span| span.as_secs());
    families.gauge("default_ttl_seconds", "0 for never.", ttl);
    let words: Vec<(&str, &str)> = facts
        .iter()
        .filter_map(|fact| match &fact.value {
            Value::Text(text) => Some((label_name(fact.key, backend), text.as_str())),
            _ => None,
        })
        .collect();
    if !words.is_empty() {
        families.add((&format!("{backend}_info"), "What keeps the locks."), "gauge", &words, 1);
    }
    for fact in &facts {
        if let Some(metric) = fact.metric {
            families.fact(metric, &fact.value);
        }
    }
    families.text.into_bytes()
}

/// `redis_address` is the `address` of a Redis.
fn label_name<'a>(key: &'a str, backend: &str) -> &'a str {
    key.strip_prefix(backend).and_then(|rest| rest.strip_prefix('_')).unwrap_or(key)
}

/// The ttl of a directory's new entries, as `.default_ttl` prints it.
pub(super) fn default_ttl(ttl: Ttl) -> String {
    ttl.span().map_or_else(|| "never".to_owned(), |span| span.as_secs().to_string())
}
