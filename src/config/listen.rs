//! Where the metrics are served over HTTP.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// `PORT`, which is one of 127.0.0.1, or `ADDRESS:PORT`; `localhost` is an address too. Port 0 is any that is free.
///
/// Whoever can connect reads who locks what at which rate: other addresses than this machine's own are served only
/// where they are said in full. A name would be looked up, and might come to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(SocketAddr);

impl Listen {
    /// The address and the port.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let here = |port| Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        let port = text.strip_prefix("localhost:").unwrap_or(text);
        if let Ok(port) = port.parse::<u16>() {
            return Ok(here(port));
        }
        let refusal = match text.rsplit_once(':') {
            Some(("" | "*", _)) => {
                "say which address: 127.0.0.1:PORT, or 0.0.0.0:PORT for all that this machine has"
            }
            _ => "say ADDRESS:PORT with an IP address, as in 127.0.0.1:9464 or [::1]:9464, or a port alone",
        };
        text.parse().map(Self).map_err(|_| refusal.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        for text in ["9464", "localhost:9464", "127.0.0.1:9464"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), "127.0.0.1:9464");
        }
        assert_eq!("[::1]:0".parse::<Listen>().unwrap().to_string(), "[::1]:0");
    }

    #[test]
    fn other_addresses_are_said_in_full() {
        assert_eq!("0.0.0.0:9464".parse::<Listen>().unwrap().to_string(), "0.0.0.0:9464");
        for bad in ["", ":9464", "*:9464", "db.example:9464", "127.0.0.1", "127.0.0.1:70000", "-1", "::1:1:"]
        {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
        assert!(":9464".parse::<Listen>().unwrap_err().contains("0.0.0.0:PORT"));
    }
}
