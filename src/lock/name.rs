//! Names and paths: bytes, as the kernel has them; UTF-8 is not asked for.

use std::fmt;
use std::sync::Arc;

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
///
/// 255 is `NAME_MAX` of `limits.h`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 255;

    /// Takes `bytes` as a name.
    ///
    /// # Errors
    /// [`NameError`] when no directory could hold an entry of that name.
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            _ if bytes.len() > Self::MAX => Err(NameError::TooLong),
            b"." | b".." => Err(NameError::Reserved),
            _ if bytes.iter().any(|&byte| byte == b'/' || byte == 0) => Err(NameError::Separator),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Why some bytes are no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No bytes at all.
    Empty,
    /// More than [`Name::MAX`] bytes.
    TooLong,
    /// `.` or `..`, which every directory has already.
    Reserved,
    /// A `/` or a NUL inside.
    Separator,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "an empty name",
            Self::TooLong => "a name of more than 255 bytes",
            Self::Reserved => "the name of every directory itself or of its parent",
            Self::Separator => "a name with a slash or a NUL in it",
        })
    }
}

impl std::error::Error for NameError {}

/// Where a lock stands: its names from the root of the namespace, joined by `/`, without a leading one.
///
/// The root itself is the empty path, and prints as `/`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockPath(Box<[u8]>);

impl LockPath {
    /// The path of the names of `components`, from the root downwards.
    pub fn join<'a>(components: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut path = Vec::new();
        for component in components {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        Self(path.into())
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// As text on one line: what is neither printable ASCII nor UTF-8 is escaped as `\n`, `\x07` and so on.
impl fmt::Display for LockPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    _ if character.is_control() => write!(f, "{}", character.escape_default())?,
                    _ => write!(f, "{character}")?,
                }
            }
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for LockPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_directory_can_hold() {
        assert!(Name::parse(&[b'x'; 255]).is_ok());
        assert!(Name::parse(b"new\nline \xff").is_ok());
        assert_eq!(Name::parse(&[b'x'; 256]), Err(NameError::TooLong));
        assert_eq!(Name::parse(b""), Err(NameError::Empty));
        assert_eq!(Name::parse(b".."), Err(NameError::Reserved));
        assert_eq!(Name::parse(b"a/b"), Err(NameError::Separator));
        assert_eq!(Name::parse(b"a\0b"), Err(NameError::Separator));
    }

    #[test]
    fn a_path_prints_on_one_line() {
        let path = LockPath::join([b"caf\xc3\xa9".as_slice(), b"a\nb", b"\xff\\"]);
        assert_eq!(path.to_string(), "caf\u{e9}/a\\nb/\\xff\\\\");
        assert_eq!(LockPath::default().to_string(), "/");
    }
}
