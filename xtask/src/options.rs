//! Options as make takes them: `NAME=VALUE` behind the command.

use std::ffi::OsString;

use anyhow::bail;

/// Turns each `NAME=VALUE` behind the command to the flag of that name, or to the one that also reads the environment
/// variable of that name.
///
/// # Errors
/// A name that the command does not know; the message lists those that it does.
pub(crate) fn from_make(
    words: impl Iterator<Item = OsString>,
    commands: &clap::Command,
) -> anyhow::Result<Vec<OsString>> {
    let mut words: Vec<_> = words.collect();
    let Some(command) = words.get(1).and_then(|name| commands.find_subcommand(name)) else {
        return Ok(words);
    };
    let mut is_value = false;
    for word in words.iter_mut().skip(2) {
        // A word that is not UTF-8 is no variable of ours; it may be a path.
        let Some(text) = word.to_str() else { continue };
        // What follows -- is not ours.
        if text == "--" {
            break;
        }
        // The value of the flag before it may have any looks.
        if std::mem::take(&mut is_value) {
            continue;
        }
        is_value = takes_next_word(command, text);
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| is_variable(name)) else {
            continue;
        };
        let Some(flag) = command.get_arguments().find(|arg| names(arg).any(|n| n == name)) else {
            let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let names: Vec<_> = shown.filter_map(|arg| names(arg).next()).collect();
            bail!("{} does not take {name}; it takes {}", command.get_name(), names.join(", "));
        };
        *word = format!("--{}={value}", flag.get_long().unwrap_or_default()).into();
    }
    Ok(words)
}

/// Whether this is a flag whose value is the next word.
fn takes_next_word(command: &clap::Command, word: &str) -> bool {
    let flag = word.strip_prefix("--").filter(|flag| !flag.contains('='));
    let flag = flag.and_then(|flag| command.get_arguments().find(|arg| arg.get_long() == Some(flag)));
    flag.is_some_and(|flag| flag.get_action().takes_values() && !flag.is_require_equals_set())
}

/// The names of a flag's variables: the one that it reads in the environment, and its own name.
fn names(arg: &clap::Arg) -> impl Iterator<Item = String> {
    let variable = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned);
    let own = arg.get_long().map(|long| long.to_ascii_uppercase().replace('-', "_"));
    variable.into_iter().chain(own)
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn translate(words: &[&str]) -> anyhow::Result<Vec<OsString>> {
        let command = Command::new("run")
            .arg(Arg::new("lines").long("input-lines"))
            .arg(Arg::new("workers").long("workers").env("N_WORKERS"));
        let words = ["xtask"].iter().chain(words).map(|word| (*word).into());
        from_make(words, &Command::new("xtask").subcommand(command))
    }

    #[test]
    fn variables_become_flags() {
        assert_eq!(
            translate(&["run", "INPUT_LINES=100", "--workers=2", "N_WORKERS=", "WORKERS=7"]).unwrap(),
            ["xtask", "run", "--input-lines=100", "--workers=2", "--workers=", "--workers=7"]
        );
        let input = ["run", "--input-lines", "DATA=1.csv", "N_WORKERS=2"];
        assert_eq!(
            translate(&input).unwrap(),
            ["xtask", "run", "--input-lines", "DATA=1.csv", "--workers=2"]
        );
        assert_eq!(translate(&["run", "--", "A=b"]).unwrap(), ["xtask", "run", "--", "A=b"]);
        assert_eq!(translate(&["other", "A=b", "c=d"]).unwrap(), ["xtask", "other", "A=b", "c=d"]);
    }

    #[test]
    fn an_unknown_variable_is_an_error() {
        let error = translate(&["run", "LINES=100"]).unwrap_err().to_string();
        assert_eq!(error, "run does not take LINES; it takes INPUT_LINES, N_WORKERS");
    }
}
