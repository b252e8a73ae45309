//! IP in IP: the outer header is an IP header and nothing else (RFC 2003, RFC 2473, RFC 4213).

use super::{Outer, form, ip};
use crate::{
    Address, is_v4,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, protocol},
};

/// The protocol number for an inner packet of that family.
#[inline(always)]
pub const fn inner_protocol(inner_is_v6: bool) -> u8 {
    if inner_is_v6 { protocol::IPV6 } else { protocol::IPIP }
}

/// See [`super::Kind::outer`].
pub(super) const fn outer(source: &Address, destination: &Address, inner_is_v6: bool) -> Outer {
    if is_v4(destination) {
        let template = ip::template_v4(source[3], destination[3], inner_protocol(inner_is_v6));
        Outer { form: form::IPIP_V4, ethertype: ETHERTYPE_IPV4, overhead: ip::OVERHEAD_V4, template, sum: 0 }
    } else {
        let template = ip::template_v6(source, destination);
        Outer { form: form::IPIP_V6, ethertype: ETHERTYPE_IPV6, overhead: ip::OVERHEAD_V6, template, sum: 0 }
    }
}
