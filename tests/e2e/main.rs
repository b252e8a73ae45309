//! The whole load balancer in a lab of namespaces: the agent, the kernel's XDP, curl and web servers. Each test makes a
//! lab of its own, one after another, and removes it; first it removes what a killed run left. Needs root, else each test
//! says that it was skipped. `lbd` and `lbctl` come from the target directory into which this program was built.

mod agent;
mod client;
mod decapsulators;
mod echo;
mod failure;
mod lifecycle;
mod merged;
mod mtu;
mod network;
mod reset;
mod runtime;
mod scene;
mod spoofed;
mod survival;
mod traffic;
mod tun;
mod upgrade;

use std::process::ExitCode;

use clap::Parser;
use libtest_mimic::{Arguments, Failed, Trial};
use xtask::{lab, stack::serve};

use crate::scene::Scene;

/// A test: its name, and what it does to a lab that runs.
type Test = (&'static str, fn() -> anyhow::Result<()>);

/// With this first argument the program is the web server of labs without nginx.
#[derive(Parser)]
enum Server {
    Serve(serve::ServeArgs),
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        let Server::Serve(arguments) = Server::parse();
        return match serve::main(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let privileged = lb_tests::privilege::may_make_namespaces() && lb_tests::privilege::may_load_programs();
    if privileged && !arguments.list {
        let config = Scene::lab();
        if let Err(error) =
            xtask::interrupt::take_away_lab(&config).and_then(|()| lab::sweep(&config).map(drop))
        {
            eprintln!("cannot prepare the lab: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let all = [
        traffic::TESTS,
        decapsulators::TESTS,
        failure::TESTS,
        reset::TESTS,
        survival::TESTS,
        lifecycle::TESTS,
        upgrade::TESTS,
        runtime::TESTS,
        network::TESTS,
        merged::TESTS,
        mtu::TESTS,
        spoofed::TESTS,
    ];
    let trial = |&(name, test): &Test| {
        Trial::test(name, move || {
            if !privileged {
                lb_tests::privilege::skip(name, "needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF)");
                return Ok(());
            }
            test().map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    let trials = all.into_iter().flatten().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
