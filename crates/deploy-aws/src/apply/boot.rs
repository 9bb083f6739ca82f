//! A machine's user data: its host key, and when it terminates itself.

use std::path::Path;

use anyhow::{Context, ensure};
use xshell::{Shell, cmd};

use deploy_ssh::scratch;

/// Scripts of the POSIX shell that machines run when they boot. Each begins with `LEFT`, which needs the variable `seconds`.
const LEFT: &str = include_str!("boot/left.sh");
const PROCESS: &str = include_str!("boot/process.sh");
const TIMER: &str = include_str!("boot/timer.sh");
/// A script that prints on a machine whether its time to live is armed; [`ensure_armed`] parses its output.
pub(crate) const ARMED: &str = include_str!("boot/armed.sh");

/// The key by which a machine proves that it is ours. It is created here and sent in the machine's user data, so the first
/// connection needs no trust.
pub(crate) struct HostKey {
    private: String,
    public: String,
    pub(crate) fingerprint: String,
}

impl HostKey {
    /// # Errors
    /// ssh-keygen is not installed, or fails.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let folder = scratch::new_folder("key")?;
        let path = folder.join("key");
        let shell = Shell::new()?;
        cmd!(shell, "ssh-keygen -q -t ed25519 -N '' -C '' -f {path}")
            .quiet()
            .run()
            .context("generating a host key; is OpenSSH's client installed?")?;
        let key = Self {
            private: shell.read_file(&path)?,
            public: shell.read_file(path.with_extension("pub"))?.trim().to_owned(),
            fingerprint: fingerprint(&path)?,
        };
        shell.remove_path(&folder)?;
        Ok(key)
    }
}

/// The fingerprint of the key in a file.
fn fingerprint(path: &Path) -> anyhow::Result<String> {
    let shell = Shell::new()?;
    let listed =
        cmd!(shell, "ssh-keygen -l -E sha256 -f {path}").quiet().read().context("reading a host key")?;
    listed.split_whitespace().nth(1).map(str::to_owned).context("ssh-keygen names no fingerprint")
}

/// The user data of a machine, for cloud-init.
///
/// The machine measures its time to live itself, from its first boot, and needs no permissions for that. Since a bill depends on
/// it, there are two mechanisms, each sufficient: a process and a timer. `bootcmd` arms them at each boot, before anything that
/// could fail, as separate commands, so that the second runs even if the first fails. `shutdown` only warns people who log in.
pub(crate) fn user_data(key: &HostKey, minutes: u64) -> String {
    let (private, public, seconds) = (indented(&key.private, 4), &key.public, minutes * 60);
    let commands: String = [PROCESS, TIMER]
        .map(|script| {
            let script = indented(&format!("seconds={seconds}\n{LEFT}{script}"), 6);
            format!("  - - sh\n    - -c\n    - |\n{script}")
        })
        .concat();
    format!(
        r#"#cloud-config
ssh_deletekeys: true
ssh_keys:
  ed25519_private: |
{private}  ed25519_public: {public}
bootcmd:
{commands}runcmd:
  - [shutdown, -h, "+{minutes}"]
"#
    )
}

/// Indents lines for a block of YAML.
fn indented(text: &str, spaces: usize) -> String {
    text.lines().map(|line| format!("{:spaces$}{line}\n", "")).collect()
}

/// Refuses a machine unless both mechanisms are armed; `output` is that of [`ARMED`] on it.
///
/// # Errors
/// One of them is not armed; the error has the state of each, and what they printed at boot.
pub(crate) fn ensure_armed(name: &str, output: &str) -> anyhow::Result<()> {
    let mut lines = output.lines();
    let mut state = |prefix: &str| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(prefix).map_or("unknown", str::trim).to_owned()
    };
    let (timer, process) = (state("timer "), state("process "));
    let boot: String = lines.map(|line| format!("\n  {line}")).collect();
    ensure!(
        timer == "waiting" && process == "running",
        "checking the time to live of {name}: it is not armed by both means (its timer is {timer}, its process is \
         {process}), so the machine might run forever; use an image that has cloud-init and systemd, as Ubuntu's have \
         (--ami){}{boot}",
        if boot.is_empty() { "" } else { "; it printed at boot:" }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_has_the_key_and_the_time() {
        let key = HostKey::generate().unwrap();
        let text = user_data(&key, 240);
        assert!(text.starts_with("#cloud-config\n"));
        let private = indented(&key.private, 4);
        assert!(
            text.contains(&format!("  ed25519_private: |\n{private}  ed25519_public: ssh-ed25519 ")),
            "{text}"
        );
        assert_eq!(text.matches("\n      seconds=14400\n").count(), 2, "{text}");
        assert!(text.ends_with("  - [shutdown, -h, \"+240\"]\n"), "{text}");
        assert!(key.fingerprint.starts_with("SHA256:"));
        // EC2 accepts 16 KiB.
        assert!(text.len() < 8192, "{}", text.len());
    }

    /// Runs the script with a machine's note; returns the seconds that are left, and the note after it.
    fn left(note: Option<&str>, seconds: u64) -> (u64, String) {
        let folder = scratch::new_folder("left").unwrap();
        let path = folder.join("i-1-expires");
        if let Some(note) = note {
            std::fs::write(&path, note).unwrap();
        }
        let (prefix, folder) = ("/var/lib/provisioned-classifier-", folder.to_str().unwrap());
        let script = LEFT.replace(prefix, &format!("{folder}/"));
        assert!(LEFT.contains(prefix));
        let shell = Shell::new().unwrap();
        let script = format!("INSTANCE_ID=i-1\nseconds={seconds}\n{script}\necho $left");
        let left = cmd!(shell, "sh -c {script}").quiet().read().unwrap();
        let note = std::fs::read_to_string(&path).unwrap();
        shell.remove_path(folder).unwrap();
        (left.parse().unwrap(), note.trim().to_owned())
    }

    #[test]
    fn the_time_to_live_begins_with_the_first_boot() {
        let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let before = now();
        let (all, note) = left(None, 600);
        let noted: u64 = note.parse().unwrap();
        assert_eq!(all, 600);
        assert!((before + 600..=now() + 600).contains(&noted));
        let half = (now() + 300).to_string();
        let (half_left, note) = left(Some(&half), 600);
        assert!((290..=300).contains(&half_left), "{half_left}");
        assert_eq!(note, half);
    }

    #[test]
    fn a_wrong_note_neither_ends_a_machine_at_once_nor_lets_it_run_forever() {
        // Expired: as soon as possible.
        assert_eq!(left(Some("1000000000"), 600).0, 5);
        // From a wrong clock, truncated by a crash, or written by another program.
        for note in ["99999999999", "", "\n", "1e9", "soon", "-1"] {
            assert_eq!(left(Some(note), 600).0, 600, "{note:?}");
        }
    }

    #[test]
    fn a_machine_is_refused_unless_both_mechanisms_are_armed() {
        ensure_armed("worker1", "timer waiting\nprocess running\n").unwrap();
        let refused = |answer: &str| ensure_armed("worker1", answer).unwrap_err().to_string();
        let error = refused("timer dead\nprocess running\nsh: 9: setsid: not found\n");
        assert!(error.starts_with("checking the time to live of worker1: "), "{error}");
        assert!(error.contains("its timer is dead, its process is running"), "{error}");
        assert!(error.ends_with("(--ami); it printed at boot:\n  sh: 9: setsid: not found"), "{error}");
        let error = refused("timer waiting\nprocess missing\n");
        assert!(error.contains("its process is missing") && error.ends_with("(--ami)"), "{error}");
        let error = refused("timer sh: 1: systemctl: not found\nprocess missing\n");
        assert!(error.contains("its timer is sh: 1: systemctl: not found"), "{error}");
        for answer in ["", "process running\ntimer waiting\n", "Last login: today\ntimer waiting\n"] {
            assert!(refused(answer).contains("unknown"), "{answer:?}");
        }
    }

    #[test]
    fn the_script_reports_that_nothing_is_armed_on_this_machine() {
        let shell = Shell::new().unwrap();
        let answer = cmd!(shell, "sh -c {ARMED}").quiet().read().unwrap();
        assert!(ensure_armed("this machine", &answer).is_err(), "{answer}");
    }
}
