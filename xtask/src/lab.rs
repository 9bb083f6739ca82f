//! A lab: several hosts on this machine, for trying and testing clusters.
//!
//! Each host is a network namespace with its own address behind a bridge. It runs a real sshd, in a mount namespace in which
//! the host's folder is mounted over root's home. So commands, SFTP and port forwards cross real TCP between addresses, and
//! a host can be cut off (`ip link set … down`) or slowed (`tc`) like a real one. A lab needs root on Linux, and Debian's
//! openssh-server and iproute2.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use xshell::{Shell, cmd};

/// Time limit for a host's sshd to answer.
const BANNER_TIME: Duration = Duration::from_secs(10);

/// The largest number of hosts in a lab.
const MOST_HOSTS: u8 = 200;

pub(crate) struct Lab {
    name: String,
    folder: PathBuf,
    shell: Shell,
}

struct LabHost {
    name: String,
    namespace: String,
    /// The end of its cable at the bridge, a veth device.
    cable: String,
    address: Ipv4Addr,
    folder: PathBuf,
}

impl Lab {
    /// The lab of this name, in this folder, whether or not it is up.
    pub(crate) fn new(name: &str, folder: PathBuf) -> anyhow::Result<Self> {
        ensure!(
            (1..=6).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "{name:?} is not a lab's name: give one to six lower-case letters and digits, since names of \
             network devices are short"
        );
        Ok(Self { name: name.to_owned(), folder, shell: Shell::new()? })
    }

    /// The hosts file for `cargo xtask up --hosts`.
    pub(crate) fn hosts_file(&self) -> PathBuf {
        self.folder.join("hosts.toml")
    }

    /// The path on this machine of the folder that `cargo xtask up` makes on host number `host`.
    pub(crate) fn home(&self, host: u8) -> PathBuf {
        self.folder.join(format!("h{host}/home/.provisioned-classifier"))
    }

    /// The end of a host's cable at the bridge.
    pub(crate) fn cable(&self, host: u8) -> String {
        format!("{}{host}", self.bridge())
    }

    /// The number of hosts.
    pub(crate) fn hosts(&self) -> u8 {
        (1..=MOST_HOSTS).take_while(|host| self.folder.join(format!("h{host}")).exists()).count() as u8
    }

    /// Checks that this machine can have a lab.
    ///
    /// # Errors
    /// Names what is missing.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let root = cmd!(self.shell, "id -u").quiet().read().is_ok_and(|user| user == "0");
        ensure!(root, "a lab needs root, to make network namespaces");
        for (program, package) in
            [("ip", "iproute2"), ("/usr/sbin/sshd", "openssh-server"), ("unshare", "util-linux")]
        {
            let found =
                cmd!(self.shell, "sh -c 'command -v '{program}").quiet().ignore_stdout().run().is_ok();
            ensure!(found, "a lab needs {program}; on Debian and Ubuntu: apt-get install {package}");
        }
        Ok(())
    }

    /// Makes the hosts, and waits until each answers. If that fails, takes the lab down again.
    pub(crate) fn up(&self, count: u8) -> anyhow::Result<()> {
        self.check()?;
        ensure!((1..=MOST_HOSTS).contains(&count), "a lab has 1 to {MOST_HOSTS} hosts, not {count}");
        ensure!(!self.folder.exists(), "the lab {} is already up: {}", self.name, self.folder.display());
        let made = self.make(count);
        if made.is_err() {
            self.down().context("taking down the incomplete lab")?;
        }
        made
    }

    /// Takes the lab down: ends everything that runs on its hosts, and removes the hosts and the lab's folder.
    pub(crate) fn down(&self) -> anyhow::Result<()> {
        for namespace in self.namespaces()? {
            let pids = cmd!(self.shell, "ip netns pids {namespace}").quiet().read()?;
            let pids: Vec<_> = pids.split_whitespace().collect();
            if !pids.is_empty() {
                // Some may have ended since they were listed. If one remains, deleting the namespace shows it.
                cmd!(self.shell, "kill -KILL {pids...}").quiet().ignore_status().ignore_stderr().run()?;
            }
            cmd!(self.shell, "ip netns del {namespace}").quiet().run()?;
        }
        for device in self.devices()? {
            // This may fail: the kernel removes a cable together with the namespace of its other end, a moment later.
            cmd!(self.shell, "ip link del {device}").quiet().ignore_status().ignore_stderr().run()?;
        }
        self.shell.remove_path(&self.folder)?;
        Ok(())
    }

    /// The name of the bridge; the names of cables and namespaces begin with it.
    fn bridge(&self) -> String {
        // It does not end in a digit, so that it cannot equal the name of another lab's cable.
        format!("lab-{}-", self.name)
    }

    fn namespaces(&self) -> anyhow::Result<Vec<String>> {
        let prefix = format!("{}h", self.bridge());
        let listed = cmd!(self.shell, "ip netns list").quiet().read()?;
        let names = listed.lines().filter_map(|line| line.split_whitespace().next());
        Ok(names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
    }

    /// The bridge and the cables.
    fn devices(&self) -> anyhow::Result<Vec<String>> {
        let devices = self.shell.read_dir("/sys/class/net")?;
        let names = devices.iter().filter_map(|path| path.file_name()?.to_str());
        let ours = |name: &&str| {
            let number = name.strip_prefix(&self.bridge());
            number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
        };
        Ok(names.filter(ours).map(str::to_owned).collect())
    }

    fn make(&self, count: u8) -> anyhow::Result<()> {
        let shell = &self.shell;
        shell.create_dir(&self.folder)?;
        let key = self.folder.join("id_ed25519");
        cmd!(shell, "ssh-keygen -q -t ed25519 -N '' -C lab -f {key}").quiet().run()?;
        let bridge = self.bridge();
        cmd!(shell, "ip link add {bridge} type bridge").quiet().run()?;
        let net = self.take_network()?;
        let own = Ipv4Addr::from([10, 213, net, 1]).to_string();
        cmd!(shell, "ip link set {bridge} up").quiet().run()?;
        let hosts: Vec<_> = (1..=count)
            .map(|i| LabHost {
                name: format!("h{i}"),
                namespace: format!("{bridge}h{i}"),
                cable: self.cable(i),
                address: Ipv4Addr::from([10, 213, net, 1 + i]),
                folder: self.folder.join(format!("h{i}")),
            })
            .collect();
        let mut file = String::from("# The hosts of a lab on this machine; made by cargo xtask lab.\n");
        for host in &hosts {
            file.push_str(&self.make_host(host, &own)?);
        }
        for host in &hosts {
            await_banner(host)?;
        }
        shell.write_file(self.hosts_file(), file)?;
        Ok(())
    }

    /// Gives the bridge an address in a free network; returns the third byte of the network.
    fn take_network(&self) -> anyhow::Result<u8> {
        let path = std::env::temp_dir().join("provisioned-classifier-lab.lock");
        let lock = std::fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        // Held until the address is assigned, so that two labs never choose the same network.
        lock.lock().with_context(|| format!("locking {}", path.display()))?;
        let taken = cmd!(self.shell, "ip -4 -oneline address show").quiet().read()?;
        let net = (0..=255)
            .find(|net| !taken.contains(&format!(" 10.213.{net}.")))
            .context("all networks 10.213.*.0/24 are taken on this machine")?;
        let (own, bridge) = (Ipv4Addr::from([10, 213, net, 1]).to_string(), self.bridge());
        cmd!(self.shell, "ip address add {own}/24 dev {bridge}").quiet().run()?;
        Ok(net)
    }

    /// Makes one host; returns its entry for the hosts file.
    fn make_host(&self, host: &LabHost, gateway: &str) -> anyhow::Result<String> {
        let shell = &self.shell;
        let LabHost { name, namespace, cable, folder, .. } = host;
        let address = host.address.to_string();
        let (home, bridge) = (folder.join("home"), self.bridge());
        shell.create_dir(home.join(".ssh"))?;
        shell.copy_file(self.folder.join("id_ed25519.pub"), home.join(".ssh/authorized_keys"))?;
        cmd!(shell, "chmod -R go-rwx {home}").quiet().run()?;
        let host_key = folder.join("host_key");
        cmd!(shell, "ssh-keygen -q -t ed25519 -N '' -C {name} -f {host_key}").quiet().run()?;

        cmd!(shell, "ip netns add {namespace}").quiet().run()?;
        cmd!(shell, "ip link add {cable} type veth peer name eth0 netns {namespace}").quiet().run()?;
        cmd!(shell, "ip link set {cable} master {bridge} up").quiet().run()?;
        cmd!(shell, "ip -n {namespace} address add {address}/24 dev eth0").quiet().run()?;
        cmd!(shell, "ip -n {namespace} link set eth0 up").quiet().run()?;
        cmd!(shell, "ip -n {namespace} link set lo up").quiet().run()?;
        cmd!(shell, "ip -n {namespace} route add default via {gateway}").quiet().run()?;

        // The host has its own hostname, its own folder over root's home, and its own /run for sshd's privilege separation.
        let script = r#"
            hostname "$1" && mount --make-rprivate / && mount --bind "$2/home" /root &&
            mount -t tmpfs none /run && mkdir -p /run/sshd && cd / &&
            exec /usr/sbin/sshd -D -E "$2/sshd.log" -f /dev/null -h "$2/host_key" -o PidFile=none \
                -o UsePAM=no -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no \
                -o Subsystem="sftp internal-sftp" -o MaxStartups=100 -o MaxSessions=100
        "#;
        let sshd = cmd!(
            shell,
            "ip netns exec {namespace} unshare --mount --uts sh -c {script} {namespace} {name} {folder}"
        );
        std::process::Command::from(sshd)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .with_context(|| format!("starting sshd on {name}"))?;
        let fingerprint = cmd!(shell, "ssh-keygen -l -f {host_key}").quiet().read()?;
        let fingerprint =
            fingerprint.split_whitespace().nth(1).context("ssh-keygen printed no fingerprint")?;
        let key = self.folder.join("id_ed25519");
        Ok(format!(
            "\n[[host]]\nname = \"{name}\"\naddress = \"{address}\"\nuser = \"root\"\nkey = \"{}\"\nfingerprint = \"{fingerprint}\"\n",
            key.display()
        ))
    }
}

/// Waits until the host's sshd sends its banner.
fn await_banner(host: &LabHost) -> anyhow::Result<()> {
    let deadline = Instant::now() + BANNER_TIME;
    let address = SocketAddr::from((host.address, 22));
    loop {
        let banner = || -> std::io::Result<[u8; 4]> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let mut start = [0; 4];
            stream.read_exact(&mut start)?;
            Ok(start)
        };
        match banner() {
            Ok(start) if &start == b"SSH-" => return Ok(()),
            Ok(start) => bail!("{} answers with {start:?}, so it is not an sshd", host.name),
            Err(error) if Instant::now() >= deadline => {
                let log = std::fs::read_to_string(host.folder.join("sshd.log")).unwrap_or_default();
                return Err(error).with_context(|| {
                    format!(
                        "waiting for sshd on {} ({address}) for {BANNER_TIME:?}; its log: {log}",
                        host.name
                    )
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
