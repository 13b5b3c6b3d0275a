//! How a daemon lets a migration copy the LevelDB that it has open: over a Unix socket in its directory.
//!
//! One migration at a time, of root or of the daemon's own user. A message is its length in 4 bytes, a letter, and
//! fields; numbers are little-endian, texts and keys have their length before them. Whoever hangs up lets everything go
//! on, unless the store was closed.
//!
//! | asked | what for | answered |
//! |---|---|---|
//! | `i` | how it stands | store id, epoch, objects, why it is closed, paths of what is locked |
//! | `t`, `f` millis | note changes; stand still | nothing |
//! | `k` millis | go on noting them for so long | nothing |
//! | `a` `o` or `s` | all objects or sessions, as of now | how many |
//! | `p` from, to | those of them | entries |
//! | `l` keys | what they are now | entries, without a value where it is gone |
//! | `c` millis | what has changed, and noting on | keys |
//! | `x` text | close it | whether it was frozen until then |
//! | `w` text | go on; open what was closed so | nothing |
//!
//! An answer begins with `K`, or with `L` where a lease is over, or with `E` and what is wrong.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::home::sync_journal;
use super::{LevelStore, Write as Put, codec};
use crate::clock::Now;
use crate::store::StoreError;
use crate::store::migrate::{Closing, Key};
use crate::table::{Change, LockTable};

/// The socket, in the directory of the store.
pub(super) const SOCKET: &str = "socket";

/// The longest message: a page of the longest notes.
pub(super) const MESSAGE_MAX: usize = 128 << 20;

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a migration may ask nothing: it reads all of a large target first. What it has frozen or noted runs out
/// long before.
const SILENCE: Duration = Duration::from_secs(3_600);

/// Sends a message.
pub(super) fn send(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(message)
}

/// Receives one.
pub(super) fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_MAX {
        return Err(io::Error::from(ErrorKind::InvalidData));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Adds bytes with their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What is left of a message.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }
}

/// The thread that serves migrations; it ends when this is dropped.
#[derive(Debug)]
pub struct Serving {
    listener: UnixListener,
    path: PathBuf,
    current: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Begins to serve migrations of `store`, which is open in `dir`.
    ///
    /// # Errors
    /// When there can't be such a socket: its path is too long, the file system has none.
    pub fn start(store: Arc<LevelStore>, dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        // The directory is locked: what stands there is of a daemon that has ended.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let current = Arc::<Mutex<Option<UnixStream>>>::default();
        let (accepting, serving) = (listener.try_clone()?, Arc::clone(&current));
        let thread = std::thread::Builder::new().name("lockfs-migrate".to_owned()).spawn(move || {
            // It fails when the listener is shut down.
            while let Ok((mut stream, _)) = accepting.accept() {
                *locked(&serving) = stream.try_clone().ok();
                if let Err(error) = serve(&store, &mut stream) {
                    log::debug!("a migration has hung up: {error}");
                }
                *locked(&serving) = None;
                store.gate(|gate, _, _| gate.thaw()).ok();
            }
        })?;
        Ok(Self { listener, path, current, thread: Some(thread) })
    }
}

fn locked(current: &Mutex<Option<UnixStream>>) -> std::sync::MutexGuard<'_, Option<UnixStream>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Serving {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open as long as the listener.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(stream) = locked(&self.current).take() {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        std::fs::remove_file(&self.path).ok();
    }
}

/// Whether the peer is root, or the user that this process is.
fn may_ask(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).expect("a small number");
    // SAFETY: the place for the answer lives, and is as long as said; geteuid(2) can't fail.
    unsafe {
        let place = (&raw mut peer).cast();
        let asked =
            libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut length);
        asked == 0 && (peer.uid == 0 || peer.uid == libc::geteuid())
    }
}

/// Answers until the peer hangs up.
fn serve(store: &LevelStore, stream: &mut UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if !may_ask(stream) {
        return send(stream, b"Ethis is for root, and for the user who mounted it");
    }
    let mut listed = Vec::new();
    loop {
        let asked = receive(stream)?;
        let answer = match asked.split_first() {
            Some((what, rest)) => answer(store, *what, &mut Fields(rest), &mut listed),
            None => None,
        };
        match answer.unwrap_or_else(|| Ok(b"Ethat is no question of this version of lockfs".to_vec())) {
            Ok(answer) => send(stream, &answer)?,
            Err(error) => send(stream, format!("E{error}").as_bytes())?,
        }
    }
}

type Answered = Option<Result<Vec<u8>, StoreError>>;

fn lease(fields: &mut Fields<'_>) -> Option<Duration> {
    fields.number().map(Duration::from_millis)
}

/// What is answered; `None` to what makes no sense.
fn answer(store: &LevelStore, what: u8, fields: &mut Fields<'_>, listed: &mut Vec<Change>) -> Answered {
    let done = |is_so: bool| if is_so { b"K".to_vec() } else { b"L".to_vec() };
    Some(match what {
        b'i' => store.gate(|gate, table, now| state(store, gate.closed(), table, now)),
        b't' => {
            let lease = lease(fields)?;
            store.gate(|gate, _, now| gate.track(now.boot, lease)).map(|()| done(true))
        }
        b'k' => {
            let lease = lease(fields)?;
            store.gate(|gate, _, now| gate.keep(now.boot, lease)).map(done)
        }
        b'f' => {
            let lease = lease(fields)?;
            // The closing waits for the disk: the less there is to write by then, the shorter.
            if let Err(error) = sync_journal(store.journal().dir()) {
                return Some(Err(StoreError::Failed(format!("sync: {error}"))));
            }
            store.gate(|gate, _, now| gate.freeze(now.boot, lease)).map(done)
        }
        b'a' => store.gate(|_, table, _| {
            let (objects, sessions) = table.contents();
            *listed = match fields.0 {
                b"o" => objects.into_iter().map(Change::Object).collect(),
                _ => sessions.into_iter().map(Change::Session).collect(),
            };
            let mut out = b"K".to_vec();
            out.extend_from_slice(&(listed.len() as u64).to_le_bytes());
            out
        }),
        b'p' => {
            let (from, to) = (fields.number()?, fields.number()?);
            let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
            let some = listed.get(from..to.min(listed.len()))?;
            entries(store, some)
        }
        b'l' => {
            let mut keys = Vec::new();
            while !fields.is_empty() {
                keys.push(match codec::parse_key(fields.bytes()?)? {
                    Key::Object(ino) => Change::Object(ino),
                    Key::Session(id) => Change::Session(id),
                });
            }
            entries(store, &keys)
        }
        b'c' => {
            let lease = lease(fields)?;
            store.gate(|gate, _, now| match gate.changes(now.boot, lease) {
                Some(changes) => changes.iter().fold(b"K".to_vec(), |mut out, change| {
                    put_bytes(&mut out, &codec::key(change));
                    out
                }),
                None => done(false),
            })
        }
        b'x' => close(store, fields.bytes()?).map(done),
        b'w' => thaw(store, fields.bytes()?).map(|()| done(true)),
        _ => return None,
    })
}

fn state(store: &LevelStore, closed: Option<&str>, table: &LockTable, now: Now) -> Vec<u8> {
    let mut out = b"K".to_vec();
    out.extend_from_slice(&store.journal().store().to_le_bytes());
    out.extend_from_slice(&u64::from(table.last_token().epoch()).to_le_bytes());
    out.extend_from_slice(&table.counts().locks.to_le_bytes());
    let closing = closed.and_then(|_| store.journal().closing());
    put_bytes(&mut out, closing.unwrap_or_default().as_bytes());
    table.locked(now).iter().for_each(|path| put_bytes(&mut out, path.to_string().as_bytes()));
    out
}

/// Things as they are now: each its key, and its value or nothing.
fn entries(store: &LevelStore, keys: &[Change]) -> Result<Vec<u8>, StoreError> {
    store.gate(|_, table, now| {
        let mut out = b"K".to_vec();
        for key in keys {
            let (key, value) = codec::write(table, key, now);
            put_bytes(&mut out, &key);
            put_bytes(&mut out, value.as_deref().unwrap_or_default());
        }
        out
    })
}

/// Closes the store, and keeps that over a power cut; false where it is not frozen any more.
fn close(store: &LevelStore, text: &[u8]) -> Result<bool, StoreError> {
    let shown = Closing::shown(text);
    if !store.gate(|gate, _, now| gate.close(now.boot, shown.clone()))? {
        return Ok(false);
    }
    let put: Put = (codec::CLOSING.to_vec(), Some(text.to_vec()));
    let kept = store.journal().keep(put).and_then(|()| {
        let dir = store.journal().dir();
        sync_journal(dir).map_err(|error| StoreError::Failed(format!("sync {}: {error}", dir.display())))
    });
    if kept.is_err() {
        // Nobody was told that it has moved: it goes on.
        store.gate(|gate, _, _| gate.open())?;
    } else {
        store.journal().note_closing(Some(String::from_utf8_lossy(text).into_owned()));
        log::warn!("nothing is granted here any more: {shown}");
    }
    kept.map(|()| true)
}

/// Lets the store go on; one that is closed for another reason stays so.
fn thaw(store: &LevelStore, text: &[u8]) -> Result<(), StoreError> {
    let is_so = store.journal().closing().is_some_and(|closing| closing.as_bytes() == text);
    if is_so {
        store.journal().keep((codec::CLOSING.to_vec(), None))?;
        store.journal().note_closing(None);
        log::info!("these locks have come back, and are granted here again");
        return store.gate(|gate, _, _| gate.open());
    }
    store.gate(|gate, _, _| gate.thaw())
}
