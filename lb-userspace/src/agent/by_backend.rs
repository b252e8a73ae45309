//! What the agent keeps for each backend of each service, under their names. A look-up makes no copy of the names.

use std::collections::HashMap;

/// A value for each backend, by the name of its service and its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ByBackend<V>(HashMap<String, HashMap<String, V>>);

impl<V> Default for ByBackend<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V> ByBackend<V> {
    pub(super) fn get(&self, service: &str, backend: &str) -> Option<&V> {
        self.0.get(service)?.get(backend)
    }

    pub(super) fn contains(&self, service: &str, backend: &str) -> bool {
        self.get(service, backend).is_some()
    }

    /// Puts a value there, and returns the one before.
    pub(super) fn insert(&mut self, service: &str, backend: &str, value: V) -> Option<V> {
        if !self.0.contains_key(service) {
            self.0.insert(service.to_owned(), HashMap::new());
        }
        self.0.get_mut(service)?.insert(backend.to_owned(), value)
    }

    pub(super) fn remove(&mut self, service: &str, backend: &str) -> Option<V> {
        let of_service = self.0.get_mut(service)?;
        let value = of_service.remove(backend);
        if of_service.is_empty() {
            self.0.remove(service);
        }
        value
    }

    /// Keeps the values of the backends that are in `known`.
    pub(super) fn keep<K>(&mut self, known: &ByBackend<K>) {
        self.0.retain(|service, backends| {
            backends.retain(|backend, _| known.contains(service, backend));
            !backends.is_empty()
        });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The names of all services and backends, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(service, backends)| {
            backends.keys().map(move |backend| (service.as_str(), backend.as_str()))
        })
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flat_map(HashMap::values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_of_the_same_name_differ_by_their_service() {
        let mut all = ByBackend::default();
        assert_eq!(all.insert("web", "a", 1), None);
        assert_eq!(all.insert("dns", "a", 2), None);
        assert_eq!(all.insert("web", "a", 3), Some(1));
        assert_eq!(
            (all.get("web", "a"), all.get("dns", "a"), all.get("dns", "b")),
            (Some(&3), Some(&2), None)
        );
        let mut names: Vec<_> = all.names().collect();
        names.sort_unstable();
        assert_eq!((names, all.values().sum::<i32>()), (vec![("dns", "a"), ("web", "a")], 5));
        assert_eq!(
            (all.remove("web", "a"), all.remove("web", "a"), all.remove("none", "a")),
            (Some(3), None, None)
        );
        assert!(!all.contains("web", "a") && all.contains("dns", "a"));
    }

    #[test]
    fn what_is_not_known_is_not_kept() {
        let (mut all, mut known) = (ByBackend::default(), ByBackend::default());
        for (service, backend) in [("web", "a"), ("web", "b"), ("dns", "a")] {
            all.insert(service, backend, ());
        }
        known.insert("web", "b", 7);
        all.keep(&known);
        assert_eq!(all.names().collect::<Vec<_>>(), [("web", "b")]);
        all.clear();
        assert_eq!(all, ByBackend::default());
    }
}
