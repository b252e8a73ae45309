//! Checks of the object as the compiler made it, before the kernel sees it.

use aya_obj::Object;
use lb_userspace::bpf::object::OBJECT;

/// The memory routines that the compiler falls back on.
const MEMORY: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];

/// A panic is a call of a function of `core` that ends in the panic handler: if any were left, both would be in the object.
#[test]
fn no_program_contains_a_panic() {
    let object = Object::parse(OBJECT).unwrap();
    let programs = [
        "lb_clock",
        "lb_decap",
        "lb_lost_back",
        "lb_lost_bundle",
        "lb_lost_driver",
        "lb_lost_refused",
        "lb_pass",
        "lb_xdp",
    ];
    let known = |name: &str| programs.contains(&name) || MEMORY.contains(&name);
    let names: Vec<&str> = object.functions.values().map(|function| function.name.as_str()).collect();
    assert!(programs.iter().all(|program| names.contains(program)), "{names:?}");
    assert!(names.iter().all(|name| known(name)), "neither programs nor routines of memory: {names:?}");
}

/// A call of a function of ours, or of a memory routine, is a call with the pseudo source register 1 (linux/bpf.h,
/// `BPF_PSEUDO_CALL`). A call of a kernel helper has 0 there.
#[test]
fn no_program_calls_another_function() {
    const CALL: u8 = 0x85;
    const OF_OURS: u8 = 1;
    let object = Object::parse(OBJECT).unwrap();
    for function in object.functions.values().filter(|function| !MEMORY.contains(&function.name.as_str())) {
        let calls = function.instructions.iter().filter(|it| it.code == CALL && it.src_reg() == OF_OURS);
        assert_eq!(calls.count(), 0, "{}: helpers are all that is called", function.name);
    }
}
