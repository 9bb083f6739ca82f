//! Scripts on a host, whatever the user's login shell and its startup files are like.
//!
//! sshd gives each command to the login shell, which may be bash, tcsh, fish or another one, and reads startup files first:
//! these may print, change folder, options and `PATH`, or end the shell. So a command is always the same one word for all of
//! them, in characters that none of them treats specially: it replaces the login shell by `/bin/sh` with our script in it. The
//! script first prints a random mark on both outputs. What comes before the mark is noise; without a mark, the script has not
//! begun.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

/// How much of what a host says about a failure is shown, in bytes.
const LAST_WORDS: usize = 2000;

const REMEDY: &str = "The user needs a shell that runs commands (not nologin or false), and its startup files (.bashrc, .profile, \
                      .cshrc, config.fish …) must neither end nor replace it when it is not interactive: in .bashrc, put \
                      `case $- in *i*) ;; *) return ;; esac` before exit and exec";

/// Begins each script. The home folder is the one of the user database: startup files may have changed `HOME`, and the current
/// folder. The usual places of programs come last in `PATH`, so that the user's own choice of python3 counts.
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
    /// What sshd is asked to run.
    pub(super) command: String,
    mark: String,
}

/// What a script has printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun<'a> {
    /// The home folder of the user who is logged in.
    pub(super) home: &'a str,
    /// What comes behind the mark.
    pub(super) rest: &'a [u8],
}

impl Script {
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn new(script: &str) -> anyhow::Result<Self> {
        let random = getrandom::u64().map_err(|error| anyhow!("making up a mark: {error}"))?;
        let mark = format!("begin-{random:016x}");
        let text = format!("{}{script}", PREAMBLE.replace("MARK", &mark));
        let command = format!("exec /bin/sh -c 'eval \"$(printf %b \"{}\")\"'", encoded(&text));
        Ok(Self { command, mark })
    }

    /// What was printed to standard output from the mark on; `None` while the mark is not there.
    pub(super) fn begun<'a>(&self, printed: &'a [u8]) -> Option<Begun<'a>> {
        let rest = behind(printed, &format!("\n{} ", self.mark))?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let home = std::str::from_utf8(&rest[..end]).ok()?;
        Some(Begun { home, rest: &rest[end + 1..] })
    }

    /// What the script itself has said on standard error, without the noise before it.
    pub(super) fn said(&self, errors: &[u8]) -> String {
        let said = behind(errors, &format!("\n{}\n", self.mark)).unwrap_or(errors);
        String::from_utf8_lossy(&said[said.len().saturating_sub(LAST_WORDS)..]).trim().to_owned()
    }

    /// Why the script has not begun, with what was said in place of it.
    pub(super) fn not_begun(&self, printed: &[u8], errors: &[u8]) -> anyhow::Error {
        let said: Vec<_> =
            [errors, printed].map(|bytes| self.said(bytes)).into_iter().filter(|s| !s.is_empty()).collect();
        let said = if said.is_empty() {
            String::new()
        } else {
            format!("; it said: {}", said.join("\n").trim_end_matches('.'))
        };
        anyhow!("the login shell ended before it ran a command{said}. {REMEDY}")
    }
}

/// Why a script does not begin that nothing is heard of.
pub(super) fn never_begun(time: Duration) -> anyhow::Error {
    anyhow!("the login shell has not run a command within {time:?}. {REMEDY}")
}

/// What comes behind the first place of a word.
fn behind<'a>(bytes: &'a [u8], word: &str) -> Option<&'a [u8]> {
    let at = bytes.windows(word.len()).position(|window| window == word.as_bytes())?;
    Some(&bytes[at + word.len()..])
}

/// For `printf %b`, and for any shell between quotes: what is not a letter, a digit or harmless stands as its octal number.
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

/// An absolute path in the host's folder.
pub(super) fn in_folder(home: &str, path: &str) -> anyhow::Result<String> {
    if !home.starts_with('/') {
        bail!(
            "the user who is logged in has no home folder ({home:?}); give it one, in /etc/passwd of the host"
        );
    }
    Ok(format!("{}/{}/{path}", home.trim_end_matches('/'), agent::protocol::FOLDER))
}

/// What to do when sshd does not open another session on a connection.
pub(super) fn explain_session(error: openssh::Error) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let text = format!("{error:#}");
    // That is all that the client says of it.
    if text.contains("open refused") || text.contains("open failed") || text.contains("MaxSessions") {
        return error.context(
            "its sshd opens no further session on this connection, and a few are needed at the same time; set MaxSessions \
             there to 10, the usual number (in /etc/ssh/sshd_config), and reload sshd",
        );
    }
    Err::<(), _>(error).context("opening a session").expect_err("it is an error")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    /// Runs a script in a login shell that is there, after what a startup file would do.
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
        assert_eq!(script.said(&output.stderr), "back", "{shell}, {startup:?}");
        assert_eq!(output.status.code(), Some(7), "{shell}, {startup:?}");
        assert!(begun.home.starts_with('/'), "{begun:?}");
    }

    #[test]
    fn any_shell_that_is_here_runs_it_whatever_its_startup_files_have_done() {
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
    fn a_shell_that_ends_first_is_not_taken_for_an_empty_answer() {
        for startup in ["echo not available; exit 1; ", "exit; ", "exec true; "] {
            let script = Script::new("echo here").unwrap();
            let output = run("sh", startup, &script);
            assert_eq!(script.begun(&output.stdout), None, "{startup}");
            let error = script.not_begun(&output.stdout, &output.stderr).to_string();
            assert_eq!(
                startup.contains("not available"),
                error.contains("it said: not available"),
                "{error}"
            );
            assert!(error.contains("not nologin or false"), "{error}");
        }
    }

    #[test]
    fn a_mark_is_taken_only_when_its_line_is_whole() {
        let script = Script { command: String::new(), mark: "begin-1".into() };
        assert_eq!(script.begun(b"noise\nbegin-1 /ro"), None);
        assert_eq!(script.begun(b"noise begin-1 /root\n"), None);
        let begun = Begun { home: "/home/a b", rest: b"x\n" };
        assert_eq!(script.begun(b"noise\nbegin-1 /home/a b\nx\n"), Some(begun));
        assert_eq!(in_folder("/home/a b/", "app").unwrap(), "/home/a b/.provisioned-classifier/app");
        assert!(in_folder("", "app").is_err());
    }
}
