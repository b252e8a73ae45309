//! Which events are asked for: one filter for the agent, the query of `GET /v1/events` and `lbctl events`.

use super::{kind::Kind, since::Since, view::Event};

/// A parameter of a query: its name, and its meaning for `GET /v1`.
pub type Parameter = (&'static str, &'static str);

pub const SINCE: Parameter = (
    "since",
    "events behind this number, or of so long ago (10m) or this time in UTC (14:05, 2026-02-28T14:05:00Z) on",
);
pub const OBJECT: Parameter =
    ("object", "only about this object; a service includes its backends; may be given more than once");
pub const KIND: Parameter =
    ("kind", "only of this kind; may be given more than once, or with commas between kinds");
pub const LIMIT: Parameter = ("limit", "only the last so many");
pub const SCOPE: Parameter =
    ("scope", "only metrics of these: node, service, backend; commas between them, or given more than once");
pub const FOLLOW: Parameter = ("follow", "true: follow new events, one JSON object a line");

/// What an event must have to be answered; an empty list asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub since: Since,
    pub objects: Vec<String>,
    pub kinds: Vec<Kind>,
    /// Only the last so many of those that fit.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether an event of the right time is asked for.
    pub fn fits(&self, event: &Event) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.name() == event.kind);
        kind && (self.objects.is_empty() || self.objects.iter().any(|object| is_about(&event.object, object)))
    }
}

/// Whether an event about `object` is one about `asked`: the same, or a backend of that service.
fn is_about(object: &str, asked: &str) -> bool {
    object.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_includes_its_backends_and_no_other_service() {
        for (object, asked, fits) in [
            ("web", "web", true),
            ("web/web-1", "web", true),
            ("web/web-1", "web/web-1", true),
            ("web", "web/web-1", false),
            ("web/web-10", "web/web-1", false),
            ("web2/a", "web", false),
            ("", "web", false),
        ] {
            assert_eq!(is_about(object, asked), fits, "{object} for {asked}");
        }
    }

    #[test]
    fn objects_and_kinds_both_have_to_fit() {
        let event = |kind: Kind, object: &str| Event {
            number: 1,
            at_ms: 1,
            level: String::new(),
            kind: kind.name().to_owned(),
            object: object.to_owned(),
            message: String::new(),
            by: None,
        };
        assert!(Filter::default().fits(&event(Kind::Started, "main")));
        let filter = Filter {
            objects: vec!["web".to_owned(), "dns/dns-1".to_owned()],
            kinds: vec![Kind::BackendDown, Kind::Changed],
            ..Filter::default()
        };
        assert!(filter.fits(&event(Kind::BackendDown, "web/web-1")));
        assert!(filter.fits(&event(Kind::Changed, "dns/dns-1")));
        assert!(!filter.fits(&event(Kind::BackendUp, "web/web-1")));
        assert!(!filter.fits(&event(Kind::BackendDown, "dns/dns-2")));
    }
}
