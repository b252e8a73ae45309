//! What a configuration needs of its host, as questions. The checker asks them through [`OnHost`]; `host` answers them for the
//! host that this process runs on.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::spec::{Probe, Spec};

/// The questions to the host. A refusal continues the key's name: `socket_group` + ` "x" is not a group of this host`.
pub trait OnHost {
    fn interface(&self, name: &str) -> bool;

    fn group(&self, _name: &str) -> Result<(), String> {
        Ok(())
    }

    fn state_directory(&self, _path: &Path) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self, _address: SocketAddr) -> Result<(), String> {
        Ok(())
    }

    /// Whether a file has certificates that can serve as roots.
    fn certificates(&self, _file: &Path) -> Result<(), String> {
        Ok(())
    }

    /// What is wrong with a command and the user that is to run it: the key of the health check, and why.
    fn command(&self, _command: &[String], _user: &str) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The same for those of `[health]`.
    fn default_command(&self, command: &[String], user: &str) -> Vec<(&'static str, String)> {
        self.command(command, user)
    }

    /// Whether a service may have an address.
    fn listen(&self, _address: IpAddr) -> Result<(), String> {
        Ok(())
    }
}

/// A function that knows the interfaces only; every other question is answered with yes.
impl<F: Fn(&str) -> bool> OnHost for F {
    fn interface(&self, name: &str) -> bool {
        self(name)
    }
}

/// For a change at run time: only what the change adds is asked, so that a change is not refused because of something that is
/// in force already and unrelated.
pub struct Added<'a> {
    pub host: &'a dyn OnHost,
    pub in_force: &'a Spec,
}

impl OnHost for Added<'_> {
    /// Always true: `[node]` is not changed at run time.
    fn interface(&self, _name: &str) -> bool {
        true
    }

    fn certificates(&self, file: &Path) -> Result<(), String> {
        let mut checks = self.in_force.services.iter().filter_map(|service| service.health.as_ref());
        let known =
            checks.any(|health| health.probe.tls().is_some_and(|tls| tls.ca.as_deref() == Some(file)));
        if known { Ok(()) } else { self.host.certificates(file) }
    }

    fn command(&self, command: &[String], user: &str) -> Vec<(&'static str, String)> {
        only_of(self.in_force, command, user)
    }

    /// None is refused: `[health]` is not changed at run time.
    fn default_command(&self, _command: &[String], _user: &str) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn listen(&self, address: IpAddr) -> Result<(), String> {
        let known = self.in_force.services.iter().any(|service| service.listen.address == address);
        if known { Ok(()) } else { self.host.listen(address) }
    }
}

/// Commands that no check of `spec` runs are refused: who may use the control socket may not by that run anything as any user.
pub fn only_of(spec: &Spec, command: &[String], user: &str) -> Vec<(&'static str, String)> {
    let mut checks = spec.services.iter().filter_map(|service| service.health.as_ref());
    let known = checks.any(|health| match &health.probe {
        Probe::Exec(exec) => exec.command == command && exec.user == user,
        _ => false,
    });
    let why = "cannot be set over the socket: write it into the configuration file and apply that";
    if known { Vec::new() } else { vec![("command", why.to_owned())] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{SMALL, spec};

    #[test]
    fn over_the_socket_come_only_commands_that_are_in_force() {
        let check = "health = { kind = \"exec\", command = [\"/bin/sh\", \"-c\", \"true\"], user = \"daemon\" }\nlisten =";
        let spec = spec(&SMALL.replacen("listen =", check, 1));
        let asked = |words: [&str; 3], user: &str| only_of(&spec, &words.map(str::to_owned), user).len();
        assert_eq!(asked(["/bin/sh", "-c", "true"], "daemon"), 0);
        assert_eq!(asked(["/bin/sh", "-c", "false"], "daemon"), 1);
        assert_eq!(asked(["/bin/sh", "-c", "true"], "bin"), 1);
    }
}
