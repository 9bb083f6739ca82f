//! Default ports, as in 2018. All can be changed by flags.

/// Rows in, at the initializer.
pub const ROWS: u16 = 8888;
/// Results out, at the receiver.
pub const RESULTS: u16 = 9999;
/// Cluster control, at the initializer.
pub const CONTROL: u16 = 12500;
/// Data connections between classifier processes; the port of a host's first process.
pub const DATA: u16 = 12600;
/// The Monitoring Hub's page.
pub const HUB: u16 = 4000;
/// Reports to the Monitoring Hub.
pub const METRICS: u16 = 5001;
