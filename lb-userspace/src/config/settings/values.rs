//! The kinds of values that settings take: how each is read, written, described, and typed at `lbctl`.

use std::{fmt, marker::PhantomData, ops::RangeInclusive, time::Duration};

#[cfg(test)]
use proptest::{prelude::*, strategy::BoxedStrategy};

use super::{Form, NOTHING};
use crate::config::{
    value,
    value_tree::Node,
    words::{self, Word},
};

/// The values of a setting.
pub(in crate::config) trait Values {
    type Value: fmt::Debug;

    /// In words, for the reference.
    fn takes(&self) -> String;

    fn form(&self) -> Form;

    /// The error continues the key's name.
    fn parse(&self, node: &Node) -> Result<Self::Value, String>;

    /// As a file has it; `None` = the key is left out.
    fn show(&self, value: &Self::Value) -> Option<String>;

    /// The default, for the reference.
    fn default(&self, value: &Self::Value) -> String {
        self.show(value).unwrap_or_else(|| NOTHING.to_owned())
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<Self::Value>;
}

/// One of the words of a type.
pub(in crate::config) struct Words<T>(PhantomData<T>);

pub(in crate::config) const fn words<T: Word>() -> Words<T> {
    Words(PhantomData)
}

impl<T: Word + fmt::Debug> Values for Words<T> {
    type Value = T;

    /// `"auto", "native" or "generic"`
    fn takes(&self) -> String {
        let quoted: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        match quoted.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }

    fn form(&self) -> Form {
        Form::Words(T::WORDS.iter().map(|(word, _)| *word).collect())
    }

    fn parse(&self, node: &Node) -> Result<T, String> {
        value::word(node)
    }

    fn show(&self, value: &T) -> Option<String> {
        Some(quoted(value.word()))
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<T> {
        prop::sample::select(T::WORDS).prop_map(|(_, value)| value).boxed()
    }
}

/// A whole number in a range.
pub(in crate::config) struct Numbers<T> {
    range: RangeInclusive<T>,
    name: &'static str,
}

pub(in crate::config) const fn numbers<T>(range: RangeInclusive<T>) -> Numbers<T> {
    Numbers { range, name: "N" }
}

impl<T> Numbers<T> {
    /// Another name than `N` in the help of `lbctl`.
    pub(in crate::config) fn called(self, name: &'static str) -> Self {
        Self { name, ..self }
    }
}

impl<T> Values for Numbers<T>
where
    T: TryFrom<i128> + TryInto<i128> + PartialOrd + Copy + fmt::Display + fmt::Debug + 'static,
{
    type Value = T;

    fn takes(&self) -> String {
        format!("{} to {}", self.range.start(), self.range.end())
    }

    fn form(&self) -> Form {
        let most = if T::try_from(u32::MAX.into()).is_ok() { u32::MAX } else { u16::MAX.into() };
        Form::Number { name: self.name, most }
    }

    fn parse(&self, node: &Node) -> Result<T, String> {
        value::number(node, self.range.clone())
    }

    fn show(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<T> {
        let end = |end: &T| -> i128 { (*end).try_into().unwrap_or_default() };
        let number = |number: i128| T::try_from(number).ok();
        (end(self.range.start())..=end(self.range.end()))
            .prop_filter_map("a number of the type", number)
            .boxed()
    }
}

/// `true` or `false`.
pub(in crate::config) struct Booleans;

pub(in crate::config) const fn booleans() -> Booleans {
    Booleans
}

impl Values for Booleans {
    type Value = bool;

    fn takes(&self) -> String {
        "true or false".to_owned()
    }

    fn form(&self) -> Form {
        Form::Switch
    }

    fn parse(&self, node: &Node) -> Result<bool, String> {
        value::boolean(node)
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<bool> {
        any::<bool>().boxed()
    }
}

/// A string.
pub(in crate::config) struct Text {
    name: &'static str,
    parse: fn(&Node) -> Result<String, String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for property tests"))]
    like: &'static str,
}

/// A string that the help of `lbctl` calls `name`; strings `like` this expression are values.
pub(in crate::config) const fn text(
    name: &'static str,
    parse: fn(&Node) -> Result<String, String>,
    like: &'static str,
) -> Text {
    Text { name, parse, like }
}

impl Values for Text {
    type Value = String;

    fn takes(&self) -> String {
        "string".to_owned()
    }

    fn form(&self) -> Form {
        Form::Text(self.name)
    }

    fn parse(&self, node: &Node) -> Result<String, String> {
        (self.parse)(node)
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<String> {
        self.like.boxed()
    }
}

/// A duration in a range.
pub(in crate::config) struct Durations(RangeInclusive<Duration>);

pub(in crate::config) const fn durations(range: RangeInclusive<Duration>) -> Durations {
    Durations(range)
}

impl Values for Durations {
    type Value = Duration;

    fn takes(&self) -> String {
        let [from, to] = [self.0.start(), self.0.end()].map(|&end| words::duration(end));
        format!("duration, {from} to {to}")
    }

    fn form(&self) -> Form {
        Form::Text("DURATION")
    }

    fn parse(&self, node: &Node) -> Result<Duration, String> {
        value::duration(node, self.0.clone())
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quoted(words::duration(*value)))
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<Duration> {
        let [from, to] = [self.0.start(), self.0.end()].map(|end| end.as_millis() as u64);
        (from..=to).prop_map(Duration::from_millis).boxed()
    }
}

/// Values that need not be there: without the key there is none.
pub(in crate::config) struct Maybe<V>(V);

pub(in crate::config) const fn maybe<V>(values: V) -> Maybe<V> {
    Maybe(values)
}

impl<V: Values> Values for Maybe<V>
where
    V::Value: Clone + 'static,
{
    type Value = Option<V::Value>;

    fn takes(&self) -> String {
        self.0.takes()
    }

    fn form(&self) -> Form {
        self.0.form()
    }

    fn parse(&self, node: &Node) -> Result<Option<V::Value>, String> {
        self.0.parse(node).map(Some)
    }

    fn show(&self, value: &Option<V::Value>) -> Option<String> {
        self.0.show(value.as_ref()?)
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<Option<V::Value>> {
        prop::option::of(self.0.any()).boxed()
    }
}

/// Values of a form of their own.
pub(in crate::config) struct Own<T> {
    pub(in crate::config) takes: String,
    pub(in crate::config) form: Form,
    pub(in crate::config) parse: fn(&Node) -> Result<T, String>,
    pub(in crate::config) show: fn(&T) -> Option<String>,
    #[cfg(test)]
    pub(in crate::config) any: fn() -> BoxedStrategy<T>,
}

impl<T: fmt::Debug> Values for Own<T> {
    type Value = T;

    fn takes(&self) -> String {
        self.takes.clone()
    }

    fn form(&self) -> Form {
        self.form.clone()
    }

    fn parse(&self, node: &Node) -> Result<T, String> {
        (self.parse)(node)
    }

    fn show(&self, value: &T) -> Option<String> {
        (self.show)(value)
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<T> {
        (self.any)()
    }
}

/// A string as TOML writes it.
pub(in crate::config) fn quoted(text: impl fmt::Display) -> String {
    toml_edit::Value::from(text.to_string()).to_string()
}

/// An array in TOML; one element is written without brackets.
pub(in crate::config) fn array(elements: impl ExactSizeIterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    match elements.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", elements.join(", ")),
    }
}
