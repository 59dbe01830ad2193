//! Certificates from files, trust anchors, and handshakes with configurations that aren't ours.
use super::*;
use kumo_core::port::TlsConnect;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut parameters = CertificateParams::new([]).expect("parameters");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(parameters, key).expect("signed"))
    }

    /// Paths of a certificate chain and its key, as a listener is given them.
    fn issue(&self, directory: &Path, file: &str, host: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new([host.to_owned()]).expect("a host name");
        let leaf = parameters.signed_by(&key, &self.0).expect("signed");
        let path = |end: &str| directory.join(format!("{file}.{end}"));
        fs::write(path("crt"), leaf.pem() + &self.0.pem()).expect("written");
        fs::write(path("key"), key.serialize_pem()).expect("written");
        (path("crt").display().to_string(), path("key").display().to_string())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an anchor");
        roots
    }
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

fn accept(files: (String, String)) -> TlsAccept {
    TlsAccept { hostname: "unused.example".into(), certificate: Some(files) }
}

fn connect_to(server_name: &str, verification: TlsVerification) -> TlsConnect {
    TlsConnect { server_name: server_name.into(), verification }
}

/// What a client thinks of a server, in memory.
async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Result<TlsInfo, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (ours, _theirs) = tokio::join!(
        TlsConnector::from(client).connect(name, near),
        TlsAcceptor::from(server).accept(far)
    );
    ours.map(|stream| tls_info(stream.get_ref().1)).map_err(|error| error.to_string())
}

#[tokio::test]
async fn full_verification_checks_chain_and_name_of_a_certificate_from_files() {
    let (authority, directory) = (Authority::new("ours"), scratch());
    let ours = TlsConfigurations::new(authority.roots()).expect("set up");
    let strangers = TlsConfigurations::new(Authority::new("theirs").roots()).expect("set up");
    let files = authority.issue(directory.path(), "a", "mx.example.test");
    let server = ours.prepare(&accept(files)).expect("good files");
    for (configurations, name, verification, refusal) in [
        (&ours, "mx.example.test", TlsVerification::Full, None),
        (&ours, "MX.example.test", TlsVerification::Full, None),
        (&ours, "other.example.test", TlsVerification::Full, Some("not valid for name")),
        (&ours, "192.0.2.1", TlsVerification::Full, Some("not valid for name")),
        (&ours, "other.example.test", TlsVerification::None, None),
        (&strangers, "mx.example.test", TlsVerification::Full, Some("UnknownIssuer")),
        (&strangers, "mx.example.test", TlsVerification::None, None),
    ] {
        let connect = connect_to(name, verification);
        let name = server_name(&connect).expect("a name");
        let outcome = handshake(configurations.client(verification), server.clone(), name).await;
        match refusal {
            None => assert!(outcome.is_ok(), "{connect:?}: {outcome:?}"),
            Some(text) => {
                let error = outcome.expect_err("refused");
                assert!(error.contains(text), "{connect:?}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_with_those_who_know_no_better() {
    let ours = TlsConfigurations::new(Authority::new("ours").roots()).expect("set up");
    let key = KeyPair::generate().expect("a key");
    let parameters = CertificateParams::new(["old.example.test".to_owned()]).expect("a name");
    let certificate = parameters.self_signed(&key).expect("signed").der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .expect("known")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("they fit");
    let name = ServerName::try_from("old.example.test").expect("a name");
    let client = ours.client(TlsVerification::None);
    let info = handshake(client, Arc::new(old), name).await.expect("agreed");
    assert_eq!(info.protocol, "TLSv1.2");
    assert!(info.cipher.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{info:?}");
}

/// A server that shows a certificate whose key it hasn't got.
#[tokio::test]
async fn even_without_verification_the_peer_must_have_the_key_of_its_certificate() {
    #[derive(Debug)]
    struct Impostor(Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Impostor {
        fn resolve(
            &self,
            _hello: rustls::server::ClientHello<'_>,
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
    }
    let (shown, had) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let parameters = CertificateParams::new(["mx.example.test".to_owned()]).expect("a name");
    let certificate = parameters.self_signed(&shown).expect("signed").der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let had = PrivateKeyDer::Pkcs8(had.serialize_der().into());
    let key = provider.key_provider.load_private_key(had).expect("a key");
    let impostor = Impostor(Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key)));
    for version in PROTOCOL_VERSIONS {
        let impostor = Impostor(impostor.0.clone());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .expect("known")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(impostor));
        let ours = TlsConfigurations::new(Authority::new("ours").roots()).expect("set up");
        let name = ServerName::try_from("mx.example.test").expect("a name");
        let client = ours.client(TlsVerification::None);
        let error = handshake(client, Arc::new(server), name).await.expect_err("no key");
        assert!(error.contains("BadSignature"), "{version:?}: {error}");
    }
}

#[test]
fn files_that_do_not_do_are_named_with_what_is_wrong() {
    let (authority, directory) = (Authority::new("ours"), scratch());
    let ours = TlsConfigurations::new(authority.roots()).expect("set up");
    let (certificate, key) = authority.issue(directory.path(), "a", "mx.example.test");
    let (_, other_key) = authority.issue(directory.path(), "b", "mx.example.test");
    let empty = directory.path().join("empty").display().to_string();
    fs::write(&empty, "").expect("written");
    let missing = directory.path().join("missing").display().to_string();
    for (files, blamed) in [
        ((&missing, &key), &missing),
        ((&certificate, &missing), &missing),
        ((&empty, &key), &empty),
        ((&certificate, &empty), &empty),
        ((&key, &key), &key),
        ((&certificate, &certificate), &certificate),
        ((&certificate, &other_key), &other_key),
    ] {
        let files = (files.0.clone(), files.1.clone());
        let error = ours.prepare(&accept(files.clone())).expect_err("no good");
        assert_eq!(error.kind, NetErrorKind::Tls);
        assert!(error.text.starts_with("TLS file "), "{files:?}: {error}");
        assert!(error.text.contains(blamed.as_str()), "{files:?}: {error}");
    }
}

#[test]
fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let (authority, directory) = (Authority::new("ours"), scratch());
    let ours = TlsConfigurations::new(authority.roots()).expect("set up");
    let files = authority.issue(directory.path(), "a", "mx.example.test");
    let accept = accept(files.clone());
    let first = ours.prepare(&accept).expect("good files");
    assert!(Arc::ptr_eq(&first, &ours.server(&accept).expect("prepared")));

    authority.issue(directory.path(), "a", "mx.example.test");
    let second = ours.prepare(&accept).expect("good files");
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(Arc::ptr_eq(&second, &ours.server(&accept).expect("prepared")));

    fs::write(&files.1, "half a k").expect("written");
    assert!(ours.prepare(&accept).is_err());
    assert!(Arc::ptr_eq(&second, &ours.server(&accept).expect("still there")));
}

#[test]
fn a_self_signed_certificate_is_made_once_for_a_host_name_and_not_without_end() {
    let ours = TlsConfigurations::new(Authority::new("ours").roots()).expect("set up");
    let accept = |hostname: String| TlsAccept { hostname, certificate: None };
    let first = ours.server(&accept("mx.example.test".into())).expect("made");
    let again = ours.prepare(&accept("mx.example.test".into())).expect("kept");
    assert!(Arc::ptr_eq(&first, &again));
    for n in 1..TLS_SERVER_CERTIFICATES {
        ours.server(&accept(format!("mx{n}.example.test"))).expect("room");
    }
    let error = ours.server(&accept("too-many.example.test".into())).expect_err("full");
    assert!(error.text.contains("1024 server certificates"), "{error}");
    ours.server(&accept("mx.example.test".into())).expect("those there are still served");

    let unfit = ours.prepare(&accept("no name: ☃".into())).expect_err("not in a certificate");
    assert!(unfit.text.contains("self-signed certificate for \"no name: ☃\""), "{unfit}");
}

#[test]
fn a_chosen_file_of_anchors_replaces_all_others() {
    let (authority, directory) = (Authority::new("ours"), scratch());
    let (bundle, empty) = (directory.path().join("bundle"), directory.path().join("empty"));
    fs::write(&bundle, authority.0.pem()).expect("written");
    fs::write(&empty, "nothing here\n").expect("written");
    let missing = directory.path().join("missing");
    let count = |chosen: Option<&Path>, bundle: &Path| {
        trust::roots(chosen.map(|path| path.as_os_str().to_owned()), bundle)
            .map(|roots| roots.len())
    };
    let built_in = webpki_roots::TLS_SERVER_ROOTS.len();
    assert_eq!(count(Some(&bundle), &missing), Ok(1));
    assert_eq!(count(None, &missing), Ok(built_in));
    assert_eq!(count(None, &bundle), Ok(built_in + 1));
    for unfit in [&empty, &missing] {
        let error = count(Some(unfit), &bundle).expect_err("no anchor");
        assert!(error.text.contains(&unfit.display().to_string()), "{error}");
        assert!(error.text.contains("SSL_CERT_FILE"), "{error}");
    }
}
