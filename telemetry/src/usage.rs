//! What this process and its machine use.

use serde::{Deserialize, Serialize};
use sysinfo::{
    CpuRefreshKind, MemoryRefreshKind, NetworkData, Networks, Pid, ProcessRefreshKind, ProcessesToUpdate,
    System,
};

/// What a process and its machine use. Where the system does not say, it is nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Usage {
    /// Processor time of the process since it began, in milliseconds.
    pub cpu_ms: u64,
    /// Memory of the process, in bytes.
    pub resident_bytes: u64,
    /// The machine's processors.
    pub cores: u32,
    /// How busy these have been since the last look, all together, from 0 to 1.
    pub machine_busy: f32,
    /// Memory of the machine that is used, in bytes.
    pub machine_used_bytes: u64,
    /// Memory of the machine, in bytes.
    pub machine_bytes: u64,
    /// Bytes that came in over the network since the machine began; also from itself.
    pub received_bytes: u64,
    /// Bytes that went out over the network.
    pub sent_bytes: u64,
}

/// Looks at it. What the system keeps to itself is not told, and is no error.
pub(crate) struct Meter {
    me: Pid,
    system: Option<System>,
    networks: Option<Networks>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            me: Pid::from_u32(std::process::id()),
            system: System::new().ok(),
            networks: Networks::new().ok(),
        }
    }

    pub(crate) fn look(&mut self) -> Usage {
        let mut usage = Usage::default();
        if let Some(system) = &mut self.system {
            let process = ProcessRefreshKind::nothing().with_cpu().with_memory();
            system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.me]), true, process);
            system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            if let Some(process) = system.process(self.me) {
                usage.cpu_ms = process.accumulated_cpu_time();
                usage.resident_bytes = process.memory();
            }
            usage.cores = system.cpus().len() as u32;
            usage.machine_busy = system.global_cpu_usage() / 100.0;
            usage.machine_used_bytes = system.used_memory();
            usage.machine_bytes = system.total_memory();
        }
        if let Some(networks) = &mut self.networks {
            networks.refresh(true);
            usage.received_bytes = networks.values().map(NetworkData::total_received).sum();
            usage.sent_bytes = networks.values().map(NetworkData::total_transmitted).sum();
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Meter::new().look();
        assert!(usage.resident_bytes > 1 << 16, "{usage:?}");
        assert!(usage.machine_bytes > usage.resident_bytes && usage.cores > 0, "{usage:?}");
    }
}
