//! JSON as YAML 1.2 in block style. Strings that a reader could take for something else are quoted as in JSON, which YAML
//! reads as it is.

use serde_json::Value;

/// A document without its `---`; ends with a line feed.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    match is_block(value) {
        true => block(&mut text, value, 0),
        false => {
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
    text
}

/// Whether a value takes lines of its own.
fn is_block(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => false,
    }
}

fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Array(items) => {
            for item in items {
                indented(text, indent, "-");
                let begin = text.len();
                after(text, item, indent);
                // A block begins on the line of its dash, whose two characters are its indentation.
                if is_block(item) {
                    text.replace_range(begin..begin + 1 + indent + 2, " ");
                }
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                indented(text, indent, &string(key));
                text.push(':');
                after(text, value, indent);
            }
        }
        _ => {}
    }
}

/// What follows a dash or a key: a value on the same line, or a block below.
fn after(text: &mut String, value: &Value, indent: usize) {
    if is_block(value) {
        text.push('\n');
        block(text, value, indent + 2);
    } else {
        text.push(' ');
        text.push_str(&scalar(value));
        text.push('\n');
    }
}

fn indented(text: &mut String, indent: usize, what: &str) {
    text.extend(std::iter::repeat_n(' ', indent));
    text.push_str(what);
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        // Empty lists and objects, numbers, truth values and null are written as in JSON.
        other => other.to_string(),
    }
}

fn string(text: &str) -> String {
    /// Words that YAML 1.1 or 1.2 takes for something else.
    const TAKEN: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && !TAKEN.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let quoted = Value::String(text.to_owned()).to_string();
    let mut safe = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        // JSON leaves these as they are; YAML has them escaped (5.1, "Character Set").
        if c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_are_indented_and_empty_ones_are_on_one_line() {
        let value = json!([
            { "name": "web-1", "totals": { "packets": 7 }, "notes": [], "hop": null },
            { "name": "yes", "tags": ["a b", ["c"]], "up": true },
        ]);
        let expected = "\
- hop: null
  name: web-1
  notes: []
  totals:
    packets: 7
- name: \"yes\"
  tags:
    - \"a b\"
    - - c
  up: true
";
        assert_eq!(document(&value), expected);
        assert_eq!(document(&json!([])), "[]\n");
        assert_eq!(document(&json!("10")), "\"10\"\n");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "[-a-zA-Z0-9:#.~_/ \\n\\t\\\\\"']{0,12}".prop_map(Value::from),
            prop::sample::select(vec![
                "yes", "No", "~", "null", "1e3", "0x1f", "-", "1_000", "\u{85}", "\u{feff}", "\u{7f}"
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((".{0,8}", inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_reader_of_yaml_gets_what_was_written(value in any_value()) {
            let text = document(&value);
            let read: Value = serde_yaml_ng::from_str(&text).map_err(|why| TestCaseError::fail(format!("{why}: {text}")))?;
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
