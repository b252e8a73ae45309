//! Whether backends work. Decides nothing about the ring: the agent's loop does, from [`Verdict`]s.

pub mod machine;
pub mod probe;

/// What health checking says of one backend of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No verdict yet: not enough probes have ended since the backend was first probed.
    Checking,
    Up,
    Down,
}

impl Verdict {
    /// The word the control socket and the logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}
