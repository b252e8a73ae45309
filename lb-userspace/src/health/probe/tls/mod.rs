//! The TLS part of an HTTPS probe: client settings made once, and the handshake.

mod certificate;
mod errors;
mod p521;
mod verifier;

use std::{collections::HashMap, io, sync::Arc};

use rustls::{ClientConfig, client::Resumption, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(super) use self::errors::error_words;
pub use self::verifier::readable;
use self::verifier::{AnyCertificate, Trust, Verifier};
use super::{Failure, http::Host};
use crate::config::spec::TlsProbe;

/// Protocols that a client offers.
pub(super) const HTTP_1: &[u8] = b"http/1.1";
pub(super) const HTTP_2: &[u8] = b"h2";

/// Client settings by what a probe asks for; thousands of backends share one. An entry that could not be made says
/// why, and its probes do.
#[derive(Default)]
pub struct Clients {
    made: HashMap<TlsProbe, Client>,
}

struct Client {
    config: Result<Arc<ClientConfig>, String>,
    /// Why the file of certificates could not be read again; `config` is from before.
    stale: Option<Arc<str>>,
}

impl Clients {
    /// Makes what `wanted` needs and forgets the rest. CA files are read again each time, so that a reload of the
    /// configuration takes up a renewed one. Where that fails, what was read before is used on: checks that cease leave
    /// dead backends `up`.
    pub fn prepare<'a>(&mut self, wanted: impl IntoIterator<Item = &'a TlsProbe>) {
        let mut old = std::mem::take(&mut self.made);
        for probe in wanted {
            if self.made.contains_key(probe) {
                continue;
            }
            let old = old.remove(probe).filter(|old| old.config.is_ok());
            let made = match old {
                Some(old) if probe.ca.is_none() => old,
                old => renewed(client(probe).map(Arc::new), old),
            };
            self.made.insert(probe.clone(), made);
        }
    }

    /// `None` only for settings that were not in the last [`Clients::prepare`].
    pub fn get(&self, probe: &TlsProbe) -> Option<&Result<Arc<ClientConfig>, String>> {
        self.made.get(probe).map(|client| &client.config)
    }

    /// Why the certificates that a probe trusts are older than their file.
    pub fn stale(&self, probe: &TlsProbe) -> Option<Arc<str>> {
        self.made.get(probe)?.stale.clone()
    }
}

fn renewed(config: Result<Arc<ClientConfig>, String>, old: Option<Client>) -> Client {
    match (config, old) {
        (Err(why), Some(old)) => {
            if old.stale.as_deref() != Some(&why) {
                log::error!("{why}: checks go on with the certificates read before");
            }
            Client { config: old.config, stale: Some(why.into()) }
        }
        (config, _) => Client { config, stale: None },
    }
}

fn client(probe: &TlsProbe) -> Result<ClientConfig, String> {
    let provider = Arc::new(p521::provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?
        .dangerous();
    let builder = if probe.verify {
        let verifier = Trust::read(probe.ca.as_deref()).and_then(|trust| Verifier::new(trust, provider));
        builder.with_custom_certificate_verifier(Arc::new(verifier.map_err(|why| format!("tls: {why}"))?))
    } else {
        builder.with_custom_certificate_verifier(Arc::new(AnyCertificate))
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    // A probe asks for the whole way, certificate included, each time; and nothing is kept per backend.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Shakes hands on a connected stream, offering `protocol` and asking for the name that `host` gives.
pub async fn handshake(
    stream: TcpStream,
    client: &Arc<ClientConfig>,
    protocol: &[u8],
    host: &Host,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = ServerName::try_from(host.server_name().to_owned())
        .map_err(|_| Failure::LocalError(format!("tls: {:?} is not a server name", host.server_name())))?;
    let mut client = Arc::clone(client);
    if client.alpn_protocols != [protocol] {
        let mut other = ClientConfig::clone(&client);
        other.alpn_protocols = vec![protocol.to_vec()];
        client = Arc::new(other);
    }
    TlsConnector::from(client).connect(name, stream).await.map_err(|error| refused(&error))
}

fn refused(error: &io::Error) -> Failure {
    let reason = error_words(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed in the handshake".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "connection reset in the handshake".to_owned()
        }
        _ => error.to_string(),
    });
    Failure::Backend(format!("tls: {reason}"))
}
