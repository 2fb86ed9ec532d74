//! Whom to trust, and who we are.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};

use super::Failure;
use crate::fork::PerProcess;

/// Certificates in files, as PEM.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// The authorities to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Our own certificate with what leads to its authority, and the file of its key where that is
    /// another.
    pub client: Option<(PathBuf, Option<PathBuf>)>,
}

/// Certificates as they were read.
pub(super) struct Tls {
    /// None for the system's, which are read when first needed.
    roots: Option<Arc<RootCertStore>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    http2: bool,
}

impl Tls {
    /// Reads the files.
    pub fn new(certificates: &Certificates, http2: bool) -> Result<Self, Failure> {
        let roots = certificates.ca_bundle.as_deref().map(bundle).transpose()?;
        let client = certificates.client.as_ref().map(|(certificate, key)| {
            let chain = read_all(certificate, "client_cert")?;
            let key = key.as_ref().unwrap_or(certificate);
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("the key of client_cert", key, &error))?;
            Ok((chain, key))
        });
        let tls = Self {
            roots,
            client: client.transpose()?,
            http2,
        };
        if tls.client.is_some() {
            // Whether key and certificate belong together is known before anything is sent.
            tls.build(Arc::new(RootCertStore::empty()))?;
        }
        Ok(tls)
    }

    /// What a connection needs; its memory of sessions belongs to one process.
    pub fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let roots = self.roots.clone().map_or_else(system_roots, Ok)?;
        self.build(roots)
    }

    fn build(&self, roots: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, Failure> {
        let wrong = |error: rustls::Error| {
            Failure::configuration(format!("client_cert cannot be used: {error}"))
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(wrong)?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(wrong)?,
        };
        config.alpn_protocols = if self.http2 {
            vec![b"h2".to_vec(), b"http/1.1".to_vec()]
        } else {
            vec![b"http/1.1".to_vec()]
        };
        Ok(Arc::new(config))
    }
}

fn bundle(path: &Path) -> Result<Arc<RootCertStore>, Failure> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(read_all(path, "ca_bundle")?);
    if added == 0 {
        let path = path.display();
        return Err(Failure::configuration(format!(
            "ca_bundle {path} holds no certificate that can be used"
        )));
    }
    Ok(Arc::new(roots))
}

fn read_all(path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(option, path, &error))?;
    if certificates.is_empty() {
        let path = path.display();
        return Err(Failure::configuration(format!(
            "{option} {path} holds no certificate in the form of PEM"
        )));
    }
    Ok(certificates)
}

fn unreadable(option: &str, path: &Path, error: &rustls::pki_types::pem::Error) -> Failure {
    let path = path.display();
    Failure::configuration(format!("{option} {path} cannot be read: {error}"))
}

/// The authorities that the system trusts, or `SSL_CERT_FILE` and `SSL_CERT_DIR` name; read once.
fn system_roots() -> Result<Arc<RootCertStore>, Failure> {
    static ROOTS: PerProcess<Result<Arc<RootCertStore>, Failure>> = PerProcess::new();
    let Ok(roots) = ROOTS.get_or_make(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if !roots.is_empty() {
            return Ok::<_, Infallible>(Ok(Arc::new(roots)));
        }
        let reasons = found.errors.iter().map(|error| format!(" ({error})"));
        Ok(Err(Failure::configuration(format!(
            "no certificate authority is known{}: install ca-certificates, or name a file with \
             ca_bundle or SSL_CERT_FILE",
            reasons.collect::<String>()
        ))))
    });
    roots.clone()
}
