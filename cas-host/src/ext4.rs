//! Makes empty ext4 file systems in files, with the program `mke2fs`.

use std::fs::File;
use std::io;
use std::process::{Command, Output, Stdio};

use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::limit;

/// The programs that are tried, in this order: first `mke2fs` in `PATH`, then those in two
/// directories that usually only the superuser has in `PATH`.
const PROGRAMS: [&str; 3] = ["mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"];
/// Size in bytes of a block.
const BLOCK: u64 = 4096;
/// Minimum size in bytes. `mke2fs` makes no journal in a much smaller file system.
const MINIMUM: u64 = 16 << 20;
/// The UUID and the seed of the hashes of directories. They are fixed, so that the same size always
/// gives the same bytes.
const UUID: &str = "6361732d-6469-836b-8000-657874340000";
/// The complete list of features, because the defaults differ between releases and machines.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// The time of everything in the file system: one second after the beginning of 1970, because
/// `mke2fs` uses the time of the clock in place of 0.
const TIME: &str = "1";

/// Makes an empty ext4 file system of `size` bytes in an empty file. Its root directory belongs to
/// the superuser. The same size gives the same bytes, with the same release of `mke2fs`. The file
/// is sparse.
///
/// # Errors
/// `InvalidArgument` if `size` is not a multiple of 4,096; `OutOfRange` for less than 16 MiB or
/// more than [`limit::WRITABLE_DISK`]; `Unsupported` if this machine does not have `mke2fs`;
/// `Internal` with the text of `mke2fs` if it fails; errors of the file system.
pub fn make_ext4(file: &File, size: u64) -> Result<()> {
    if !(MINIMUM..=limit::WRITABLE_DISK).contains(&size) {
        return Err(Error::out_of_range(format!(
            "expected a size of 16 MiB to {} TiB for a writable disk, found {size} bytes",
            limit::WRITABLE_DISK >> 40
        )));
    }
    if !size.is_multiple_of(BLOCK) {
        return Err(Error::invalid(format!(
            "expected a multiple of {BLOCK} bytes as the size of a writable disk, found {size}"
        )));
    }
    file.set_len(size)?;
    let output = run(&PROGRAMS, file).during("run", "mke2fs")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(
        ErrorKind::Internal,
        format!("mke2fs failed ({}): {:.500}", output.status, text.trim()),
    ))
}

/// Runs the first of the programs that exists. It opens the file by the path of its standard input,
/// because the file may have no final name yet.
fn run(programs: &[&str], file: &File) -> Result<Output> {
    for program in programs {
        let extended = format!(
            "hash_seed={UUID},root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        );
        let spawned = Command::new(program)
            .args(["-q", "-F", "-b", "4096", "-I", "256", "-i", "16384"])
            .args(["-m", "0", "-O", FEATURES, "-U", UUID, "-E", &extended])
            .arg("/proc/self/fd/0")
            .env("E2FSPROGS_FAKE_TIME", TIME)
            .env("SOURCE_DATE_EPOCH", TIME)
            .env("MKE2FS_CONFIG", "/dev/null")
            .env("LC_ALL", "C")
            .stdin(Stdio::from(file.try_clone()?))
            .output();
        match spawned {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            spawned => return Ok(spawned?),
        }
    }
    Err(Error::unsupported(
        "a writable disk needs the program mke2fs; install the package e2fsprogs",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    /// Returns a number in the superblock.
    fn number(file: &File, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 1024 + offset).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn the_file_system_has_the_size_and_nothing_of_the_machine() {
        let file = tempfile::tempfile().unwrap();
        match make_ext4(&file, 64 << 20) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                eprintln!("SKIPPED: {error}");
                return;
            }
            made => made.unwrap(),
        }
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), 64 << 20);
        assert!(found.blocks() * 512 < 8 << 20, "it is sparse");
        assert_eq!(number(&file, 0x38) & 0xffff, 0xef53, "the magic number");
        assert_eq!(number(&file, 0x04), 16_384, "blocks");
        for time in [0x30, 0x40, 0x108] {
            assert_eq!(
                number(&file, time),
                1,
                "times of writing, checking and making"
            );
        }
        let mut uuid = [0; 16];
        for place in [0x68, 0xec] {
            file.read_exact_at(&mut uuid, 1024 + place).unwrap();
            assert_eq!(&uuid[..4], b"cas-", "the UUID and the seed");
        }
    }

    #[test]
    fn other_sizes_are_refused_before_anything_is_written() {
        let file = tempfile::tempfile().unwrap();
        for (size, kind) in [
            (0, ErrorKind::OutOfRange),
            (MINIMUM - BLOCK, ErrorKind::OutOfRange),
            (limit::WRITABLE_DISK + BLOCK, ErrorKind::OutOfRange),
            (MINIMUM + 512, ErrorKind::InvalidArgument),
        ] {
            assert_eq!(make_ext4(&file, size).unwrap_err().kind(), kind, "{size}");
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_machine_without_the_program_is_told_what_to_install() {
        let file = tempfile::tempfile().unwrap();
        let error = run(&["absent-1", "/absent/2"], &file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("e2fsprogs"), "{error}");
    }
}
