//! Machines of a network of their own, which can be cut off from each other.
//!
//! Each is a network namespace, and a switch joins them. The namespaces have no names: they live as long as the
//! test or a process in them does, and the kernel removes them, so nothing of a killed test is left behind. The
//! network of the machine that runs the test is not touched, nor reachable from there. All that is not the
//! network is shared: a mount of one machine is seen by all, and a Unix socket reaches a server that is cut off.
//!
//! A cut drops packets at the switch, as a broken cable far away does: nobody is told, connections stay.

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// Machines at a switch. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Net(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    switch: Namespace,
    hosts: Vec<Namespace>,
}

impl Net {
    /// Makes so many machines, each of which reaches each other.
    pub fn new(count: u8) -> Self {
        let switch = Namespace::new();
        let hosts: Vec<_> = (0..count).map(|_| Namespace::new()).collect();
        let mut cables = String::from("link add switch type bridge\nlink set switch up\n");
        for (index, host) in hosts.iter().enumerate() {
            let namespace = format!("/proc/{}/fd/{}", std::process::id(), host.fd());
            cables += &format!("link add port{index} type veth peer name eth0 netns {namespace}\n");
            cables += &format!("link set port{index} master switch up\n");
        }
        switch.feed("ip", &["-batch", "-"], &cables);
        switch.feed("nft", &["-f", "-"], CUTS);
        let net = Self(Arc::new(Parts { switch, hosts }));
        for (host, namespace) in net.hosts().iter().zip(&net.0.hosts) {
            let address = host.address();
            let ends = format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
            namespace.feed("ip", &["-batch", "-"], &ends);
        }
        net
    }

    /// A machine, counted from 0.
    pub fn host(&self, index: usize) -> Host {
        assert!(index < self.0.hosts.len(), "the network has {} machines", self.0.hosts.len());
        Host { net: self.clone(), index }
    }

    /// All machines.
    pub fn hosts(&self) -> Vec<Host> {
        (0..self.0.hosts.len()).map(|index| self.host(index)).collect()
    }

    /// Ends all cuts. What was sent meanwhile comes when it is sent again, by TCP after a while.
    pub fn heal_all(&self) {
        self.rule("flush set bridge cut pairs");
    }

    fn rule(&self, rules: &str) {
        self.0.switch.feed("nft", &["-f", "-"], rules);
    }
}

/// Whose packets to whom the switch drops.
const CUTS: &str = "
table bridge cut {
    set pairs { type ipv4_addr . ipv4_addr; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr . ip daddr @pairs drop
    }
}";

/// A machine. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Host {
    net: Net,
    index: usize,
}

impl Host {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(self.index + 1).unwrap())
    }

    /// A program that is to run on this machine.
    pub fn command(&self, program: &str) -> Command {
        self.namespace().command(program)
    }

    /// Does something on this machine: what it connects, and every thread that it starts, is of this machine.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let fd = self.namespace().fd();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(fd).unwrap();
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Drops all packets between the two, both ways.
    pub fn cut_from(&self, other: &Self) {
        self.net.rule(&format!("add element {}\nadd element {}", self.pair(other), other.pair(self)));
    }

    /// Drops the packets that the other sends here.
    pub fn deafen_to(&self, other: &Self) {
        self.net.rule(&format!("add element {}", other.pair(self)));
    }

    /// Ends what was cut between the two.
    pub fn rejoin(&self, other: &Self) {
        // What is not there can't be deleted.
        self.cut_from(other);
        self.net.rule(&format!("delete element {}\ndelete element {}", self.pair(other), other.pair(self)));
    }

    /// Drops all packets from and to this machine.
    pub fn isolate(&self) {
        let others = self.net.hosts().into_iter().filter(|other| other.index != self.index);
        let rules = others
            .map(|other| format!("add element {}\nadd element {}\n", self.pair(&other), other.pair(self)));
        self.net.rule(&rules.collect::<String>());
    }

    fn pair(&self, to: &Self) -> String {
        format!("bridge cut pairs {{ {} . {} }}", self.address(), to.address())
    }

    fn namespace(&self) -> &Namespace {
        &self.net.0.hosts[self.index]
    }
}

/// A network namespace without a name.
#[derive(Clone, Debug)]
struct Namespace(Arc<File>);

impl Namespace {
    fn new() -> Self {
        let make = || {
            // SAFETY: unshare(2) of the network concerns this thread alone, which ends at once.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        };
        let file = thread::spawn(make).join().unwrap();
        Self(Arc::new(file.unwrap_or_else(|error| panic!("cannot make a network namespace: {error}"))))
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // `ip netns exec` would hide later mounts of the test.
        let namespace = self.0.clone();
        // SAFETY: setns(2) is async-signal-safe, and no memory is allocated.
        unsafe { command.pre_exec(move || enter(namespace.as_raw_fd())) };
        command
    }

    /// Runs a program in it that reads `input`.
    fn feed(&self, program: &str, arguments: &[&str], input: &str) {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} refuses {input}: {said}");
    }
}

fn enter(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns(2) has no memory to spoil, and concerns the calling thread alone.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
