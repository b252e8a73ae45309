//! `lbd decap` on the command line; what it does to packets is tested in `datapath`.

use std::path::Path;

use anyhow::{Result, ensure};
use lb_tests::test_name;

use crate::world::isolated;

#[test]
fn an_interface_that_does_not_exist_is_named_once_and_nothing_is_left() -> Result<()> {
    isolated(test_name!(), |world| {
        let said = world.lbd(&["decap", "attach", "--interface", "no0", "--address", "10.0.0.1"])?;
        ensure!((said.code, said.err.as_str()) == (1, "lbd: interface no0: there is no such interface\n"));
        ensure!(!Path::new("/sys/fs/bpf/lb/decap-no0").exists(), "pins are left");
        Ok(())
    })
}

#[test]
fn taking_off_what_is_not_attached_says_so() -> Result<()> {
    isolated(test_name!(), |world| {
        let detach = ["decap", "detach", "--interface", "lb0"];
        ensure!(world.lbd(&detach)?.done()? == "lb0: lb_decap was not attached\n");
        world.lbd(&["decap", "attach", "--interface", "lb0", "--address", "10.0.0.1"])?.done()?;
        ensure!(world.lbd(&detach)?.done()? == "lb0: lb_decap taken off\n");
        ensure!(world.lbd(&detach)?.done()? == "lb0: lb_decap was not attached\n");
        Ok(())
    })
}
