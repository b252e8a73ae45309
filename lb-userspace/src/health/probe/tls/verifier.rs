//! Who is trusted, and the check of a server's certificate. A refusal goes out in words: rustls is handed them as its
//! error.

use std::{
    error, fmt,
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::certificate::{self, Case};

/// Whose certificates are trusted.
#[derive(Debug)]
pub(super) struct Trust {
    /// For reasons: the file, or what is built in.
    pub name: String,
    pub roots: Arc<RootCertStore>,
    /// The certificates of the file; none for what is built in.
    pub own: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// The certificates of the PEM file `ca`, or the public web's.
    ///
    /// # Errors
    ///
    /// In words: the file cannot be read, or no certificate in it can be trusted.
    pub(super) fn read(ca: Option<&Path>) -> Result<Self, String> {
        let Some(ca) = ca else {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            return Ok(Self {
                name: "the public web's roots".into(),
                roots: Arc::new(roots),
                own: Vec::new(),
            });
        };
        let name = ca.display().to_string().escape_debug().to_string();
        let (roots, own) = Self::of_file(ca).map_err(|why| format!("ca file {name}: {why}"))?;
        Ok(Self { name, roots: Arc::new(roots), own })
    }

    fn of_file(ca: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Unreadable> {
        let text = text(ca)?;
        let mut roots = RootCertStore::empty();
        let mut own = Vec::new();
        for (at, certificate) in CertificateDer::pem_slice_iter(&text).enumerate() {
            let certificate = certificate.map_err(|error| Unreadable::NotPem(error.to_string()))?;
            roots.add(certificate.clone()).map_err(|_| Unreadable::Certificate(at + 1))?;
            own.push(certificate);
        }
        if roots.is_empty() {
            return Err(Unreadable::Empty);
        }
        Ok((roots, own))
    }
}

/// The text of a file that may be any that root can open: one that never ends, or never begins, holds up no reader.
fn text(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let mut open = OpenOptions::new();
    let file = open.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Unreadable::NoFile);
    }
    let mut text = Vec::new();
    if file.take(LONGEST + 1).read_to_end(&mut text)? as u64 > LONGEST {
        return Err(Unreadable::Long);
    }
    Ok(text)
}

/// The longest file of certificates that is read, in bytes; all roots of the public web take 220 KiB.
const LONGEST: u64 = 4 << 20;

/// Why there are no certificates to trust in a file. To be read on from its name.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("not a regular file")]
    NoFile,
    #[error("longer than {} MiB", LONGEST >> 20)]
    Long,
    #[error("not valid PEM: {0}")]
    NotPem(String),
    #[error("certificate {0} in it cannot be read")]
    Certificate(usize),
    #[error("has no certificate in it")]
    Empty,
}

impl Unreadable {
    /// What to do about it.
    fn way_out(&self) -> &'static str {
        match self {
            Self::File(_) | Self::NoFile => "name a file that can be read",
            Self::Long => "leave the certificates in it that the backends need",
            Self::NotPem(_) | Self::Certificate(_) => "export it again, in PEM",
            Self::Empty => "put the certificate of the authority there, in PEM",
        }
    }
}

/// Whether a file has certificates in it that can be trusted.
///
/// # Errors
///
/// [`Unreadable`], with the way out.
pub fn readable(ca: &Path) -> Result<(), Refused> {
    Trust::of_file(ca).map(drop).map_err(Refused)
}

/// Why a configuration that names a file is refused.
#[derive(Debug)]
pub struct Refused(Unreadable);

impl Refused {
    /// The caller may not read it; another user may.
    pub fn is_forbidden(&self) -> bool {
        matches!(&self.0, Unreadable::File(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(why) = self;
        let verb = match why {
            Unreadable::File(_) => "cannot be read: ",
            Unreadable::NoFile | Unreadable::Long | Unreadable::NotPem(_) => "is ",
            Unreadable::Certificate(_) => "is of no use: ",
            Unreadable::Empty => "",
        };
        write!(f, "{verb}{why}: {}, or leave `ca` out to trust the public web's roots", why.way_out())
    }
}

/// Words on their way through rustls.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Refusal {}

fn refusal(words: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refusal(words)))))
}

/// Takes a certificate that is for the name, of this time and signed by one that is trusted; or that is itself in the
/// file, where it has to be for the name and of this time all the same.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    webpki: Arc<WebPkiServerVerifier>,
}

impl Verifier {
    pub(super) fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::clone(&trust.roots), provider)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { trust, webpki })
    }

    /// A certificate that its owner signed and gave the marks of a CA (`openssl req -x509` does) is none of a server for
    /// webpki. Where it is in the file, what is to be trusted is clear.
    fn is_trusted_itself(&self, error: &Error, certificate: &CertificateDer<'_>) -> bool {
        certificate::may_be_trusted_itself(error) && self.trust.own.iter().any(|own| own == certificate)
    }

    fn case<'a>(
        &'a self,
        chain: &'a [&'a CertificateDer<'a>],
        server: Option<&'a ServerName<'a>>,
    ) -> Case<'a> {
        Case { chain, server, trust: &self.trust }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut result = self.webpki.verify_server_cert(certificate, others, server, ocsp, now);
        if let Err(error) = &result
            && self.is_trusted_itself(error, certificate)
        {
            result = certificate::check_time(certificate, now)
                .and_then(|()| verify_server_name(&ParsedCertificate::try_from(certificate)?, server))
                .map(|()| ServerCertVerified::assertion());
        }
        result.map_err(|error| {
            let chain: Vec<_> = [certificate].into_iter().chain(others).collect();
            refusal(self.case(&chain, Some(server)).words(&error))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = self.webpki.verify_tls12_signature(message, certificate, signature);
        result.map_err(|error| refusal(self.case(&[certificate], None).handshake_words(&error)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = self.webpki.verify_tls13_signature(message, certificate, signature);
        result.map_err(|error| refusal(self.case(&[certificate], None).handshake_words(&error)))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Takes whatever certificate is shown, for `verify = false`: the probe asks whether the backend works, and expired
/// or self-made certificates are the rule inside. Nothing secret is ever sent over such a connection.
#[derive(Debug)]
pub(super) struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    /// All that a server may have a key for: signatures are not looked at, so none is too new or too weak.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::ECDSA_SHA1_Legacy,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]
    }
}
