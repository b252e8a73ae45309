//! Ten thousand changes must cost the agent nothing for good.

use anyhow::{Result, ensure};
use lb_tests::test_name;

use crate::{
    resource_usage::Cost,
    world::{CONFIG, isolated},
};

const CHANGES: usize = 10_000;
/// Changes before the first measurement: after them, pools and histories of bounded length are full.
const FIRST: usize = 2_000;
/// By how much own memory may differ between then and the end, in KiB: the allocator's slack.
const SLACK: u64 = 1024;

#[test]
fn memory_and_descriptors_stay_flat() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(&CONFIG.replace("backends = 64", "backends = 2048"))?;
        let mut first: Option<Cost> = None;
        for change in 0..CHANGES {
            let (verb, path, body) = match change % 10 {
                0 => (
                    "POST",
                    "/v1/services/web/backends",
                    r#"{"name": "web-3", "address": "10.0.0.13"}"#.to_owned(),
                ),
                9 => ("DELETE", "/v1/services/web/backends/web-3", String::new()),
                _ => {
                    let weight = 1 + change % 1000;
                    ("PATCH", "/v1/services/web/backends/web-1", format!("{{\"weight\": {weight}}}"))
                }
            };
            let answer = agent.http(verb, path, &body)?;
            ensure!((200..300).contains(&answer.status), "change {change}: {verb} {path} {body}: {answer:?}");
            if (change + 1) % FIRST == 0 {
                let cost = agent.cost()?;
                eprintln!(
                    "after {} changes: {} KiB of own memory, {} descriptors, {} threads",
                    change + 1,
                    cost.memory,
                    cost.descriptors,
                    cost.threads
                );
                first.get_or_insert(cost);
            }
        }
        let (first, last) = (first.unwrap_or(agent.cost()?), agent.cost()?);
        ensure!(last.memory <= first.memory + SLACK, "memory grew: {first:?} {last:?}");
        ensure!(last.descriptors == first.descriptors, "descriptors leaked: {first:?} {last:?}");
        ensure!(last.threads <= first.threads, "threads leaked: {first:?} {last:?}");
        agent.assert_alive()
    })
}
