//! TLS to a server: whom we believe, and who we are.
//!
//! The files are read at each connecting. Authorities that were named replace those of the system, and no
//! setting switches verification off.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::endpoint::{Address, Tls};

/// One TLS connection to `address`, before its handshake.
///
/// # Errors
/// A file that can't be used, by name; or that TLS makes no sense there.
pub(super) fn client(tls: &Tls, address: &Address) -> Result<ClientConnection, String> {
    let Address::Tcp(node) = address else {
        return Err("a Unix socket has no TLS".to_owned());
    };
    let name = ServerName::try_from(node.host().to_owned())
        .map_err(|_| format!("no certificate can be for the host '{}'", node.host()))?;
    ClientConnection::new(Arc::new(config(tls)?), name).map_err(|error| error.to_string())
}

fn config(tls: &Tls) -> Result<ClientConfig, String> {
    let roots = match &tls.ca_file {
        Some(path) => authorities(path)?,
        None => authorities_of_the_system()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let (Some(cert_file), Some(key_file)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(config.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| format!("cannot read the client key {}: {error}", key_file.display()))?;
    config.with_client_auth_cert(certificates(cert_file)?, key).map_err(|error| {
        let (cert, key) = (cert_file.display(), key_file.display());
        format!("the client certificate {cert} and the key {key} can't be used: {error}")
    })
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| format!("no authority is made of {}: {error}", path.display()))?;
    }
    Ok(roots)
}

/// One bad certificate among those of the system is no reason to believe none.
fn authorities_of_the_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => Err("this system has no certificate authorities: set --redis-ca-file".to_owned()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |error| format!("cannot read certificates from {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found.map_err(cannot)? {
        found if found.is_empty() => Err(format!("there is no certificate in {}", path.display())),
        found => Ok(found),
    }
}
