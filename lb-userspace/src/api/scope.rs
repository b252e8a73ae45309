//! What a scrape asks for: metrics of the node, of services, of backends.

/// A part of the metrics, by what a series is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Node,
    Service,
    Backend,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Node, Self::Service, Self::Backend];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Service => "service",
            Self::Backend => "backend",
        }
    }
}

/// The scopes that are asked for; none = what `node.metrics_of_backends` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    node: bool,
    service: bool,
    backend: bool,
}

impl Scopes {
    /// Everything, or everything but the series of backends.
    pub const fn whole(of_backends: bool) -> Self {
        Self { node: true, service: true, backend: of_backends }
    }

    pub const fn has(self, scope: Scope) -> bool {
        match scope {
            Scope::Node => self.node,
            Scope::Service => self.service,
            Scope::Backend => self.backend,
        }
    }

    /// Whether no scope is asked for.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Adds names with commas between them.
    ///
    /// # Errors
    /// One of them is no scope.
    pub fn add(&mut self, names: &str) -> Result<(), String> {
        for name in names.split(',') {
            match Scope::ALL.into_iter().find(|scope| scope.name() == name) {
                Some(Scope::Node) => self.node = true,
                Some(Scope::Service) => self.service = true,
                Some(Scope::Backend) => self.backend = true,
                None => {
                    return Err(format!(
                        "unknown scope `{name}`; known are {}",
                        Scope::ALL.map(Scope::name).join(", ")
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_add_up_and_an_unknown_one_is_named() {
        let mut scopes = Scopes::default();
        assert!(scopes.is_empty());
        scopes.add("node,backend").unwrap();
        assert_eq!(Scope::ALL.map(|scope| scopes.has(scope)), [true, false, true]);
        scopes.add("service").unwrap();
        assert_eq!(scopes, Scopes::whole(true));
        assert_eq!(scopes.add("node,x").unwrap_err(), "unknown scope `x`; known are node, service, backend");
        assert!(scopes.add("").is_err());
        assert!(!Scopes::whole(false).has(Scope::Backend));
    }
}
