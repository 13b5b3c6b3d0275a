//! A wire that the test can break: a TCP proxy before a server, which loses replies, and keeps requests back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// What happens to the answer of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The server answers, and the connection is closed instead of the answer.
    Closed = 1,
    /// The server answers, and nothing comes.
    Silent = 2,
    /// The request itself is kept back, until the test lets it go.
    Late = 3,
}

/// A proxy on loopback.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: std::net::SocketAddr,
    wire: Arc<Wire>,
}

#[derive(Debug, Default)]
struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What the next request with these bytes in it meets.
    trap: Option<(Vec<u8>, Loss)>,
    /// How many requests have met something.
    caught: usize,
    keeps_requests: bool,
    keeps_replies: bool,
    keeps_late: bool,
    is_over: bool,
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn set(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.state());
        self.changed.notify_all();
    }

    fn wait_while(&self, keeps: impl Fn(&State) -> bool) {
        drop(self.changed.wait_while(self.state(), |state| keeps(state) && !state.is_over).unwrap());
    }
}

impl Proxy {
    /// A proxy before the server on that port of loopback.
    pub(crate) fn before(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(Wire::default());
        let shared = Arc::clone(&wire);
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.state().is_over {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
                else {
                    continue;
                };
                join(client, server, &shared);
            }
        });
        Self { address, wire }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The next request with these bytes in it meets this.
    pub(crate) fn catch(&self, bytes: &str, loss: Loss) {
        self.wire.set(|state| {
            state.trap = Some((bytes.into(), loss));
            state.caught = 0;
            state.keeps_late = true;
        });
    }

    /// Whether the one that was waited for came.
    pub(crate) fn has_caught(&self) -> bool {
        self.wire.state().caught > 0
    }

    /// Lets the request go that was kept back.
    pub(crate) fn let_go(&self) {
        self.wire.set(|state| state.keeps_late = false);
    }

    /// Nothing gets to the server, nor from it, until it is mended. What was sent comes then.
    pub(crate) fn block(&self) {
        self.wire.set(|state| (state.keeps_requests, state.keeps_replies) = (true, true));
    }

    /// Requests get to the server, replies do not come back.
    pub(crate) fn block_replies(&self) {
        self.wire.set(|state| state.keeps_replies = true);
    }

    pub(crate) fn mend(&self) {
        self.wire.set(|state| (state.keeps_requests, state.keeps_replies) = (false, false));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.set(|state| state.is_over = true);
        // The thread that listens ends at the next connection.
        drop(TcpStream::connect(self.address));
    }
}

/// Passes on what the two say to each other, on two threads that end with the connection.
fn join(client: TcpStream, server: TcpStream, wire: &Arc<Wire>) {
    let loss = Arc::new(AtomicU8::new(0));
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let ends = || (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (up, down) = (ends(), ends());
    let (shared, caught) = (Arc::clone(wire), Arc::clone(&loss));
    thread::spawn(move || {
        let (mut client, mut server) = up;
        pump(
            &mut client,
            &mut server,
            |bytes| {
                let trap = &mut shared.state().trap;
                let met = trap.take_if(|(wanted, _)| bytes.windows(wanted.len()).any(|part| part == *wanted));
                if let Some((_, loss)) = met {
                    caught.store(loss as u8, Ordering::SeqCst);
                    true
                } else {
                    false
                }
            },
            |is_caught| {
                if is_caught {
                    shared.set(|state| state.caught += 1);
                }
                let is_late = caught.load(Ordering::SeqCst) == Loss::Late as u8;
                shared.wait_while(|state| state.keeps_requests || (is_late && state.keeps_late));
                Pass::On
            },
        );
        // What was asked is carried out although nobody waits for it.
        let _ = server.shutdown(Shutdown::Write);
    });
    let shared = Arc::clone(wire);
    thread::spawn(move || {
        let (mut client, mut server) = down;
        pump(
            &mut server,
            &mut client,
            |_| false,
            |_| {
                shared.wait_while(|state| state.keeps_replies);
                match loss.load(Ordering::SeqCst) {
                    lost if lost == Loss::Closed as u8 => Pass::End,
                    lost if lost == Loss::Silent as u8 => Pass::Not,
                    _ => Pass::On,
                }
            },
        );
        let _ = client.shutdown(Shutdown::Both);
    });
}

enum Pass {
    On,
    Not,
    End,
}

fn pump(
    from: &mut TcpStream,
    to: &mut TcpStream,
    is_caught: impl Fn(&[u8]) -> bool,
    pass: impl Fn(bool) -> Pass,
) {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer) else { return };
        match pass(is_caught(&buffer[..count])) {
            Pass::Not => {}
            Pass::On if to.write_all(&buffer[..count]).is_ok() => {}
            Pass::On | Pass::End => return,
        }
    }
}
