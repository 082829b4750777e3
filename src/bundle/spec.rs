//! `config.json` of the runtime-spec.

use cas_core::error::excerpt;
use cas_core::{Error, Labels, Result, limit};
use serde_json::{Value, json};

use super::user::Account;
use super::{BundleOptions, Capabilities, Config, Process, ROOTFS, User, rootless};

/// Default `PATH`, if the image does not set it.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The oldest version of the runtime-spec that has every member used here.
const VERSION: &str = "1.0.2";

/// Capabilities of the superuser in a container. Other users have none.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Prefixes of the labels that become annotations. These labels describe the image, and no runtime
/// acts on them. All other labels are left out, because a runtime may act on some of them.
const ALLOWED: &[&str] = &[
    "maintainer",
    "org.label-schema.",
    "org.opencontainers.image.",
];

/// Prefixes of annotations that are known to make a runtime or a service manager act on the host.
const OBEYED: &[&str] = &[
    "io.katacontainers.",
    "krun.",
    "org.criu.",
    "org.systemd.property.",
    "run.oci.",
];

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Returns `config.json` for a configuration, and warnings: one for each label that was left out
/// because a runtime would act on it, and one if the process cannot run as the user of the image.
///
/// # Errors
/// `InvalidArgument` if the entrypoint or the command of the options contains a zero byte;
/// `Corrupt` if an argument, a variable or the working directory of the image does.
pub(super) fn document(
    config: &Config,
    options: &BundleOptions,
    account: &Account,
) -> Result<(Value, Vec<String>)> {
    let (annotations, mut warnings) = annotations(&config.annotations);
    let mut user = account.user.clone();
    let may_set_groups = cas_host::may_set_groups();
    if let Some(ids) = &options.rootless {
        let (mapped, warning) = rootless::user(ids, &user);
        user = mapped;
        warnings.extend(warning);
    } else if !may_set_groups {
        user.additional_gids.clear();
    }
    let namespaces = ["pid", "network", "ipc", "uts", "mount"];
    let mut document = json!({
        "ociVersion": VERSION,
        "process": process(config, options, (&user, &account.home))?,
        "root": {"path": ROOTFS},
        "hostname": "cas",
        "mounts": mounts(),
        "annotations": annotations,
        "linux": {
            "namespaces": namespaces.map(|kind| json!({"type": kind})),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    if let Some(ids) = &options.rootless {
        rootless::adapt(&mut document, ids);
    } else if !may_set_groups {
        rootless::leave_out_group(&mut document);
    }
    Ok((document, warnings))
}

/// Returns the beginning of the first text with a zero byte, or `None` if there is none.
fn with_zero<'a>(mut texts: impl Iterator<Item = &'a String>) -> Option<String> {
    let text = texts.find(|text| text.contains('\0'));
    text.map(|text| excerpt(text))
}

fn process(
    config: &Config,
    options: &BundleOptions,
    (user, home): (&User, &str),
) -> Result<Process> {
    let given = options.entrypoint.iter().chain(&options.command);
    if let Some(text) = with_zero(given) {
        let why = "the given entrypoint or command contains a zero byte; remove the zero byte";
        return Err(Error::invalid(why)
            .operation("create process")
            .subject(text));
    }
    let mut args = match &options.entrypoint {
        Some(entrypoint) => vec![entrypoint.clone()],
        None => config.entrypoint.clone(),
    };
    // As in docker, an empty entrypoint is the same as none.
    if args == [""] {
        args.clear();
    }
    if options.command.is_empty() && options.entrypoint.is_none() {
        args.extend_from_slice(&config.cmd);
    } else {
        args.extend_from_slice(&options.command);
    }
    if args.is_empty() {
        args.push("sh".to_owned());
    }
    let mut env = config.env.clone();
    let mut default = |name: &str, value: &str| {
        let has = |one: &String| one.split('=').next() == Some(name);
        if !env.iter().any(has) {
            env.push(format!("{name}={value}"));
        }
    };
    default("PATH", PATH);
    default("HOME", home);
    if options.terminal {
        default("TERM", "xterm");
    }
    let cwd = if config.working_dir.starts_with('/') {
        config.working_dir.clone()
    } else {
        format!("/{}", config.working_dir)
    };
    if let Some(text) = with_zero(args.iter().chain(&env).chain([&cwd])) {
        let why = "an argument, an environment variable or the working directory of the image \
                   contains a zero byte; build the image without the zero byte";
        return Err(Error::corrupt(why)
            .operation("create process")
            .subject(text));
    }
    let granted = || match user.uid {
        0 => all(CAPABILITIES),
        _ => Vec::new(),
    };
    Ok(Process {
        terminal: options.terminal,
        user: user.clone(),
        args,
        env,
        cwd,
        capabilities: Capabilities {
            bounding: all(CAPABILITIES),
            effective: granted(),
            permitted: granted(),
        },
        no_new_privileges: true,
    })
}

fn all(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn annotations(wanted: &Labels) -> (Labels, Vec<String>) {
    let begins = |key: &str, list: &[&str]| list.iter().any(|begin| key.starts_with(begin));
    let (taken, left_out): (Labels, Labels) = wanted
        .clone()
        .into_iter()
        .partition(|(key, _)| begins(key, ALLOWED));
    let mut obeyed: Vec<String> = left_out
        .into_keys()
        .filter(|key| begins(key, OBEYED))
        .collect();
    let more = obeyed.len().saturating_sub(limit::WARNINGS);
    obeyed.truncate(limit::WARNINGS);
    let warning = |key: String| {
        let key = excerpt(&key);
        format!(
            "the label \"{key}\" of the image does not become an annotation, because a runtime \
             would act on it"
        )
    };
    let mut warnings: Vec<String> = obeyed.into_iter().map(warning).collect();
    if more > 0 {
        warnings.push(format!(
            "further labels of the image that do not become annotations, because a runtime would \
             act on them: {more}"
        ));
    }
    (taken, warnings)
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let closed = ["nosuid", "noexec", "nodev"];
    let terminals = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    json!([
        mount("/proc", "proc", "proc", &closed),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
        mount("/dev/pts", "devpts", "devpts", &terminals),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &[&closed[..], &["mode=1777", "size=65536k"]].concat()
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &closed),
        mount("/sys", "sysfs", "sysfs", &[&closed[..], &["ro"]].concat()),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &[&closed[..], &["relatime", "ro"]].concat()
        ),
    ])
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    const CONFIG: &str = r#"{
        "os": "linux", "architecture": "amd64", "author": null, "created": "2026-01-01T00:00:00Z",
        "config": {
            "User": "app", "Entrypoint": ["/bin/e"], "Cmd": ["c", "d"],
            "Env": ["A=1", "HOME=/mine", "PATHS=x"], "WorkingDir": "srv", "StopSignal": "SIGINT",
            "Labels": {"org.opencontainers.image.os": "mine", "maintainer": "m",
                "x": "", "": "y", "com.example.x": "y", "dev.gvisor.internal.x": "z",
                "org.opencontainers.imagex": "i", "ORG.systemd.property.x": "u",
                "run.oci.hooks.stdout": "/etc/passwd"},
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}, "Volumes": {"/data": {}}
        }
    }"#;

    fn made(config: &str, options: &BundleOptions, uid: u32) -> (Value, Vec<String>) {
        let config = Config::parse(config.as_bytes()).unwrap();
        let user = super::super::User {
            uid,
            ..Default::default()
        };
        let home = "/root".to_owned();
        document(&config, options, &Account { user, home }).unwrap()
    }

    #[test]
    fn a_configuration_is_converted_as_the_image_spec_says() {
        let (document, warnings) = made(CONFIG, &BundleOptions::default(), 7);
        let process = &document["process"];
        assert_eq!(process["args"], json!(["/bin/e", "c", "d"]));
        let path = format!("PATH={PATH}");
        assert_eq!(
            process["env"],
            json!(["A=1", "HOME=/mine", "PATHS=x", path])
        );
        assert_eq!(process["cwd"], "/srv");
        assert_eq!(process["terminal"], false);
        assert_eq!(process["capabilities"]["effective"], json!([]));
        let annotations = json!({
            "org.opencontainers.image.os": "mine",
            "org.opencontainers.image.architecture": "amd64",
            "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
            "org.opencontainers.image.stopSignal": "SIGINT",
            "org.opencontainers.image.exposedPorts": "443/tcp,80/tcp",
            "maintainer": "m",
        });
        assert_eq!(document["annotations"], annotations);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("run.oci.hooks.stdout"), "{warnings:?}");
    }

    #[test]
    fn warnings_about_labels_are_bounded() {
        let labels = (0..10 * limit::WARNINGS).map(|number| {
            let key = format!("run.oci.hooks.{number}");
            (key, Value::from("x"))
        });
        let config = json!({"config": {"Labels": labels.collect::<serde_json::Map<_, _>>()}});
        let (_, warnings) = made(&config.to_string(), &BundleOptions::default(), 0);
        assert_eq!(warnings.len(), limit::WARNINGS + 1);
        let more = format!("act on them: {}", 9 * limit::WARNINGS);
        assert!(warnings[limit::WARNINGS].contains(&more), "{warnings:?}");
    }

    #[test]
    fn options_replace_the_configuration_of_the_image() {
        let command = vec!["x".to_owned()];
        let args = |entrypoint: Option<&str>, command: &[String], config: &str| {
            let options = BundleOptions {
                entrypoint: entrypoint.map(str::to_owned),
                command: command.to_vec(),
                terminal: true,
                ..BundleOptions::default()
            };
            made(config, &options, 0).0["process"].clone()
        };
        assert_eq!(args(None, &command, CONFIG)["args"], json!(["/bin/e", "x"]));
        assert_eq!(args(Some("e"), &[], CONFIG)["args"], json!(["e"]));
        assert_eq!(args(Some("e"), &command, CONFIG)["args"], json!(["e", "x"]));
        assert_eq!(args(Some(""), &command, CONFIG)["args"], json!(["x"]));
        assert_eq!(args(Some(""), &[], CONFIG)["args"], json!(["sh"]));
        let empty = r#"{"config": {"Entrypoint": [""], "Cmd": ["c"]}}"#;
        assert_eq!(args(None, &[], empty)["args"], json!(["c"]));
        assert_eq!(args(None, &command, empty)["args"], json!(["x"]));
        let nothing = args(None, &[], r#"{"config": {"Env": null, "Cmd": null}}"#);
        assert_eq!(nothing["args"], json!(["sh"]));
        assert_eq!(nothing["cwd"], "/");
        assert_eq!(nothing["capabilities"]["effective"], json!(CAPABILITIES));
        let env = json!([format!("PATH={PATH}"), "HOME=/root", "TERM=xterm"]);
        assert_eq!(nothing["env"], env);
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let account = Account {
            user: super::super::User::default(),
            home: "/".to_owned(),
        };
        let plain = BundleOptions::default();
        let of_image = r#"{"config": {"Env": ["A=1\u0000B=2"]}}"#;
        for (config, options, expected) in [
            (of_image, plain.clone(), ErrorKind::Corrupt),
            (
                "{}",
                plain.clone().with_command(vec!["a\0b".to_owned()]),
                ErrorKind::InvalidArgument,
            ),
            (
                "{}",
                plain.with_entrypoint("a\0b".to_owned()),
                ErrorKind::InvalidArgument,
            ),
        ] {
            let config = Config::parse(config.as_bytes()).unwrap();
            let refused = document(&config, &options, &account).unwrap_err();
            assert_eq!(refused.kind(), expected, "{refused}");
        }
    }
}
