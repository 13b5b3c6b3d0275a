//! Why nothing is done in a namespace any more: what a migration leaves there, for whoever comes.

use std::fmt;

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Closing {
    pub(in crate::store) kind: Kind,
    /// What the namespace at the other end is that no other is.
    pub(in crate::store) peer: String,
    /// Where the other end is, for people.
    pub(in crate::store) place: String,
}

/// At which end of a migration a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// Its locks have moved to the other end.
    Moved,
    /// It is being filled from the other end.
    Filled,
}

impl Closing {
    pub(in crate::store) fn moved(peer: String, place: String) -> Self {
        Self { kind: Kind::Moved, peer, place }
    }

    pub(in crate::store) fn filled(peer: String, place: String) -> Self {
        Self { kind: Kind::Filled, peer, place }
    }

    /// As a store keeps it.
    pub(in crate::store) fn text(&self) -> String {
        let kind = match self.kind {
            Kind::Moved => "moved",
            Kind::Filled => "filled",
        };
        format!("{kind}\n{}\n{}", self.peer, self.place)
    }

    /// What a store keeps; `None` where it makes no sense.
    pub(in crate::store) fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.splitn(3, '\n');
        let kind = match lines.next()? {
            "moved" => Kind::Moved,
            "filled" => Kind::Filled,
            _ => return None,
        };
        Some(Self { kind, peer: lines.next()?.to_owned(), place: lines.next()?.to_owned() })
    }

    /// What a store keeps, for people.
    pub(in crate::store) fn shown(text: &[u8]) -> String {
        match Self::parse(text) {
            Some(closing) => closing.to_string(),
            None => "it was closed by another version of lockfs: use that one".to_owned(),
        }
    }
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        match self.kind {
            Kind::Moved => write!(
                f,
                "these locks have moved to {place}: mount that, or move them back with `lockfs migrate`"
            ),
            Kind::Filled => write!(
                f,
                "it is being filled from {place}: run that `lockfs migrate` again, or with --rollback"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back() {
        for closing in
            [Closing::moved("a".into(), "redis://b:1/0".into()), Closing::filled(String::new(), "x".into())]
        {
            assert_eq!(Closing::parse(closing.text().as_bytes()), Some(closing));
        }
        assert_eq!(Closing::parse(b"gone\na\nb"), None);
        assert!(Closing::shown(b"\xff").contains("another version"));
    }
}
