//! What a gRPC probe asks (grpc.health.v1). The question itself is in `health/probe/grpc.rs`.

use super::http::TlsProbe;
use crate::config::{value, value_tree::Node};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcProbe {
    /// `Some` = over TLS.
    pub tls: Option<TlsProbe>,
    /// Authority and TLS server name; `None` = the backend's address.
    pub host: Option<String>,
    /// The service that is asked about; empty = the server as a whole.
    pub service: String,
}

/// The name of a gRPC service.
pub(super) fn service(node: &Node) -> Result<String, String> {
    match value::string(node)? {
        "" => Ok(String::new()),
        _ => value::text(node, 255),
    }
}
