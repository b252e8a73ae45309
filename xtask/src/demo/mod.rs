//! `cargo xtask demo`: the whole load balancer at work in a lab, on one screen. Exit code 0 only when every step did
//! what it says; `cargo xtask test` runs it as its last tier.

mod download;
mod load;
mod screen;
mod steps;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    load::Load,
    steps::{STEPS, Scene, Shown},
};
use crate::{
    build, interrupt,
    lab::{self, CLIENT},
    privilege,
    setup::{self, Need},
    stack::{Binaries, Stack, web::Kind},
    ui,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask demo          build, show, take everything away again\n  \
    cargo xtask demo --keep   leave the lab standing and say how to look around in it\n\n\
    It builds as you and asks sudo for the rest. The closing line is `demo: N of N steps did what they say`.")]
pub struct DemoArgs {
    /// Leave the lab standing and print the commands to look around in it
    #[arg(long)]
    keep: bool,
    /// Shorter looks at undisturbed traffic
    #[arg(long)]
    fast: bool,
    /// The backends' web server [default: nginx where it is installed]
    #[arg(long, value_enum)]
    server: Option<Kind>,
    /// Run what is in this directory instead of building (the part that runs as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Runs `demo`; whether every step did what it says.
pub fn main(arguments: &DemoArgs) -> Result<bool> {
    let DemoArgs { keep, fast, server, built } = arguments;
    let directory = match built {
        Some(directory) => directory.clone(),
        None => build()?,
    };
    let mut again = vec!["demo".to_owned(), "--built".to_owned(), directory.display().to_string()];
    again.extend(keep.then(|| "--keep".to_owned()));
    again.extend(fast.then(|| "--fast".to_owned()));
    let server = server.unwrap_or_else(Kind::installed);
    again.extend(["--server".to_owned(), server.argument().to_owned()]);
    privilege::become_root(&again)?;
    show(&Binaries::in_directory(&directory)?, server, *keep, *fast)
}

/// Sees to what is needed and builds; the directory of the binaries.
pub fn build() -> Result<PathBuf> {
    ui::step("building");
    build_silently()
}

/// The same without a word on standard output.
pub fn build_silently() -> Result<PathBuf> {
    setup::ensure(&[Need::Build, Need::Lab])?;
    if let privilege::Way::None(why) = privilege::way() {
        bail!("the lab {why}: it makes network namespaces and loads BPF programs");
    }
    let built = build::cargo_build(&[build::HOST.as_slice(), &["--bins"], &build::AS_TESTS].concat())?;
    let lbd = built.iter().find(|executable| executable.name == "lbd" && !executable.test);
    let lbd = lbd.context("cargo built no lbd")?;
    Ok(lbd.path.parent().context("lbd has a directory")?.to_owned())
}

fn show(binaries: &Binaries, server: Kind, keep: bool, fast: bool) -> Result<bool> {
    let config = lab::Config::default();
    interrupt::take_away_lab(&config)?;
    ui::step(&format!("making the lab; {} on the backends, lbd on the balancer", server.name()));
    let stack = Stack::up(&config, binaries, server)?;
    print!("{}", screen::picture(server.name()));
    let load = Load::start(stack.lab.node(CLIENT)?)?;
    let pause = Duration::from_millis(if fast { 1200 } else { 2500 });
    let mut scene = Scene { stack, load, pause };
    std::thread::sleep(Duration::from_millis(300));

    let mut rows = Vec::new();
    let mut good = 0;
    for (number, (title, step)) in STEPS.iter().enumerate() {
        screen::title(number + 1, title);
        rows.push(match step(&mut scene) {
            Ok(Shown { lines, figure, wanted }) => {
                good += 1;
                screen::good(&lines);
                [*title, &figure, wanted, &ui::green("ok")].map(str::to_owned).to_vec()
            }
            Err(error) => {
                screen::bad(&format!("{error:#}"));
                println!("{}", ui::dim(&scene.stack.agent.last_words()));
                [*title, "", "", &ui::red("failed")].map(str::to_owned).to_vec()
            }
        });
    }
    screen::summary(rows);

    let Scene { stack, load, .. } = scene;
    drop(load);
    if keep {
        println!("{}", around(binaries));
        stack.lab.keep()?;
    } else {
        stack.lab.down()?;
    }
    println!("demo: {good} of {} steps did what they say", STEPS.len());
    Ok(good == STEPS.len())
}

/// Commands to look around with.
pub fn around(binaries: &Binaries) -> String {
    let Binaries { lbd: _, lbctl } = binaries;
    let lbctl = format!("sudo {} --instance lab", lbctl.display());
    [
        "the lab is up; look around in it:".to_owned(),
        "  cargo xtask lab exec client -- curl -gs http://203.0.113.10/ 'http://[2001:db8::10]/'".to_owned(),
        "  cargo xtask lab exec router -- tcpdump -c 20 -nvi balancer".to_owned(),
        format!("  {lbctl} status"),
        format!("  {lbctl} stats --watch"),
        format!("  {lbctl} backend drain web/backend-1"),
        "  cargo xtask lab status".to_owned(),
        "  cargo xtask lab down".to_owned(),
    ]
    .join("\n")
}
