//! The C library: which version the programs need, and which one a host has. Versions are the minor number of glibc 2.x.

use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::probe::minor_version;

/// The oldest version that can run the programs; `None` if they are linked statically.
pub(crate) fn required_by(programs: &[PathBuf]) -> anyhow::Result<Option<u32>> {
    const MARK: &[u8] = b"GLIBC_2.";
    let mut required = None;
    for program in programs {
        let bytes = std::fs::read(program).with_context(|| format!("reading {}", program.display()))?;
        for at in memchr::memmem::find_iter(&bytes, MARK) {
            let rest = &bytes[at + MARK.len()..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let minor = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok());
            required = required.max(minor);
        }
    }
    Ok(required)
}

/// Checks that a host can run the programs; `found` is its output of `getconf GNU_LIBC_VERSION`.
pub(crate) fn check(required: Option<u32>, found: &str) -> anyhow::Result<()> {
    let Some(required) = required else { return Ok(()) };
    let minor = minor_version(found).with_context(|| {
        format!(
            "its C library ({:?}) is not glibc, with which the programs are linked; for programs that need no C library, run on \
             this machine: rustup target add {}-unknown-linux-musl",
            found.trim(),
            std::env::consts::ARCH
        )
    })?;
    ensure!(
        minor >= required,
        "its C library is version 2.{minor}, and the programs built here need 2.{required}; for programs that need no C library, \
         run on this machine: rustup target add {}-unknown-linux-musl",
        std::env::consts::ARCH
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, b"..GLIBC_2.17\0..GLIBC_2.34\0..GLIBC_2.4\0GLIBC_2.").unwrap();
        assert_eq!(required_by(&[program]).unwrap(), Some(34));
        check(Some(34), "glibc 2.36\n").unwrap();
        check(None, "").unwrap();
        let error = check(Some(34), "glibc 2.31\n").unwrap_err().to_string();
        assert!(error.starts_with("its C library is version 2.31, and the programs built here need 2.34"));
        assert!(check(Some(34), "").is_err());
    }
}
