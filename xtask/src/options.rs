//! Options as make takes them: `NAME=VALUE` behind the command.

use anyhow::bail;

/// Names of 2018 that mean the same as others.
const ALIASES: [(&str, &str); 1] = [("INPUT_SIZE", "INPUT_LINES")];

/// Turns each `NAME=VALUE` behind the command to the flag that also reads the variable NAME.
///
/// # Errors
/// A name that the command does not know; the message lists those that it does.
pub(crate) fn from_make(
    words: impl Iterator<Item = String>,
    commands: &clap::Command,
) -> anyhow::Result<Vec<String>> {
    let mut words: Vec<_> = words.collect();
    let Some(command) = words.get(1).and_then(|name| commands.find_subcommand(name)) else {
        return Ok(words);
    };
    for word in words.iter_mut().skip(2) {
        // What follows -- is not ours.
        if word == "--" {
            break;
        }
        let Some((name, value)) = word.split_once('=').filter(|(name, _)| is_variable(name)) else {
            continue;
        };
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
        let known =
            || command.get_arguments().filter_map(|arg| Some((arg.get_env()?.to_str()?, arg.get_long()?)));
        let Some((_, flag)) = known().find(|(variable, _)| *variable == name) else {
            let names: Vec<_> = known().map(|(variable, _)| variable).collect();
            bail!("{} does not take {name}; it takes {}", command.get_name(), names.join(", "));
        };
        *word = format!("--{flag}={value}");
    }
    Ok(words)
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn translate(words: &[&str]) -> anyhow::Result<Vec<String>> {
        let command = Command::new("run")
            .arg(Arg::new("lines").long("input-lines").env("INPUT_LINES"))
            .arg(Arg::new("workers").long("workers").env("N_WORKERS"));
        let words = ["xtask"].iter().chain(words).map(|word| (*word).to_owned());
        from_make(words, &Command::new("xtask").subcommand(command))
    }

    #[test]
    fn variables_become_flags() {
        assert_eq!(
            translate(&["run", "INPUT_LINES=100", "--workers=2", "INPUT_SIZE=7", "N_WORKERS="]).unwrap(),
            ["xtask", "run", "--input-lines=100", "--workers=2", "--input-lines=7", "--workers="]
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
