//! Whom a client trusts: the anchors of full verification, and the verifier that takes any certificate.
//!
//! Invariant: [`AnyCertificate`] still checks handshake signatures, so that the peer has the key of the
//! certificate it shows. What that can't parse (such as an X.509 version 1 certificate) fails the handshake.
use super::tls_error;
use kumo_core::port::NetError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::ffi::OsString;
use std::path::Path;

const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Mozilla's anchors and the system's, or only those in the file that `SSL_CERT_FILE` names.
pub fn system_roots() -> Result<RootCertStore, NetError> {
    roots(std::env::var_os("SSL_CERT_FILE"), Path::new(SYSTEM_BUNDLE))
}

pub(super) fn roots(chosen: Option<OsString>, bundle: &Path) -> Result<RootCertStore, NetError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = chosen {
        add_file(&mut roots, Path::new(&path))?;
        return Ok(roots);
    }
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if bundle.exists() {
        add_file(&mut roots, bundle)?;
    }
    Ok(roots)
}

/// A certificate that can't be an anchor is passed over; a file without any is an error.
fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), NetError> {
    let wrong = |what: String| {
        let advice =
            "it must hold CA certificates in PEM (`apt install ca-certificates`, or SSL_CERT_FILE)";
        tls_error(format!("trust anchors {}: {what}: {advice}", path.display()))
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(wrong("no usable certificate in it".into())),
        _ => Ok(()),
    }
}

/// For opportunistic TLS: encrypts towards whoever answers.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyCertificate {
    pub(super) fn new(provider: &CryptoProvider) -> AnyCertificate {
        AnyCertificate { algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
