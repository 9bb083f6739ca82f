//! Processor time, memory and network traffic of this process and its machine.

use serde::{Deserialize, Serialize};
use sysinfo::{
    CpuRefreshKind, MemoryRefreshKind, NetworkData, Networks, Pid, ProcessRefreshKind, ProcessesToUpdate,
    System,
};

/// The usage of a process and its machine. A value that the system does not provide is 0.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Usage {
    /// Processor time of the process and its running descendants (Python models), in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory of the same processes.
    pub resident_bytes: u64,
    /// The machine's cores.
    pub cores: u32,
    /// How busy all cores together were since the last report, from 0 to 1.
    pub machine_busy: f32,
    /// The machine's used memory.
    pub machine_used_bytes: u64,
    /// The machine's memory.
    pub machine_bytes: u64,
    /// Bytes received by the machine since it booted, loopback included.
    pub received_bytes: u64,
    /// Bytes sent by the machine since it booted, loopback included.
    pub sent_bytes: u64,
}

/// Measures [`Usage`]. A value that the system does not provide is left at 0, without an error.
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
    let mut visited = 0;
    while let Some(process) = family.get(visited) {
        let children = children(*process);
        family.extend(children);
        visited += 1;
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
    fn the_usage_of_children_and_grandchildren_counts() {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0; sh -c 'echo $$; read line' <&3 & wait"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut grandchild = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        while !grandchild.ends_with('\n') {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
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
    fn the_usage_of_this_process_is_measured() {
        let usage = Meter::new().measure();
        assert!(usage.resident_bytes > 1 << 16, "{usage:?}");
        assert!(usage.machine_bytes > usage.resident_bytes && usage.cores > 0, "{usage:?}");
    }
}
