//! What this process and its machine use.

use serde::{Deserialize, Serialize};
use sysinfo::{
    CpuRefreshKind, MemoryRefreshKind, NetworkData, Networks, Pid, ProcessRefreshKind, ProcessesToUpdate,
    System,
};

/// What a process and its machine use; 0 where the system does not say.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Usage {
    /// Processor time of the process and its descendants that still run (models in Python), in milliseconds.
    pub cpu_ms: u64,
    /// Memory of the same, in bytes.
    pub resident_bytes: u64,
    /// The machine's processors.
    pub cores: u32,
    /// How busy these were since the last report, all together, from 0 to 1.
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

/// Measures it. What the system does not say is left out, and is no error.
pub(crate) struct Meter {
    me: u32,
    system: Option<System>,
    networks: Option<Networks>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { me: std::process::id(), system: System::new().ok(), networks: Networks::new().ok() }
    }

    pub(crate) fn measure(&mut self) -> Usage {
        let mut usage = Usage::default();
        if let Some(system) = &mut self.system {
            let process = ProcessRefreshKind::nothing().with_cpu().with_memory();
            let family: Vec<_> = family(self.me).into_iter().map(Pid::from_u32).collect();
            system.refresh_processes_specifics(ProcessesToUpdate::Some(&family), true, process);
            system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            for process in family.iter().filter_map(|process| system.process(*process)) {
                usage.cpu_ms += process.accumulated_cpu_time();
                usage.resident_bytes += process.memory();
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

/// A process and its descendants.
fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut looked_at = 0;
    while let Some(process) = family.get(looked_at) {
        let children = children(*process);
        family.extend(children);
        looked_at += 1;
    }
    family
}

fn children(process: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<_> = lists.collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_a_child_uses_counts_also_that_of_a_grandchild() {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0; sh -c 'echo $$; read line' <&3 & wait"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut grandchild = String::new();
        let said = child.stdout.as_mut().unwrap();
        while !grandchild.ends_with('\n') {
            let mut byte = [0];
            said.read_exact(&mut byte).unwrap();
            grandchild.push(byte[0].into());
        }
        let family = family(std::process::id());
        assert!(family.contains(&child.id()), "{family:?}");
        assert!(family.contains(&grandchild.trim().parse().unwrap()), "{family:?} {grandchild}");
        drop(child.stdin.take());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Meter::new().measure();
        assert!(usage.resident_bytes > 1 << 16, "{usage:?}");
        assert!(usage.machine_bytes > usage.resident_bytes && usage.cores > 0, "{usage:?}");
    }
}
