//! What is offered where.

use super::*;

fn names() -> names::Names {
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    [("web".to_owned(), of(&["web-1", "web-2"])), ("dns".to_owned(), of(&["d"]))].into()
}

/// The candidates behind a line; a blank at its end begins a new word.
fn offered(line: &str) -> Vec<String> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let all = candidates(&words, words.len() - 1, &|_, _| names());
    all.into_iter().map(|candidate| candidate.text).collect()
}

#[test]
fn commands_are_offered_below_their_nouns() {
    assert_eq!(offered("sta"), ["status", "stats"]);
    assert!(offered("").contains(&"backend".to_owned()));
    assert_eq!(offered("backend dr"), ["drain"]);
    assert_eq!(offered("be dr"), ["drain"], "an alias is followed");
    assert_eq!(offered("b dr"), ["drain"], "and a beginning");
    assert_eq!(offered("-o json --instance edge backend dr"), ["drain"], "options are no commands");
}

#[test]
fn services_and_backends_are_offered_by_their_names() {
    assert_eq!(offered("service show "), ["dns", "web"]);
    assert_eq!(offered("backend show w"), ["web/"]);
    assert_eq!(offered("backend show web/"), ["web/web-1", "web/web-2"]);
    assert_eq!(offered("backend show web web-2"), ["web-2"]);
    assert_eq!(offered("backend show nothing/"), [""; 0]);
    assert_eq!(offered("backend list dns web/web-1 web/web-2"), ["web/web-2"], "one pattern after the other");
    assert_eq!(offered("service list web d"), ["dns"]);
    assert_eq!(offered("events --object web/web-1"), ["web/web-1"]);
}

#[test]
fn options_and_their_values_are_offered() {
    assert_eq!(offered("backend list --dow"), ["--down"]);
    assert_eq!(offered("backend list --sort pa"), ["packets"]);
    assert_eq!(offered("backend list --sort=pa"), ["--sort=packets"]);
    assert_eq!(offered("backend list -w -o y"), ["yaml"]);
    assert_eq!(offered("backend set web/web-1 --state dr"), ["draining"]);
    assert_eq!(offered("service set web --balance le"), ["least-connections"]);
    assert_eq!(offered("backend show -- --"), [""; 0], "no option behind two dashes");
}

#[test]
fn paths_are_left_to_the_shell() {
    for line in ["config check ", "plan x", "--socket /run", "config apply --confirm 60s "] {
        assert_eq!(offered(line), [FILES], "{line}");
    }
}

#[test]
fn the_agent_that_the_line_names_is_asked() {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let asked = std::cell::RefCell::new(Vec::new());
    let ask = |socket, instance| {
        asked.borrow_mut().push((socket, instance));
        names::Names::new()
    };
    candidates(&words("--instance edge service show "), 4, &ask);
    candidates(&words("--socket=/x service show "), 3, &ask);
    candidates(&words("service list --sort "), 3, &ask);
    let expected = [(None, Some("edge".to_owned())), (Some(PathBuf::from("/x")), None)];
    assert_eq!(*asked.borrow(), expected, "and none where no name is needed");
}

#[test]
fn a_place_behind_the_line_and_no_agent_offer_nothing_and_fail_not() {
    let words = ["service".to_owned(), "show".to_owned()];
    let nothing = |_, _| names::Names::new();
    assert!(candidates(&words, usize::MAX, &nothing).is_empty());
    assert!(candidates(&words, 2, &nothing).is_empty());
    let directory = tempfile::tempdir().unwrap();
    assert!(names::ask(Some(directory.path().join("none.sock")), None).is_empty());
    assert!(names::ask(None, Some("../x".to_owned())).is_empty());
    let silent = directory.path().join("silent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let begun = std::time::Instant::now();
    assert!(names::ask(Some(silent), None).is_empty());
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}
