//! Certificates: an authority that vouches for a server and a client, and a foreign one that does the same.
//!
//! They are made by `openssl` for each test, so that none is ever out of date.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

/// The certificates of a test, in files of its own.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Whom the server and its clients trust.
    pub own: Authority,
    /// Whom they do not.
    pub foreign: Authority,
    _dir: Arc<TempDir>,
}

/// An authority, with what it vouches for.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The authority's own certificate.
    pub ca: PathBuf,
    /// A server at 127.0.0.1 and localhost.
    pub server: Identity,
    /// A client.
    pub client: Identity,
}

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// The private key, without a passphrase.
    pub key: PathBuf,
}

impl Tls {
    /// Makes all of them.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("lockfs-tls-").tempdir().expect("a temporary directory");
        fs::write(dir.path().join("openssl.cnf"), SETTINGS).unwrap();
        let [own, foreign] = ["own", "foreign"].map(|name| Authority::new(dir.path(), name));
        Self { own, foreign, _dir: Arc::new(dir) }
    }

    /// What a server needs in its redis.conf beside the port.
    pub(super) fn settings(&self) -> [String; 3] {
        [
            format!("tls-ca-cert-file {}", self.own.ca.display()),
            format!("tls-cert-file {}", self.own.server.certificate.display()),
            format!("tls-key-file {}", self.own.server.key.display()),
        ]
    }
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let identity = |part: &str| Identity {
            certificate: dir.join(format!("{name}-{part}.crt")),
            key: dir.join(format!("{name}-{part}.key")),
        };
        let [ca, server, client] = ["ca", "server", "client"].map(identity);
        make(dir, &ca, "authority", None);
        make(dir, &server, "server", Some(&ca));
        make(dir, &client, "client", Some(&ca));
        Self { ca: ca.certificate, server, client }
    }

    /// What the `redis` crate asks for: whom to trust, and who the client is, if it says so.
    pub fn certificates(&self, client: Option<&Identity>) -> redis::TlsCertificates {
        let client_tls = client.map(|identity| redis::ClientTlsConfig {
            client_cert: fs::read(&identity.certificate).unwrap(),
            client_key: fs::read(&identity.key).unwrap(),
        });
        redis::TlsCertificates { client_tls, root_cert: Some(fs::read(&self.ca).unwrap()) }
    }
}

/// One section for each kind of certificate; the machine's own openssl.cnf has no say.
const SETTINGS: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = lockfs test
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
";

fn make(dir: &Path, identity: &Identity, kind: &str, signed_by: Option<&Identity>) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-config"]).arg(dir.join("openssl.cnf")).args(["-extensions", kind]);
    command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "30"]);
    // Authorities have names of their own: a client knows a foreign one by it.
    let name = identity.certificate.file_stem().unwrap().display();
    command.args(["-subj", &format!("/CN=lockfs test {name}")]);
    command.arg("-keyout").arg(&identity.key).arg("-out").arg(&identity.certificate);
    if let Some(authority) = signed_by {
        command.arg("-CA").arg(&authority.certificate).arg("-CAkey").arg(&authority.key);
    }
    let output = command.output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
