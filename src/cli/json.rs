//! JSON for `--json`: objects of plain values, written by hand.
//!
//! A dozen lines spare a dependency. What is a number is written as one, if every reader gets it back:
//! beyond 2^53 JavaScript and jq round, so that two tokens might compare equal; those are strings.

use std::fmt::Write;

/// The largest whole number that a double holds together with all below it.
const EXACT: u64 = 1 << 53;

/// An object under construction, its members in the order in which they are added.
#[derive(Debug, Default)]
pub(crate) struct Object(String);

impl Object {
    /// Adds `name` with `value` as a string, or null.
    #[must_use]
    pub(crate) fn text(self, name: &str, value: Option<&str>) -> Self {
        let value = value.map_or("null".to_owned(), quoted);
        self.raw(name, &value)
    }

    /// Adds `name` with `value` as a number if it is one, else as a string.
    #[must_use]
    pub(crate) fn scalar(self, name: &str, value: &str) -> Self {
        if is_number(value) { self.raw(name, value) } else { self.text(name, Some(value)) }
    }

    /// Adds `name` with `value` as a number, or null.
    #[must_use]
    pub(crate) fn number(self, name: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.scalar(name, &value.to_string()),
            None => self.raw(name, "null"),
        }
    }

    /// Adds `name` with an array of `items`.
    #[must_use]
    pub(crate) fn list(self, name: &str, items: impl IntoIterator<Item = Self>) -> Self {
        let items: Vec<_> = items.into_iter().map(Self::end).collect();
        self.raw(name, &format!("[{}]", items.join(",")))
    }

    fn raw(mut self, name: &str, value: &str) -> Self {
        let comma = if self.0.is_empty() { "" } else { "," };
        write!(self.0, "{comma}{}:{value}", quoted(name)).expect("a String takes all that is written");
        self
    }

    /// The object's text.
    pub(crate) fn end(self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// An array of `items`, one to a line.
pub(crate) fn array(items: impl IntoIterator<Item = Object>) -> String {
    let items: Vec<_> = items.into_iter().map(Object::end).collect();
    match items.as_slice() {
        [] => "[]\n".to_owned(),
        _ => format!("[\n{}\n]\n", items.join(",\n")),
    }
}

/// `text` as RFC 8259 section 7 has a string.
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            '\n' => json.push_str("\\n"),
            '\t' => json.push_str("\\t"),
            // DEL and C1 may stand bare in JSON, but not on a terminal.
            _ if c.is_control() => {
                write!(json, "\\u{:04x}", u32::from(c)).expect("a String takes all that is written");
            }
            _ => json.push(c),
        }
    }
    json.push('"');
    json
}

/// Whether `text` is a number of RFC 8259 section 6 without an exponent, and small enough for a double.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = whole == "0" || !whole.starts_with('0');
    all_digits(whole)
        && all_digits(fraction)
        && is_canonical
        && whole.parse::<u64>().is_ok_and(|whole| whole <= EXACT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_escaped() {
        assert_eq!(quoted("a\"b\\c\n\t\x1b\x7f\u{e9}"), "\"a\\\"b\\\\c\\n\\t\\u001b\\u007f\u{e9}\"");
    }

    #[test]
    fn numbers_are_numbers_and_nothing_else_is() {
        for number in ["0", "-1", "42", "0.5", "-0.25", "9007199254740992"] {
            assert!(is_number(number), "{number}");
        }
        for text in ["", "-", "007", "1.", ".5", "1e3", "+1", "0x1", "NaN", "12 ", "9007199254740993"] {
            assert!(!is_number(text), "{text}");
        }
    }

    #[test]
    fn an_object_keeps_the_order_of_its_members() {
        let object = Object::default().text("path", Some("a")).number("waiting", Some(0)).text("x", None);
        assert_eq!(object.end(), r#"{"path":"a","waiting":0,"x":null}"#);
        let items = ["b", "c"].map(|text| Object::default().text("n", Some(text)));
        let nested = Object::default().list("none", []).list("some", items);
        assert_eq!(nested.end(), r#"{"none":[],"some":[{"n":"b"},{"n":"c"}]}"#);
        assert_eq!(
            Object::default().scalar("token", "7451999999999999999").end(),
            r#"{"token":"7451999999999999999"}"#
        );
    }

    #[test]
    fn an_array_has_one_item_a_line() {
        assert_eq!(array([]), "[]\n");
        let two = ["a", "b"].map(|name| Object::default().text("n", Some(name)));
        assert_eq!(array(two), "[\n{\"n\":\"a\"},\n{\"n\":\"b\"}\n]\n");
    }
}
