//! The changes of this test, and how each is undone. The test kills the agent before every write of a change.

/// Two services, small enough that a change is some hundred writes.
pub(super) const CONFIG: &str = r#"health = false

[node]
interface = "lb0"
seed = "control tests"
state_directory = "/run/t/state"

[limits]
services = 64
backends = 256
slots = 8192
flows = 4096

[[service]]
name = "web"
listen = "tcp/203.0.113.10:80"
max_backends = 2
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
[[service.backend]]
name = "web-2"
address = "10.0.0.12"

[[service]]
name = "dns"
listen = "udp/203.0.113.10:53"
max_backends = 2
[[service.backend]]
name = "dns-1"
address = "10.0.0.21"
[[service.backend]]
name = "dns-2"
address = "10.0.0.22"
"#;

/// An action that changes something.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// `lbctl` with these words.
    Ctl(&'static str),
    /// The file has this content now, and SIGHUP makes the agent read it.
    Reload(String),
    /// `lbctl config apply` with a file of this content.
    Apply(String),
    /// The agent is started for the first time.
    Start,
}

pub(super) struct Change {
    pub(super) name: &'static str,
    /// Done first, on top of [`CONFIG`].
    pub(super) before: Vec<Act>,
    pub(super) act: Act,
    /// Undoes the change; `None` = nothing undoes it in a short time, so each try begins on a new host.
    pub(super) undo: Option<Vec<Act>>,
}

fn ctl(words: &'static str) -> Act {
    Act::Ctl(words)
}

/// Another file: one backend more, one less, another weight, one more service.
fn other_file() -> String {
    let web = CONFIG.replace("address = \"10.0.0.11\"\n", "address = \"10.0.0.11\"\nweight = 250\n");
    let web =
        web.replace("name = \"dns-2\"\naddress = \"10.0.0.22\"", "name = \"dns-3\"\naddress = \"10.0.0.23\"");
    web + "\n[[service]]\nname = \"mail\"\nlisten = \"tcp/203.0.113.11:25\"\nmax_backends = 2\n\
        [[service.backend]]\nname = \"mail-1\"\naddress = \"10.0.0.31\"\n"
}

pub(super) fn all() -> Vec<Change> {
    let change =
        |name, act: Act, undo: &[Act]| Change { name, before: Vec::new(), act, undo: Some(undo.to_vec()) };
    let after = |before: &[Act], change: Change| Change { before: before.to_vec(), ..change };
    vec![
        Change { name: "first start", before: Vec::new(), act: Act::Start, undo: None },
        after(
            &[ctl("backend remove web/web-2")],
            change(
                "backend added",
                ctl("backend add web/web-2 --address 10.0.0.12"),
                &[ctl("backend remove web/web-2")],
            ),
        ),
        change("backend drained", ctl("backend drain web/web-1"), &[ctl("backend undrain web/web-1")]),
        change("backend disabled", ctl("backend disable web/web-1"), &[ctl("backend enable web/web-1")]),
        change(
            "backend removed",
            ctl("backend remove web/web-1"),
            &[ctl("backend add web/web-1 --address 10.0.0.11")],
        ),
        change(
            "backend re-weighted",
            ctl("backend set web/web-1 --weight 300"),
            &[ctl("backend set web/web-1 --weight 100")],
        ),
        change(
            "service added",
            ctl("service add mail --listen tcp/203.0.113.11:25 --max-backends 2"),
            &[ctl("service remove mail")],
        ),
        change(
            "service removed",
            ctl("service remove dns"),
            &[
                ctl("service add dns --listen udp/203.0.113.10:53 --max-backends 2"),
                ctl("backend add dns/dns-1 --address 10.0.0.21"),
                ctl("backend add dns/dns-2 --address 10.0.0.22"),
            ],
        ),
        change(
            "service balances by turns",
            ctl("service set web --track always --balance round-robin"),
            &[ctl("service set web --unset balance,track")],
        ),
        Change {
            name: "ring resized",
            before: Vec::new(),
            act: ctl("service set web --max-backends 5"),
            undo: None,
        },
        change("file reloaded", Act::Reload(other_file()), &[Act::Reload(CONFIG.to_owned())]),
        change("file applied", Act::Apply(other_file()), &[Act::Apply(CONFIG.to_owned())]),
        after(
            &[ctl("backend set web/web-1 --weight 300"), ctl("backend drain dns/dns-1")],
            change(
                "changes saved",
                ctl("config save"),
                &[
                    Act::Reload(CONFIG.to_owned()),
                    ctl("backend set web/web-1 --weight 300"),
                    ctl("backend drain dns/dns-1"),
                ],
            ),
        ),
        after(
            &[ctl("backend set web/web-1 --weight 300"), ctl("backend drain dns/dns-1")],
            change(
                "changes reverted",
                ctl("config revert"),
                &[ctl("backend set web/web-1 --weight 300"), ctl("backend drain dns/dns-1")],
            ),
        ),
    ]
}
