//! Writes the page of each job in the gallery to a folder, for work on the page:
//! `cargo run --release --package hub --example gallery -- target/hub/gallery`.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;
use hub::scenario::gallery;
use hub::web::page;

fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).context("name a folder to write to")?);
    std::fs::create_dir_all(&folder).with_context(|| format!("creating the folder {}", folder.display()))?;
    for (name, report) in gallery(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?) {
        let file = folder.join(format!("{name}.html"));
        let page = page::with_data(&serde_json::to_string(&report)?);
        std::fs::write(&file, page).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
