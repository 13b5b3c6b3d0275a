//! Extended attributes: `user.lock.*`, the lock's record by name.
//!
//! Names outside of `user.lock.` are refused before anything is asked: the kernel asks for
//! `security.capability` before each write, and `ls -l` for ACLs.

use super::describe;
use super::node::Node;
use super::{Error, LockFs};
use crate::lock::{Body, Ino, Kind, Origin, Session, SessionId, Token, Ttl};
use crate::locks::Requester;
use crate::table::{Caller, Command, Refusal, View};

const PREFIX: &str = "user.lock.";

/// The attributes that a lock has for reading, in the order of their listing.
const READABLE: [&str; 12] = [
    "owner", "session", "ttl", "expires", "token", "host", "pid", "command", "since", "scope", "state",
    "waiting",
];

const DEFAULT_TTL: &str = "default_ttl";

/// What setxattr(2) does where the attribute is there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    /// Either way.
    Any,
    /// It must not be there (`XATTR_CREATE`).
    Create,
    /// It must be there (`XATTR_REPLACE`).
    Replace,
}

impl LockFs {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Error::ForeignAttribute`] outside of `user.lock.`, [`Error::NoAttribute`] where it has none.
    pub fn getxattr(&self, number: u64, name: &[u8]) -> Result<Vec<u8>, Error> {
        let name = own_name(name)?;
        let value = match self.subject(number)? {
            Subject::Lock(view) => self.value_of_lock(&view, name),
            Subject::Session(session) => self.value_of_session(&session, name),
            Subject::Nothing => None,
        };
        value.map(String::into_bytes).ok_or(Error::NoAttribute)
    }

    /// The names of the extended attributes, each with a NUL behind it.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where it is not there any more.
    pub fn listxattr(&self, number: u64) -> Result<Vec<u8>, Error> {
        let subject = self.subject(number)?;
        let is_info = matches!(self.node(number)?, Node::Info(_));
        let value = |name: &str| match &subject {
            // The kernel reads no `user.` attribute of a symlink (xattr(7)): a program would fail at each.
            Subject::Lock(view) if view.record.body.kind() == Kind::Symlink && !is_info => None,
            Subject::Lock(view) => self.value_of_lock(view, name),
            Subject::Session(session) => self.value_of_session(session, name),
            Subject::Nothing => None,
        };
        let names = READABLE.into_iter().chain([DEFAULT_TTL]).filter(|name| value(name).is_some());
        Ok(names.flat_map(|name| format!("{PREFIX}{name}\0").into_bytes()).collect())
    }

    fn subject(&self, number: u64) -> Result<Subject, Error> {
        Ok(match self.node(number)? {
            Node::View { session, object: Ino::ROOT } => {
                Subject::Session(Box::new(self.session_at(session)?))
            }
            Node::Object(ino)
            | Node::Info(ino)
            | Node::InfoDirectory(ino)
            | Node::View { object: ino, .. } => {
                Subject::Lock(Box::new(self.service.store().view(ino)?.ok_or(Refusal::Gone)?))
            }
            Node::Sessions
            | Node::Control
            | Node::Status
            | Node::Metrics
            | Node::Events(_)
            | Node::WaitDirectory(_)
            | Node::Door(_) => Subject::Nothing,
        })
    }

    fn value_of_lock(&self, view: &View, name: &str) -> Option<String> {
        let now = self.service.store().now();
        if let (DEFAULT_TTL, Body::Directory { default_ttl }) = (name, &view.record.body) {
            return default_ttl.map(describe::default_ttl);
        }
        if view.record.ino == Ino::ROOT {
            return None;
        }
        match name {
            "ttl" => Some(describe::ttl_left(view, now)),
            "expires" => Some(describe::expires(view, now)),
            "token" => self.service.bearing(view).has_token.then(|| view.record.token.to_string()),
            "since" => Some(view.record.since.to_string()),
            "scope" => Some(self.service.bearing(view).scope.to_owned()),
            "state" => Some(describe::state(view, self.service.bearing(view).is_degraded).to_owned()),
            "waiting" => Some(view.waiting.to_string()),
            _ => match (&view.session, view.grants.first()) {
                (Some(session), _) => of_holder(&session.origin, &session.id, session.origin.pid, name),
                (None, Some(grant)) => of_holder(&grant.origin, &grant.session, grant.pid, name),
                (None, None) => None,
            },
        }
    }

    fn value_of_session(&self, session: &Session, name: &str) -> Option<String> {
        match name {
            "ttl" => Some(describe::default_ttl(session.ttl)),
            "since" => Some(session.since.to_string()),
            "scope" => Some(self.service.scope().to_owned()),
            "state" => Some(if session.ended { "ended" } else { "held" }.to_owned()),
            _ => of_holder(&session.origin, &session.id, session.origin.pid, name),
        }
    }

    /// Sets an extended attribute: `ttl`, `default_ttl`, `break`, `transfer`.
    ///
    /// # Errors
    /// The law's refusals; [`Error::BadValue`], [`Error::ReadOnlyAttribute`], [`Error::ForeignAttribute`].
    pub fn setxattr(
        &self,
        who: Requester,
        number: u64,
        name: &[u8],
        value: &[u8],
        mode: SetMode,
    ) -> Result<(), Error> {
        let name = own_name(name)?;
        let known = READABLE.contains(&name) || [DEFAULT_TTL, "break", "transfer"].contains(&name);
        if !known {
            return Err(Error::ForeignAttribute);
        }
        if READABLE.contains(&name) && name != "ttl" {
            return Err(Error::ReadOnlyAttribute);
        }
        let is_there = match mode {
            SetMode::Any => None,
            // What is there by now it has set itself.
            SetMode::Create | SetMode::Replace if self.service.was_carried_out(who)? => None,
            SetMode::Create | SetMode::Replace => {
                Some(self.getxattr(number, format!("{PREFIX}{name}").as_bytes()).is_ok())
            }
        };
        match (mode, is_there) {
            (SetMode::Create, Some(true)) => return Err(Error::AttributeExists),
            (SetMode::Replace, Some(false)) => return Err(Error::NoAttribute),
            _ => {}
        }
        let text = std::str::from_utf8(value).map_err(|_| Error::BadValue)?;
        // What was written by a shell or read by getfattr may end with a line feed or, from C, with a NUL.
        let text = text.trim_end_matches(['\n', '\0']);
        let node = self.node(number)?;
        let (ino, caller) = match node {
            Node::Info(ino) | Node::InfoDirectory(ino) => (ino, self.service.caller(who)?),
            _ => self.actor(who, node)?,
        };
        if let Node::View { object: Ino::ROOT, .. } = node {
            let ("ttl", id) = (name, caller.session.id.clone()) else {
                return Err(Error::ForeignAttribute);
            };
            let ttl = text.parse().map_err(|_| Error::BadValue)?;
            self.service.step(who, Command::SetSessionTtl { caller, id, ttl })?;
            return Ok(());
        }
        self.service.step(who, setting(caller, ino, name, text)?)?;
        Ok(())
    }

    /// Removes an extended attribute: of a directory its `default_ttl`; no other can be.
    ///
    /// # Errors
    /// The law's refusals; [`Error::ReadOnlyAttribute`], [`Error::NoAttribute`], [`Error::ForeignAttribute`].
    pub fn removexattr(&self, who: Requester, number: u64, name: &[u8]) -> Result<(), Error> {
        let own = own_name(name)?;
        if !self.service.was_carried_out(who)? {
            self.getxattr(number, name)?;
        }
        if own != DEFAULT_TTL {
            return Err(Error::ReadOnlyAttribute);
        }
        let (ino, caller) = self.actor(who, self.node(number)?)?;
        self.service.step(who, Command::SetDefaultTtl { caller, ino, ttl: None })?;
        Ok(())
    }
}

/// Whose attributes are asked for.
enum Subject {
    Lock(Box<View>),
    Session(Box<Session>),
    Nothing,
}

/// What is told of a holder: the one of the lock, or the first that has an advisory file locked.
fn of_holder(origin: &Origin, session: &SessionId, pid: u32, name: &str) -> Option<String> {
    match name {
        "owner" => Some(format!("{}@{}", origin.user, origin.host)),
        "session" => Some(session.to_string()),
        "host" => Some(origin.host.clone()),
        "pid" => Some(pid.to_string()),
        "command" => Some(origin.command.clone()),
        _ => None,
    }
}

fn own_name(name: &[u8]) -> Result<&str, Error> {
    let name = std::str::from_utf8(name).ok();
    name.and_then(|name| name.strip_prefix(PREFIX)).ok_or(Error::ForeignAttribute)
}

/// What setting an attribute of an object comes to.
fn setting(caller: Caller, ino: Ino, name: &str, text: &str) -> Result<Command, Error> {
    let ttl = || text.parse::<Ttl>().map_err(|_| Error::BadValue);
    match name {
        "ttl" => Ok(Command::SetTtl { caller, ino, ttl: ttl()? }),
        DEFAULT_TTL => Ok(Command::SetDefaultTtl { caller, ino, ttl: Some(ttl()?) }),
        "break" => {
            let token: Token = text.parse().map_err(|_| Error::BadValue)?;
            Ok(Command::Break { caller, ino, token })
        }
        _ => {
            let heir = SessionId::parse(text.as_bytes()).map_err(|_| Error::BadValue)?;
            Ok(Command::Transfer { caller, ino, heir })
        }
    }
}
