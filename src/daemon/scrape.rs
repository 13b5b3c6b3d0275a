//! `.lockfs/metrics` over HTTP/1.1, for scrapers: `GET /metrics`, one request a connection.
//!
//! One thread serves all, and waits for nobody. What a client may cost is bounded: [`CONNECTIONS`] at a time, of
//! which the oldest makes room for the newest, [`REQUEST_MAX`] bytes of request, and [`PATIENCE`] from its connection
//! to its end. Nothing that a client sends is kept, logged or given back.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{BootTime, Clock, SystemClock};

/// How many connections there are at a time.
const CONNECTIONS: usize = 64;

/// How many bytes a request may have, with its headers.
const REQUEST_MAX: usize = 8 << 10;

/// How many bytes may come after a request.
const PASSED_OVER_MAX: usize = 64 << 10;

/// How long a connection may take in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long no connection is taken after the system could not give one: no descriptors, no memory.
const REST: Duration = Duration::from_millis(200);

/// Makes the text that is served.
pub(super) type Text = Box<dyn Fn() -> Vec<u8> + Send>;

/// A port that is ours, on which nobody is served yet.
#[derive(Debug)]
pub(super) struct Port(TcpListener);

impl Port {
    /// Takes it.
    ///
    /// # Errors
    /// When the address is not one of this machine, or the port is another's.
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let opened = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Self(listener))
        });
        opened.map_err(|error| {
            let what = format!("cannot serve metrics on {address} (--metrics-listen): {error}");
            io::Error::new(error.kind(), what)
        })
    }

    /// Which one it is; of port 0, the one that was free.
    ///
    /// # Errors
    /// When the system does not say.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Begins to serve `text`.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(super) fn serve(self, text: Text) -> io::Result<Scrape> {
        let (end, ended) = UnixStream::pair()?;
        let mut server = Server { listener: self.0, ended, text, connections: Vec::new(), rest_until: None };
        let thread = std::thread::Builder::new().name("lockfs-metrics".to_owned());
        let thread = thread.spawn(move || while server.turn() {})?;
        Ok(Scrape { end: Some(end), thread: Some(thread) })
    }
}

/// The running server; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Scrape {
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Scrape {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Server {
    listener: TcpListener,
    /// Its other end is closed when the server is to end.
    ended: UnixStream,
    text: Text,
    /// The oldest first.
    connections: Vec<Connection>,
    rest_until: Option<BootTime>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    deadline: BootTime,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// What has come of the request.
    Asked(Vec<u8>),
    /// The answer, and how much of it has gone.
    Answered(Vec<u8>, usize),
    /// All has gone, and so many bytes that came later were passed over: a connection that is closed while the
    /// client still sends is reset, and the client could lose the answer.
    Ending(usize),
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    On,
    Over,
}

impl Server {
    /// Waits for something to do, and does it; says whether there is to be another turn.
    fn turn(&mut self) -> bool {
        let now = SystemClock.now().boot;
        self.connections.retain(|connection| connection.deadline > now);
        self.rest_until = self.rest_until.filter(|until| *until > now);
        let listens = if self.rest_until.is_none() { self.listener.as_raw_fd() } else { -1 };
        // poll(2) passes over a negative descriptor.
        let mut polled =
            vec![interest(self.ended.as_raw_fd(), libc::POLLIN), interest(listens, libc::POLLIN)];
        polled.extend(self.connections.iter().map(Connection::interest));
        let next = self.connections.iter().map(|connection| connection.deadline).chain(self.rest_until).min();
        let wait = next.map_or(-1, |next| {
            i32::try_from(next.since(now).as_millis()).unwrap_or(i32::MAX).saturating_add(1)
        });
        let count = libc::nfds_t::try_from(polled.len()).expect("there are few connections");
        // SAFETY: `polled` is so many pollfds, and lives until the call returns.
        if unsafe { libc::poll(polled.as_mut_ptr(), count, wait) } < 0 {
            return io::Error::last_os_error().kind() == ErrorKind::Interrupted;
        }
        if polled[0].revents != 0 {
            return false;
        }
        let mut ready = polled[2..].iter().map(|polled| polled.revents != 0);
        let text = &self.text;
        self.connections.retain_mut(|connection| match ready.next() {
            Some(true) => connection.go_on(text) == Going::On,
            _ => true,
        });
        if polled[1].revents != 0 {
            self.accept();
        }
        true
    }

    fn accept(&mut self) {
        let now = SystemClock.now().boot;
        match self.listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_err() {
                    return;
                }
                if self.connections.len() == CONNECTIONS {
                    self.connections.remove(0);
                }
                let (deadline, stage) = (now + PATIENCE, Stage::Asked(Vec::new()));
                self.connections.push(Connection { stream, deadline, stage });
            }
            // accept(2): what went wrong with the connection, or another took it.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => {
                log::warn!("no connection for metrics: {error}");
                self.rest_until = Some(now + REST);
            }
        }
    }
}

fn interest(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

impl Connection {
    fn interest(&self) -> libc::pollfd {
        let events = match self.stage {
            Stage::Asked(_) | Stage::Ending(_) => libc::POLLIN,
            Stage::Answered(..) => libc::POLLOUT,
        };
        interest(self.stream.as_raw_fd(), events)
    }

    /// Does what can be done without waiting.
    fn go_on(&mut self, text: &Text) -> Going {
        self.step(text).unwrap_or_else(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Going::On,
            _ => Going::Over,
        })
    }

    /// One read or one write, so that everybody has a turn.
    fn step(&mut self, text: &Text) -> io::Result<Going> {
        let mut buffer = [0; 2_048];
        match &mut self.stage {
            Stage::Asked(request) => {
                let length = self.stream.read(&mut buffer)?;
                request.extend_from_slice(&buffer[..length]);
                match answer(request, text) {
                    Some(answer) => self.stage = Stage::Answered(answer, 0),
                    None if length == 0 => return Ok(Going::Over),
                    None => {}
                }
            }
            Stage::Answered(answer, gone) => {
                *gone += self.stream.write(&answer[*gone..])?;
                if *gone == answer.len() {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.stage = Stage::Ending(0);
                }
            }
            Stage::Ending(passed_over) => {
                let length = self.stream.read(&mut buffer)?;
                *passed_over += length;
                if length == 0 || *passed_over > PASSED_OVER_MAX {
                    return Ok(Going::Over);
                }
            }
        }
        Ok(Going::On)
    }
}

/// The answer to a request; `None` while its end has not come.
fn answer(request: &[u8], text: &Text) -> Option<Vec<u8>> {
    // RFC 9112, section 2.2: a line may end with a line feed alone, and blank lines before the first are passed over.
    let start = request.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let lines = &request[start..];
    let ends = |end: &[u8]| lines.windows(end.len()).any(|window| window == end);
    if !ends(b"\r\n\r\n") && !ends(b"\n\n") {
        return (request.len() >= REQUEST_MAX)
            .then(|| plain("431 Request Header Fields Too Large", "", Body::Sent));
    }
    let line = lines.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<_> = line.trim_end_matches('\r').split(' ').collect();
    let [method, target, version] = words[..] else {
        return Some(plain("400 Bad Request", "", Body::Sent));
    };
    if !version.starts_with("HTTP/1.") {
        return Some(plain("505 HTTP Version Not Supported", "", Body::Sent));
    }
    let body = match method {
        "GET" => Body::Sent,
        "HEAD" => Body::Left,
        _ => return Some(plain("405 Method Not Allowed", "Allow: GET, HEAD\r\n", Body::Sent)),
    };
    let path = target.split('?').next().unwrap_or_default();
    if path != "/metrics" {
        return Some(plain("404 Not Found", "", body));
    }
    // prometheus.io, "Exposition formats", "Basic info".
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Some(response("200 OK", kind, "", &text(), body))
}

/// Whether the body goes with the headers: HEAD leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Sent,
    Left,
}

fn plain(status: &str, headers: &str, body: Body) -> Vec<u8> {
    let text = format!("{}: the metrics are at /metrics\n", &status[4..]);
    response(status, "text/plain; charset=utf-8", headers, text.as_bytes(), body)
}

fn response(status: &str, kind: &str, headers: &str, text: &[u8], body: Body) -> Vec<u8> {
    let length = text.len();
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\n{headers}Connection: close\r\n\r\n"
    )
    .into_bytes();
    if body == Body::Sent {
        response.extend_from_slice(text);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn served() -> (Scrape, SocketAddr) {
        let port = Port::open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = port.address().unwrap();
        (port.serve(Box::new(|| b"lockfs_up 1\n".to_vec())).unwrap(), address)
    }

    /// What the server says to `request`; the end of the connection ends it.
    fn said(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn a_scraper_gets_the_metrics() {
        let (_scrape, address) = served();
        let get = said(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(get.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4;"), "{get}");
        assert!(
            get.contains("\r\nContent-Length: 12\r\n") && get.ends_with("\r\n\r\nlockfs_up 1\n"),
            "{get}"
        );
        let head = said(address, b"HEAD /metrics?x=1 HTTP/1.0\n\n");
        assert!(head.contains("\r\nContent-Length: 12\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn anything_else_is_refused_by_its_status() {
        let (_scrape, address) = served();
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/.. HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics HTTP/2\r\n\r\n", "505"),
            ("GET /metrics\r\n\r\n", "400"),
            ("\u{1}\u{2}\r\n\r\n", "400"),
        ] {
            let said = said(address, request.as_bytes());
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {said}");
        }
    }

    #[test]
    fn a_request_without_an_end_is_cut_off() {
        let (_scrape, address) = served();
        let said =
            said(address, &[b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'x'; REQUEST_MAX]].concat());
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
        // Who sends on for ever is not read for ever.
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(PATIENCE * 4)).unwrap();
        while stream.write_all(&[b'x'; 4_096]).is_ok() {}
    }

    #[test]
    fn slow_and_silent_clients_keep_nobody_waiting() {
        let (_scrape, address) = served();
        let mut silent: Vec<_> = (0..CONNECTIONS * 3).map(|_| TcpStream::connect(address).unwrap()).collect();
        for stream in &mut silent {
            // The oldest are gone by now.
            stream.write_all(b"GET /metr").ok();
        }
        assert!(said(address, b"GET /metrics HTTP/1.1\r\n\r\n").ends_with("lockfs_up 1\n"));
        let stays = |stream: &mut TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let is_open = stream.read(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            stream.set_nonblocking(false).unwrap();
            is_open
        };
        assert!(silent.iter_mut().map(stays).filter(|stays| *stays).count() < CONNECTIONS);
        // And those that stayed are let go in their time: nothing comes, or their connection is reset.
        for stream in &mut silent {
            assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
        }
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let (_scrape, address) = served();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in b"\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".chunks(1) {
            stream.write_all(piece).unwrap();
        }
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.ends_with("lockfs_up 1\n"), "{said}");
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = Port::open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = taken.address().unwrap();
        let error = Port::open(address).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot serve metrics on {address} (--metrics-listen): ")),
            "{error}"
        );
    }

    #[test]
    fn it_ends_with_clients_that_are_still_there() {
        let (scrape, address) = served();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET").unwrap();
        drop(scrape);
        assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
        assert!(TcpStream::connect(address).is_err());
    }
}
