//! The commands for hosts from EC2, one module each.

pub(crate) mod down;
pub(crate) mod job;
pub(crate) mod status;
pub(crate) mod up;
