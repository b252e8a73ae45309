//! What went wrong in a handshake, in words. What is wrong with a certificate is `certificate`'s business.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::health::probe::words::spelled;

/// The words for an error of a TLS connection; `None` = it is not one of TLS.
pub(in crate::health::probe) fn error_words(error: &io::Error) -> Option<String> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(words)
}

fn words(error: &Error) -> String {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "the answer is not TLS".into(),
        Error::InvalidMessage(why) => format!("a message of the server cannot be read: {}", name_of(why)),
        Error::AlertReceived(alert) => alert_words(*alert),
        Error::PeerIncompatible(why) => incompatible(why),
        Error::PeerMisbehaved(why) => format!("the server breaks the protocol: {}", name_of(why)),
        Error::NoCertificatesPresented => "the server has no certificate".into(),
        // In the words of `certificate` already.
        Error::InvalidCertificate(CertificateError::Other(why)) => why.to_string(),
        Error::InvalidCertificate(why) => format!("certificate: {}", name_of(why)),
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            format!("the server sent a message out of order: {}", name_of(got_type))
        }
        Error::InappropriateMessage { got_type, .. } => {
            format!("the server sent a message out of order: {}", name_of(got_type))
        }
        other => other.to_string(),
    }
}

/// An error of the library that has no words here, by its name; values in it are left away.
pub(super) fn name_of(error: &impl std::fmt::Debug) -> String {
    let name = format!("{error:?}");
    spelled(name.split([' ', '(', '{']).next().unwrap_or_default())
}

fn incompatible(why: &PeerIncompatible) -> String {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            "the server speaks neither TLS 1.2 nor TLS 1.3".into()
        }
        other => format!("the server lacks what a probe needs: {}", name_of(other)),
    }
}

/// The server gave the connection up, and why, as far as it says. The name that the standard has for it comes last.
fn alert_words(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "the server finds no cipher, key exchange or signature that both sides speak, or wants a client certificate"
        }
        AlertDescription::ProtocolVersion => "the server speaks neither TLS 1.2 nor TLS 1.3",
        AlertDescription::UnrecognisedName => "the server knows no such host: set health.host",
        AlertDescription::CertificateRequired => {
            "the server wants a client certificate, which probes do not have"
        }
        AlertDescription::NoApplicationProtocol => "the server does not speak HTTP/1.1 (ALPN http/1.1)",
        AlertDescription::InternalError => "the server has an error of its own",
        _ => "the server gave up",
    };
    let name = match alert {
        AlertDescription::Unknown(number) => number.to_string(),
        known => name_of(&known),
    };
    format!("{meaning} (alert {name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_no_names_of_the_librarys_types_in_it() {
        let errors = [
            (
                Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon),
                "the server lacks what a probe needs: no kx groups in common",
            ),
            (
                Error::PeerMisbehaved(rustls::PeerMisbehaved::SelectedUnofferedKxGroup),
                "the server breaks the protocol: selected unoffered kx group",
            ),
            (
                Error::InvalidMessage(InvalidMessage::MissingData("CertificateRequest")),
                "a message of the server cannot be read: missing data",
            ),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "the answer is not TLS"),
            (Error::AlertReceived(AlertDescription::DecodeError), "the server gave up (alert decode error)"),
            (Error::AlertReceived(AlertDescription::Unknown(200)), "the server gave up (alert 200)"),
            (Error::InvalidCertificate(CertificateError::Revoked), "certificate: revoked"),
        ];
        for (error, expected) in errors {
            assert_eq!(
                error_words(&io::Error::new(io::ErrorKind::InvalidData, error)).as_deref(),
                Some(expected)
            );
        }
        assert_eq!(error_words(&io::Error::other("x")), None);
    }
}
