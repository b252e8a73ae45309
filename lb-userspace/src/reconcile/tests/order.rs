//! For any sequence of wishes, wherever the agent dies: between any two writes every packet finds its service and a
//! valid backend, and in the end the tables say what was wished.

use std::collections::BTreeSet;

use lb_common::encap::Template;
use proptest::prelude::*;

use super::*;

const NAMES: [&str; 10] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"];

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let standing = prop::sample::select(vec![
        State::Up,
        State::Up,
        State::Up,
        State::Draining,
        State::Down,
        State::Disabled,
    ]);
    let backends = prop::collection::btree_map(1u8..7, standing, 0..5);
    let track = prop::sample::select(vec![
        (Track::OnChange, Balance::Hash),
        (Track::Always, Balance::Hash),
        (Track::Never, Balance::Hash),
        (Track::Always, Balance::RoundRobin),
        (Track::Always, Balance::Random),
        (Track::Always, Balance::LeastConnections),
    ]);
    let hash = prop::sample::select(vec![Hash::FiveTuple, Hash::FiveTuple, Hash::Source(125)]);
    let service = (prop::sample::select(vec![13u32, 13, 13, 29]), track, hash, backends);
    // Few services at few addresses, so that each change meets what the changes before it left: errors hide there.
    prop::collection::btree_map(0u8..10, service, 0..6).prop_map(|services| {
        let wish = |(listen, (length, (track, balance), hash, backends))| Wish {
            name: NAMES[usize::from(listen)],
            listen,
            length,
            track,
            hash,
            balance,
            backends,
        };
        services.into_iter().map(wish).collect()
    })
}

/// Whether a backend takes new flows.
fn usable(wish: &Wish) -> bool {
    wish.backends.values().any(|state| *state == State::Up)
}

/// Services that are wished before and after, with a backend for new flows both times.
fn stay<'a>(before: &'a [Wish], after: &'a [Wish]) -> Vec<(&'a Wish, &'a Wish)> {
    let pairs = after.iter().filter_map(|after| {
        let before = before.iter().find(|before| before.listen == after.listen)?;
        Some((before, after))
    });
    pairs.filter(|(before, after)| usable(before) && usable(after)).collect()
}

fn assert_served(twin: &Twin, stay: &[(&Wish, &Wish)], step: &Operation) {
    for (before, after) in stay {
        for client in 0..12 {
            let verdict = twin.peek(&packet(&listen(after.listen), client, client % 3 == 0));
            let Some((_, to)) = target(twin, verdict) else {
                panic!("{verdict:?} for {after:?} after {step:?}")
            };
            let known = before.backends.keys().chain(after.backends.keys());
            assert!(known.map(|number| backend_address(*number)).any(|address| address == to));
        }
    }
}

/// Packets that have read their slot and not yet the record of its backend, or the record and not yet its interface: a
/// program that is interrupted there goes on many writes later.
#[derive(Default)]
struct UnderWay {
    /// Number of the backend, and the outer header that it had.
    backends: BTreeSet<(u32, Template)>,
    /// Number of a backend that was seen to be alive, its interface and its outer header, for any packet, also for packets of a
    /// tracked flow.
    decided: BTreeSet<(u32, u32, Template)>,
    interfaces: BTreeSet<u32>,
}

impl UnderWay {
    /// First packets for services that stay, as they find the tables now. A plan gives the flows of a backend away when the
    /// backend dies, so packets of these flows may find it dead.
    fn set_out(&mut self, twin: &Twin, stay: &[(&Wish, &Wish)]) {
        let records = twin.backends().unwrap();
        for (_, after) in stay {
            for client in 0..12 {
                let verdict = twin.peek(&packet(&listen(after.listen), client, false));
                let Verdict::Forwarded { backend, .. } = verdict else { continue };
                let record = records[backend as usize];
                self.decided.insert((backend, record.interface, record.outer));
            }
        }
        // UDP is left out: nothing shows whether a datagram is the first one of its flow.
        let listens = stay.iter().map(|(_, after)| listen(after.listen));
        for listen in listens.filter(|listen| listen.protocol == Protocol::Tcp) {
            for client in 0..12 {
                let verdict = twin.peek(&packet(&listen, client, true));
                let Verdict::Forwarded { backend, .. } = verdict else { continue };
                let record = records[backend as usize];
                self.backends.insert((backend, record.outer));
                self.interfaces.insert(record.interface);
            }
        }
    }

    fn assert_arrive(&mut self, twin: &Twin, step: &Operation) {
        if *step == Operation::Barrier {
            *self = Self::default();
        }
        let (records, egress) = (twin.backends().unwrap(), twin.egress().unwrap());
        for &(backend, outer) in &self.backends {
            let record = records[backend as usize];
            assert!(record.is_alive(), "packets under way to backend {backend} find it dead after {step:?}");
            assert_eq!(record.outer, outer, "backend {backend} after {step:?}");
        }
        for &(backend, interface, outer) in &self.decided {
            let record = records[backend as usize];
            assert_eq!(
                (record.interface, record.outer),
                (interface, outer),
                "backend {backend} after {step:?}"
            );
        }
        for interface in &self.interfaces {
            assert!(egress.contains(interface), "packets under way to interface {interface} after {step:?}");
        }
    }
}

/// Carries a plan out write by write, and checks after each write. After `dies_after` writes the rest is left undone.
fn carry_out(
    reconciler: &mut Reconciler<Twin>,
    plan: &Plan,
    stay: &[(&Wish, &Wish)],
    dies_after: Option<usize>,
) {
    let writes = single_writes(plan);
    let done = dies_after.unwrap_or(writes.len()).min(writes.len());
    let mut under_way = UnderWay::default();
    for step in &writes[..done] {
        under_way.set_out(reconciler.tables(), stay);
        apply::execute(reconciler.tables_mut(), step).unwrap();
        under_way.assert_arrive(reconciler.tables(), step);
        assert_served(reconciler.tables(), stay, step);
        assert_eq!(reconciler.tables().wrong_owners(), Vec::<u32>::new(), "after {step:?}");
    }
}

fn adopt(reconciler: Reconciler<Twin>) -> Reconciler<Twin> {
    let mut tables = reconciler.into_tables();
    tables.derive_owners();
    Reconciler::new(tables).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_write_leaves_packets_a_valid_way(
        histories in prop::collection::vec((wishes(), 0u16..20, any::<bool>()), 1..8),
    ) {
        let mut reconciler = new_reconciler();
        let mut before: Vec<Wish> = Vec::new();
        let mut now = 0x7ff0u16;
        for (after, pause, sweeps) in histories {
            now = (now + pause) & 0x7fff;
            reconciler.tables().set_seconds(u64::from(now) * 8);
            if sweeps {
                reconciler.sweep(now).unwrap();
            }
            let Ok(plan) = reconciler.plan(&desired(&after), now) else { continue };
            carry_out(&mut reconciler, &plan, &stay(&before, &after), None);
            // The plan was carried out without the reconciler's mirror, so a new reconciler reads the tables, as after a start.
            reconciler = adopt(reconciler);
            assert_says(&reconciler, &after);
            prop_assert_eq!(reconciler.plan(&desired(&after), now).unwrap().operations, vec![]);
            before = after;
        }
    }

    #[test]
    fn death_at_any_write_is_finished_by_the_successor(
        first in wishes(), second in wishes(), third in wishes(), dies in 0usize..200, same: bool,
    ) {
        let mut reconciler = new_reconciler();
        let applied = put(&mut reconciler, &first, 0);
        prop_assume!(applied > 0);
        let Ok(plan) = reconciler.plan(&desired(&second), 1) else { return Ok(()) };
        carry_out(&mut reconciler, &plan, &stay(&first, &second), Some(dies));
        reconciler = adopt(reconciler);
        let next = if same { second.clone() } else { third };
        // A change of length may have to wait for the one that was under way.
        let Ok(plan) = reconciler.plan(&desired(&next), 2) else { return Ok(()) };
        // Where the first plan stopped, a service says the first wish or the second one.
        let stays: Vec<(Wish, &Wish)> = stay(&second, &next)
            .into_iter()
            .filter_map(|(second, next)| {
                let first = first.iter().find(|first| first.listen == second.listen && usable(first))?;
                let mut either = second.clone();
                either.backends.extend(&first.backends);
                Some((either, next))
            })
            .collect();
        let pairs: Vec<_> = stays.iter().map(|(either, next)| (either, *next)).collect();
        carry_out(&mut reconciler, &plan, &pairs, None);
        reconciler = adopt(reconciler);
        assert_says(&reconciler, &next);
        prop_assert_eq!(reconciler.plan(&desired(&next), 3).unwrap().operations, vec![]);
    }

    #[test]
    fn a_failed_write_leaves_a_mirror_to_plan_from(
        first in wishes(), second in wishes(), fails in 0u64..200,
    ) {
        let mut reconciler = new_reconciler();
        put(&mut reconciler, &first, 0);
        let Ok(plan) = reconciler.plan(&desired(&second), 1) else { return Ok(()) };
        reconciler.tables_mut().fail_after(Some(fails));
        let outcome = reconciler.apply(&plan);
        prop_assert_eq!(outcome.is_ok(), plan.entries() <= fails);
        reconciler.tables_mut().fail_after(None);
        if let Ok(plan) = reconciler.plan(&desired(&second), 1) {
            reconciler.apply(&plan).unwrap();
            assert_says(&reconciler, &second);
        }
    }
}
