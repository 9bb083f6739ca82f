//! Our process on a host.
//!
//! `cargo xtask` ships this program to each host and controls it over one SSH connection: [`serve`] reads requests from its
//! standard input and replies on its standard output. Each program that it starts has a supervisor process of its own
//! ([`supervise`]), so programs continue when the connection ends. Files record each program, so the next connection finds
//! it by process id, never by name.
//!
//! Everything is in one folder, which is also the current folder of the programs:
//!
//! | name | holds |
//! |------|-------|
//! | `id` | a random id, by which the host is known whatever its name or address |
//! | `agent-HASH` | this program; HASH names the build |
//! | `app` | a link to the unpacked application |
//! | `packages` | a link to the unpacked Python packages, if there are any |
//! | `versions/` | the targets of the links, by content hash |
//! | `run/` | for each program: its launch, process ids, ready file and end; the job's token and description |
//! | `log/` | the programs' logs |
//! | `input/` `output/` | on the metrics host: a file of rows, and the receiver's files |
//! | `lock` | locked by the client that has the host; names that client |
//!
//! | module        | holds |
//! |---------------|-------|
//! | [`protocol`]  | requests, replies and events |
//! | [`serve`]     | handles requests |
//! | [`supervise`] | the process that supervises one program |
//! | [`records`]   | the files about programs |
//! | [`unpack`]    | unpacks an archive to a folder named after its hash |

pub mod protocol;
pub mod records;
pub mod serve;
pub mod supervise;
pub mod unpack;
