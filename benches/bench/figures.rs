//! Numbers to lines.

use std::fmt::Display;
use std::time::Duration;

/// A heading.
pub(crate) fn heading(text: impl Display) {
    println!("\n{text}");
}

/// A remark.
pub(crate) fn note(text: impl Display) {
    println!("# {text}");
}

/// One figure.
pub(crate) fn figure(name: impl Display, value: impl Display) {
    println!("  {:<50} {value}", name.to_string());
}

/// One figure with a goal.
pub(crate) fn goal(name: impl Display, value: impl Display, is_met: bool) {
    println!("  {:<50} {value}  {}", name.to_string(), if is_met { "PASS" } else { "MISS" });
}

/// Microseconds, as latencies are told.
pub(crate) fn micros(span: Duration) -> String {
    format!("{:.1} us", span.as_secs_f64() * 1e6)
}

/// Milliseconds, as waits are told.
pub(crate) fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1e3)
}

/// The value below which the given share of all lie; zero of none.
pub(crate) fn percentile<T: Copy + Ord + Default>(values: &mut [T], percent: usize) -> T {
    values.sort_unstable();
    values.get(values.len() * percent / 100).or(values.last()).copied().unwrap_or_default()
}

/// The median of measured numbers; not a number of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The median of spans.
pub(crate) fn median_span(spans: impl IntoIterator<Item = Duration>) -> Duration {
    let seconds = median(spans.into_iter().map(|span| span.as_secs_f64()));
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
