//! Patterns of names as a shell's: `*` is any number of characters, `?` one. `web/*` is matched in its two parts, so that no
//! `*` reaches from a service into its backends.

/// A pattern as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    service: String,
    /// `None` = every backend of the service.
    backend: Option<String>,
}

impl Pattern {
    /// # Errors
    /// A part is empty, or there are more than two.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (service, backend) = match text.split_once('/') {
            None => (text, None),
            Some((service, backend)) => (service, Some(backend)),
        };
        if service.is_empty() || backend.is_some_and(|name| name.is_empty() || name.contains('/')) {
            return Err(format!(
                "`{text}` is not a valid pattern; write SERVICE or SERVICE/BACKEND, as in web, 'web*' or 'web/*-1'"
            ));
        }
        Ok(Self { service: service.to_owned(), backend: backend.map(str::to_owned) })
    }

    /// The service that it names, where it is the name of one service and nothing else.
    pub fn service_name(&self) -> Option<&str> {
        let literal = self.backend.is_none() && !self.service.contains(['*', '?']);
        literal.then_some(&*self.service)
    }

    /// Whether it says something of backends.
    pub const fn names_backends(&self) -> bool {
        self.backend.is_some()
    }

    /// Whether it fits a service, or a backend of one.
    pub fn fits(&self, service: &str, backend: Option<&str>) -> bool {
        let Self { service: wanted, backend: part } = self;
        fits(wanted, service)
            && match (part, backend) {
                (None, _) => true,
                (Some(part), Some(backend)) => fits(part, backend),
                (Some(_), None) => false,
            }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.service)?;
        self.backend.as_ref().map_or(Ok(()), |backend| write!(f, "/{backend}"))
    }
}

/// Whether a pattern fits all of a text. Only the last `*` is ever tried again, so that the time is at most the product of
/// both lengths.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == c => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_fit_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("web", "web", true),
            ("web", "web2", false),
            ("web*", "web", true),
            ("*", "", true),
            ("*eb*1", "web-1-1", true),
            ("*eb*1", "web-1-2", false),
            ("w?b", "wéb", true),
            ("w?b", "wb", false),
            ("a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("[a]", "a", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} and {text}");
        }
    }

    #[test]
    fn a_pattern_has_a_part_for_each_name() {
        let fits = |pattern: &str, service, backend| Pattern::parse(pattern).unwrap().fits(service, backend);
        assert!(fits("web", "web", None) && fits("web", "web", Some("web-1")));
        assert!(fits("web/*", "web", Some("web-1")) && !fits("web/*", "web", None));
        assert!(!fits("w*1", "web", Some("web-1")), "a star ends with the service's name");
        assert!(fits("*/*-1", "web", Some("web-1")) && !fits("*/*-1", "web", Some("web-2")));
        for bad in ["", "/", "web/", "/web", "web/a/b"] {
            let why = Pattern::parse(bad).unwrap_err();
            assert!(why.contains(&format!("`{bad}` is not a valid pattern")), "{why}");
        }
    }

    #[test]
    fn only_a_plain_name_is_the_name_of_a_service() {
        let name = |pattern: &str| Pattern::parse(pattern).unwrap().service_name().map(str::to_owned);
        assert_eq!(name("web").as_deref(), Some("web"));
        for pattern in ["web*", "we?", "web/web-1"] {
            assert_eq!(name(pattern), None, "{pattern}");
        }
    }
}
