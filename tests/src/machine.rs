//! A machine: a real systemd and a real cloud-init, which boot in a container with given user data.
//!
//! Its root file system is one of those in `target/boot`, under a layer in memory. That layer is the machine's disk, and
//! stays when the machine restarts. All of its processes and mounts are in namespaces that a holder process keeps. They end
//! with the holder, and the holder ends with the test, however that ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{root, skip, within};

/// Time limit for a machine to boot, to answer or to end. On an idle processor it takes seconds.
pub const BOOT_TIME: Duration = Duration::from_secs(120);
/// Time limit for removing a machine.
const REMOVAL_TIME: Duration = Duration::from_secs(30);
/// The instance id that cloud-init gets.
pub const INSTANCE: &str = "i-0123456789abcdef0";

/// Sets up the namespaces, and runs `true` in a container as a trial; then waits for the end of standard input. systemd
/// requires unified control groups, even if this machine uses the older ones.
const HOLDER: &str = r#"
set -e
release=$0 disk=$1 group=$2
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup 2> /dev/null || {
  umount --recursive /sys/fs/cgroup
  mount -t cgroup2 none /sys/fs/cgroup
}
mkdir -p "$group/trial"
remove_group() {
  # Killed processes leave their groups a moment later.
  for _ in $(seq 500); do
    find "$group" -depth -type d -exec rmdir {} + 2> /dev/null && break
    sleep 0.01
  done
}
trap remove_group EXIT
mount -t tmpfs none "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
mount -t overlay none -o "lowerdir=$release,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
(
  echo 0 > "$group/trial/cgroup.procs"
  exec timeout 60 systemd-nspawn --quiet --directory="$disk/root" --register=no --keep-unit --private-network \
    --console=pipe true < /dev/null
)
echo ready
cat
kill -KILL -1
"#;

/// Boots a machine; the container's only network is its loopback.
const BOOT: &str = r#"
mkdir "$1" && echo 0 > "$1/cgroup.procs" &&
exec systemd-nspawn --quiet --directory="$0" --boot --register=no --keep-unit --private-network --console=pipe \
  --link-journal=no --resolv-conf=off --timezone=off
"#;

/// A machine; dropping it switches it off and removes it.
pub struct Machine {
    holder: Child,
    /// The first process in the holder's namespaces.
    inner: u32,
    folder: TempDir,
    group: String,
    boots: u32,
    running: Option<(Child, Instant)>,
}

impl Machine {
    /// A machine with this user data for each installed root file system, switched off. Skips the test and returns none if
    /// this computer cannot boot one.
    pub fn of_each_release(test: &str, user_data: &str) -> Vec<Self> {
        let user = Command::new("id").arg("-u").output().unwrap();
        if user.stdout != b"0\n" {
            skip(test, "booting a machine needs root");
            return Vec::new();
        }
        let folders = std::fs::read_dir(root().join("target/boot")).into_iter().flatten();
        let releases: Vec<_> = folders.map(|folder| folder.unwrap().path().join("root")).collect();
        let machines: Result<Vec<_>, _> = releases
            .iter()
            .filter(|release| release.with_file_name("installed.txt").exists())
            .map(|release| Self::new(release, user_data))
            .collect();
        match machines {
            Ok(machines) if machines.is_empty() => {
                skip(
                    test,
                    "booting a machine needs a root file system, which cargo xtask test makes on Debian",
                );
                machines
            }
            Ok(machines) => machines,
            Err(reason) => {
                skip(test, &format!("this computer cannot boot a machine: {}", reason.trim()));
                Vec::new()
            }
        }
    }

    /// # Errors
    /// If this computer does not allow it.
    fn new(release: &Path, user_data: &str) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = format!("/sys/fs/cgroup/boot-{}-{number}", std::process::id());
        let mut holder = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", HOLDER])
            .args([release, &disk])
            .arg(&group)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path().join("holder.log")).unwrap())
            .spawn()
            .map_err(|error| format!("starting unshare: {error}"))?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said != "ready\n" {
            holder.wait().unwrap();
            return Err(std::fs::read_to_string(folder.path().join("holder.log")).unwrap());
        }
        let inner = children(holder.id())[0];
        let machine = Self { holder, inner, folder, group, boots: 0, running: None };
        let seed = machine.file("/var/lib/cloud/seed/nocloud");
        std::fs::create_dir_all(&seed).unwrap();
        std::fs::write(seed.join("user-data"), user_data).unwrap();
        let id = format!("instance-id: {INSTANCE}\nlocal-hostname: ip-10-0-0-1\n");
        std::fs::write(seed.join("meta-data"), id).unwrap();
        Ok(machine)
    }

    /// The path on this computer of a file on the machine's disk. For files in its memory (`/run`), use [`run`](Self::run).
    pub fn file(&self, path: &str) -> PathBuf {
        let disk = self.folder.path().join("disk/root");
        PathBuf::from(format!("/proc/{}/root{}{path}", self.inner, disk.display()))
    }

    /// Replaces a path on its disk, which need not exist, by a symbolic link.
    pub fn link(&self, path: &str, to: &str) {
        let file = self.file(path);
        let _ = std::fs::remove_file(&file); // It may not exist.
        std::os::unix::fs::symlink(to, file).unwrap();
    }

    /// Switches it on.
    pub fn boot(&mut self) {
        assert!(self.running.is_none(), "the machine is on");
        self.boots += 1;
        let _ = std::fs::remove_file(self.boot_finished()); // It does not exist at the first boot.
        let console = File::create(self.console()).unwrap();
        let nsenter = Command::new("nsenter")
            .args(["--mount", "--pid", "--target", &self.inner.to_string(), "sh", "-c", BOOT])
            .arg(self.folder.path().join("disk/root"))
            .arg(format!("{}/{}", self.group, self.boots))
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("nsenter can be started");
        self.running = Some((nsenter, Instant::now()));
    }

    /// Waits until cloud-init has finished; returns the time since the machine was switched on.
    pub fn await_booted(&mut self) -> Duration {
        let finished = self.boot_finished();
        let start = self.running.as_ref().expect("the machine was switched on").1;
        while !finished.exists() {
            let (nsenter, _) = self.running.as_mut().expect("the machine was switched on");
            let ended = nsenter.try_wait().unwrap();
            assert!(ended.is_none(), "the machine ended while it booted:\n{}", self.said());
            if start.elapsed() > BOOT_TIME {
                let jobs = self.run("systemctl list-jobs");
                panic!("cloud-init has not finished after {BOOT_TIME:?}:\n{}\n{jobs}", self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }

    /// Waits until it has switched itself off; returns the time since it was switched on.
    pub fn await_off(&mut self) -> Duration {
        let (mut nsenter, start) = self.running.take().expect("the machine was switched on");
        let status = within(BOOT_TIME, "the machine to switch itself off", || nsenter.try_wait().unwrap());
        assert!(status.success(), "the machine ended with {status}:\n{}", self.said());
        start.elapsed()
    }

    /// Cuts its power.
    pub fn cut_power(&mut self) {
        let init = self.init().to_string();
        assert!(Command::new("kill").args(["-KILL", &init]).status().unwrap().success());
        let (mut nsenter, _) = self.running.take().expect("the machine was switched on");
        within(BOOT_TIME, "the machine to be off", || nsenter.try_wait().unwrap());
    }

    /// Runs a POSIX shell script on it as root; returns its output, including errors.
    pub fn run(&self, script: &str) -> String {
        let (limit, init) = (BOOT_TIME.as_secs().to_string(), self.init().to_string());
        let output = Command::new("timeout")
            .args(["--signal=KILL", &limit, "nsenter", "--all", "--target", &init, "sh", "-c"])
            .arg(format!("exec 2>&1\n{script}"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{script}: {}\n{said}", output.status);
        said
    }

    /// The console's output since it was switched on.
    pub fn said(&self) -> String {
        let mut said = Vec::new();
        File::open(self.console()).unwrap().read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    fn console(&self) -> PathBuf {
        self.folder.path().join(format!("console.{}", self.boots))
    }

    fn boot_finished(&self) -> PathBuf {
        self.file(&format!("/var/lib/cloud/instances/{INSTANCE}/boot-finished"))
    }

    /// The machine's first process: the container's child that has its own pid namespace.
    fn init(&self) -> u32 {
        let (nsenter, _) = self.running.as_ref().expect("the machine was switched on");
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        within(BOOT_TIME, "the machine's first process", || {
            let container = children(nsenter.id()).first().copied()?;
            let own = namespace(container)?;
            children(container).into_iter().find(|child| namespace(*child).is_some_and(|other| other != own))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // This ends the holder, and with it everything in its namespaces.
        drop(self.holder.stdin.take());
        let start = Instant::now();
        while matches!(self.holder.try_wait(), Ok(None)) {
            if start.elapsed() > REMOVAL_TIME {
                // The first process in the namespaces then ends as well.
                let _ = self.holder.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some((mut nsenter, _)) = self.running.take() {
            // It ends with the process that it waits for.
            let _ = nsenter.wait();
        }
    }
}

/// The child processes; none if the process has ended.
fn children(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().map(|child| child.parse().unwrap()).collect()
}
