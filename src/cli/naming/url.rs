//! The URL of a remote as the name of a repository: the same for each way to reach it.
//!
//! What is about the way is left out: the scheme, the user, the port of ssh, `.git`; and all is lower case, since the
//! usual hosts take `Owner/Name` for `owner/name`. So two repositories may share a name that a server tells apart by
//! case: they exclude each other more than they must. The other mistake would be to exclude too little.

use std::path::PathBuf;

/// Where a remote is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    /// On a host: `example.org/owner/name`.
    Hosted(String),
    /// A directory of this machine, absolute or relative to the repository.
    Directory(PathBuf),
    /// What names nothing that others could have too.
    Unknown,
}

/// Reads the URL of a remote, in the forms of git-fetch(1), "GIT URLS".
pub(super) fn parse(url: &str) -> Remote {
    if let Some(path) = url.strip_prefix("file://") {
        // A host may stand before the path, and means nothing.
        let path = path.find('/').map_or("", |slash| &path[slash..]);
        return Remote::Directory(PathBuf::from(decoded(path)));
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        return hosted(host, &decoded(path), ports_of(scheme));
    }
    // `host:path` where no slash comes before the colon; a host of IPv6 is in brackets.
    let end = if let Some(close) = url.find("]:") { Some(close + 1) } else { url.find(':') };
    match end {
        Some(end) if !url[..end].contains('/') => hosted(&url[..end], &url[end + 1..], Ports::OfTheWay),
        _ if url.is_empty() => Remote::Unknown,
        _ => Remote::Directory(PathBuf::from(url)),
    }
}

/// What a port in a URL tells.
#[derive(Clone, Copy, Debug)]
enum Ports {
    /// Nothing: a server of repositories has its ssh on any port, beside its https.
    OfTheWay,
    /// Which server it is, unless it is the usual one.
    OfTheServer(&'static str),
}

fn ports_of(scheme: &str) -> Ports {
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Ports::OfTheServer("443"),
        "http" => Ports::OfTheServer("80"),
        _ => Ports::OfTheWay,
    }
}

fn hosted(authority: &str, path: &str, ports: Ports) -> Remote {
    let authority = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if is_port(port) => (host, port),
        _ => (authority, ""),
    };
    // The ways of the great hosts around a firewall: their ssh on port 443 has a name of its own.
    let host = host.to_ascii_lowercase();
    let host = ["ssh.github.com", "altssh.gitlab.com", "altssh.bitbucket.org"]
        .iter()
        .find(|way| host == **way)
        .and_then(|way| way.split_once('.'))
        .map_or(host.as_str(), |(_way, host)| host);
    let host = match ports {
        Ports::OfTheServer(usual) if !port.is_empty() && port != usual => format!("{host}:{port}"),
        _ => host.to_owned(),
    };
    let mut parts: Vec<String> = Vec::new();
    for part in path.to_ascii_lowercase().split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            _ => parts.push(part.to_owned()),
        }
    }
    if let Some(last) = parts.last_mut() {
        *last = last.strip_suffix(".git").filter(|name| !name.is_empty()).unwrap_or(last).to_owned();
    }
    if host.is_empty() || host.starts_with('.') || parts.is_empty() {
        return Remote::Unknown;
    }
    Remote::Hosted(format!("{host}/{}", parts.join("/")))
}

/// `text` with its `%` and two digits as the characters that they stand for (RFC 3986, section 2.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| first == b'%').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_a_repository_names_it_the_same() {
        for url in [
            "https://github.com/Owner/Name.git",
            "https://github.com/owner/name",
            "https://github.com/owner/name/",
            "https://user:secret@github.com:443/owner//name.git/",
            "http://github.com/owner/name.git",
            "git@github.com:owner/name.git",
            "github.com:owner/name",
            "git@github.com:/owner/name.git",
            "ssh://git@github.com/owner/name.git",
            "ssh://git@github.com:22/owner/name",
            "ssh://git@ssh.github.com:443/owner/name.git",
            "git+ssh://git@GITHUB.com/owner/./x/../name",
            "git://github.com/owner/name.git",
            "https://github.com/owner/%6eame",
        ] {
            assert_eq!(parse(url), Remote::Hosted("github.com/owner/name".to_owned()), "{url}");
        }
    }

    #[test]
    fn servers_on_ports_are_different_servers() {
        let named = |url| match parse(url) {
            Remote::Hosted(name) => name,
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(named("http://localhost:3000/a/b"), "localhost:3000/a/b");
        assert_eq!(named("ssh://git@git.example:2222/a/b/c.git"), "git.example/a/b/c");
        assert_eq!(named("https://git.example/a/b/c"), "git.example/a/b/c");
        assert_eq!(named("alice@[::1]:srv/x.git"), "[::1]/srv/x");
        assert_eq!(named("ssh://[fe80::1]:2200/srv/x"), "[fe80::1]/srv/x");
    }

    #[test]
    fn a_directory_is_of_this_machine() {
        for (url, path) in [
            ("/srv/git/x.git", "/srv/git/x.git"),
            ("../x", "../x"),
            ("./a:b", "./a:b"),
            ("file:///srv/a%20b", "/srv/a b"),
            ("file://localhost/srv/x", "/srv/x"),
        ] {
            assert_eq!(parse(url), Remote::Directory(PathBuf::from(path)), "{url}");
        }
        for url in ["", "https://", "https://host", "https:///a/b", "host:", "ssh://git@/x"] {
            assert_eq!(parse(url), Remote::Unknown, "{url}");
        }
    }

    #[test]
    fn a_name_does_not_lead_out() {
        assert_eq!(parse("https://h/../../a/b"), Remote::Hosted("h/a/b".to_owned()));
        assert_eq!(parse("https://../a/b"), Remote::Unknown);
    }
}
