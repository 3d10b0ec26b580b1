//! `expunged audit export`.

use std::path::PathBuf;

use serde_json::json;

use crate::archive;

use super::super::output::{self, BOLD, GREEN, RESET};
use super::super::{CliError, Common, Exit, read_ledger};

/// Write the log as a folder that anyone can verify without us
///
/// In the form of tiled logs (C2SP tlog-tiles), with the verifier key in `key` and the commitments of
/// each batch in `commitments/`. Done again, it adds what is new.
#[derive(clap::Args, Debug)]
pub(crate) struct ExportArgs {
    /// An empty folder, or one that was exported to before.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) async fn main(common: &Common, args: &ExportArgs) -> Result<Exit, CliError> {
    let ledger = read_ledger(&common.load()?).await?;
    let bar = output::bar(!common.json, "exporting".to_owned(), "entries");
    let exported = archive::export(&ledger, &args.dir, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    let exported = exported.await;
    bar.finish_and_clear();
    let exported = exported?;
    if common.json {
        output::json(&json!({
            "entries": exported.entries,
            "batches": exported.batches,
            "written": exported.written,
            "checkpoint": exported.checkpoint,
        }));
        return Ok(Exit::Fine);
    }
    let dir = args.dir.display();
    anstream::println!(
        "{GREEN}{BOLD}exported{RESET}  {} entries and the commitments of {} batches to {dir}",
        output::number(exported.entries),
        output::number(exported.batches)
    );
    println!("          anyone checks it with: expunged audit verify --from {dir} --key KEY");
    println!("          where KEY is the verifier key, which they have from `expunged audit key`");
    Ok(Exit::Fine)
}
