//! `[[service.backend]]`.

use std::net::IpAddr;

use crate::config::{
    diagnostic::Place,
    keys,
    reader::{Errors, Reader},
    spec::{BACKEND, Backend, Encapsulation},
    value,
    value_tree::Node,
};

/// What could be read of a backend.
pub(super) struct Found<'a> {
    /// `backend web/web-1`, or `backend web/#3` where it has no proper name.
    pub(super) object: String,
    pub(super) name: Option<(String, &'a Place)>,
    pub(super) address: Option<(IpAddr, &'a Place)>,
    /// `None` if a required value is missing or wrong.
    pub(super) backend: Option<Backend>,
}

pub(super) fn read<'a>(
    node: &'a Node,
    service: &str,
    index: usize,
    encapsulation: Encapsulation,
    errors: &'a Errors,
) -> Found<'a> {
    let name = identity(node);
    let object = match &name {
        Some(name) => format!("backend {service}/{name}"),
        None => format!("backend {service}/#{}", index + 1),
    };
    let Some(reader) = Reader::open(node, &object, "", &keys::BACKEND, errors) else {
        return Found { object: object.clone(), name: None, address: None, backend: None };
    };
    reader.optional("name", backend_name);
    let address = reader.required("address", "\"10.0.0.11\"", value::address);
    if let Some(address) = address {
        check_family(&reader, address, encapsulation);
    }
    let mut settings = Backend::default();
    BACKEND.read(&reader, &mut settings);
    let backend = name.clone().zip(address).map(|(name, address)| Backend { name, address, ..settings });
    let name = name.map(|name| (name, reader.place("name")));
    let address = address.map(|address| (address, reader.place("address")));
    Found { object: object.clone(), name, address, backend }
}

fn backend_name(node: &Node) -> Result<String, String> {
    // A backend without a name is called by its address, so a colon is allowed.
    value::name(node, ":")
}

/// The name of a backend. A backend without a name is called by its address; `None` where both are missing.
pub(in crate::config) fn identity(node: &Node) -> Option<String> {
    let table = node.as_table()?;
    match table.get("name").filter(|name| !matches!(name.data, crate::config::value_tree::Data::Null)) {
        Some(name) => backend_name(name).ok(),
        None => value::address(table.get("address")?).ok().map(|address| address.to_string()),
    }
}

/// The encapsulation's outer address family must be the backend's.
fn check_family(reader: &Reader<'_, '_>, address: IpAddr, encapsulation: Encapsulation) {
    use crate::config::words::Word;
    let Some((_, outer_v6)) = encapsulation.families() else { return };
    if address.is_ipv6() != outer_v6 {
        let (wants, has) = if outer_v6 { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        reader.wrong(
            reader.place("address"),
            format!(
                "address {address} is {has}, but the service's encapsulation {} needs {wants} backends: \
                 give its {wants} address, or set encapsulation = \"auto\"",
                encapsulation.word()
            ),
        );
    }
}
