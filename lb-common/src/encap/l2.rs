//! Direct routing (`-g` of IPVS): nothing is put in front. The frame goes to the Ethernet address of the backend, which has
//! the service's address itself and so must be on a network of this host.

use super::{Outer, form};
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// See [`super::Kind::outer`].
pub(super) const fn outer(inner_is_v6: bool) -> Outer {
    let ethertype = if inner_is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    Outer { form: form::L2, ethertype, overhead: 0, template: [0; 8], sum: 0 }
}
