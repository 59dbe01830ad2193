//! What TLS needs before a handshake: trust anchors, certificates and keys, ready-made rustls configurations.
//!
//! # Architecture invariants
//! - The crypto provider (ring) is passed explicitly; no process-wide default is read or set.
//! - TLS 1.2 is the floor. Clients never resume a session, so that every connection shows its certificate.
//! - A configuration is made once and shared; a handshake only looks it up.
//!
//! Handshakes themselves are `net`'s, their deadlines the driver's.
mod subject;
#[cfg(test)]
mod tests;
mod trust;

pub use trust::system_roots;

use kumo_core::limits::TLS_SERVER_CERTIFICATES;
use kumo_core::port::{NetError, NetErrorKind, TlsAccept, TlsConnect, TlsInfo, TlsVerification};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, CommonState, ProtocolVersion, RootCertStore, ServerConfig};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};

const PROTOCOL_VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Everything that connections of this process share about TLS.
pub struct TlsConfigurations {
    provider: Arc<CryptoProvider>,
    verifying: Arc<ClientConfig>,
    trusting: Arc<ClientConfig>,
    servers: RwLock<HashMap<TlsAccept, Arc<ServerConfig>>>,
}

impl TlsConfigurations {
    /// `roots` is what [`TlsVerification::Full`] trusts.
    pub fn new(roots: RootCertStore) -> Result<TlsConfigurations, NetError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| tls_error(format!("no certificate can be verified: {error}")))?;
        let trusting = Arc::new(trust::AnyCertificate::new(&provider));
        Ok(TlsConfigurations {
            verifying: client_configuration(&provider, verifier)?,
            trusting: client_configuration(&provider, trusting)?,
            servers: RwLock::default(),
            provider,
        })
    }

    pub fn client(&self, verification: TlsVerification) -> Arc<ClientConfig> {
        match verification {
            TlsVerification::Full => self.verifying.clone(),
            TlsVerification::None => self.trusting.clone(),
        }
    }

    /// What `accept` was prepared to, prepared now if it wasn't.
    pub fn server(&self, accept: &TlsAccept) -> Result<Arc<ServerConfig>, NetError> {
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        let prepared = servers.get(accept).cloned();
        drop(servers);
        prepared.map_or_else(|| self.prepare(accept), Ok)
    }

    /// Reads the files again each time, so that a renewed certificate is taken up; if they are no good, the
    /// one in use stays. A certificate that we made ourselves stays the same as long as the process lives.
    pub fn prepare(&self, accept: &TlsAccept) -> Result<Arc<ServerConfig>, NetError> {
        let made = match &accept.certificate {
            Some((certificate, key)) => self.file_configuration(certificate, key)?,
            None => self.self_signed(&accept.hostname)?,
        };
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = servers.len() >= TLS_SERVER_CERTIFICATES;
        match servers.entry(accept.clone()) {
            Entry::Occupied(kept) if accept.certificate.is_none() => return Ok(kept.get().clone()),
            Entry::Occupied(mut stale) => drop(stale.insert(made.clone())),
            Entry::Vacant(_) if is_full => {
                let advice = "give listeners fewer different certificates and host names";
                return Err(tls_error(format!(
                    "{TLS_SERVER_CERTIFICATES} server certificates are in use: {advice}"
                )));
            }
            Entry::Vacant(free) => drop(free.insert(made.clone())),
        }
        Ok(made)
    }

    fn file_configuration(
        &self,
        certificate: &str,
        key: &str,
    ) -> Result<Arc<ServerConfig>, NetError> {
        let wrong = |path: &str, what: String| tls_error(format!("TLS file {path}: {what}"));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(|error| wrong(certificate, format!("{error}")))?;
        if chain.is_empty() {
            return Err(wrong(certificate, "no PEM certificate in it".into()));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
            wrong(key, format!("{error}: it must hold an unencrypted private key in PEM"))
        })?;
        self.server_configuration(chain, private)
            .map_err(|error| wrong(certificate, format!("{error} (private key: {key})")))
    }

    fn self_signed(&self, hostname: &str) -> Result<Arc<ServerConfig>, NetError> {
        let wrong =
            |what: String| tls_error(format!("self-signed certificate for {hostname:?}: {what}"));
        let made = || -> Result<_, rcgen::Error> {
            let mut parameters = rcgen::CertificateParams::new([hostname.to_owned()])?;
            parameters.distinguished_name = rcgen::DistinguishedName::new();
            parameters.distinguished_name.push(rcgen::DnType::CommonName, hostname);
            let key = rcgen::KeyPair::generate()?;
            Ok((parameters.self_signed(&key)?, key))
        };
        let (certificate, key) = made().map_err(|error| wrong(error.to_string()))?;
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        self.server_configuration(vec![certificate.der().clone()], private)
            .map_err(|error| wrong(error.to_string()))
    }

    fn server_configuration(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(PROTOCOL_VERSIONS)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map(Arc::new)
    }
}

fn client_configuration(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, NetError> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(PROTOCOL_VERSIONS)
        .map_err(|error| tls_error(format!("TLS can't be set up: {error}")))?;
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A name that can't be one in a certificate is no obstacle where nobody checks it: then none is sent.
pub fn server_name(connect: &TlsConnect) -> Result<ServerName<'static>, NetError> {
    let TlsConnect { server_name, verification } = connect;
    match (ServerName::try_from(server_name.clone()), verification) {
        (Ok(name), _) => Ok(name),
        // rustls sends no server name indication for an address.
        (Err(_), TlsVerification::None) => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()),
        (Err(_), TlsVerification::Full) => Err(tls_error(format!(
            "{server_name:?} is neither a host name nor an address, so no certificate can be verified \
             against it: correct the MX record or don't require a verified certificate"
        ))),
    }
}

/// What a finished handshake has settled. A server learns no subject, since it asks for no certificate.
pub fn tls_info(connection: &CommonState) -> TlsInfo {
    let protocol = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
        other => format!("{other:?}"),
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .map_or_else(String::new, |cipher| format!("{:?}", cipher.suite()));
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let peer_subject = leaf.map_or_else(Vec::new, |leaf| subject::subject(leaf));
    TlsInfo { protocol, cipher, peer_subject }
}

pub(crate) fn tls_error(text: String) -> NetError {
    NetError { kind: NetErrorKind::Tls, text }
}
