//! A tool that reads, changes and checks an OCI image layout.
//!
//! ```sh
//! cargo run -p oci-cas-backend-fs --example layout -- DIR put < FILE
//! cargo run -p oci-cas-backend-fs --example layout -- DIR tag NAME DIGEST MEDIA-TYPE
//! cargo run -p oci-cas-backend-fs --example layout -- DIR list
//! ```

use std::io::{self, Read, Write};
use std::path::Path;

use backend_fs::{FsStore, validate};
use cas_core::content::put_reader;
use cas_core::image::Image;
use cas_core::pool::wait;
use cas_core::{ContentExt, ContentStore, Descriptor, Digest, Error, ImageStoreExt, Result};

const USAGE: &str = "usage: layout DIR put|cat DIGEST|path DIGEST|delete DIGEST|\
                     tag NAME DIGEST TYPE|untag NAME|list|check";
/// Number of bytes of a blob that are read at once.
const PIECE: usize = 1 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    if let Err(error) = wait(run(&arguments, &mut input, &mut output)) {
        eprintln!("layout: {error}");
        std::process::exit(1);
    }
}

/// Runs one command of the tool.
///
/// # Errors
/// `InvalidArgument` if the command is unknown, or a digest or a name does not parse; `NotFound` if
/// `cat`, `path` or `tag` names a blob that the layout does not have; `AlreadyExists` if the name
/// for `tag` already has another target, or has labels; `Corrupt` if the layout is damaged; errors
/// of the store, of `input` and of `output`.
pub async fn run(arguments: &[&str], input: &mut impl Read, output: &mut impl Write) -> Result<()> {
    let [directory, arguments @ ..] = arguments else {
        return Err(Error::invalid(USAGE));
    };
    let open = || FsStore::open(directory);
    match arguments {
        ["put"] => {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            let blob = put_reader(&open()?.content(), &bytes[..]).await?;
            writeln!(output, "{} {}", blob.digest, blob.size)?;
        }
        ["cat", digest] => cat(&*open()?.content(), &digest.parse()?, output).await?,
        ["path", digest] => {
            let reader = open()?.content().open(&digest.parse()?).await?;
            let path = reader.and_then(|reader| reader.path()).ok_or_else(absent)?;
            writeln!(output, "{}", path.display())?;
        }
        ["delete", digest] => {
            // Succeeds also if the layout does not have the blob.
            open()?.content().remove(&digest.parse()?).await?;
        }
        ["tag", name, digest, media_type] => {
            let (store, digest) = (open()?, digest.parse()?);
            let stat = store.content().stat(&digest).await?.ok_or_else(absent)?;
            let target = Descriptor::new((*media_type).into(), digest, stat.size);
            // Succeeds if the name already refers to the blob. Fails if the name refers to
            // something else.
            store
                .images()
                .put_new(Image::new(name.parse()?, target))
                .await?;
        }
        ["untag", name] => {
            open()?.images().remove(&name.parse()?).await?;
        }
        ["list"] => {
            for image in open()?.images().list(&[]).await? {
                writeln!(output, "{} {}", image.name, image.target.digest)?;
            }
        }
        ["check"] => check(directory.as_ref(), output).await?,
        _ => return Err(Error::invalid(USAGE)),
    }
    Ok(())
}

async fn cat(content: &dyn ContentStore, digest: &Digest, output: &mut impl Write) -> Result<()> {
    let reader = content.open(digest).await?.ok_or_else(absent)?;
    let mut at = 0;
    while at < reader.size() {
        let piece = reader.read_at(at, PIECE).await?;
        output.write_all(&piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

async fn check(directory: &Path, output: &mut impl Write) -> Result<()> {
    let report = validate(directory).await?;
    for found in &report.findings {
        writeln!(
            output,
            "{} {}: {}",
            found.problem, found.subject, found.detail
        )?;
    }
    match report.is_sound() {
        true => Ok(()),
        false => Err(Error::corrupt(
            "the layout is damaged; restore or repair the listed files and blobs",
        )),
    }
}

fn absent() -> Error {
    Error::not_found("the layout does not have the blob; check the digest")
}
