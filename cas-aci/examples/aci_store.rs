//! A tool for a store of ACIs in a directory:
//!
//! ```text
//! aci_store DIR import FILE     prints the key
//! aci_store DIR list            prints key, name and size of each ACI, the last import first
//! aci_store DIR manifest KEY    prints the manifest
//! aci_store DIR read KEY        writes the uncompressed archive
//! aci_store DIR remove KEY      removes the ACI
//! aci_store DIR image KEY NAME  makes an OCI image of an ACI; prints the digest of the image
//! aci_store DIR import-store RKT-DIR   imports the image store of rkt; prints the keys of imported
//!                                      ACIs, and a line for each ACI that was not imported
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use cas_aci::{AciStore, SortField};
use cas_core::pool::wait;
use cas_core::{Error, Location, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aci_store: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command in `arguments`, and writes its result to `out`.
///
/// # Errors
/// `InvalidArgument` for wrong arguments; errors of the store, the files and `out`.
pub fn run(arguments: &[String], out: &mut dyn Write) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (directory, command) = match *arguments {
        [directory, ref command @ ..] => (directory, command),
        [] => return Err(usage()),
    };
    let location = Location::of_path("fs", directory.as_ref())?;
    let store = wait(cas::registry().open(&location))?;
    let store = wait(AciStore::open(store))?;
    let done = execute(&store, command, out);
    wait(store.close())?;
    done
}

fn execute(store: &AciStore, command: &[&str], out: &mut dyn Write) -> Result<()> {
    match *command {
        ["import", file] => {
            let key = wait(store.write_aci(File::open(file)?))?;
            writeln!(out, "{}", key.half())?;
        }
        ["list"] => {
            for info in wait(store.get_all_aci_infos(&[SortField::ImportTime], false))? {
                writeln!(out, "{} {} {}", info.key.half(), info.name, info.size)?;
            }
        }
        ["manifest", key] => out.write_all(&wait(store.get_image_manifest_json(key))?)?,
        ["read", key] => {
            io::copy(&mut wait(store.read_stream(key))?, out)?;
        }
        ["image", key, name] => {
            let image = wait(store.to_image(key, name.parse()?))?;
            writeln!(out, "{}", image.target.digest)?;
        }
        ["import-store", directory] => {
            let done = wait(store.import_store(directory))?;
            for key in &done.imported {
                writeln!(out, "{}", key.half())?;
            }
            for (key, error) in &done.refused {
                writeln!(out, "not imported: {key}: {error}")?;
            }
            for key in &done.without_blob {
                writeln!(
                    out,
                    "not imported: {key}: rkt lists it, but has no archive of it"
                )?;
            }
            for key in &done.without_row {
                writeln!(
                    out,
                    "not imported: {key}: rkt has an archive of it, but does not list it"
                )?;
            }
        }
        ["remove", key] => wait(store.remove_aci(key))?,
        _ => return Err(usage()),
    }
    Ok(())
}

fn usage() -> Error {
    Error::invalid(
        "usage: aci_store DIR import FILE | list | manifest KEY | read KEY | remove KEY | \
         image KEY NAME | import-store RKT-DIR",
    )
}
