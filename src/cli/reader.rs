//! Reads JSON, as RFC 8259 has it: what other programs hand to a hook on stdin.
//!
//! It is read in full or not at all: a hook must not act on the half of what it was asked.

/// How deep values may stand in each other.
const DEPTH_MAX: usize = 128;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A number, as it was written.
    Number(String),
    Text(String),
    List(Vec<Value>),
    /// Members in their order; of those with one name the last one counts.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Reads `text`, which is one value.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0).and_then(|value| {
            reader.skip_blanks();
            if reader.at == text.len() { Some(value) } else { None }
        });
        value.ok_or_else(|| format!("no JSON at byte {}", reader.at))
    }

    /// The member `name`; `None` where it is not there, or null.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let member = members.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value);
        member.filter(|value| **value != Self::Null)
    }

    /// The member `name`, if it is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Self::Text(text)) => Some(text),
            _ => None,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Takes `token` and the blanks before it, if it comes next.
    fn takes(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let is_next = self.rest().starts_with(token);
        self.at += if is_next { token.len() } else { 0 };
        is_next
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        for (word, value) in
            [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))]
        {
            if self.takes(word) {
                return Some(value);
            }
        }
        if self.takes("\"") {
            return self.string().map(Value::Text);
        }
        if self.takes("[") {
            let mut list = Vec::new();
            if self.takes("]") {
                return Some(Value::List(list));
            }
            loop {
                list.push(self.value(depth + 1)?);
                match () {
                    () if self.takes("]") => return Some(Value::List(list)),
                    () if self.takes(",") => {}
                    () => return None,
                }
            }
        }
        if self.takes("{") {
            let mut members = Vec::new();
            if self.takes("}") {
                return Some(Value::Object(members));
            }
            loop {
                let name = if self.takes("\"") { self.string()? } else { return None };
                if !self.takes(":") {
                    return None;
                }
                members.push((name, self.value(depth + 1)?));
                match () {
                    () if self.takes("}") => return Some(Value::Object(members)),
                    () if self.takes(",") => {}
                    () => return None,
                }
            }
        }
        let end = self.rest().find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c));
        let number = &self.rest()[..end.unwrap_or(self.rest().len())];
        number.parse::<f64>().ok()?;
        let number = number.to_owned();
        self.at += number.len();
        Some(Value::Number(number))
    }

    /// The rest of a string whose quote was taken.
    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let c = self.rest().chars().next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(text),
                '\\' => text.push(self.escape()?),
                _ if u32::from(c) < 0x20 => return None,
                _ => text.push(c),
            }
        }
    }

    /// The character of an escape whose backslash was taken. Half a pair of UTF-16 stands for no character.
    fn escape(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.unit()?;
                let is_high = (0xd800..0xdc00).contains(&first);
                let second = if is_high && self.rest().starts_with("\\u") {
                    self.at += 2;
                    Some(self.unit()?)
                } else {
                    None
                };
                let units: Vec<u16> = [Some(first), second].into_iter().flatten().collect();
                let mut decoded = char::decode_utf16(units);
                let c = decoded.next()?.unwrap_or(char::REPLACEMENT_CHARACTER);
                // A high half before what is no low one: both are told.
                if decoded.next().is_some() { char::REPLACEMENT_CHARACTER } else { c }
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let digits =
            self.rest().get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let unit = u16::from_str_radix(digits, 16).ok()?;
        self.at += 4;
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hook_is_handed_is_read() {
        let text = r#" {"session_id":"abc","tool_input":{"file_path":"/a\u00e9\n\ud83d\ude00\"b","edits":[1,-2.5e3,[],{}]},
            "stop_hook_active":false,"nothing":null,"twice":1,"twice":"last"} "#;
        let value = Value::parse(text).unwrap();
        assert_eq!(value.text("session_id"), Some("abc"));
        let input = value.get("tool_input").unwrap();
        assert_eq!(input.text("file_path"), Some("/a\u{e9}\n\u{1f600}\"b"));
        let numbers = ["1", "-2.5e3"].map(|number| Value::Number(number.to_owned()));
        let [one, two] = numbers;
        let edits = Value::List(vec![one, two, Value::List(vec![]), Value::Object(vec![])]);
        assert_eq!(input.get("edits"), Some(&edits));
        assert_eq!(value.get("stop_hook_active"), Some(&Value::Bool(false)));
        assert_eq!((value.get("nothing"), value.text("twice")), (None, Some("last")));
        assert_eq!(Value::parse(r#""\ud800x""#), Ok(Value::Text("\u{fffd}x".to_owned())));
    }

    #[test]
    fn what_is_no_json_is_refused_whole() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{",
            "{\"a\":1",
            "[1,]",
            "{\"a\" 1}",
            "nul",
            "1 2",
            "\"a\nb\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            &deep,
        ] {
            assert!(Value::parse(text).is_err(), "{text:.20}");
        }
    }
}
