//! A host's own hand.
//!
//! `cargo xtask` ships this program to each host, and commands it over one SSH connection: [`serve`] reads requests
//! from its standard input and answers on its standard output. Programs that it starts are kept by a process of their
//! own ([`keep`]), so they go on when the connection ends. What is known of them stands in files, so that whoever
//! comes next finds them, by process id and never by name.
//!
//! All is in one folder, which is also the current folder of the programs:
//!
//! | name | holds |
//! |------|-------|
//! | `app` | a link to the unpacked application |
//! | `packages` | a link to the unpacked Python packages, if there are any |
//! | `versions/` | what the links lead to, by content hash |
//! | `run/` | for each program: what was started, process ids, ready file, how it ended; the job's token |
//! | `log/` | what the programs print |
//! | `input/` `output/` | on the metrics host: a file of rows, and what the receiver writes |
//! | `lock` | is locked by the one that commands the host just now, and says who that is |
//!
//! | module       | what |
//! |--------------|------|
//! | [`protocol`] | requests, replies and events |
//! | [`serve`]    | answering them |
//! | [`keep`]     | the process that keeps one program |
//! | [`records`]  | what is known of programs, on disk |
//! | [`unpack`]   | from an archive to a folder named after its hash |

pub mod protocol;
pub mod records;
pub mod serve;
pub mod supervise;
pub mod unpack;
