//! One connection to one server: bytes out, values in, each with a deadline.
//!
//! The client crate's own connection has no deadline for a whole answer (its timeouts count each read), hides
//! its socket, so that nobody can end a read that blocks, and does not tell what was never sent from what may
//! have arrived. So the socket is ours, and the crate packs commands and parses replies.
//!
//! After any error of [`Wire::send`] or [`Wire::receive`] the wire is out of step and must be dropped.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use redis::io::tcp::socket2::{Domain, SockAddr, SockRef, Socket as AnySocket, TcpKeepalive, Type};
use redis::{Cmd, Value};
use rustls::{ClientConnection, StreamOwned};

use super::endpoint::{Address, Node};
use crate::clock::{BootTime, Clock};

/// How long the kernel waits for an acknowledgement of what it sent: tcp(7), `TCP_USER_TIMEOUT`.
const USER_TIMEOUT: Duration = Duration::from_secs(2);
/// When the kernel begins to ask whether an idle peer lives, and how often.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The longest single attempt at a TCP connection; a new one sends a new SYN, and sees whether the address is
/// still wanted.
const ATTEMPT: Duration = Duration::from_secs(1);

/// A connected socket, or another handle of one.
#[derive(Debug)]
pub(super) enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Raw {
    /// Another handle of the same socket.
    fn another(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Ends the connection for all handles: shutdown(2) wakes a read that blocks.
    pub(super) fn end(&self) {
        // One that is not connected any more needs no ending.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn set_timeouts(&self, left: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(left)),
            Self::Unix(stream) => stream.set_read_timeout(Some(left)),
        }
    }

    fn set_write_timeout(&self, left: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(left)),
            Self::Unix(stream) => stream.set_write_timeout(Some(left)),
        }
    }

    /// What one look at the socket finds, without taking it and without waiting.
    fn peek(&self) -> Peek {
        let fd = match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        };
        let mut byte = 0_u8;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: recv(2) writes at most one byte into `byte`, which lives, from a descriptor that we own.
        match unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, flags) } {
            0 => Peek::Ended,
            1.. => Peek::Bytes,
            _ if io::Error::last_os_error().kind() == ErrorKind::WouldBlock => Peek::Nothing,
            _ => Peek::Ended,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peek {
    Nothing,
    Bytes,
    Ended,
}

/// A socket whose reads and writes end at a deadline, all together.
pub(super) struct Socket {
    raw: Raw,
    clock: Arc<dyn Clock>,
    deadline: BootTime,
    /// Whether any byte has left since the deadline was set.
    has_sent: bool,
}

impl Socket {
    /// Connects to `address` within `limit`, and stops early once nobody wants it any more.
    pub(super) fn connect(
        address: &Address,
        limit: Duration,
        clock: &Arc<dyn Clock>,
        is_wanted: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let deadline = clock.now().boot + limit;
        let left = || Some(deadline.since(clock.now().boot)).filter(|left| !left.is_zero());
        let raw = match address {
            Address::Unix(path) => Raw::Unix(connect_unix(path, limit)?),
            Address::Tcp(node) => Raw::Tcp(connect_tcp(node, &left, is_wanted)?),
        };
        Ok(Self { raw, clock: Arc::clone(clock), deadline, has_sent: false })
    }

    /// Another handle, to end the connection with.
    pub(super) fn handle(&self) -> io::Result<Raw> {
        self.raw.another()
    }

    fn begin(&mut self, limit: Duration) {
        self.deadline = self.clock.now().boot + limit;
        self.has_sent = false;
    }

    fn left(&self) -> io::Result<Duration> {
        match self.deadline.since(self.clock.now().boot) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

/// SO_RCVTIMEO and SO_SNDTIMEO end a call with EAGAIN: socket(7).
fn is_over(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.raw.set_timeouts(self.left()?)?;
            let result = match &mut self.raw {
                Raw::Tcp(stream) => stream.read(buffer),
                Raw::Unix(stream) => stream.read(buffer),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_over(&error) => return Err(ErrorKind::TimedOut.into()),
                other => return other,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.raw.set_write_timeout(self.left()?)?;
            let result = match &mut self.raw {
                Raw::Tcp(stream) => stream.write(bytes),
                Raw::Unix(stream) => stream.write(bytes),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_over(&error) => return Err(ErrorKind::TimedOut.into()),
                Ok(count) => {
                    self.has_sent |= count > 0;
                    return Ok(count);
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// Keeps the error that the parser wraps beyond recognition.
struct Noting<'a> {
    stream: &'a mut dyn Read,
    trouble: Option<io::Error>,
}

impl Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.trouble = Some(error);
            kind.into()
        })
    }
}

/// One connection, at the beginning of a command.
pub(super) struct Wire {
    stream: Stream,
    parser: redis::Parser,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("raw", &self.socket().raw).finish_non_exhaustive()
    }
}

impl Wire {
    /// Speaks over `socket`, after a TLS handshake within `limit` where there is a `client` for one.
    pub(super) fn over(
        socket: Socket,
        client: Option<ClientConnection>,
        limit: Duration,
    ) -> io::Result<Self> {
        let stream = match client {
            None => Stream::Plain(socket),
            Some(client) => {
                let mut stream = StreamOwned::new(client, socket);
                stream.sock.begin(limit);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Stream::Tls(Box::new(stream))
            }
        };
        Ok(Self { stream, parser: redis::Parser::new() })
    }

    fn socket(&self) -> &Socket {
        match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match &mut self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }

    /// Whether the server has ended the connection while nobody looked, or said what nobody asked: then
    /// nothing should be sent any more. Over TLS unasked bytes may be the protocol's own (session tickets).
    pub(super) fn is_sound(&mut self) -> bool {
        loop {
            match (self.socket().raw.peek(), &mut self.stream) {
                (Peek::Nothing, _) => return true,
                (Peek::Ended, _) | (Peek::Bytes, Stream::Plain(_)) => return false,
                (Peek::Bytes, Stream::Tls(stream)) => {
                    stream.sock.begin(ATTEMPT);
                    let has_read = matches!(stream.conn.read_tls(&mut stream.sock), Ok(1..));
                    let state = stream.conn.process_new_packets();
                    let is_quiet = |state: &rustls::IoState| {
                        !state.peer_has_closed() && state.plaintext_bytes_to_read() == 0
                    };
                    if !has_read || !state.as_ref().is_ok_and(is_quiet) {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether any byte of the last [`send`](Self::send) may have left this machine.
    pub(super) fn has_sent(&self) -> bool {
        self.socket().has_sent
    }

    /// Sends packed commands; they and their replies have `limit` from now on, all together.
    pub(super) fn send(&mut self, packed: &[u8], limit: Duration) -> io::Result<()> {
        self.socket_mut().begin(limit);
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(packed),
            Stream::Tls(stream) => stream.write_all(packed).and_then(|()| stream.flush()),
        }
    }

    /// The next reply.
    pub(super) fn receive(&mut self) -> io::Result<Value> {
        let stream: &mut dyn Read = match &mut self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream,
        };
        let mut noting = Noting { stream, trouble: None };
        let result = self.parser.parse_value(&mut noting);
        result.map_err(|error| match noting.trouble {
            Some(trouble) => trouble,
            None if error.is_io_error() => ErrorKind::ConnectionReset.into(),
            None => io::Error::other("what it says is not the protocol of Redis"),
        })
    }

    /// Sends `commands` in one write, and returns as many replies.
    pub(super) fn ask(&mut self, commands: &[&Cmd], limit: Duration) -> io::Result<Vec<Value>> {
        self.send(&packed(commands), limit)?;
        commands.iter().map(|_| self.receive()).collect()
    }
}

/// `commands` as they go over the wire.
pub(super) fn packed(commands: &[&Cmd]) -> Vec<u8> {
    let mut packed = Vec::new();
    for command in commands {
        command.write_packed_command(&mut packed);
    }
    packed
}

/// What an error of the network comes to in a sentence, after the address.
pub(super) fn reason(error: &io::Error, limit: Duration) -> String {
    match error.kind() {
        ErrorKind::TimedOut => format!("timed out after {:.1}s", limit.as_secs_f64()),
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        // A TLS server that ends without a farewell is an unexpected end.
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            "it closed the connection".to_owned()
        }
        ErrorKind::NotFound => "there is no such socket".to_owned(),
        _ => error.to_string(),
    }
}

fn connect_tcp(
    node: &Node,
    left: &dyn Fn() -> Option<Duration>,
    is_wanted: &dyn Fn() -> bool,
) -> io::Result<TcpStream> {
    let timed_out = || io::Error::from(ErrorKind::TimedOut);
    let mut addresses = resolve(node, left().ok_or_else(timed_out)?)?;
    let mut last = io::Error::other("its name has no address");
    while !addresses.is_empty() {
        // One that does not answer is asked again after the others; one that refuses is not.
        let mut silent = Vec::new();
        for address in addresses {
            let left = left().ok_or_else(timed_out)?;
            if !is_wanted() {
                return Err(io::Error::other("the primary is another one by now"));
            }
            match TcpStream::connect_timeout(&address, left.min(ATTEMPT)) {
                Ok(stream) => return prepare(stream),
                Err(error) => {
                    if error.kind() == ErrorKind::TimedOut {
                        silent.push(address);
                    }
                    last = error;
                }
            }
        }
        addresses = silent;
    }
    Err(last)
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

/// connect(2) waits while the backlog of a Unix socket is full, as long as SO_SNDTIMEO says.
fn connect_unix(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = AnySocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(limit))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(socket.into()),
        Err(error) if is_over(&error) => Err(ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
    }
}

/// getaddrinfo(3) takes as long as it likes, so a name is looked up by a thread that may be left behind.
fn resolve(node: &Node, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = node.host().parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, node.port())]);
    }
    let (found, waiting) = mpsc::sync_channel(1);
    let asked = node.clone();
    let look_up = move || {
        let result = (asked.host(), asked.port()).to_socket_addrs();
        // Who waited may have given up.
        let _ = found.send(result.map(Iterator::collect));
    };
    std::thread::Builder::new().name("lockfs-resolve".to_owned()).spawn(look_up)?;
    match waiting.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            Err(io::Error::other(format!("its name was not found within {limit:?}")))
        }
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("its name can't be looked up")),
    }
}
