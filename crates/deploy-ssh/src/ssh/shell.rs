//! Encodes scripts so that any login shell runs them, whatever its startup files do.
//!
//! sshd gives each command to the login shell: bash, tcsh, fish or another one. That shell reads startup files first, which
//! may print, change folder, options and `PATH`, or exit. So a command replaces the login shell by `/bin/sh` with our script,
//! encoded in characters that no shell treats specially. The script first prints a random mark on both outputs. Output before
//! the mark is noise; without a mark, the script has not begun.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{anyhow, bail};

/// How much of a script's standard error is shown, in bytes.
const SHOWN_STDERR: usize = 2000;

const REMEDY: &str = "The user needs a shell that runs commands (not nologin or false), and its startup files (.bashrc, .profile, \
                      .cshrc, config.fish …) must neither end nor replace it when it is not interactive: in .bashrc, put \
                      `case $- in *i*) ;; *) return ;; esac` before exit and exec";

/// The beginning of each script. The home folder is that of the user database, since startup files may change `HOME` and the
/// current folder. The standard folders come last in `PATH`, so that the user's own choice of python3 takes precedence.
const PREAMBLE: &str = r#"PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
unset CDPATH ENV BASH_ENV
u=`id -un 2>/dev/null`
case "$u" in ''|*[!A-Za-z0-9._-]*) h=$HOME ;; *) eval "h=~$u" ;; esac
case "$h" in /*) ;; *) h=$HOME ;; esac
printf '\n%s\n' MARK >&2
printf '\n%s %s\n' MARK "$h"
cd "$h" || exit 1
"#;

/// A script of the POSIX shell, as a command for any login shell. It runs in the user's home folder.
pub(super) struct Script {
    /// The command for sshd.
    pub(super) command: String,
    mark: String,
}

/// The output of a script that has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun<'a> {
    /// The home folder of the user who is logged in.
    pub(super) home: &'a str,
    /// What follows the mark.
    pub(super) rest: &'a [u8],
}

impl Script {
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn new(script: &str) -> anyhow::Result<Self> {
        let random = getrandom::u64().map_err(|error| anyhow!("generating a random mark: {error}"))?;
        let mark = format!("begin-{random:016x}");
        let text = format!("{}{script}", PREAMBLE.replace("MARK", &mark));
        let command = format!("exec /bin/sh -c 'eval \"$(printf %b \"{}\")\"'", encoded(&text));
        Ok(Self { command, mark })
    }

    /// Parses standard output; `None` until the line of the mark is complete.
    pub(super) fn begun<'a>(&self, printed: &'a [u8]) -> Option<Begun<'a>> {
        let rest = after(printed, &format!("\n{} ", self.mark))?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let home = std::str::from_utf8(&rest[..end]).ok()?;
        Some(Begun { home, rest: &rest[end + 1..] })
    }

    /// The end of the script's own standard error, without the noise before the mark.
    pub(super) fn stderr_text(&self, stderr: &[u8]) -> String {
        let own = after(stderr, &format!("\n{}\n", self.mark)).unwrap_or(stderr);
        String::from_utf8_lossy(&own[own.len().saturating_sub(SHOWN_STDERR)..]).trim().to_owned()
    }

    /// The error of a script that did not begin, with what the login shell printed.
    pub(super) fn not_begun(&self, stdout: &[u8], stderr: &[u8]) -> anyhow::Error {
        let texts = [stderr, stdout].map(|bytes| self.stderr_text(bytes));
        let texts: Vec<_> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        let output = if texts.is_empty() {
            String::new()
        } else {
            format!("; it printed: {}", texts.join("\n").trim_end_matches('.'))
        };
        anyhow!("the login shell exited before it ran a command{output}. {REMEDY}")
    }
}

/// The error of a script that printed nothing for this time.
pub(super) fn timed_out(time: Duration) -> anyhow::Error {
    anyhow!("the login shell has not run a command within {time:?}. {REMEDY}")
}

/// What follows the first occurrence of a word.
fn after<'a>(bytes: &'a [u8], word: &str) -> Option<&'a [u8]> {
    let at = bytes.windows(word.len()).position(|window| window == word.as_bytes())?;
    Some(&bytes[at + word.len()..])
}

/// Encodes text for `printf %b`, safe between quotes in any shell: other characters than letters, digits and a few harmless ones
/// become octal numbers.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(2 * text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b" _./:,-".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "\\0{byte:03o}");
        }
    }
    encoded
}

/// The absolute path of a file in the host's folder.
pub(super) fn in_folder(home: &str, path: &str) -> anyhow::Result<String> {
    if !home.starts_with('/') {
        bail!(
            "the user who is logged in has no home folder ({home:?}); give it one, in /etc/passwd of the host"
        );
    }
    Ok(format!("{}/{}/{path}", home.trim_end_matches('/'), agent::protocol::FOLDER))
}

/// Adds what to do if sshd refuses another session on a connection.
pub(super) fn explain_session(error: openssh::Error) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let text = format!("{error:#}");
    // The client reports no more than that.
    if text.contains("open refused") || text.contains("open failed") || text.contains("MaxSessions") {
        return error.context(
            "its sshd opens no further session on this connection, and a few are needed at the same time; set MaxSessions \
             there to 10, the default (in /etc/ssh/sshd_config), and reload sshd",
        );
    }
    error.context("opening a session")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    /// Runs a script in an installed login shell, after what a startup file would do.
    fn run(shell: &str, startup: &str, script: &Script) -> Output {
        Command::new(shell).arg("-c").arg(format!("{startup}{}", script.command)).output().unwrap()
    }

    const HARD: &str =
        "printf '%s\\n' 'a!b' \"$((1 + 1))\" '100%' \"it's\" 'ü\\n'; echo `echo back` >&2; exit 7";

    fn check(shell: &str, startup: &str) {
        let script = Script::new(HARD).unwrap();
        let output = run(shell, startup, &script);
        let begun = script.begun(&output.stdout);
        let Some(begun) = begun else { panic!("{shell}, {startup:?}: {output:?}") };
        assert_eq!(String::from_utf8_lossy(begun.rest), "a!b\n2\n100%\nit's\nü\\n\n", "{shell}, {startup:?}");
        assert_eq!(script.stderr_text(&output.stderr), "back", "{shell}, {startup:?}");
        assert_eq!(output.status.code(), Some(7), "{shell}, {startup:?}");
        assert!(begun.home.starts_with('/'), "{begun:?}");
    }

    #[test]
    fn every_installed_shell_runs_scripts_whatever_its_startup_files_do() {
        for shell in ["sh", "bash", "tcsh", "csh", "fish", "zsh", "dash", "ksh"] {
            if Command::new(shell).args(["-c", "true"]).output().is_ok() {
                check(shell, "");
                check(shell, "echo Welcome; cd /; ");
            }
        }
        for startup in [
            "printf no-newline; printf noise >&2; ",
            "set -eu; ",
            "umask 077; HOME=/nowhere; export HOME; ",
            "PATH=/nowhere; export PATH; ",
            "CDPATH=/tmp; export CDPATH; BASH_ENV=/nowhere; export BASH_ENV; ",
            "alias cd=false; alias printf=false; cd() { false; }; ",
        ] {
            check("bash", startup);
            check("sh", startup);
        }
    }

    #[test]
    fn a_shell_that_exits_before_the_script_is_an_error() {
        for startup in ["echo not available; exit 1; ", "exit; ", "exec true; "] {
            let script = Script::new("echo here").unwrap();
            let output = run("sh", startup, &script);
            assert_eq!(script.begun(&output.stdout), None, "{startup}");
            let error = script.not_begun(&output.stdout, &output.stderr).to_string();
            assert_eq!(
                startup.contains("not available"),
                error.contains("it printed: not available"),
                "{error}"
            );
            assert!(error.contains("not nologin or false"), "{error}");
        }
    }

    #[test]
    fn a_mark_counts_only_when_its_line_is_complete() {
        let script = Script { command: String::new(), mark: "begin-1".into() };
        assert_eq!(script.begun(b"noise\nbegin-1 /ro"), None);
        assert_eq!(script.begun(b"noise begin-1 /root\n"), None);
        let begun = Begun { home: "/home/a b", rest: b"x\n" };
        assert_eq!(script.begun(b"noise\nbegin-1 /home/a b\nx\n"), Some(begun));
        assert_eq!(in_folder("/home/a b/", "app").unwrap(), "/home/a b/.provisioned-classifier/app");
        assert!(in_folder("", "app").is_err());
    }
}
