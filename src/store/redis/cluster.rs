//! A cluster: which slot a namespace is in, and which node has that slot.
//!
//! The slot is CRC16 of the hash tag modulo 16384, and `CLUSTER SLOTS` says who has it (Redis cluster
//! specification, "Key distribution model").

use redis::{Cmd, Value};

use super::endpoint::Node;

/// One of the 16384 slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u16);

impl Slot {
    /// The slot of all keys with the hash tag `tag`, which is written without braces.
    pub(super) fn of(tag: &str) -> Self {
        Self(crc16(tag.as_bytes()) % 16384)
    }

    /// As a number.
    pub(super) fn number(self) -> u16 {
        self.0
    }
}

/// CRC-16/XMODEM: polynomial 0x1021, nothing reflected, starting at 0.
fn crc16(bytes: &[u8]) -> u16 {
    let shift = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
    bytes.iter().fold(0, |crc, &byte| (0..8).fold(crc ^ (u16::from(byte) << 8), shift))
}

/// What one node says of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    /// The primary of the slot, where there is one.
    pub(super) primary: Option<Node>,
    /// Every node that it knows, to be asked next time.
    pub(super) nodes: Vec<Node>,
}

/// `CLUSTER SLOTS`.
pub(super) fn question() -> Cmd {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("SLOTS");
    command
}

/// Reads the answer of the node at `asked`; `None` if it is none.
pub(super) fn answer(value: &Value, slot: Slot, asked: &Node) -> Option<Map> {
    let Value::Array(ranges) = value else { return None };
    let mut map = Map { primary: None, nodes: Vec::new() };
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = parts.as_slice() else { return None };
        let nodes: Vec<_> = nodes.iter().filter_map(|node| node_of(node, asked)).collect();
        if (*first..=*last).contains(&i64::from(slot.0)) {
            map.primary = nodes.first().cloned();
        }
        for node in nodes {
            if !map.nodes.contains(&node) {
                map.nodes.push(node);
            }
        }
    }
    Some(map)
}

/// A host that is nil or empty is the one that was asked: `cluster-preferred-endpoint-type`, and a node that
/// has not learnt its own address yet.
fn node_of(value: &Value, asked: &Node) -> Option<Node> {
    let Value::Array(parts) = value else { return None };
    let (host, port) = match parts.as_slice() {
        [host, Value::Int(port), ..] => (host, u16::try_from(*port).ok()?),
        _ => return None,
    };
    match text(host) {
        // What Redis says for a node whose host name nobody knows.
        Some("?") => None,
        Some(host) if !host.is_empty() => Some(Node::new(host, port)),
        _ => Some(Node::new(asked.host(), port)),
    }
}

/// The text that a reply is.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_checksum_of_the_tag() {
        // The check value of the specification, and what CLUSTER KEYSLOT says.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (tag, slot) in [("", 0), ("foo", 12182), ("bar", 5061), ("user1000", 3443)] {
            assert_eq!(Slot::of(tag).number(), slot, "{tag}");
        }
    }

    fn reply(text: &str) -> Value {
        redis::parse_redis_value(text.replace(' ', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn the_primary_is_the_first_node_of_the_range() {
        let value =
            reply("*2 *4 :0 :5460 *3 $1 a :7000 $1 x *3 $1 b :7001 $1 y *3 :5461 :16383 *3 $0  :7002 $1 z ");
        let asked = Node::new("10.0.0.1", 7000);
        let map = answer(&value, Slot::of("bar"), &asked).unwrap();
        assert_eq!(map.primary, Some(Node::new("a", 7000)));
        assert_eq!(map.nodes.len(), 3);
        let map = answer(&value, Slot::of("foo"), &asked).unwrap();
        assert_eq!(map.primary, Some(Node::new("10.0.0.1", 7002)));
        assert_eq!(answer(&reply("*0 "), Slot::of("foo"), &asked).unwrap().primary, None);
        assert_eq!(answer(&reply("+x "), Slot::of("foo"), &asked), None);
    }
}
