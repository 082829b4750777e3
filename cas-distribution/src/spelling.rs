//! The canonical spelling of hosts. The hosts in rules and names are compared in this spelling, so
//! that no other spelling of a host evades a rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

use crate::hosts::url;
use crate::{hub, origin};

/// Returns a host in its canonical spelling: in lower case, without the final dot and without the
/// ports 443 and 80. An address has its shortest form. All hosts of Docker Hub are `docker.io`. An
/// IPv6 address that leads to an IPv4 address is spelled as the IPv4 address. A host that is not
/// valid in a URL may be a pattern, such as `*.HOST:*`. Only its case, its final dot and its usual
/// port are changed.
pub(crate) fn host(host: &str) -> String {
    // Once the port 80 is removed, the host may be one of Docker Hub. So it is spelled again.
    exact(without_usual_port(&exact(host)))
}

/// Returns a name, or the beginning of one, with its host in its canonical spelling.
pub(crate) fn name(text: &str) -> String {
    with_host(text, host)
}

/// Returns whether two names, or beginnings of names, lead to the same place over https. Unlike in
/// [`name`], a host at the port 80 is another place than the same host without a port.
pub(crate) fn is_same_place(one: &str, other: &str) -> bool {
    with_host(one, exact) == with_host(other, exact)
}

/// Returns a host without its port.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

fn without_usual_port(host: &str) -> &str {
    let mut ports = [":443", ":80"].into_iter();
    let name = ports.find_map(|port| host.strip_suffix(port));
    name.unwrap_or(host)
}

/// Returns a host in its canonical spelling for https. Hosts that lead to the same place over https
/// have the same spelling.
fn exact(host: &str) -> String {
    let lower = host.to_ascii_lowercase();
    let whole = url(&lower, "", "https").map(|url| match ipv4(&url) {
        Some(address) => {
            let port = url.port().map(|port| format!(":{port}"));
            format!("{address}{}", port.unwrap_or_default())
        }
        None => origin::authority(&url),
    });
    let whole = whole.unwrap_or(lower);
    let name = without_port(&whole);
    let port = &whole[name.len()..];
    let spelled = format!("{}{port}", name.strip_suffix('.').unwrap_or(name));
    if hub::is_hub(&spelled) {
        hub::HOSTS[0].to_owned()
    } else {
        spelled
    }
}

/// Returns the IPv4 address to which the host of a URL leads, if that is an IPv6 address.
fn ipv4(url: &Url) -> Option<Ipv4Addr> {
    match origin::literal(url)? {
        IpAddr::V6(address) => behind(address),
        IpAddr::V4(_) => None,
    }
}

/// Returns the IPv4 address that a connection to this address reaches: the kernel maps
/// `::ffff:0:0/96`, and NAT64 translates `64:ff9b::/96`. An address of 6to4 or Teredo is that of a
/// machine behind an IPv4 address, so it does not count as the IPv4 address.
fn behind(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(join(high, low))
        }
        _ => None,
    }
}

fn with_host(text: &str, spell: fn(&str) -> String) -> String {
    let (first, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    if first.is_empty() {
        return text.to_owned();
    }
    format!("{}{rest}", spell(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (typed, expected) in [
            ("x.test", "x.test"),
            ("X.Test", "x.test"),
            ("x.test.", "x.test"),
            ("X.TEST.:443", "x.test"),
            ("x.test:443", "x.test"),
            ("x.test:0443", "x.test"),
            ("x.test:80", "x.test"),
            ("x.test.:080", "x.test"),
            ("*.X.test", "*.x.test"),
            ("*.X.test.:443", "*.x.test"),
            ("*.x.test.:5000", "*.x.test:5000"),
            ("10.*.:80", "10.*"),
            ("x.test.:5000", "x.test:5000"),
            ("x.test:05000", "x.test:5000"),
            ("localhost:5000", "localhost:5000"),
            ("127.1", "127.0.0.1"),
            ("0x7f.0.0.1:5000", "127.0.0.1:5000"),
            ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
            ("[2001:db8:0000::0001]:443", "[2001:db8::1]"),
            ("[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"),
            ("127.0.0.1.:5000", "127.0.0.1:5000"),
            ("0177.00.0.01", "127.0.0.1"),
            ("[::ffff:7f00:1]:5000", "127.0.0.1:5000"),
            ("[::FFFF:127.0.0.1]", "127.0.0.1"),
            ("[0:0:0:0:0:ffff:7f00:0001]:80", "127.0.0.1"),
            ("[64:ff9b::c000:201]:5000", "192.0.2.1:5000"),
            ("[64:ff9b::192.0.2.1]:443", "192.0.2.1"),
            // Another prefix of NAT64, 6to4, and what the kernel does not map.
            ("[64:ff9b:1::c000:201]", "[64:ff9b:1::c000:201]"),
            ("[2002:c000:201::1]", "[2002:c000:201::1]"),
            ("[::c000:201]", "[::c000:201]"),
            ("docker.io", "docker.io"),
            ("Docker.IO:443", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("INDEX.docker.io.", "docker.io"),
            ("registry-1.docker.io:443", "docker.io"),
            ("registry-1.docker.io:80", "docker.io"),
            ("docker.io:5000", "docker.io:5000"),
            ("auth.docker.io", "auth.docker.io"),
            ("a b", "a b"),
        ] {
            assert_eq!(host(typed), expected, "{typed}");
        }
    }

    #[test]
    fn only_the_host_of_a_name_is_spelled_in_one_way() {
        for (text, expected) in [
            ("X.test/team/app:V1", "x.test/team/app:V1"),
            ("*.X.test", "*.x.test"),
            ("index.docker.io/team", "docker.io/team"),
            ("", ""),
        ] {
            assert_eq!(name(text), expected, "{text}");
        }
    }

    #[test]
    fn the_port_of_http_is_another_place() {
        for (one, other, expected) in [
            ("x.test/a", "X.test.:443/a", true),
            ("docker.io/a", "registry-1.docker.io/a", true),
            ("x.test/a", "x.test:80/a", false),
            ("x.test/a", "x.test/b", false),
        ] {
            assert_eq!(is_same_place(one, other), expected, "{one} {other}");
        }
    }
}
