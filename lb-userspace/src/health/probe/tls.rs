//! The TLS part of an HTTPS probe: client settings made once, and the handshake.

use std::{collections::HashMap, io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Failure, http::Host};
use crate::config::spec::TlsProbe;

/// Client settings by what a probe asks for; thousands of backends share one. An entry that could not be made says
/// why, and its probes do.
#[derive(Default)]
pub struct Clients {
    made: HashMap<TlsProbe, Result<Arc<ClientConfig>, String>>,
}

impl Clients {
    /// Makes what `wanted` needs and forgets the rest. CA files are read again each time, so that a reload of the
    /// configuration takes up a renewed one.
    pub fn prepare<'a>(&mut self, wanted: impl IntoIterator<Item = &'a TlsProbe>) {
        let mut old = std::mem::take(&mut self.made);
        for probe in wanted {
            if self.made.contains_key(probe) {
                continue;
            }
            let kept = old.remove(probe).filter(|client| client.is_ok() && probe.ca.is_none());
            self.made.insert(probe.clone(), kept.unwrap_or_else(|| client(probe).map(Arc::new)));
        }
    }

    /// `None` only for settings that were not in the last [`Clients::prepare`].
    pub fn get(&self, probe: &TlsProbe) -> Option<&Result<Arc<ClientConfig>, String>> {
        self.made.get(probe)
    }
}

fn client(probe: &TlsProbe) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?;
    let mut config = if probe.verify {
        builder.with_root_certificates(roots(probe.ca.as_deref())?).with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            .with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A probe asks for the whole way, certificate included, each time; and nothing is kept per backend.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(ca) = ca else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let name = ca.display();
    let mut store = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(ca).map_err(|error| format!("tls: ca file {name}: {error}"))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("tls: ca file {name}: {error}"))?;
        store.add(certificate).map_err(|error| format!("tls: ca file {name}: {error}"))?;
    }
    if store.is_empty() {
        return Err(format!("tls: ca file {name}: has no certificate"));
    }
    Ok(store)
}

/// Shakes hands on a connected stream, asking for the name that `host` gives.
pub async fn handshake(
    stream: TcpStream,
    client: &Arc<ClientConfig>,
    host: &Host,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = ServerName::try_from(host.server_name().to_owned())
        .map_err(|_| Failure::NotAsked(format!("tls: {:?} is not a server name", host.server_name())))?;
    TlsConnector::from(Arc::clone(client)).connect(name, stream).await.map_err(|error| refused(&error))
}

fn refused(error: &io::Error) -> Failure {
    let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "the answer is not TLS".to_owned()
        }
        Some(error) => error.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "connection closed in the handshake".to_owned()
        }
        None if error.kind() == io::ErrorKind::ConnectionReset => {
            "connection reset in the handshake".to_owned()
        }
        None => error.to_string(),
    };
    Failure::Backend(format!("tls: {reason}"))
}

/// Takes whatever certificate is shown, for `verify = false`: the probe asks whether the backend works, and expired
/// or self-made certificates are the rule inside. Nothing secret is ever sent over such a connection.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
