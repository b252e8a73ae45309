//! A new agent takes the place of an old one that was killed: afterwards another program is attached by the same link, and
//! neither a request nor a download that was under way noticed it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::ensure;
use xtask::{
    kernels::report::Group,
    lab::{CLIENT, VIP_V4, VIP_V6},
    run,
    stack::{Stack, web},
};

use crate::{network, say};

pub(crate) fn check(stack: &mut Stack) {
    say::check(Group::Upgrade, "the program is replaced while requests and a download go on", || {
        let before = network::program(&stack.lab)?;
        let over = AtomicBool::new(false);
        let client = stack.lab.node(CLIENT)?.clone();
        let (requests, download, replaced) = std::thread::scope(|scope| {
            let requests = scope.spawn(|| {
                client.enter(|| {
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        for vip in [VIP_V4.into(), VIP_V6.into()] {
                            network::request(vip)?;
                            count += 1;
                        }
                    }
                    anyhow::Ok(count)
                })?
            });
            let download = scope.spawn(|| {
                let mut curl = client.command("curl");
                let format = "%{size_download}";
                curl.args(["-gsSf", "--max-time", "600", "-o", "/dev/null", "-w", format]);
                run::capture(curl.arg(web::url(false, "/download")))
            });
            let replaced = (|| {
                std::thread::sleep(Duration::from_millis(500));
                stack.agent.kill()?;
                std::thread::sleep(Duration::from_millis(300));
                stack.agent.start(&mut stack.lab)?;
                network::program(&stack.lab)
            })();
            let download = download.join();
            over.store(true, Ordering::Relaxed);
            (requests.join(), download, replaced)
        });
        let (Ok(requests), Ok(download)) = (requests, download) else { anyhow::bail!("a client panicked") };
        let (requests, download, after) = (requests?, download?, replaced?);
        ensure!(after != before, "program {before} is still there");
        ensure!(requests > 0, "no request was made meanwhile");
        ensure!(download == web::DOWNLOAD_BYTES.to_string(), "the download ended after {download} bytes");
        Ok(format!("program {before} became {after} between {requests} requests"))
    });
    say::check(Group::Upgrade, "the new agent finds every backend up", || {
        stack.agent.wait_until_all_up(stack.lab.config().backends)?;
        Ok(String::new())
    });
}
