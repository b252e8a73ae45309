//! Checks of the object as the compiler made it, before the kernel sees it.

use aya_obj::Object;
use lb_userspace::bpf::object::OBJECT;

/// The memory routines that the compiler falls back on.
const MEMORY: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];

/// Functions of `lb_xdp` that the verifier reads once, and not for each way that leads to them.
const OF_LB_XDP: [&str; 9] = [
    "lb_decide",
    "lb_icmp",
    "lb_log",
    "lb_look_up",
    "lb_record",
    "lb_search",
    "lb_send",
    "lb_slow_path",
    "lb_too_big",
];

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
    let known = |name: &str| programs.contains(&name) || OF_LB_XDP.contains(&name) || MEMORY.contains(&name);
    let names: Vec<&str> = object.functions.values().map(|function| function.name.as_str()).collect();
    assert!(programs.iter().all(|program| names.contains(program)), "{names:?}");
    assert!(names.iter().all(|name| known(name)), "neither programs nor routines of memory: {names:?}");
}

/// A call of a function of ours, or of a memory routine, is a call with the pseudo source register 1 (linux/bpf.h,
/// `BPF_PSEUDO_CALL`). A call of a kernel helper has 0 there.
#[test]
fn only_lb_xdp_and_its_functions_call_functions() {
    const CALL: u8 = 0x85;
    const OF_OURS: u8 = 1;
    let object = Object::parse(OBJECT).unwrap();
    for function in object.functions.values().filter(|function| !MEMORY.contains(&function.name.as_str())) {
        let calls = function.instructions.iter().filter(|it| it.code == CALL && it.src_reg() == OF_OURS);
        let may_call = function.name == "lb_xdp" || OF_LB_XDP.contains(&function.name.as_str());
        let calls = calls.count();
        assert!(may_call || calls == 0, "{}: helpers are all that is called", function.name);
        // The fast path calls nothing. It leads to the slow path from the slot on for either family, or from the beginning,
        // or to the control messages.
        assert!(function.name != "lb_xdp" || calls <= 4, "lb_xdp calls {calls} functions");
    }
}
