//! Writes run-time changes into the text of a file. People wrote that text, so comments, order and form stay.

use std::path::PathBuf;

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, TableLike, Value};

use super::{
    diagnostic::Diagnostic,
    keys::{BACKEND, HEALTH, SERVICE, Section},
    overlay::{Entry, Key, Overlay},
    value_tree::{Data, Node, Table},
};

/// Why run-time changes could not be saved. The file and the changes are as they were.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(
        "{}: the file was changed since it was read: `lbctl config apply` reads it again, then save again",
        path.display()
    )]
    Conflict { path: PathBuf },
    #[error("{}", errors.first().map(ToString::to_string).unwrap_or_default())]
    Read { errors: Vec<Diagnostic> },
    #[error(
        "{}: cannot write the run-time changes into it ({why}): edit it by hand, `lbctl config diff` shows them",
        path.display()
    )]
    Edit { path: PathBuf, why: String },
}

/// The text with the changes in it.
pub(super) fn edit(text: &str, overlay: &Overlay) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.to_string())?;
    for (key, entry) in &overlay.0 {
        apply(&mut document, key, entry).ok_or_else(|| format!("{key} is not where it was"))?;
    }
    Ok(document.to_string())
}

/// `None` = the text has no such object.
fn apply(document: &mut DocumentMut, key: &Key, entry: &Entry) -> Option<()> {
    let root = document.as_table_mut();
    let Some(backend) = &key.backend else {
        let mut parent = Parent { table: root, inline: false };
        return edit_list(&mut parent, "service", &key.service, name_of_service, &SERVICE, entry);
    };
    let services = List::of(root, "service")?;
    let place = services.find(&key.service, name_of_service)?;
    edit_list(&mut services.into_element(place)?, "backend", backend, name_of_backend, &BACKEND, entry)
}

type Identity = fn(&dyn TableLike) -> Option<String>;

fn name_of_service(table: &dyn TableLike) -> Option<String> {
    Some(table.get("name")?.as_str()?.to_owned())
}

fn name_of_backend(table: &dyn TableLike) -> Option<String> {
    if table.contains_key("name") {
        return name_of_service(table);
    }
    let address: std::net::IpAddr = table.get("address")?.as_str()?.parse().ok()?;
    Some(address.to_string())
}

fn edit_list(
    parent: &mut Parent<'_>,
    list: &str,
    name: &str,
    identity: Identity,
    section: &Section,
    entry: &Entry,
) -> Option<()> {
    let values = match entry {
        Entry::Add(values) => {
            if List::of(parent.table, list).is_none() {
                let empty = parent.empty_list();
                parent.table.insert(list, empty);
            }
            List::of(parent.table, list)?.push(values, section);
            return Some(());
        }
        Entry::Set(values) => Some(values),
        Entry::Remove => None,
    };
    let mut elements = List::of(parent.table, list)?;
    let place = elements.find(name, identity)?;
    match values {
        Some(values) => set(elements.into_element(place)?.table, values),
        None => elements.remove(place),
    }
    Some(())
}

/// A table whose list is edited.
struct Parent<'a> {
    table: &'a mut dyn TableLike,
    /// `{ … }`: every table in it must be inline, too.
    inline: bool,
}

impl Parent<'_> {
    fn empty_list(&self) -> Item {
        if self.inline {
            Item::Value(Value::Array(Array::new()))
        } else {
            Item::ArrayOfTables(ArrayOfTables::new())
        }
    }
}

/// Services or backends, in one of TOML's two forms: `[[service]]` or `service = [{ … }]`.
enum List<'a> {
    Tables(&'a mut ArrayOfTables),
    Inline(&'a mut Array),
}

impl<'a> List<'a> {
    fn of(parent: &'a mut dyn TableLike, key: &str) -> Option<Self> {
        match parent.get_mut(key)? {
            Item::ArrayOfTables(tables) => Some(Self::Tables(tables)),
            Item::Value(Value::Array(array)) => Some(Self::Inline(array)),
            _ => None,
        }
    }

    fn find(&self, name: &str, identity: Identity) -> Option<usize> {
        let is = |table: &dyn TableLike| identity(table).is_some_and(|found| found == name);
        match self {
            Self::Tables(tables) => tables.iter().position(|table| is(table)),
            Self::Inline(array) => {
                array.iter().position(|value| value.as_inline_table().is_some_and(|table| is(table)))
            }
        }
    }

    fn into_element(self, place: usize) -> Option<Parent<'a>> {
        Some(match self {
            Self::Tables(tables) => Parent { table: tables.get_mut(place)?, inline: false },
            Self::Inline(array) => {
                Parent { table: array.get_mut(place)?.as_inline_table_mut()?, inline: true }
            }
        })
    }

    fn push(&mut self, values: &Table, section: &Section) {
        match self {
            Self::Tables(tables) => {
                let mut table = toml_edit::Table::new();
                table.extend(ordered(values, section));
                tables.push(table);
            }
            Self::Inline(array) => {
                let mut table = InlineTable::new();
                table.extend(ordered(values, section));
                array.push(table);
            }
        }
    }

    fn remove(&mut self, place: usize) {
        match self {
            Self::Tables(tables) if place < tables.len() => {
                let removed = tables.remove(place);
                if let Some(next) = tables.get_mut(place) {
                    keep_comments(&removed, next);
                }
            }
            Self::Inline(array) if place < array.len() => {
                array.remove(place);
            }
            _ => {}
        }
    }
}

/// Comments right above a removed table are removed with it. Comments that a blank line separates from the table are about more
/// than this table: they move to the next table.
fn keep_comments(removed: &toml_edit::Table, next: &mut toml_edit::Table) {
    let prefix = |table: &toml_edit::Table| {
        table.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default().to_owned()
    };
    let above = prefix(removed);
    let Some((apart, _)) = above.rsplit_once("\n\n").filter(|(apart, _)| !apart.trim().is_empty()) else {
        return;
    };
    let own = prefix(next);
    next.decor_mut().set_prefix(format!("{apart}\n\n{}", own.trim_start_matches('\n')));
}

fn set(table: &mut dyn TableLike, values: &Table) {
    for (key, member) in &values.0 {
        let Some(mut value) = value(&member.value) else {
            table.remove(key);
            continue;
        };
        match table.get_mut(key) {
            Some(Item::Value(old)) => {
                // Spaces and comments around the value stay.
                *value.decor_mut() = old.decor().clone();
                *old = value;
            }
            _ => {
                table.remove(key);
                table.insert(key, Item::Value(value));
            }
        }
    }
}

/// The values in the order of the reference.
fn ordered(values: &Table, section: &Section) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> =
        values.0.iter().filter_map(|(key, member)| Some((key.clone(), value(&member.value)?))).collect();
    all.sort_by_key(|(key, _)| section.names().position(|name| name == key));
    all
}

/// `None` for null, which means an absent key.
fn value(node: &Node) -> Option<Value> {
    Some(match &node.data {
        Data::Null => return None,
        Data::Bool(value) => Value::from(*value),
        Data::Int(value) => Value::from(i64::try_from(*value).ok()?),
        Data::Float(value) => Value::from(*value),
        Data::Str(text) | Data::Date(text) => Value::from(text.as_str()),
        Data::Array(elements) => Value::Array(elements.iter().filter_map(|element| value(element)).collect()),
        // Health checks are the only tables within a service.
        Data::Table(table) => Value::InlineTable(ordered(table, &HEALTH).into_iter().collect()),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Change, Configuration, overlay::Overlay, parse};

    const TEXT: &str = r#"# About the file.
[node]
interface = "eth0" # where it comes in
seed = "s"

# About the services.

# About web.
[[service]]
name = "web"      # aligned
listen = "tcp/192.0.2.1:80"

[service.health]
fall = 3

# About web-1.
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
weight = 50       # half

[[service.backend]] # no name
address = "10.0.0.12"

# About dns.
[[service]]
name = "dns"
listen = "udp/192.0.2.1:53"

[limits]
flows = 2048
"#;

    fn after(changes: &[(&str, &str)]) -> String {
        let document = parse(TEXT.as_bytes(), "lb.toml").unwrap();
        let mut now = Configuration::new(document, &Overlay::default());
        for (change, body) in changes {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let mut words = change.split(' ').map(str::to_owned);
            let verb = words.next().unwrap();
            let service = words.next().unwrap_or_default();
            let backend = words.next().unwrap_or_default();
            let change = match verb.as_str() {
                "service+" => Change::ServiceAdd { body },
                "service" => Change::ServiceSet { service, body },
                "service-" => Change::ServiceRemove { service },
                "backend+" => Change::BackendAdd { service, body },
                "backend" => Change::BackendSet { service, backend, body },
                _ => Change::BackendRemove { service, backend },
            };
            now = now.change(&change).unwrap().configuration;
        }
        now.edited().unwrap()
    }

    /// The lines that were removed, and the lines that were added.
    fn lines(changes: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let after = after(changes);
        let only = |a: &str, b: &str| -> Vec<String> {
            let mut others: Vec<&str> = b.lines().collect();
            let mut only = Vec::new();
            for line in a.lines() {
                match others.iter().position(|other| *other == line) {
                    Some(place) => drop(others.remove(place)),
                    None => only.push(line.to_owned()),
                }
            }
            only
        };
        (only(TEXT, &after), only(&after, TEXT))
    }

    #[test]
    fn a_value_is_replaced_in_place() {
        let (gone, come) = lines(&[("backend web web-1", r#"{"weight": 7}"#)]);
        assert_eq!(
            (gone.join("|"), come.join("|")),
            ("weight = 50       # half".into(), "weight = 7       # half".into())
        );
    }

    #[test]
    fn a_new_value_is_appended_and_a_default_removed() {
        let (gone, come) = lines(&[("backend web 10.0.0.12", r#"{"state": "draining"}"#)]);
        assert_eq!((gone.join("|"), come.join("|")), (String::new(), "state = \"draining\"".into()));
        let (gone, come) = lines(&[("backend web web-1", r#"{"weight": null}"#)]);
        assert_eq!((gone.join("|"), come.join("|")), ("weight = 50       # half".into(), String::new()));
    }

    #[test]
    fn a_new_backend_follows_those_of_its_service() {
        let text = after(&[("backend+ web", r#"{"weight": 1, "address": "10.0.0.13"}"#)]);
        let expected = "address = \"10.0.0.12\"\n\n[[service.backend]]\naddress = \"10.0.0.13\"\nweight = 1\n\n# About dns.";
        assert!(text.contains(expected), "{text}");
        let text = after(&[("backend+ dns", r#"{"address": "10.0.0.13"}"#)]);
        assert!(
            text.contains("udp/192.0.2.1:53\"\n\n[[service.backend]]\naddress = \"10.0.0.13\"\n\n[limits]"),
            "{text}"
        );
    }

    #[test]
    fn a_new_service_follows_the_others() {
        let body = r#"{"name": "x", "listen": "tcp/192.0.2.2:0", "health": {"port": 5, "kind": "tcp"}, "backend": [{"address": "10.0.0.1"}]}"#;
        let text = after(&[("service+", body)]);
        let expected = "\n[[service]]\nname = \"x\"\nlisten = \"tcp/192.0.2.2:0\"\nhealth = { kind = \"tcp\", port = 5 }\n\n\
                        [[service.backend]]\naddress = \"10.0.0.1\"\n\n[limits]\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_table_in_a_table_of_its_own_is_replaced_too() {
        let text = after(&[("service web", r#"{"health": {"rise": 5}}"#)]);
        assert!(
            !text.contains("[service.health]") && text.contains("health = { rise = 5, fall = 3 }"),
            "{text}"
        );
        let text = after(&[("service web", r#"{"health": {"kind": "tcp", "rise": 5}}"#)]);
        assert!(text.contains("health = { kind = \"tcp\", rise = 5 }"), "{text}");
    }

    #[test]
    fn a_removal_takes_only_its_own_comment() {
        let text = after(&[("service- web", "null")]);
        assert!(!text.contains("About web") && !text.contains("10.0.0.1"), "{text}");
        assert!(
            text.contains("# About the services.\n\n# About dns.\n[[service]]\nname = \"dns\""),
            "{text}"
        );
        let text = after(&[("backend- web web-1", "null")]);
        assert!(!text.contains("About web-1") && text.contains("[[service.backend]] # no name"), "{text}");
    }
}
