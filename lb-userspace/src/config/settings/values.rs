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
pub(in crate::config) struct Numbers<T>(RangeInclusive<T>);

pub(in crate::config) const fn numbers<T>(range: RangeInclusive<T>) -> Numbers<T> {
    Numbers(range)
}

impl<T> Values for Numbers<T>
where
    T: TryFrom<i128> + TryInto<i128> + PartialOrd + Copy + fmt::Display + fmt::Debug + 'static,
{
    type Value = T;

    fn takes(&self) -> String {
        format!("{} to {}", self.0.start(), self.0.end())
    }

    fn form(&self) -> Form {
        Form::Number(u32::MAX.into())
    }

    fn parse(&self, node: &Node) -> Result<T, String> {
        value::number(node, self.0.clone())
    }

    fn show(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }

    #[cfg(test)]
    fn any(&self) -> BoxedStrategy<T> {
        let end = |end: &T| -> i128 { (*end).try_into().unwrap_or_default() };
        let number = |number: i128| T::try_from(number).ok();
        (end(self.0.start())..=end(self.0.end())).prop_filter_map("a number of the type", number).boxed()
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
