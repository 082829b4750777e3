//! Tests that `hosts.toml` has the meaning that containerd documents.

use super::fixtures::{Row, hold};
use super::hosts_toml::read;

const APP: &str = "x.test/team/app:1";
const HUB: &str = "docker.io/library/app:1";

#[test]
fn mirrors_come_before_the_server() {
    let rows: &[Row] = &[
        (APP, "", Ok(&["pru https://x.test/v2/team/app/"])),
        (
            HUB,
            "server = \"https://docker.io\"\n[host.\"https://registry-1.docker.io\"]\n\
             capabilities = [\"pull\", \"resolve\"]\n",
            Ok(&[
                "pr- https://registry-1.docker.io/v2/library/app/",
                "pru https://docker.io/v2/library/app/",
            ]),
        ),
        (
            HUB,
            "server = \"https://registry-1.docker.io\"\n\
             [host.\"https://public.test\"]\ncapabilities = [\"pull\"]\n\
             [host.\"https://internal.test\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
             ca = \"internal.crt\"\n",
            Ok(&[
                "p-- https://public.test/v2/library/app/ ns=docker.io",
                "pr- https://internal.test/v2/library/app/ ns=docker.io ca=/c/internal.crt",
                "pru https://registry-1.docker.io/v2/library/app/",
            ]),
        ),
        // The order of the file counts, not that of the alphabet.
        (
            APP,
            "[host.\"https://z.test\"]\n[host.\"https://a.test\"]\n",
            Ok(&[
                "pru https://z.test/v2/team/app/ ns=x.test",
                "pru https://a.test/v2/team/app/ ns=x.test",
                "pru https://x.test/v2/team/app/",
            ]),
        ),
        // The mirror is the only endpoint. Its `ns` is the host of the registry with the port.
        (
            "x.test:5000/team/app:1",
            "server = \"https://mirror.test\"\n",
            Ok(&["pru https://mirror.test/v2/team/app/ ns=x.test:5000"]),
        ),
        (
            APP,
            "server = \"mirror.test\"\ncapabilities = [\"PULL\"]\n",
            Ok(&["p-- https://mirror.test/v2/team/app/ ns=x.test"]),
        ),
        // Without `server`, the registry itself has all capabilities, whatever the file states.
        (
            APP,
            "capabilities = [\"pull\"]\nskip_verify = true\n",
            Ok(&["pru https://x.test/v2/team/app/ unverified"]),
        ),
        // Keys that this version does not know are ignored.
        (
            APP,
            "server = \"https://x.test\"\nunknown = 1\n[host.\"https://m.test\"]\nnew = {a = 1}\n",
            Ok(&[
                "pru https://m.test/v2/team/app/ ns=x.test",
                "pru https://x.test/v2/team/app/",
            ]),
        ),
    ];
    hold("/c/hosts.toml", rows, read);
}

#[test]
fn a_url_has_a_path_and_a_scheme() {
    let rows: &[Row] = &[
        (
            APP,
            "server = \"https://m.test/v2\"\n",
            Ok(&["pru https://m.test/v2/team/app/ ns=x.test"]),
        ),
        (
            APP,
            "server = \"https://m.test/us/\"\n",
            Ok(&["pru https://m.test/us/v2/team/app/ ns=x.test"]),
        ),
        (
            APP,
            "server = \"https://m.test/v2/upstream\"\noverride_path = true\n",
            Ok(&["pru https://m.test/v2/upstream/team/app/ ns=x.test"]),
        ),
        (
            APP,
            "server = \"https://m.test\"\noverride_path = true\n",
            Ok(&["pru https://m.test/team/app/ ns=x.test"]),
        ),
        (
            APP,
            "server = \"http://m.test\"\n",
            Ok(&["pru http://m.test/v2/team/app/ ns=x.test"]),
        ),
        // A host of http with settings of TLS and a port other than 80 is tried over https first.
        (
            HUB,
            "server = \"https://registry-1.docker.io\"\n[host.\"http://192.0.2.1:5000\"]\n\
             capabilities = [\"pull\", \"resolve\", \"push\"]\nskip_verify = true\n",
            Ok(&[
                "pru https://192.0.2.1:5000/v2/library/app/ or http ns=docker.io unverified",
                "pru https://registry-1.docker.io/v2/library/app/",
            ]),
        ),
        (
            APP,
            "server = \"http://m.test:5000\"\nskip_verify = false\n",
            Ok(&["pru https://m.test:5000/v2/team/app/ or http ns=x.test"]),
        ),
        (
            APP,
            "server = \"ftp://m.test\"\n",
            Err("line 1: expected a URL of http or https"),
        ),
        (APP, "\n[host.\"https://me:p@m.test\"]\n", Err("line 2: ")),
        (
            APP,
            "[host.\"https://\"]\n",
            Err("expected a URL of http or https that has no login and no query; correct the file"),
        ),
    ];
    hold("/c/hosts.toml", rows, read);
}

#[test]
fn a_host_has_certificates_headers_and_a_deadline() {
    let rows: &[Row] = &[
        (
            APP,
            "server = \"https://x.test\"\nca = [\"/etc/a.pem\", \"b.pem\"]\n\
             client = \"both.pem\"\n",
            Ok(
                &["pru https://x.test/v2/team/app/ ca=/etc/a.pem ca=/c/b.pem \
                  client=/c/both.pem+/c/both.pem"],
            ),
        ),
        (
            APP,
            "server = \"https://x.test\"\n\
             client = [[\"/a.cert\", \"/a.key\"], [\"/b.pem\", \"\"], \"/c.pem\"]\n",
            Ok(&[
                "pru https://x.test/v2/team/app/ client=/a.cert+/a.key client=/b.pem+/b.pem \
                  client=/c.pem+/c.pem",
            ]),
        ),
        (
            APP,
            "server = \"https://x.test\"\ndial_timeout = \"1.5s\"\n[header]\n\
             x-one = \"1\"\nx-two = [\"a\", \"b\"]\n",
            Ok(&["pru https://x.test/v2/team/app/ x-one:1 x-two:a x-two:b within 1.5s"]),
        ),
        (
            APP,
            "[host.\"https://m.test\"]\nskip_verify = false\n\
             [host.\"https://m.test\".header]\nx-custom-2 = [\"value1\"]\n",
            Ok(&[
                "pru https://m.test/v2/team/app/ ns=x.test x-custom-2:value1",
                "pru https://x.test/v2/team/app/",
            ]),
        ),
        (
            APP,
            "ca = 1\n",
            Err("line 1: expected a string or a list of strings"),
        ),
        (
            APP,
            "client = [[\"a\"]]\n",
            Err("expected a path, a list of paths or a list of [CERTIFICATE, KEY] pairs"),
        ),
        (
            APP,
            "dial_timeout = \"soon\"\n",
            Err("line 1: expected a duration such as 1s"),
        ),
        (
            APP,
            "\n[header]\n\"a b\" = \"c\"\n",
            Err("line 3: the header \"a b\" has an invalid name or value"),
        ),
        (
            APP,
            "proxy = \"http://p.test\"\n",
            Err("line 1: a proxy for one host is not supported"),
        ),
        (
            APP,
            "server = \"https://x.test\"\n\ncapabilities = [\"pul\"]\n",
            Err("read /c/hosts.toml: line 3: expected the capability pull"),
        ),
        (APP, "server = \n", Err("line 1: ")),
        (
            APP,
            "server = \"a\"\nserver = \"b\"\n",
            Err("line 2: duplicate key"),
        ),
    ];
    hold("/c/hosts.toml", rows, read);
}
