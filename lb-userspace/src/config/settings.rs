//! A setting is defined once. The table of an object ([`settings!`]) has of each setting its key, its type, its default, its
//! documentation, and how its value is read and written. From the table follow the object's type in the spec, the keys that
//! the checker knows, the reference, what is rendered and compared, the options of `lbctl`, and the specs of property tests.

pub(super) mod values;

use serde_json::{Map, Value};

use super::reader::Reader;

/// There is no default: the key must be there.
pub const REQUIRED: &str = "required";
/// There is no default: without the key, what it describes does not exist.
pub const NOTHING: &str = "none";

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// As in the file: `[node]`, `[[service]]`.
    pub header: &'static str,
    /// What the table is, in Markdown.
    pub about: &'static str,
    pub keys: &'static [Key],
}

impl Section {
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

/// A key of a table.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: &'static str,
    /// The values that it takes, in words.
    pub takes: &'static str,
    /// The default as a file would have it; [`REQUIRED`] or [`NOTHING`] where there is none.
    pub default: &'static str,
    /// In Markdown.
    pub description: &'static str,
    /// `None` = `lbctl` has no option of that name.
    pub option: Option<CliOption>,
}

/// An option of `lbctl` that sets a key.
#[derive(Clone, Debug)]
pub struct CliOption {
    /// One line of `--help`.
    pub help: &'static str,
    pub form: Form,
}

/// What `lbctl` takes as a value; `name` is what the help calls it. Whatever `lbctl` does not check, the agent checks.
#[derive(Clone, Debug)]
pub enum Form {
    /// One of these words.
    Words(Vec<&'static str>),
    /// A whole number up to this.
    Number {
        name: &'static str,
        most: u32,
    },
    Text(&'static str),
    /// A number where it is one, else a text.
    NumberOrText(&'static str),
    /// Several of these.
    List(&'static str),
    /// No value: true.
    Switch,
}

/// Keys with their values as a file has them, in the order of the reference, without the keys that are not set.
pub(super) type Fields = Vec<(&'static str, String)>;

/// The settings of objects of one type.
pub(super) struct Table<S: 'static> {
    pub(super) header: &'static str,
    pub(super) about: &'static str,
    pub(super) settings: &'static [Setting<S>],
}

/// A setting of an object of type `S`.
pub(super) struct Setting<S> {
    pub(super) name: &'static str,
    pub(super) key: fn() -> Key,
    /// Takes the value over from the file where it is there. Reports a wrong one.
    pub(super) read: fn(&Reader<'_, '_>, &mut S),
    /// The value as a file has it; `None` = the key is left out.
    pub(super) show: fn(&S) -> Option<String>,
    /// Makes of any objects such with any value here.
    #[cfg(test)]
    pub(super) any: fn(AnyOf<S>) -> AnyOf<S>,
}

#[cfg(test)]
pub(super) type AnyOf<S> = proptest::strategy::BoxedStrategy<S>;

impl<S> Table<S> {
    /// The keys as data. Made once for each table, and never freed.
    pub(super) fn section(&self) -> Section {
        let keys: Vec<Key> = self.settings.iter().map(|setting| (setting.key)()).collect();
        Section { header: self.header, about: self.about, keys: keys.leak() }
    }

    /// Reads the settings of an object that has the defaults. Order does not matter: errors are sorted by place.
    pub(super) fn read(&self, reader: &Reader<'_, '_>, object: &mut S) {
        for setting in self.settings {
            (setting.read)(reader, object);
        }
    }

    /// The object as keys and values.
    pub(super) fn fields(&self, object: &S) -> Fields {
        let field = |setting: &Setting<S>| Some((setting.name, (setting.show)(object)?));
        self.settings.iter().filter_map(field).collect()
    }

    /// The object as a request has it.
    pub(super) fn json(&self, object: &S) -> Map<String, Value> {
        let lines = self.fields(object).into_iter().map(|(key, value)| format!("{key} = {value}\n"));
        toml::from_str(&lines.collect::<String>()).unwrap_or_default()
    }

    /// Objects with any values of the settings that have a field, and with that default for the rest.
    #[cfg(test)]
    pub(super) fn any(&self, default: S) -> AnyOf<S>
    where
        S: Clone + std::fmt::Debug,
    {
        use proptest::strategy::{Just, Strategy as _};
        self.settings.iter().fold(Just(default).boxed(), |any, setting| (setting.any)(any))
    }
}

/// A table of settings, and the type of the objects that have them.
///
/// `parts` are the fields that are no settings of their own: they are read by hand. Then every key of the table comes in the
/// order of the reference, with the field that has its value:
///
/// ```text
/// "key" (field: Type = default) {
///     values: those that it takes (see `values`),
///     about: "The text of the reference.",
///     lbctl: "The line of the option's help",   // without it, `lbctl` has no option
///     default: "in words",                      // where the default is not a value
///     read: function,                           // where the value depends on other keys
/// }
/// ```
///
/// A key without a field has `takes` and `default` in words instead of `values`, and `read` and `show` if need be.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Object:ident;
        table $TABLE:ident = $header:literal, $about:literal;
        parts { $($(#[$part_meta:meta])* $part:ident: $part_type:ty = $part_default:expr,)* }
        $($key:literal $(($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr))? { $($body:tt)* })*
    ) => {
        $(#[$meta])*
        $vis struct $Object {
            $($(#[$part_meta])* $vis $part: $part_type,)*
            $($($(#[$field_meta])* $vis $field: $type,)?)*
        }

        impl Default for $Object {
            /// Every setting at its default.
            fn default() -> Self {
                Self { $($part: $part_default,)* $($($field: $default,)?)* }
            }
        }

        pub(in crate::config) static $TABLE: $crate::config::settings::Table<$Object> =
            $crate::config::settings::Table {
                header: $header,
                about: $about,
                settings: &[$(settings!(@setting $Object, $key [$($field: $type = $default)?] { $($body)* }),)*],
            };
    };

    (@setting $Object:ident, $key:literal [$field:ident: $type:ty = $default:expr] {
        values: $values:expr,
        about: $about:literal,
        $(lbctl: $help:literal,)?
        $(default: $words:expr,)?
        $(read: $read:expr,)?
    }) => {{
        use $crate::config::settings::{Key, Setting, values::Values};
        fn values() -> impl Values<Value = $type> {
            $values
        }
        Setting {
            name: $key,
            key: || Key {
                name: $key,
                takes: values().takes().leak(),
                default: settings!(@or $($words)?; values().default(&$default).leak()),
                description: $about,
                option: settings!(@option values().form() $(, $help)?),
            },
            read: settings!(@or $($read)?; |reader, object: &mut $Object| {
                if let Some(value) = reader.optional($key, |node| values().parse(node)) {
                    object.$field = value;
                }
            }),
            show: |object| values().show(&object.$field),
            #[cfg(test)]
            any: |any| {
                use proptest::strategy::Strategy as _;
                let set = |(mut object, value): ($Object, $type)| {
                    object.$field = value;
                    object
                };
                (any, values().any()).prop_map(set).boxed()
            },
        }
    }};

    (@setting $Object:ident, $key:literal [] {
        takes: $takes:expr,
        default: $default:expr,
        about: $about:literal,
        $(lbctl: $help:literal => $form:expr,)?
        $(read: $read:expr,)?
        $(show: $show:expr,)?
    }) => {
        $crate::config::settings::Setting {
            name: $key,
            key: || $crate::config::settings::Key {
                name: $key,
                takes: $takes,
                default: $default,
                description: $about,
                option: settings!(@option $($form, $help)?),
            },
            read: settings!(@or $($read)?; |_, _: &mut $Object| {}),
            show: settings!(@or $($show)?; |_: &$Object| None),
            #[cfg(test)]
            any: |any| any,
        }
    };

    (@or $given:expr; $otherwise:expr) => { $given };
    (@or ; $otherwise:expr) => { $otherwise };

    (@option $form:expr, $help:literal) => {
        Some($crate::config::settings::CliOption { help: $help, form: $form })
    };
    (@option $($form:expr)?) => { None };
}
pub(super) use settings;
