//! The backend of a new flow where a service balances other than by the hash: lb-common/doc/balancing.md,
//! "Balancing other than by the hash". Where chance decides, the model knows which backends may be chosen and how likely each
//! is; a witness reports which one the program took.

use std::collections::BTreeMap;

use super::{
    Key,
    scene::{Balance, Scene, Service, State},
};

/// What was seen of a flow after its first packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The flow was counted as one that the service's balancing sent.
    pub balanced: bool,
    /// The backend in the flow's record.
    pub backend: Option<u32>,
}

/// Looks up what was seen of a flow; called only where chance decides.
pub type Witness<'a> = &'a mut dyn FnMut(&Key) -> Seen;

/// A random choice, and one outcome that was fixed before it: many choices together show whether the likelihoods are
/// right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    pub balance: Balance,
    /// The likelihood of that outcome, from 0 to 1.
    pub likelihood: f64,
    /// Whether that outcome came.
    pub came: bool,
}

/// The state from which turns and loads are computed, in addition to the scene.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Turns that each service has given on this CPU.
    pub(super) turns: BTreeMap<u32, u64>,
    /// Flows of backends in services that balance by live flows, as packets count them: confirmed, and not closed.
    pub(super) live: BTreeMap<u32, i64>,
}

impl Counts {
    /// The load of a backend with one flow more: flows divided by weight, as a fraction.
    fn load(&self, scene: &Scene, backend: u32) -> (i128, i128) {
        let live = self.live.get(&backend).copied().unwrap_or(0).max(0);
        let weight = scene.backends.get((backend as usize).wrapping_sub(1)).map_or(0, |known| known.weight);
        (i128::from(live) + 1, i128::from(weight.max(1)))
    }

    /// Whether `one` would have a higher load than `other`, each with one flow more. A backend that is not simply up is heavier
    /// than one that is.
    fn is_heavier(&self, scene: &Scene, one: u32, other: u32) -> bool {
        let full = |backend: u32| {
            scene
                .backends
                .get((backend as usize).wrapping_sub(1))
                .is_none_or(|known| known.state != State::Up)
        };
        if full(one) != full(other) {
            return full(one);
        }
        let ((flows, weight), (other_flows, other_weight)) = (self.load(scene, one), self.load(scene, other));
        flows * other_weight > other_flows * weight
    }
}

/// The backend for the new flow of `key`; 0 = none. `number` is the service's, `cpu` that of the CPU on which the packet came in.
pub(super) fn choose(
    scene: &Scene,
    counts: &mut Counts,
    (number, cpu): (u32, u32),
    key: &Key,
    witness: Witness<'_>,
) -> (u32, Option<Chance>) {
    let service = &scene.services[number as usize];
    if service.slots.is_empty() {
        return (0, None);
    }
    match service.balance {
        Balance::Hash => (0, None),
        Balance::RoundRobin => {
            let given = counts.turns.entry(number).or_default();
            let turn = (*given + u64::from(cpu)) % (service.slots.len() as u64);
            *given += 1;
            (service.slots[turn as usize].owner(), None)
        }
        balance @ (Balance::Random | Balance::LeastConnections) => {
            let likely = likelihoods(scene, counts, service);
            let chosen = witnessed(&likely, witness(key));
            // Always the heaviest of the possible backends: `random` takes it by its share, `least-connections` avoids it.
            let mut owners: Vec<u32> = likely.keys().copied().collect();
            owners.sort_by(|one, other| {
                let (one_heavier, other_heavier) =
                    (counts.is_heavier(scene, *one, *other), counts.is_heavier(scene, *other, *one));
                other_heavier.cmp(&one_heavier).then(one.cmp(other))
            });
            let chance = owners.first().map(|heaviest| Chance {
                balance,
                likelihood: likely[heaviest],
                came: chosen == *heaviest,
            });
            (chosen, chance)
        }
    }
}

/// Every backend that may be chosen, with its likelihood; 0 = none.
fn likelihoods(scene: &Scene, counts: &Counts, service: &Service) -> BTreeMap<u32, f64> {
    let slots = &service.slots;
    let each = 1.0 / slots.len() as f64;
    let mut likely = BTreeMap::new();
    for (place, one) in slots.iter().map(|slot| slot.owner()).enumerate() {
        if service.balance == Balance::Random {
            *likely.entry(one).or_default() += each;
            continue;
        }
        let seconds = seconds(place, slots.len(), service.longest as usize);
        let of_these = each / seconds.len() as f64;
        for two in seconds.into_iter().map(|place| slots[place].owner()) {
            let chosen = match (one, two) {
                (0, other) | (other, 0) => other,
                (one, two) if counts.is_heavier(scene, one, two) => two,
                (one, _) => one,
            };
            *likely.entry(chosen).or_default() += of_these;
        }
    }
    likely
}

/// The places that the second of two candidates may have, if `first` is the place of the first one.
fn seconds(first: usize, length: usize, longest: usize) -> Vec<usize> {
    if longest == 0 || longest >= length {
        (0..length).collect()
    } else if first < longest {
        (longest..length).collect()
    } else if 2 * longest <= length {
        (longest..=length - longest).map(|distance| (first + distance) % length).collect()
    } else {
        (0..longest).collect()
    }
}

/// The backend that the program took, if that was allowed; else the likeliest one, so that the two differ.
fn witnessed(likely: &BTreeMap<u32, f64>, seen: Seen) -> u32 {
    let taken = if seen.balanced { seen.backend } else { Some(0) };
    if let Some(taken) = taken.filter(|taken| likely.contains_key(taken)) {
        return taken;
    }
    likely.iter().max_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(backend, _)| *backend)
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;

    fn scene(balance: &str, slots: &str) -> Result<Scene> {
        let backend = |number: u32, weight: u32| {
            format!(
                "[[backend]]\naddress = \"10.1.0.{number}\"\nsource = \"10.0.0.1\"\ncarries = \"ipv4\"\nweight = {weight}\n"
            )
        };
        let service = format!(
            "[[service]]\nlisten = \"203.0.113.10:443\"\nprotocol = \"tcp\"\nalways = true\nbalance = \"{balance}\"\n\
            slots = {slots}\n"
        );
        let scene: Scene =
            toml::from_str(&[backend(1, 100), backend(2, 100), backend(3, 300), service].concat())?;
        scene.check()?;
        Ok(scene)
    }

    fn key() -> Key {
        let source = ([198, 51, 100, 1], 40_000).into();
        Key { source, destination: ([203, 0, 113, 10], 443).into(), protocol: 6 }
    }

    fn chosen(scene: &Scene, counts: &mut Counts, seen: Seen) -> u32 {
        choose(scene, counts, (0, 1), &key(), &mut |_| seen).0
    }

    #[test]
    fn turns_follow_the_slots_from_the_number_of_the_cpu_on() -> Result<()> {
        let scene = scene("round-robin", "[\"1!\", \"2!\", \"3!\"]")?;
        let mut counts = Counts::default();
        let turns: Vec<u32> = (0..4).map(|_| chosen(&scene, &mut counts, Seen::default())).collect();
        assert_eq!(turns, [2, 3, 1, 2]);
        Ok(())
    }

    #[test]
    fn chance_takes_the_witnessed_owner_of_a_slot() -> Result<()> {
        let scene = scene("random", "[\"1!\", \"2!\", \"2!\"]")?;
        let mut counts = Counts::default();
        for (backend, taken) in [(1, 1), (2, 2), (3, 2)] {
            let seen = Seen { balanced: true, backend: Some(backend) };
            assert_eq!(chosen(&scene, &mut counts, seen), taken, "backend {backend}");
        }
        let unbalanced = Seen { balanced: false, backend: Some(1) };
        assert_eq!(
            chosen(&scene, &mut counts, unbalanced),
            2,
            "every slot has an owner, so somebody is chosen"
        );
        Ok(())
    }

    #[test]
    fn the_heavier_is_taken_only_if_it_owns_both_slots() -> Result<()> {
        let scene = scene("least-connections", "[\"1!\", \"2!\", \"2!\", \"2!\"]")?;
        let likely = |live| {
            let counts = Counts { live: BTreeMap::from(live), ..Counts::default() };
            likelihoods(&scene, &counts, &scene.services[0])
        };
        assert_eq!(likely([(1, 0), (2, 1)]), BTreeMap::from([(1, 7.0 / 16.0), (2, 9.0 / 16.0)]));
        assert_eq!(likely([(1, 1), (2, 0)]), BTreeMap::from([(1, 1.0 / 16.0), (2, 15.0 / 16.0)]));
        assert_eq!(
            likely([(1, -5), (2, 0)])[&1],
            4.0 / 16.0,
            "below 0 is none, and then the first slot's counts"
        );
        Ok(())
    }

    #[test]
    fn adjacent_slots_of_an_owner_still_give_two_candidates() -> Result<()> {
        let likely = |longest: u32, slots: &str, live: [i64; 3]| {
            let mut scene = scene("least-connections", slots)?;
            scene.services[0].longest = longest;
            let live = (1..).zip(live).collect();
            let counts = Counts { live, ..Counts::default() };
            anyhow::Ok(likelihoods(&scene, &counts, &scene.services[0]))
        };
        for (longest, slots) in [
            (2, "[\"1!\", \"1!\", \"2!\", \"2!\"]"),
            (3, "[\"1!\", \"1!\", \"1!\", \"2!\"]"),
            (2, "[\"1!\", \"1!\", \"2!\", \"2!\", \"3!\"]"),
            (3, "[\"1!\", \"1!\", \"1!\", \"2!\", \"3!\"]"),
        ] {
            for stuck in 0..2 {
                let mut live = [0; 3];
                live[stuck] = 10_000;
                let stuck = stuck as u32 + 1;
                assert_eq!(likely(longest, slots, live)?.get(&stuck), None, "{stuck} of {slots}");
            }
        }
        let unsaid = likely(0, "[\"1!\", \"1!\", \"2!\", \"2!\"]", [10_000, 0, 0])?;
        assert_eq!(unsaid[&1], 0.25, "both slots may be its");
        Ok(())
    }

    #[test]
    fn a_backend_out_of_service_is_the_last_choice() -> Result<()> {
        let mut scene = scene("least-connections", "[\"1!\", \"2!\"]")?;
        let counts = Counts { live: BTreeMap::from([(1, 500)]), ..Counts::default() };
        for state in [State::Failing, State::Draining, State::Down] {
            scene.backends[1].state = state;
            scene.backends[0].state = State::Up;
            assert!(counts.is_heavier(&scene, 2, 1) && !counts.is_heavier(&scene, 1, 2), "{state:?}");
            scene.backends[0].state = state;
            assert!(counts.is_heavier(&scene, 1, 2), "{state:?}");
        }
        Ok(())
    }

    #[test]
    fn loads_are_by_weight() -> Result<()> {
        let scene = scene("least-connections", "[\"1!\", \"3!\"]")?;
        let heavier = |one: i64, three: i64| {
            let counts = Counts { live: BTreeMap::from([(1, one), (3, three)]), ..Counts::default() };
            (counts.is_heavier(&scene, 1, 3), counts.is_heavier(&scene, 3, 1))
        };
        assert_eq!(heavier(0, 2), (false, false));
        assert_eq!(heavier(0, 3), (false, true));
        assert_eq!(heavier(1, 4), (true, false));
        Ok(())
    }
}
