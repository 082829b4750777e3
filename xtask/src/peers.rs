//! Installs the programs that builds and tests call, and makes the images that tests use.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::stage::step;

/// Programs that builds and tests call, each with its Debian package.
const PEERS: &[(&str, &str)] = &[
    ("umoci", "umoci"),
    ("skopeo", "skopeo"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("containerd", "containerd"),
    ("unpigz", "pigz"),
    ("ctr", "containerd"),
    ("buildah", "buildah"),
    ("mmdebstrap", "mmdebstrap"),
    ("strace", "strace"),
    ("python3", "python3-venv"),
    ("setpriv", "util-linux"),
    ("newuidmap", "uidmap"),
    ("setfattr", "attr"),
    ("setfacl", "acl"),
    ("setcap", "libcap2-bin"),
    ("zstd", "zstd"),
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("openssl", "openssl"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.erofs", "erofs-utils"),
    ("qemu-img", "qemu-utils"),
    ("g++", "g++"),
    ("clang", "clang"),
    ("clang", "libclang-dev"),
];

/// The image for every run of the tests.
const SMALL: &[&str] = &["small"];
/// All images. Making them takes some minutes.
pub(crate) const ALL_IMAGES: &[&str] = &["small", "platforms", "multi"];

/// The Python package of moto, the S3 service on which tests run the store `s3`.
const MOTO: &str = "moto[server,s3]==5.2.5";

/// Installs missing Debian packages if the user is the superuser and the system has `apt-get`.
/// Otherwise, prints a note that lists the missing packages. Then installs moto, or prints a note
/// if moto cannot be installed. Finally, makes the small image with [`make_images`].
///
/// # Errors
/// Errors of installing Debian packages and of making the image.
pub(crate) fn set_up() -> Result<()> {
    let missing = packages_without(is_installed);
    if !missing.is_empty() && is_root() && on_path("apt-get") {
        install(&missing)?;
    } else if !missing.is_empty() {
        eprintln!(
            "NOTE: missing Debian packages: {missing:?}; tests that need them print SKIPPED; \
             install the packages, or run `cargo xtask setup` as the superuser on Debian"
        );
    }
    install_moto()?;
    make_images(SMALL)
}

/// Returns the packages in [`PEERS`] for which `is_installed` returns false, each once.
fn packages_without(is_installed: impl Fn(&str, &str) -> bool) -> Vec<&'static str> {
    let missing = PEERS
        .iter()
        .filter(|(program, package)| !is_installed(program, package));
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    // Several programs may be in one package.
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Installs Debian packages.
fn install(packages: &[&str]) -> Result<()> {
    let apt_get = || {
        let mut command = Command::new("apt-get");
        // A server may not answer at once, and another process may install something now.
        command.args([
            "-q",
            "-o",
            "Acquire::Retries=3",
            "-o",
            "DPkg::Lock::Timeout=300",
        ]);
        command
    };
    step(apt_get().arg("update"))?;
    step(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .arg("debian-archive-keyring")
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Installs moto in `target/moto`, unless it is already there.
fn install_moto() -> Result<()> {
    let home = Path::new("target/moto");
    if home.join("bin/moto_server").exists() {
        return Ok(());
    }
    let python = |arguments: &[&str]| step(Command::new("python3").args(arguments));
    let made = python(&["-m", "venv", "target/moto"])
        .and_then(|()| step(Command::new(home.join("bin/pip")).args(["install", "-q", MOTO])));
    if let Err(error) = made {
        eprintln!("NOTE: cannot install moto ({error:#}); tests on S3 print SKIPPED");
    }
    Ok(())
}

/// Makes missing images in `target/images` with the scripts in `../shared/images`. If the user is
/// not the superuser or `../shared/images` does not exist, prints a note for each missing image
/// instead.
///
/// # Errors
/// Errors of the scripts, and of creating `target/images`.
pub(crate) fn make_images(images: &[&str]) -> Result<()> {
    let scripts = Path::new("../shared/images");
    for image in images {
        let made = match *image {
            "small" => "small",
            "platforms" => "debian-platforms",
            _ => "debian-multi",
        };
        let out = PathBuf::from("target/images");
        if out.join(made).join("index.json").exists() {
            continue;
        }
        if !scripts.is_dir() || !is_root() {
            eprintln!(
                "NOTE: the image {made} was not made, because this needs the superuser and the \
                 scripts in ../shared/images; tests on the image print SKIPPED"
            );
            continue;
        }
        std::fs::create_dir_all(&out)?;
        step(
            Command::new("bash")
                .arg(scripts.join(format!("make-{image}.sh")))
                .arg(&out),
        )?;
        if *image == "multi" {
            step(
                Command::new("python3")
                    .arg(scripts.join("plain.py"))
                    .arg(out.join(made)),
            )?;
        }
    }
    Ok(())
}

/// Returns whether RocksDB can be built. If not, prints which programs it needs.
pub(crate) fn can_build_rocksdb() -> bool {
    let can = on_path("g++") && on_path("clang++") && has_libclang();
    if !can {
        eprintln!("SKIPPED: RocksDB needs g++, clang and libclang; run `cargo xtask setup`");
    }
    can
}

/// Returns whether a package is installed. For most packages, checks that the program exists. The
/// programs listed for `python3-venv` and `libclang-dev` belong to other packages. So, for
/// `python3-venv`, checks that Python can import the modules `ensurepip` and `venv`. For
/// `libclang-dev`, checks that libclang exists.
fn is_installed(program: &str, package: &str) -> bool {
    match package {
        "python3-venv" => Command::new(program)
            .args(["-c", "import ensurepip, venv"])
            .status()
            .is_ok_and(|status| status.success()),
        "libclang-dev" => has_libclang(),
        _ => on_path(program),
    }
}

/// Returns whether libclang is in a directory in which the build of RocksDB looks for it.
fn has_libclang() -> bool {
    let entries = |folder: &Path| {
        let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
        listed.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"]
        .map(PathBuf::from)
        .to_vec();
    folders.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    // Such as /usr/lib/x86_64-linux-gnu and /usr/lib/llvm-14/lib.
    for below in entries(Path::new("/usr/lib")) {
        folders.extend([below.join("lib"), below]);
    }
    let is_libclang = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains(".so") && (name.starts_with("libclang.") || name.starts_with("libclang-"))
    };
    folders
        .iter()
        .any(|folder| entries(folder).iter().any(is_libclang))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.iter().any(|folder| folder.join(program).exists())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of /proc/self is the effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_with_several_missing_programs_is_listed_once() {
        let is_there = |program: &str, _: &str| !["containerd", "ctr", "skopeo"].contains(&program);
        assert_eq!(packages_without(is_there), ["containerd", "skopeo"]);
    }
}
