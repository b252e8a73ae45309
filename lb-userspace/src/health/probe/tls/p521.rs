//! The curve P-521, which ring leaves out, by the crate `p521`: ECDSA in certificates and in the handshake, and the key
//! exchange. The latter not only for servers that insist on it: in TLS 1.2 a server whose key is on P-521 may talk only to
//! clients that name the curve there (RFC 8422, 5.1).

use std::sync::LazyLock;

use p521::{
    PublicKey,
    ecdh::EphemeralSecret,
    ecdsa::{Signature, VerifyingKey, signature::hazmat::PrehashVerifier},
    elliptic_curve::{Generate, sec1::ToSec1Point},
};
use ring::digest;
use rustls::{
    Error, NamedGroup, PeerMisbehaved, SignatureScheme,
    crypto::{
        ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup, WebPkiSupportedAlgorithms,
        ring as provider,
    },
    ffdhe_groups::FfdheGroup,
    pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id},
};

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

#[derive(Debug)]
struct P521 {
    signature: AlgorithmIdentifier,
    hash: &'static digest::Algorithm,
}

static SHA256: P521 = P521 { signature: alg_id::ECDSA_SHA256, hash: &digest::SHA256 };
static SHA384: P521 = P521 { signature: alg_id::ECDSA_SHA384, hash: &digest::SHA384 };
static SHA512: P521 = P521 { signature: alg_id::ECDSA_SHA512, hash: &digest::SHA512 };

impl SignatureVerificationAlgorithm for P521 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        let hash = digest::digest(self.hash, message);
        key.verify_prehash(hash.as_ref(), &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// The key exchange on P-521.
#[derive(Debug)]
struct Exchange;

struct Started {
    secret: EphemeralSecret,
    public: Box<[u8]>,
}

impl SupportedKxGroup for Exchange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = EphemeralSecret::try_generate().map_err(|_| Error::FailedToGetRandomBytes)?;
        let public = secret.public_key().to_sec1_point(false).as_bytes().into();
        Ok(Box::new(Started { secret, public }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

impl ActiveKeyExchange for Started {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = PublicKey::from_sec1_bytes(peer).map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        Ok(SharedSecret::from(&self.secret.diffie_hellman(&peer).raw_secret_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

/// Made once: what rustls asks for lives as long as the process.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| with_p521(&provider::default_provider().signature_verification_algorithms));

/// What ring verifies, and P-521.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = provider::default_provider();
    provider.signature_verification_algorithms = *ALGORITHMS;
    // Last: servers that have another one take that.
    provider.kx_groups.push(&Exchange);
    provider
}

/// In TLS 1.2 a scheme names the hash alone, so that P-521 is one more curve of the schemes that are there; 1.3 looks at
/// the first algorithm of a scheme only, which stays what it was.
fn with_p521(ring: &WebPkiSupportedAlgorithms) -> WebPkiSupportedAlgorithms {
    let with = |algorithms: &[Algorithm], more: &[Algorithm]| -> &'static [Algorithm] {
        algorithms.iter().chain(more).copied().collect::<Vec<_>>().leak()
    };
    let mut mapping = Vec::with_capacity(ring.mapping.len() + 1);
    for (scheme, algorithms) in ring.mapping {
        let more: &[Algorithm] = match *scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => &[&SHA256],
            SignatureScheme::ECDSA_NISTP384_SHA384 => &[&SHA384],
            _ => &[],
        };
        mapping.push((*scheme, with(algorithms, more)));
        if *scheme == SignatureScheme::ECDSA_NISTP256_SHA256 {
            mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, with(&[&SHA512], &[])));
        }
    }
    WebPkiSupportedAlgorithms { all: with(ring.all, &[&SHA256, &SHA384, &SHA512]), mapping: mapping.leak() }
}
