//! HTTPS probes against servers with every kind of certificate, wrong ones first: each reason by its exact words. What
//! rustls and rcgen cannot make here is in `openssl_servers`.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::*;

pub(super) const NAME: &str = "www.example";

/// For the distinguished name `CN=<name>`.
fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

/// A certificate authority: the web's, one below another, or a self-made one.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Ca {
    fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let parameters = Self::parameters(name);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(parameters, key), certificate }
    }

    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = Self::parameters(name);
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Self { issuer: Issuer::new(parameters, key), certificate }
    }

    fn parameters(name: &str) -> CertificateParams {
        let mut parameters = named(name, &[]);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
    }

    /// A server's certificate for [`NAME`], changed by `change`.
    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut parameters = named("a server", &[NAME]);
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Leaf { key, certificate }
    }
}

struct Leaf {
    key: KeyPair,
    certificate: Certificate,
}

impl Leaf {
    fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = named("a server", &[NAME]);
        change(&mut parameters);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { key, certificate }
    }

    async fn serve(&self, others: &[&Ca]) -> SocketAddr {
        let mut chain = vec![self.certificate.der().clone()];
        chain.extend(others.iter().map(|ca| ca.certificate.der().clone()));
        serve(chain, &self.key, |_| {}).await
    }
}

/// A server that shows `chain`, whatever is wrong with it, and answers.
async fn serve(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    change: impl FnOnce(&mut ServerConfig),
) -> SocketAddr {
    let acceptor = acceptor(chain, key, change);
    listener(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

/// A server that nothing has signed and that speaks HTTP/2 only.
pub(super) async fn with_http_2<F>(
    each: impl Fn(tokio_rustls::server::TlsStream<TcpStream>) -> F + Copy + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let Leaf { key, certificate } = Leaf::self_signed(|_| {});
    let http_2 = |config: &mut ServerConfig| config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = acceptor(vec![certificate.der().clone()], &key, http_2);
    listener(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                each(stream).await;
            }
        }
    })
    .await
}

fn acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    change: impl FnOnce(&mut ServerConfig),
) -> tokio_rustls::TlsAcceptor {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
    change(&mut config);
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

/// A file of certificates to trust.
struct Trusted {
    directory: tempfile::TempDir,
}

impl Trusted {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), text).unwrap();
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    async fn ask_for(&self, address: SocketAddr, host: &str) -> Result<(), Failure> {
        probe_http(address, https(true, Some(self.file()), host)).await
    }

    async fn ask(&self, address: SocketAddr) -> Result<(), Failure> {
        self.ask_for(address, NAME).await
    }

    /// What is said, with `FILE` in place of the file's name.
    fn refusal(&self, words: &str) -> Result<(), Failure> {
        failure(&format!("tls: {}", words.replace("FILE", &self.file().display().to_string())))
    }
}

impl From<&Certificate> for Trusted {
    fn from(certificate: &Certificate) -> Self {
        Self::new(&certificate.pem())
    }
}

impl From<&Ca> for Trusted {
    fn from(ca: &Ca) -> Self {
        Self::from(&ca.certificate)
    }
}

pub(super) fn https(verify: bool, ca: Option<PathBuf>, host: &str) -> HttpProbe {
    HttpProbe { tls: Some(TlsProbe { verify, ca }), host: Some(host.into()), ..wanting("ok") }
}

#[tokio::test]
async fn without_verify_any_certificate_passes() {
    let server = Ca::root("x").sign(|leaf| leaf.not_after = rcgen::date_time_ymd(2000, 1, 1));
    let address = server.serve(&[]).await;
    assert_eq!(probe_http(address, https(false, None, "other.example")).await, Ok(()));
    let by_address = HttpProbe { host: None, ..https(false, None, "") };
    assert_eq!(probe_http(address, by_address).await, Ok(()));
}

#[tokio::test]
async fn with_verify_the_right_certificate_passes() {
    let ca = Ca::root("x");
    let trusted = Trusted::from(&ca);
    assert_eq!(trusted.ask(ca.sign(|_| {}).serve(&[]).await).await, Ok(()));
    let below = ca.below("y", |_| {});
    assert_eq!(trusted.ask(below.sign(|_| {}).serve(&[&below]).await).await, Ok(()), "by an intermediate");
    let by_address = ca.sign(|leaf| *leaf = named("a server", &["127.0.0.1"])).serve(&[]).await;
    let probe = HttpProbe { host: None, ..https(true, Some(trusted.file()), "") };
    assert_eq!(probe_http(by_address, probe).await, Ok(()));
}

#[tokio::test]
async fn a_self_signed_certificate_passes_from_the_file() {
    let other = Trusted::from(&Ca::root("x"));
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let server = Leaf::self_signed(|leaf| leaf.is_ca = is_ca);
        let address = server.serve(&[]).await;
        assert_eq!(
            other.ask(address).await,
            other.refusal("certificate \"CN=a server\" is self-signed, and not in FILE")
        );
        let built_in = probe_http(address, https(true, None, NAME)).await;
        assert_eq!(
            built_in,
            failure("tls: certificate \"CN=a server\" is self-signed, and not in the public web's roots")
        );
        let trusted = Trusted::from(&server.certificate);
        assert_eq!(trusted.ask(address).await, Ok(()), "{is_ca:?}");
        assert_eq!(
            trusted.ask_for(address, "other.example").await,
            trusted.refusal("certificate is for \"www.example\", not for \"other.example\""),
            "{is_ca:?}"
        );
    }
}

#[tokio::test]
async fn a_certificate_in_the_file_needs_only_to_be_valid() {
    let ca = Ca::root("x");
    let server = ca.sign(|_| {});
    let trusted = Trusted::from(&server.certificate);
    assert_eq!(trusted.ask(server.serve(&[]).await).await, Ok(()));
    let other = ca.sign(|_| {});
    assert_eq!(
        trusted.ask(other.serve(&[]).await).await,
        trusted.refusal(
            "certificate of the issuer \"CN=x\" is neither sent by the server nor in FILE: \
             missing intermediate or unknown CA"
        )
    );
    let expired = Leaf::self_signed(|leaf| {
        leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        leaf.not_after = rcgen::date_time_ymd(2001, 2, 3);
    });
    let trusted = Trusted::from(&expired.certificate);
    assert_eq!(
        trusted.ask(expired.serve(&[]).await).await,
        trusted.refusal("certificate expired on 2001-02-03 00:00 UTC")
    );
}

#[tokio::test]
async fn missing_intermediate_and_unknown_authority_differ() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let below = root.below("below", |_| {});
    let server = below.sign(|_| {});
    let trusted = Trusted::from(&root);
    assert_eq!(
        trusted.ask(server.serve(&[]).await).await,
        trusted.refusal(
            "certificate of the issuer \"CN=below\" is neither sent by the server nor in FILE: \
             missing intermediate or unknown CA"
        )
    );
    let stranger = Trusted::from(&other);
    assert_eq!(
        stranger.ask(server.serve(&[&below]).await).await,
        stranger.refusal("unknown CA \"CN=root\": not in FILE")
    );
    assert_eq!(
        stranger.ask(server.serve(&[&below, &root]).await).await,
        stranger.refusal("unknown CA \"CN=root\": not in FILE")
    );
}

#[tokio::test]
async fn an_authority_with_another_key_is_not_unknown() {
    let server = Ca::root("x").sign(|_| {});
    let trusted = Trusted::from(&Ca::root("x"));
    assert_eq!(
        trusted.ask(server.serve(&[]).await).await,
        trusted.refusal("certificate is signed by another CA \"CN=x\" than the one of that name in FILE")
    );
}

#[tokio::test]
async fn the_dates_of_a_certificate_are_named() {
    let ca = Ca::root("x");
    let trusted = Trusted::from(&ca);
    let expired = ca.sign(|leaf| leaf.not_after = rcgen::date_time_ymd(2000, 1, 1));
    assert_eq!(
        trusted.ask(expired.serve(&[]).await).await,
        trusted.refusal("certificate expired on 2000-01-01 00:00 UTC")
    );
    let early = ca.sign(|leaf| leaf.not_before = rcgen::date_time_ymd(4000, 12, 31));
    assert_eq!(
        trusted.ask(early.serve(&[]).await).await,
        trusted
            .refusal("certificate is not valid before 4000-12-31 00:00 UTC, and the clock of this host is")
    );
    let below = ca.below("below", |ca| ca.not_after = rcgen::date_time_ymd(2010, 6, 7));
    assert_eq!(
        trusted.ask(below.sign(|_| {}).serve(&[&below]).await).await,
        trusted.refusal("certificate of the CA \"CN=below\" expired on 2010-06-07 00:00 UTC")
    );
}

#[tokio::test]
async fn the_names_of_a_certificate_are_listed() {
    let ca = Ca::root("x");
    let trusted = Trusted::from(&ca);
    let hosts = ["a.example", "*.b.example", "10.0.0.7", "fd00::7", "c.example", "d.example"];
    for (names, words) in [
        (&hosts[..1], "certificate is for \"a.example\", not for \"www.example\""),
        (
            &hosts[..],
            "certificate is for \"a.example\", \"*.b.example\", \"10.0.0.7\", \"fd00::7\" and 2 more, \
             not for \"www.example\"",
        ),
        (
            &[],
            "certificate \"CN=www.example\" has no subjectAltName, so it is not for \"www.example\": \
             the common name does not count",
        ),
    ] {
        let server = ca.sign(|leaf| *leaf = named(NAME, names));
        assert_eq!(trusted.ask(server.serve(&[]).await).await, trusted.refusal(words));
    }
}

#[tokio::test]
async fn names_with_control_characters_are_quoted_and_cut() {
    let ca = Ca::root("x");
    let name = format!("\u{1b}[2J\n{}", "y".repeat(100));
    let server = Leaf::self_signed(|leaf| *leaf = named(&name, &[NAME]));
    let trusted = Trusted::from(&ca);
    let shown = format!("\"CN=\\u{{1b}}[2J\\n{}…\"", "y".repeat(71));
    assert_eq!(
        trusted.ask(server.serve(&[]).await).await,
        trusted.refusal(&format!("certificate {shown} is self-signed, and not in FILE"))
    );
}

#[tokio::test]
async fn a_certificate_for_something_else_is_named() {
    let ca = Ca::root("x");
    let trusted = Trusted::from(&ca);
    let client = ca.sign(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert_eq!(
        trusted.ask(client.serve(&[]).await).await,
        trusted.refusal("certificate is not for servers: its extended key usage lacks serverAuth")
    );
    let authority = ca.sign(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(
        trusted.ask(authority.serve(&[]).await).await,
        trusted.refusal("certificate \"CN=a server\" is that of a CA, not of a server")
    );
    let unsigned = ca.below("below", |ca| ca.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(
        trusted.ask(unsigned.sign(|_| {}).serve(&[&unsigned]).await).await,
        trusted.refusal("certificate is signed by one that is not of a CA (basic constraints)")
    );
    let short = ca.below("short", |ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let longer = short.below("longer", |_| {});
    assert_eq!(
        trusted.ask(longer.sign(|_| {}).serve(&[&longer, &short]).await).await,
        trusted.refusal("chain of certificates is longer than its CA allows (path length)")
    );
}

/// Made with `openssl x509 -req -signkey`, which makes version 1 where no extension is asked for.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBKDCBzwIUfgbywLAB9EjZTEy3k0091wR1jCUwCgYIKoZIzj0EAwIwFjEUMBIG
A1UEAwwLb2xkLmV4YW1wbGUwIBcNMjYxMTI4MTUwNzAxWhgPMjEyNjExMDQxNTA3
MDFaMBYxFDASBgNVBAMMC29sZC5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEWEFfsbRYsFwRRFZh0MAQenVnuiIYArOaNeSPtAngaf02GYuI4kBeS2ud
jCx90hbyw55x53+jOgs6FZX3gJE07zAKBggqhkjOPQQDAgNIADBFAiEAudd7ukhk
zLXZiPv1Y+xzzSNirIWHRvwzSFlvnrKvS7wCIEco65JxkvOKMlDk6qTdfrDKplF+
9CjraofgteT1Ak46
-----END CERTIFICATE-----
";

#[tokio::test]
async fn a_certificate_of_an_old_version_is_named_by_it() {
    let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    // Its key is not needed: the certificate is refused before the handshake's signature is looked at.
    let address = serve(vec![certificate], &KeyPair::generate().unwrap(), |_| {}).await;
    let trusted = Trusted::new(VERSION_1);
    assert_eq!(
        trusted.ask(address).await,
        trusted.refusal("certificate is X.509 version 1, version 3 is needed")
    );
    assert_eq!(probe_http(address, https(false, None, NAME)).await, Ok(()), "without verify");
}

#[tokio::test]
async fn a_handshake_that_another_key_signed_is_refused_by_name() {
    let ca = Ca::root("x");
    let trusted = Trusted::from(&ca);
    let server = ca.sign(|_| {});
    let chain = vec![server.certificate.der().clone()];
    let address = serve(chain, &KeyPair::generate().unwrap(), |_| {}).await;
    assert_eq!(
        trusted.ask(address).await,
        trusted.refusal("the server's handshake is signed with another key than that of its certificate")
    );
}

#[tokio::test]
async fn a_certificate_that_is_none_is_refused_by_name() {
    let trusted = Trusted::from(&Ca::root("x"));
    let chain = vec![CertificateDer::from(b"hello".to_vec())];
    let address = serve(chain, &KeyPair::generate().unwrap(), |_| {}).await;
    assert_eq!(
        trusted.ask(address).await,
        trusted.refusal("certificate cannot be read: it is not valid DER")
    );
}

#[tokio::test]
async fn a_server_that_speaks_only_http2_is_said_to_be_one() {
    let server = Ca::root("x").sign(|_| {});
    let chain = vec![server.certificate.der().clone()];
    let address = serve(chain, &server.key, |config| config.alpn_protocols = vec![b"h2".to_vec()]).await;
    assert_eq!(
        probe_http(address, https(false, None, NAME)).await,
        failure("tls: the server does not speak HTTP/1.1 (ALPN http/1.1) (alert no application protocol)")
    );
}

#[tokio::test]
async fn a_server_without_tls_is_said_to_be_one() {
    let address = listener(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        tokio::time::sleep(LINGER).await;
    })
    .await;
    assert_eq!(
        probe_http(address, https(false, None, "www.example")).await,
        failure("tls: the answer is not TLS")
    );
}

#[tokio::test]
async fn a_tls_server_probed_without_tls_is_recognized() {
    let address = Ca::root("x").sign(|_| {}).serve(&[]).await;
    assert_eq!(
        probe_http(address, http()).await,
        failure("not an HTTP answer: the server speaks TLS, give kind = \"https\"")
    );
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_said_to_be_one() {
    let address = listener(|stream| async move {
        tokio::time::sleep(LINGER).await;
        drop(stream);
    })
    .await;
    assert_eq!(
        too_slow(address, Probe::Http(https(false, None, "www.example"))).await,
        failure("tls: handshake not complete within 1500 ms")
    );
}

#[tokio::test]
async fn an_empty_ca_file_is_not_a_failure_of_the_backend() {
    let address = Ca::root("x").sign(|_| {}).serve(&[]).await;
    let trusted = Trusted::new("");
    let said = |result: Result<(), Failure>| match result {
        Err(Failure::LocalError(reason)) => reason.replace(&trusted.file().display().to_string(), "FILE"),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(trusted.ask(address).await), "tls: ca file FILE: has no certificate in it");
    std::fs::write(trusted.file(), "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n")
        .unwrap();
    assert_eq!(said(trusted.ask(address).await), "tls: ca file FILE: certificate 1 in it cannot be read");
    std::fs::remove_file(trusted.file()).unwrap();
    assert_eq!(said(trusted.ask(address).await), "tls: ca file FILE: No such file or directory (os error 2)");
}
