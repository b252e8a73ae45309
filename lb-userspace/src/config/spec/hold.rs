//! How long established flows stay at a backend that is down: `hold`, and its older form `on_down`.

use std::time::Duration;

use super::{Hold, Protocol};
use crate::config::{
    reader::Reader,
    value,
    value_tree::Node,
    words::{self, Word},
};

pub(super) const DEFAULT: Duration = Duration::from_secs(3);

/// The words of `on_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDown {
    Move,
    Hold,
}

impl Word for OnDown {
    const WORDS: &'static [(&'static str, Self)] = &[("move", Self::Move), ("hold", Self::Hold)];
}

/// `on_down`, translated to `hold`.
fn on_down(node: &Node) -> Result<Hold, String> {
    value::word(node).map(|old| match old {
        OnDown::Move => Hold::For(Duration::ZERO),
        OnDown::Hold => Hold::Forever,
    })
}

/// `hold`, or the value of the older `on_down`. The default is cut to the window, since flow records are not kept for longer.
pub(super) fn read(reader: &Reader<'_, '_>, protocol: Option<Protocol>, window: Duration) -> Hold {
    let given = reader.optional("hold", value::hold);
    let old = reader.optional("on_down", on_down);
    if let (Some(node), true) = (reader.get("on_down"), reader.get("hold").is_some()) {
        let message = "on_down and hold say the same: leave on_down out (hold = \"0s\" is what on_down = \"move\" was, hold = \
                       \"forever\" what on_down = \"hold\" was)";
        reader.wrong(&node.at, message.to_owned());
    }
    if let Some(Hold::For(time)) = given
        && time > window
    {
        let (key, time) = (
            if protocol == Some(Protocol::Udp) { "udp_idle" } else { "track_window" },
            words::duration(time),
        );
        let window = words::duration(window);
        let message = format!(
            "hold {time} is longer than {key} {window}, after which flows are forgotten: set hold to {window} or less, or \
             {key} to {time} or more"
        );
        reader.wrong(reader.place("hold"), message);
    }
    given.or(old).unwrap_or(Hold::For(DEFAULT.min(window)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse, testing};

    fn with(more: &str) -> String {
        testing::SMALL.replacen("[[service.backend]]", &format!("{more}\n[[service.backend]]"), 1)
    }

    fn hold(more: &str) -> Hold {
        testing::spec(&with(more)).services[0].hold
    }

    fn refused(more: &str) -> String {
        testing::lines(&parse(with(more).as_bytes(), "f").unwrap_err())
    }

    #[test]
    fn hold_is_a_time_or_forever_with_a_bounded_default() {
        assert_eq!(hold(""), Hold::For(Duration::from_secs(3)));
        assert_eq!(hold("hold = \"0s\""), Hold::For(Duration::ZERO));
        assert_eq!(hold("hold = \"forever\"\ntrack_window = \"1s\""), Hold::Forever);
        assert_eq!(hold("track_window = \"2s\""), Hold::For(Duration::from_secs(2)));
    }

    #[test]
    fn on_down_keeps_its_meaning_and_excludes_hold() {
        assert_eq!(hold("on_down = \"move\""), Hold::For(Duration::ZERO));
        assert_eq!(hold("on_down = \"hold\""), Hold::Forever);
        let both = refused("on_down = \"hold\"\nhold = \"3s\"");
        assert!(
            both.starts_with("f:8:11: service web: on_down and hold say the same: leave on_down out"),
            "{both}"
        );
    }

    #[test]
    fn a_hold_longer_than_the_window_is_refused() {
        assert_eq!(
            refused("hold = \"2m\"\ntrack_window = \"1m\""),
            "f:8:8: service web: hold 2m is longer than track_window 1m, after which flows are forgotten: set hold to 1m or \
             less, or track_window to 2m or more\n"
        );
        let long = refused("hold = \"25h\"");
        assert!(long.contains("0s") && long.contains("24h") && long.contains("forever"), "{long}");
        let word = refused("hold = \"always\"");
        assert!(word.contains("always") && word.contains("or \"forever\""), "{word}");
    }
}
