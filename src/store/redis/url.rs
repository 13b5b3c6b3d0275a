//! The URL of a Redis.
//!
//! No error repeats any part of the URL: whoever forgot an `@` or a percent sign has the password where a
//! host or a port belongs.

use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;

use super::endpoint::{Address, Database, Endpoint, Login, Node, Place, Secret, Tls};

const SCHEMES: &str = "a Redis URL is redis://host:port/database, rediss:// (TLS), redis+unix:///path, \
     redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port";

/// What comes after the scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Host,
    Path,
    Sentinels,
    Cluster,
}

/// As [`Endpoint::parse`].
pub(super) fn parse(url: &str) -> Result<Endpoint, String> {
    let (scheme, rest) = url.split_once("://").ok_or(SCHEMES)?;
    let (form, is_encrypted) = match scheme.to_ascii_lowercase().as_str() {
        "redis" => (Form::Host, false),
        "rediss" => (Form::Host, true),
        "redis+unix" | "unix" => (Form::Path, false),
        "redis+sentinel" => (Form::Sentinels, false),
        "rediss+sentinel" => (Form::Sentinels, true),
        "redis+cluster" => (Form::Cluster, false),
        "rediss+cluster" => (Form::Cluster, true),
        _ => return Err(SCHEMES.to_owned()),
    };
    let (userinfo, rest) = match form {
        // A path may have an @ of its own.
        Form::Path if rest.starts_with('/') => (None, rest),
        Form::Path => match rest.find("@/") {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => return Err("a Unix socket is redis+unix:///path, with three slashes".to_owned()),
        },
        _ => rest.rsplit_once('@').map_or((None, rest), |(userinfo, rest)| (Some(userinfo), rest)),
    };
    let login = userinfo.map_or_else(|| Ok(Login::default()), login)?;
    let (place, database) = match form {
        Form::Path => unix(rest)?,
        _ => network(form, rest)?,
    };
    let tls = is_encrypted.then(Tls::default);
    Ok(Endpoint { login, database, tls, ..Endpoint::at(place) })
}

fn login(userinfo: &str) -> Result<Login, String> {
    if userinfo.contains(['/', '?', '#', '@']) {
        return Err("in the user and the password write / as %2F, ? as %3F, # as %23 and @ as %40".to_owned());
    }
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let said = |text: &str| Ok::<_, String>(Some(decoded(text)?).filter(|text| !text.is_empty()));
    Ok(Login { user: said(user)?, password: said(password)?.map(Secret::new) })
}

fn unix(rest: &str) -> Result<(Place, Option<Database>), String> {
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let database = match query.map(|query| query.strip_prefix("db=")) {
        None => None,
        Some(Some(number)) => Some(number.parse()?),
        Some(None) => return Err("a Unix socket takes ?db=NUMBER and nothing else".to_owned()),
    };
    let path = decoded(path)?;
    if path.len() < 2 || path.ends_with('/') || path.contains('\0') {
        return Err("a Unix socket is redis+unix:///path, with the path of the socket".to_owned());
    }
    Ok((Place::Fixed(Address::Unix(Arc::from(Path::new(&path)))), database))
}

fn network(form: Form, rest: &str) -> Result<(Place, Option<Database>), String> {
    if rest.contains(['?', '#']) {
        return Err("nothing may follow a ? or # (in a password they are %3F and %23)".to_owned());
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    match form {
        Form::Sentinels => {
            let (service, database) = path.split_once('/').unwrap_or((path, ""));
            let service = decoded(service)?;
            let plain = |c: char| c.is_ascii_graphic() && c != '/';
            if service.is_empty() || !service.chars().all(plain) {
                let what = "say which service: redis+sentinel://host:port,host:port/service";
                return Err(what.to_owned());
            }
            let nodes = nodes(hosts, Endpoint::SENTINEL_PORT)?;
            Ok((Place::Sentinel { nodes, service, login: Login::default() }, number(database)?))
        }
        Form::Cluster => {
            let place = Place::Cluster { nodes: nodes(hosts, Endpoint::PORT)? };
            match number(path)?.filter(|database| database.number() != 0) {
                None => Ok((place, None)),
                Some(_) => Err("a cluster has one database: leave out the number".to_owned()),
            }
        }
        Form::Host | Form::Path => {
            let mut nodes = nodes(hosts, Endpoint::PORT)?;
            match (nodes.pop(), nodes.is_empty()) {
                (Some(node), true) => Ok((Place::Fixed(Address::Tcp(node)), number(path)?)),
                _ => Err("several hosts are redis+sentinel:// or redis+cluster://".to_owned()),
            }
        }
    }
}

fn number(path: &str) -> Result<Option<Database>, String> {
    let path = path.trim_end_matches('/');
    if path.is_empty() { Ok(None) } else { path.parse().map(Some) }
}

/// Several are separated by commas; by a `+` where a comma can't be, in mount options.
fn nodes(hosts: &str, port: u16) -> Result<Vec<Node>, String> {
    hosts.split([',', '+']).map(|host| node(host, port)).collect()
}

/// `host[:port]`, an IPv6 address in brackets.
fn node(text: &str, default_port: u16) -> Result<Node, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("a bracket is not closed: [IPv6]:port")?;
            let (plain, scope) = address.split_once('%').unwrap_or((address, ""));
            if plain.parse::<Ipv6Addr>().is_err() || !scope.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err("what stands in brackets is no IPv6 address".to_owned());
            }
            match (port.strip_prefix(':'), port.is_empty()) {
                (Some(port), _) => (address, Some(port)),
                (None, true) => (address, None),
                (None, false) => return Err("after the bracket comes :port or nothing".to_owned()),
            }
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("write an IPv6 address in brackets: [::1]:6379".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("there is no host: redis://host:port".to_owned());
    }
    if !text.starts_with('[') && !is_name(host) {
        return Err("a host is a name, or an IP address (IPv6 in brackets)".to_owned());
    }
    let port = match port {
        None => default_port,
        Some(port) => {
            port.parse().ok().filter(|port| *port != 0).ok_or("a port is a number from 1 to 65535")?
        }
    };
    Ok(Node::new(host, port))
}

/// Whether `text` is a name of a host, or an IPv4 address.
pub(super) fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    !text.is_empty() && text.chars().all(is_plain)
}

fn decoded(text: &str) -> Result<String, String> {
    const BAD: &str = "a % is followed by two hexadecimal digits: write % itself as %25";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(BAD)?;
        let digits = std::str::from_utf8(digits).map_err(|_| BAD)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BAD.to_owned());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| BAD)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| "what is percent-encoded is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(host: &str, port: u16) -> Place {
        Place::Fixed(Address::Tcp(Node::new(host, port)))
    }

    #[test]
    fn one_host_has_a_port_and_a_database() {
        for (url, place, database) in [
            ("redis://db", fixed("db", 6379), None),
            ("redis://db/", fixed("db", 6379), None),
            ("REDIS://db:7000/5", fixed("db", 7000), Some(5)),
            ("redis://[fe80::1%eth0]:7000/0", fixed("fe80::1%eth0", 7000), Some(0)),
            ("redis://[::1]", fixed("::1", 6379), None),
            ("rediss://10.0.0.5:1", fixed("10.0.0.5", 1), None),
        ] {
            let endpoint = parse(url).unwrap();
            let number = endpoint.database.map(Database::number);
            assert_eq!((endpoint.place, number), (place, database), "{url}");
            assert_eq!(endpoint.tls.is_some(), url.starts_with("rediss"));
        }
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let login = |url| {
            let login = parse(url).unwrap().login;
            (login.user, login.password.map(|password| password.reveal().to_owned()))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(login("redis://db"), (None, None));
        assert_eq!(login("redis://u@db"), (some("u"), None));
        assert_eq!(login("redis://:p%40%2f%25@db"), (None, some("p@/%")));
        assert_eq!(login("redis://a%3ab:c:d@db"), (some("a:b"), some("c:d")));
        assert_eq!(login("redis://u:@db"), (some("u"), None));
        assert_eq!(login("unix://u:p@/run/a@/b"), (some("u"), some("p")));
        assert_eq!(login("redis+sentinel://u:p@a,b/m"), (some("u"), some("p")));
    }

    #[test]
    fn a_unix_socket_is_a_path() {
        for (url, path, database) in [
            ("redis+unix:///run/redis.sock", "/run/redis.sock", None),
            ("unix:///run/a@b%20c?db=3", "/run/a@b c", Some(3)),
        ] {
            let endpoint = parse(url).unwrap();
            assert_eq!(endpoint.place, Place::Fixed(Address::Unix(Arc::from(Path::new(path)))));
            assert_eq!(endpoint.database.map(Database::number), database);
        }
    }

    #[test]
    fn sentinels_and_nodes_of_a_cluster_are_listed() {
        let list = [Node::new("a", 1), Node::new("::1", 26379), Node::new("c", 3)];
        for url in ["redis+sentinel://a:1,[::1],c:3/mymaster/2", "rediss+sentinel://a:1+[::1]+c:3/mymaster/2"]
        {
            let endpoint = parse(url).unwrap();
            let Place::Sentinel { nodes, service, login } = endpoint.place else { panic!("{url}") };
            assert_eq!(
                (nodes.as_slice(), service.as_str(), login),
                (&list[..], "mymaster", Login::default())
            );
            assert_eq!(endpoint.database.map(Database::number), Some(2));
        }
        let place = Place::Cluster { nodes: vec![Node::new("a", 6379), Node::new("b", 2)] };
        assert_eq!(parse("redis+cluster://a,b:2").unwrap().place, place);
        assert_eq!(parse("rediss+cluster://a,b:2/0").unwrap().place, place);
    }

    #[test]
    fn what_is_no_url_is_refused_without_an_echo() {
        for url in [
            "hunter2",
            "hunter2://db",
            "redis://",
            "redis://:hunter2",
            "redis://u:hunter2",
            "redis://hunter2:hunter2/0",
            "redis://:hunter2@",
            "redis://:hunter2@:6379",
            "redis://:hunter2@db:0",
            "redis://:hunter2@db:99999",
            "redis://:hunter2@db:x",
            "redis://:hunter2@db/hunter2",
            "redis://:hunter2@db/0/hunter2",
            "redis://:hunter2@a,b",
            "redis://:hunter2@::1",
            "redis://:hunter2@[::1",
            "redis://:hunter2@[hunter2]:1",
            "redis://:hunter2@[::1]hunter2",
            "redis://:hunter2@db?password=hunter2",
            "redis://:hunter2@db#hunter2",
            "redis://:hun/ter2@db",
            "redis://:hun?ter2@db",
            "redis://:hun@ter2@db",
            "redis://:hunter2%@db",
            "redis://:hunter2%zz@db",
            "redis://:hunter2%+1@db",
            "redis://:hunter2%ff@db",
            "redis://:hunter2@d b",
            "redis://:hunter2@d\nb",
            "redis+unix://hunter2",
            "redis+unix://:hunter2@run",
            "redis+unix:///run?pass=hunter2",
            "redis+unix:///run?db=hunter2",
            "redis+unix:///",
            "redis+sentinel://:hunter2@a,b",
            "redis+sentinel://:hunter2@a,,b/m",
            "redis+sentinel://:hunter2@a/m/hunter2",
            "redis+cluster://:hunter2@a/1",
            "redis+cluster://:hunter2@a/hunter2",
        ] {
            let error = parse(url).expect_err(url);
            for leak in ["hunter2", "hun/", "ter2", "hun?", "hun@"] {
                assert!(!error.contains(leak), "{url:?}: {error}");
            }
        }
    }
}
