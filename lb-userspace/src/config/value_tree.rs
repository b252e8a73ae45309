//! One small tree for TOML files and JSON bodies, with the place of each value, so that one checker serves both.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use toml::{Spanned, de::DeTable, de::DeValue};

use super::{diagnostic::Place, positions::Positions};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) data: Data,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    /// JSON only; means that the member is absent.
    Null,
    Bool(bool),
    /// A whole number beyond 128 bits becomes the nearest number that fits.
    Int(i128),
    Float(f64),
    Str(String),
    /// TOML only; no key takes a date.
    Date(String),
    /// Elements are shared, so that a tree of ten thousand backends is copied quickly and one of them can be changed.
    Array(Vec<Arc<Node>>),
    Table(Table),
}

/// Members by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) BTreeMap<String, Member>);

/// A member of a table. The places of its name and of its value differ in a file.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) at: Place,
    pub(super) value: Node,
}

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.0.get(name).map(|member| &member.value)
    }

    pub(super) fn set(&mut self, name: &str, value: Node) {
        self.0.insert(name.to_owned(), Member { at: value.at.clone(), value });
    }
}

impl Node {
    pub(super) fn as_table(&self) -> Option<&Table> {
        if let Data::Table(table) = &self.data { Some(table) } else { None }
    }

    pub(super) fn as_table_mut(&mut self) -> Option<&mut Table> {
        if let Data::Table(table) = &mut self.data { Some(table) } else { None }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Data::Str(text) = &self.data { Some(text) } else { None }
    }

    /// The elements of an array; any other value counts as an array with this one element.
    pub(super) fn one_or_many(&self) -> Vec<&Self> {
        match &self.data {
            Data::Array(elements) => elements.iter().map(AsRef::as_ref).collect(),
            _ => vec![self],
        }
    }

    /// The same value at another place, with its members and elements below that place.
    pub(super) fn moved(&self, at: Place) -> Self {
        let data = match &self.data {
            Data::Array(elements) => Data::Array(
                elements
                    .iter()
                    .enumerate()
                    .map(|(i, element)| Arc::new(element.moved(at.element(i))))
                    .collect(),
            ),
            Data::Table(table) => Data::Table(table.moved(&at)),
            other => other.clone(),
        };
        Self { at, data }
    }

    /// The value in words, for messages that say what was expected.
    pub(super) fn describe(&self) -> String {
        match &self.data {
            Data::Null => "null".to_owned(),
            Data::Bool(value) => value.to_string(),
            Data::Int(value) => format!("the number {value}"),
            Data::Float(value) => format!("the number {value}"),
            Data::Str(text) => format!("the string {}", quote(text)),
            Data::Date(text) => format!("the date {text}"),
            Data::Array(_) => "an array".to_owned(),
            Data::Table(_) => "a table".to_owned(),
        }
    }

    /// Whether two values are equal, no matter at which places they are. Members that are null count as absent.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (&self.data, &other.data) {
            (Data::Null, Data::Null) => true,
            (Data::Bool(a), Data::Bool(b)) => a == b,
            (Data::Int(a), Data::Int(b)) => a == b,
            (Data::Float(a), Data::Float(b)) => a.to_bits() == b.to_bits(),
            (Data::Str(a), Data::Str(b)) | (Data::Date(a), Data::Date(b)) => a == b,
            (Data::Array(a), Data::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (Data::Table(a), Data::Table(b)) => {
                let present = |table: &Table| {
                    table.0.values().filter(|member| !matches!(member.value.data, Data::Null)).count()
                };
                present(a) == present(b)
                    && a.0.iter().all(|(name, member)| {
                        matches!(member.value.data, Data::Null)
                            || b.get(name).is_some_and(|other| member.value.same(other))
                    })
            }
            _ => false,
        }
    }

    pub(super) fn from_toml(table: Spanned<DeTable<'_>>, positions: &Positions<'_>) -> Self {
        Self { at: positions.at(0), data: Data::Table(toml_table(table.into_inner(), positions)) }
    }

    pub(super) fn from_json(value: &Value, at: Place) -> Self {
        let data = match value {
            Value::Null => Data::Null,
            Value::Bool(value) => Data::Bool(*value),
            Value::Number(number) => match number.as_i128() {
                Some(value) => Data::Int(value),
                None => Data::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Data::Str(text.clone()),
            Value::Array(values) => Data::Array(
                values
                    .iter()
                    .enumerate()
                    .map(|(i, value)| Arc::new(Self::from_json(value, at.element(i))))
                    .collect(),
            ),
            Value::Object(values) => {
                let member = |(name, value): (&String, &Value)| {
                    let at = at.member(name);
                    (name.clone(), Member { at: at.clone(), value: Self::from_json(value, at) })
                };
                Data::Table(Table(values.iter().map(member).collect()))
            }
        };
        Self { at, data }
    }

    /// The value as JSON. A number that does not fit becomes null; the checker has refused such a number before.
    pub(super) fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Int(value) => i64::try_from(*value).map_or(Value::Null, Value::from),
            Data::Float(value) => Value::from(*value),
            Data::Str(text) | Data::Date(text) => Value::String(text.clone()),
            Data::Array(elements) => Value::Array(elements.iter().map(|element| element.to_json()).collect()),
            Data::Table(table) => table.to_json(),
        }
    }
}

impl Table {
    /// The same members in a table at another place.
    pub(super) fn moved(&self, at: &Place) -> Self {
        let member = |(name, member): (&String, &Member)| {
            let at = at.member(name);
            (name.clone(), Member { at: at.clone(), value: member.value.moved(at) })
        };
        Self(self.0.iter().map(member).collect())
    }

    pub(super) fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, member)| (name.clone(), member.value.to_json())).collect())
    }
}

fn toml_table(table: DeTable<'_>, positions: &Positions<'_>) -> Table {
    let member = |(name, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
        let at = positions.at(name.span().start);
        let name: std::borrow::Cow<'_, str> = name.into_inner();
        (name.into_owned(), Member { at, value: toml_value(value, positions) })
    };
    Table(table.into_iter().map(member).collect())
}

fn toml_value(value: Spanned<DeValue<'_>>, positions: &Positions<'_>) -> Node {
    let at = positions.at(value.span().start);
    let data = match value.into_inner() {
        DeValue::String(text) => Data::Str(text.into_owned()),
        DeValue::Integer(number) => Data::Int(integer(number.as_str(), number.radix())),
        DeValue::Float(number) => Data::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Data::Bool(value),
        DeValue::Datetime(date) => Data::Date(date.to_string()),
        DeValue::Array(elements) => Data::Array(
            elements.into_iter().map(|element| Arc::new(toml_value(element, positions))).collect(),
        ),
        DeValue::Table(table) => Data::Table(toml_table(table, positions)),
    };
    Node { at, data }
}

/// The parser has checked the digits, so the only error is a number that does not fit. Such a number is out of every range.
fn integer(digits: &str, radix: u32) -> i128 {
    i128::from_str_radix(digits, radix).unwrap_or(if digits.starts_with('-') { i128::MIN } else { i128::MAX })
}

/// A string in the form for messages: quoted, escaped, cut to 60 characters.
pub(crate) fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Node {
        Node::from_json(&serde_json::from_str(text).unwrap(), Place::Body("$".into()))
    }

    #[test]
    fn json_values_carry_their_path() {
        let node = json(r#"{"backend": [{"weight": 5}]}"#);
        let weight = |node: &Node| match &node.as_table().unwrap().get("backend").unwrap().data {
            Data::Array(backends) => backends[0].as_table().unwrap().get("weight").unwrap().at.to_string(),
            _ => String::new(),
        };
        assert_eq!(weight(&node), "backend[0].weight of the request");
        let moved = node.moved(Place::Overlay("web".into()));
        assert_eq!(weight(&moved), "run-time change of web.backend[0].weight");
    }

    #[test]
    fn toml_values_carry_line_and_column_of_name_and_value() {
        let text = "[node]\nseed = 'x'\n";
        let positions = Positions::new("f".into(), text);
        let root = Node::from_toml(DeTable::parse(text).unwrap(), &positions);
        let node = root.as_table().unwrap().get("node").unwrap();
        let seed = &node.as_table().unwrap().0["seed"];
        assert_eq!(seed.at.to_string(), "f:2:1");
        assert_eq!(seed.value.at.to_string(), "f:2:8");
    }

    #[test]
    fn the_same_is_said_without_regard_to_place_order_or_null() {
        assert!(json(r#"{"a": 1, "b": [true]}"#).same(&json(r#"{"b": [true], "c": null, "a": 1}"#)));
        assert!(!json(r#"{"a": 1}"#).same(&json(r#"{"a": 1.0}"#)));
        assert!(!json(r#"{"a": 1}"#).same(&json(r#"{"a": 1, "b": 2}"#)));
        assert!(!json(r#"[1, 2]"#).same(&json(r#"[1]"#)));
    }

    #[test]
    fn json_comes_back_as_it_went_in() {
        let text = r#"{"a":[1,-2.5,"x",null,{"b":false}]}"#;
        assert_eq!(json(text).to_json().to_string(), text);
    }

    #[test]
    fn long_and_odd_strings_are_cut_and_escaped() {
        assert_eq!(quote("a\"b\n"), r#""a\"b\n""#);
        assert_eq!(quote(&"ä".repeat(61)), format!("\"{}\"…", "ä".repeat(60)));
    }
}
