//! Program against model: plays again what fuzzing once found, and runs the fuzzer itself for a short time.

use anyhow::{Context as _, Result, ensure};
use lb_common::{balance::Balance, counter::Counter, map::name, service::Service, slot::Track};
use lb_tests::{
    fuzz::{
        comparison::{self, Comparison},
        packet, sequence,
    },
    need_bpf,
    privilege::{may_make_namespaces, skip},
    test_name,
};

/// Compares program and model on a thread of its own, in a network namespace of its own; skips `test` without privileges.
fn in_a_namespace(
    test: &str,
    compare: impl FnOnce(&mut Comparison) -> Result<()> + Send + 'static,
) -> Result<()> {
    if !may_make_namespaces() {
        skip(test, "needs root (CAP_SYS_ADMIN) for a network namespace");
        return Ok(());
    }
    std::thread::spawn(|| {
        comparison::enter_namespace()?;
        compare(&mut Comparison::new()?)
    })
    .join()
    .expect("the thread ends by itself")
}

#[test]
fn what_fuzzing_once_found_does_not_come_back() -> Result<()> {
    need_bpf!();
    in_a_namespace(test_name!(), |comparison| {
        let fixtures = sequence::fixtures()?;
        ensure!(!fixtures.is_empty(), "no fixtures in {}", sequence::directory().display());
        for (name, sequence) in fixtures {
            let difference = comparison.play(&sequence, |_| ()).with_context(|| name.clone())?;
            ensure!(difference.is_none(), "{name}: {}", difference.expect("some"));
        }
        Ok(())
    })
}

/// The kinds of differences found in this many sequences; `spoil` changes the maps before each sequence.
fn differences(
    comparison: &mut Comparison,
    sequences: u64,
    spoil: impl Fn(&mut Comparison) -> Result<()> + Copy,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for seed in 0..sequences {
        let difference = comparison.play_after(&packet::sequence(seed), spoil, |_| ())?;
        found.extend(difference.map(|difference| difference.kind));
    }
    Ok(found)
}

/// A comparison that never finds a difference proves nothing.
#[test]
fn a_program_that_does_something_else_is_found_out() -> Result<()> {
    need_bpf!();
    in_a_namespace(test_name!(), |comparison| {
        // The maps have another backend address than the model: only bytes 30 to 33 of the frame, in the outer header, differ.
        let spoil = |comparison: &mut Comparison| comparison.spoil(|backend| backend.outer[4] ^= 1);
        let found = differences(comparison, 40, spoil)?;
        let tx = format!("bytes under {}", Counter::ForwardedTx.name());
        ensure!(found.contains(&tx), "with the records of {} spoiled: {found:?}", name::BACKENDS);
        Ok(())
    })
}

#[test]
fn a_program_that_answers_otherwise_is_found_out() -> Result<()> {
    need_bpf!();
    in_a_namespace(test_name!(), |comparison| {
        // Senders learn another MTU, and packets that just fit are too big.
        let smaller = |comparison: &mut Comparison| {
            comparison.spoil(|backend| backend.room = backend.room.saturating_sub(1))
        };
        let found = differences(comparison, 400, smaller)?;
        let reported = format!("bytes under {}", Counter::PacketTooBig.name());
        ensure!(found.contains(&reported), "with less room: {found:?}");
        // Other addresses answer echo requests.
        let others = |comparison: &mut Comparison| {
            comparison.spoil_services(|service| {
                service.flags ^= Service::ANSWERS_PING;
            })
        };
        let found = differences(comparison, 400, others)?;
        let (echo, unanswered) = (Counter::Echo.name(), Counter::EchoUnanswered.name());
        for kind in [format!("{echo} instead of {unanswered}"), format!("{unanswered} instead of {echo}")] {
            ensure!(found.contains(&kind), "with other addresses that answer: {found:?}");
        }
        Ok(())
    })
}

#[test]
fn a_program_that_balances_otherwise_is_found_out() -> Result<()> {
    need_bpf!();
    in_a_namespace(test_name!(), |comparison| {
        // Services that take turns in the model choose by chance in the kernel, and do not count live flows there.
        let spoil = |comparison: &mut Comparison| {
            comparison.spoil_services(|service| {
                if service.tracks_always() && service.balance() != Balance::Hash {
                    service.flags = Service::flags_of(Track::Always, Balance::Random);
                }
            })
        };
        let found = differences(comparison, 400, spoil)?;
        for kind in ["turns", "live flows"] {
            ensure!(found.iter().any(|found| found == kind), "no {kind}: {found:?}");
        }
        let bytes = format!("bytes under {}", Counter::ForwardedTx.name());
        ensure!(found.contains(&bytes), "no packet went to another backend: {found:?}");
        Ok(())
    })
}
