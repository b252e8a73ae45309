//! Why a certificate was refused, in words that name the cause. Decides nothing: webpki has.

use rustls::{
    CertificateError, Error,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    parse_x509_certificate,
    public_key::PublicKey,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

use super::{errors::name_of, verifier::Trust};
use crate::health::probe::words::quoted;

/// Names of a certificate that are listed; of more, their number is.
const LISTED: usize = 4;
/// Bits of an RSA key below which no signature is taken.
const RSA_BITS: usize = 2048;

/// A certificate that was refused, and what it was refused by.
pub(super) struct Case<'a> {
    /// As the server sent them: its own first.
    pub chain: &'a [&'a CertificateDer<'a>],
    /// The name that was asked for.
    pub server: Option<&'a ServerName<'a>>,
    pub trust: &'a Trust,
}

/// Whether a certificate that is itself trusted may be taken all the same.
pub(super) fn may_be_trusted_itself(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer))
        || matches!(webpki_error(error), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Whether `now` is within the time of a certificate.
pub(super) fn check_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let Some(certificate) = parsed(certificate) else { return Err(CertificateError::BadEncoding.into()) };
    let unix = |time: ASN1Time| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.timestamp().try_into().unwrap_or(0)))
    };
    let validity = certificate.validity();
    let (not_before, not_after) = (unix(validity.not_before), unix(validity.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

fn webpki_error(error: &Error) -> Option<&webpki::Error> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(inner)) => inner.0.downcast_ref(),
        _ => None,
    }
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    parse_x509_certificate(certificate).ok().map(|(_, certificate)| certificate)
}

fn name(name: &X509Name<'_>) -> String {
    quoted(name.to_string().as_bytes())
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == certificate.subject().as_raw()
}

/// The bits of an RSA key; `None` = it is another one.
fn rsa_bits(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

fn moment(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    let Some(time) = time.map(|time| time.to_datetime()) else { return "an unknown date".into() };
    let (year, month, day) = time.to_calendar_date();
    format!("{year:04}-{:02}-{day:02} {:02}:{:02} UTC", u8::from(month), time.hour(), time.minute())
}

impl Case<'_> {
    /// Why the certificate was not taken.
    pub(super) fn words(&self, error: &Error) -> String {
        let why = match error {
            Error::InvalidCertificate(CertificateError::BadEncoding) => {
                return "certificate cannot be read: it is not valid DER".into();
            }
            Error::InvalidCertificate(why) => why,
            other => return format!("certificate: {}", name_of(other)),
        };
        let chain: Vec<_> = self.chain.iter().map_while(|certificate| parsed(certificate)).collect();
        let Some(first) = chain.first() else { return format!("certificate: {}", name_of(why)) };
        if let Some(old) = chain.iter().find(|one| one.version() != X509Version::V3)
            && matches!(webpki_error(error), Some(webpki::Error::UnsupportedCertVersion))
        {
            return format!(
                "{} is X.509 version {}, version 3 is needed",
                self.which(old, first),
                old.version().0 + 1
            );
        }
        match why {
            CertificateError::ExpiredContext { not_after, .. } => {
                let ends =
                    |one: &&X509Certificate<'_>| seconds(one.validity().not_after) == not_after.as_secs();
                format!(
                    "{} expired on {}",
                    self.which(chain.iter().find(ends).unwrap_or(first), first),
                    moment(*not_after)
                )
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                let begins =
                    |one: &&X509Certificate<'_>| seconds(one.validity().not_before) == not_before.as_secs();
                format!(
                    "{} is not valid before {}, and the clock of this host is",
                    self.which(chain.iter().find(begins).unwrap_or(first), first),
                    moment(*not_before)
                )
            }
            CertificateError::UnknownIssuer => self.unknown_issuer(&chain, first),
            CertificateError::BadSignature => self.bad_signature(&chain, first),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                self.other_name(first)
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "certificate is not for servers: its extended key usage lacks serverAuth".into()
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
                format!("{}, which is not supported", signed_with(&chain, first, signature_algorithm_id))
            }
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id,
                ..
            } => {
                let signed = signed_with(&chain, first, signature_algorithm_id);
                format!("{signed}, which is not supported for the key of its issuer")
            }
            CertificateError::UnhandledCriticalExtension => {
                "certificate has a critical extension that is not known here".into()
            }
            _ => match webpki_error(error) {
                Some(webpki::Error::CaUsedAsEndEntity) if is_self_issued(first) => self.self_signed(first),
                Some(webpki::Error::CaUsedAsEndEntity) => {
                    format!("certificate {} is that of a CA, not of a server", name(first.subject()))
                }
                Some(webpki::Error::EndEntityUsedAsCa) => {
                    "certificate is signed by one that is not of a CA (basic constraints)".into()
                }
                Some(webpki::Error::NameConstraintViolation) => {
                    "certificate is for a name that its CA must not sign for (name constraints)".into()
                }
                Some(webpki::Error::PathLenConstraintViolated) => {
                    "chain of certificates is longer than its CA allows (path length)".into()
                }
                Some(other) => format!("certificate: {}", name_of(other)),
                None => format!("certificate: {}", name_of(why)),
            },
        }
    }

    /// Why the signature of the handshake was not taken.
    pub(super) fn handshake_words(&self, error: &Error) -> String {
        let certificate = self.chain.first().and_then(|certificate| parsed(certificate));
        let weak = certificate.as_ref().and_then(|one| too_short(one, "certificate"));
        match error {
            Error::InvalidCertificate(CertificateError::BadSignature) => weak.unwrap_or_else(|| {
                "the server's handshake is signed with another key than that of its certificate".into()
            }),
            Error::InvalidCertificate(why) => format!("signature of the handshake: {}", name_of(why)),
            other => format!("signature of the handshake: {}", name_of(other)),
        }
    }

    /// The server's certificate, or another one of the chain by its subject.
    fn which(&self, one: &X509Certificate<'_>, first: &X509Certificate<'_>) -> String {
        if std::ptr::eq(one, first) {
            return "certificate".into();
        }
        format!("certificate of the CA {}", name(one.subject()))
    }

    fn self_signed(&self, first: &X509Certificate<'_>) -> String {
        format!("certificate {} is self-signed, and not in {}", name(first.subject()), self.trust.name)
    }

    /// Follows the chain as far as the server sent it.
    fn unknown_issuer(&self, chain: &[X509Certificate<'_>], first: &X509Certificate<'_>) -> String {
        if is_self_issued(first) {
            return self.self_signed(first);
        }
        let trust = &self.trust.name;
        let last = last_of(chain, first);
        if is_self_issued(last) {
            return format!("unknown CA {}: not in {trust}", name(last.subject()));
        }
        let issuer = name(last.issuer());
        if self.knows(last.issuer()) {
            return format!("no chain from the certificate to the CA {issuer} in {trust}");
        }
        if std::ptr::eq(last, first) {
            return format!(
                "certificate of the issuer {issuer} is neither sent by the server nor in {trust}: missing intermediate or unknown CA"
            );
        }
        format!("unknown CA {issuer}: not in {trust}")
    }

    /// Whether a trusted certificate has this name. Trust anchors hold the name without its outer tag and length.
    fn knows(&self, issuer: &X509Name<'_>) -> bool {
        let raw = issuer.as_raw();
        let header = match raw.get(1) {
            Some(&length) if length >= 0x80 => 2 + usize::from(length & 0x7f),
            _ => 2,
        };
        let Some(bare) = raw.get(header..) else { return false };
        self.trust.roots.roots.iter().any(|root| &root.subject[..] == bare)
    }

    /// A signature that does not verify. A key that is too short looks like one, too.
    fn bad_signature(&self, chain: &[X509Certificate<'_>], first: &X509Certificate<'_>) -> String {
        for one in chain {
            if let Some(words) = too_short(one, &self.which(one, first)) {
                return words;
            }
        }
        let issuer = last_of(chain, first).issuer();
        let trusted = self.trust.own.iter().filter_map(|own| parsed(own));
        for root in trusted.filter(|root| root.subject().as_raw() == issuer.as_raw()) {
            if let Some(words) = too_short(&root, &format!("CA {} in {}", name(issuer), self.trust.name)) {
                return words;
            }
        }
        if self.knows(issuer) {
            return format!(
                "certificate is signed by another CA {} than the one of that name in {}",
                name(issuer),
                self.trust.name
            );
        }
        format!("signature of the certificate is not that of its issuer {}", name(issuer))
    }

    fn other_name(&self, first: &X509Certificate<'_>) -> String {
        let wanted = self.server.map(|server| server.to_str().into_owned()).unwrap_or_default();
        let wanted = quoted(wanted.as_bytes());
        let alternative = first.subject_alternative_name().ok().flatten();
        let names: Vec<String> = alternative
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(quoted(name.as_bytes())),
                GeneralName::IPAddress(address) => {
                    address_of(address).map(|address| format!("\"{address}\""))
                }
                _ => None,
            })
            .collect();
        if names.is_empty() {
            return format!(
                "certificate {} has no subjectAltName, so it is not for {wanted}: the common name does not count",
                name(first.subject())
            );
        }
        let mut list = names[..names.len().min(LISTED)].join(", ");
        if names.len() > LISTED {
            list.push_str(&format!(" and {} more", names.len() - LISTED));
        }
        format!("certificate is for {list}, not for {wanted}")
    }
}

fn seconds(time: ASN1Time) -> u64 {
    time.timestamp().try_into().unwrap_or(0)
}

/// The last certificate that can be reached from the server's own by names of issuers.
fn last_of<'a, 'b>(
    chain: &'a [X509Certificate<'b>],
    first: &'a X509Certificate<'b>,
) -> &'a X509Certificate<'b> {
    let mut last = first;
    // Not more steps than certificates: they may name each other in a circle.
    for _ in chain {
        let next = chain.iter().find(|one| one.subject().as_raw() == last.issuer().as_raw());
        match next {
            Some(next) if !is_self_issued(last) => last = next,
            _ => break,
        }
    }
    last
}

fn too_short(certificate: &X509Certificate<'_>, which: &str) -> Option<String> {
    let bits = rsa_bits(certificate).filter(|bits| *bits < RSA_BITS)?;
    Some(format!("{which} has an RSA key of {bits} bits, {RSA_BITS} are needed"))
}

fn address_of(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
        _ => None,
    }
}

/// The algorithm by the name that most tools have for it, else by its number.
fn signed_with(chain: &[X509Certificate<'_>], first: &X509Certificate<'_>, algorithm: &[u8]) -> String {
    let used = |one: &&X509Certificate<'_>| {
        let number = one.signature_algorithm.algorithm.as_bytes();
        algorithm.windows(number.len()).any(|window| window == number)
    };
    let signed = chain.iter().find(used).unwrap_or(first);
    let algorithm = &signed.signature_algorithm.algorithm;
    let number = algorithm.to_id_string();
    let name = match number.as_str() {
        "1.2.840.113549.1.1.4" => "RSA with MD5",
        "1.2.840.113549.1.1.5" => "RSA with SHA-1",
        "1.2.840.113549.1.1.14" => "RSA with SHA-224",
        "1.2.840.113549.1.1.10" => "RSA-PSS with these parameters",
        "1.2.840.10045.4.1" => "ECDSA with SHA-1",
        "1.2.840.10045.4.3.1" => "ECDSA with SHA-224",
        "1.2.840.10045.4.3.2" => "ECDSA with SHA-256",
        "1.2.840.10045.4.3.3" => "ECDSA with SHA-384",
        "1.2.840.10045.4.3.4" => "ECDSA with SHA-512",
        "1.2.840.10040.4.3" | "2.16.840.1.101.3.4.3.2" => "DSA",
        "1.3.101.113" => "Ed448",
        other => other,
    };
    format!("certificate {} is signed with {name}", self::name(signed.subject()))
}
