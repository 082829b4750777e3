//! Classifies addresses as public, private, on this machine, or forbidden.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The metadata services of clouds at addresses that are not link-local: Alibaba, Oracle, Azure,
/// AWS and Google.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Where an address is. The order is from the most public addresses to those to which no connection
/// is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Public,
    Private,
    Loopback,
    Forbidden,
}

impl Place {
    pub(crate) fn of(address: IpAddr) -> Self {
        if METADATA.contains(&address) {
            return Place::Forbidden;
        }
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => match contained(address) {
                Some(inner) => Self::of(inner.into()),
                None => Self::of_v6(address),
            },
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [first, second, ..] = address.octets();
        match first {
            _ if address.is_link_local() => Place::Forbidden,
            // Multicast, reserved and broadcast.
            224.. => Place::Forbidden,
            // The whole network 0 is this machine.
            0 | 127 => Place::Loopback,
            _ if address.is_private() => Place::Private,
            // 100.64/10 is shared by the customers of a provider. 198.18/15 is for measurements.
            100 if second & 0xc0 == 64 => Place::Private,
            198 if second & 0xfe == 18 => Place::Private,
            _ => Place::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let first = address.segments()[0];
        if address.is_loopback() || address.is_unspecified() {
            Place::Loopback
        } else if address.is_unicast_link_local() || address.is_multicast() {
            Place::Forbidden
        } else if address.is_unique_local() || first & 0xffc0 == 0xfec0 {
            // `fec0::/10` was site-local.
            Place::Private
        } else {
            Place::Public
        }
    }
}

/// Returns the IPv4 address that is reached through an IPv6 address.
fn contained(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // Loopback and unspecified do not contain an IPv4 address.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible, mapped, and translated.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(join(high, low))
        }
        // NAT64, by the well-known prefix or a local one.
        [0x64, 0xff9b, _, _, _, _, high, low] => Some(join(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => Some(join(high, low)),
        // Teredo, which inverts the address.
        [0x2001, 0, _, _, _, _, high, low] => Some(join(!high, !low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_place_however_it_is_written() {
        for (address, expected) in [
            ("8.8.8.8", Place::Public),
            ("100.63.255.255", Place::Public),
            ("172.32.0.1", Place::Public),
            ("2606:4700::1111", Place::Public),
            ("::ffff:8.8.8.8", Place::Public),
            ("10.1.2.3", Place::Private),
            ("172.31.255.255", Place::Private),
            ("192.168.0.1", Place::Private),
            ("100.64.0.1", Place::Private),
            ("198.19.0.1", Place::Private),
            ("fd12:3456::1", Place::Private),
            ("fec0::1", Place::Private),
            ("::ffff:10.0.0.1", Place::Private),
            ("64:ff9b::10.0.0.1", Place::Private),
            ("2002:0a00:0001::1", Place::Private),
            ("127.0.0.1", Place::Loopback),
            ("127.255.255.254", Place::Loopback),
            ("0.0.0.0", Place::Loopback),
            ("0.1.2.3", Place::Loopback),
            ("::", Place::Loopback),
            ("::1", Place::Loopback),
            ("::ffff:127.0.0.1", Place::Loopback),
            ("::127.0.0.1", Place::Loopback),
            ("::ffff:0:127.0.0.1", Place::Loopback),
            ("64:ff9b:1::127.0.0.1", Place::Loopback),
            ("2002:7f00:0001::", Place::Loopback),
            ("169.254.169.254", Place::Forbidden),
            ("169.254.0.1", Place::Forbidden),
            ("::ffff:169.254.169.254", Place::Forbidden),
            ("64:ff9b::169.254.169.254", Place::Forbidden),
            ("64:ff9b::a9fe:a9fe", Place::Forbidden),
            ("2002:a9fe:a9fe::", Place::Forbidden),
            // The Teredo form of 169.254.169.254.
            ("2001:0:1::5601:5601", Place::Forbidden),
            ("fe80::1", Place::Forbidden),
            ("100.100.100.200", Place::Forbidden),
            ("::ffff:100.100.100.200", Place::Forbidden),
            ("192.0.0.192", Place::Forbidden),
            ("168.63.129.16", Place::Forbidden),
            ("fd00:ec2::254", Place::Forbidden),
            ("fd20:ce::254", Place::Forbidden),
            ("224.0.0.1", Place::Forbidden),
            ("255.255.255.255", Place::Forbidden),
            ("ff02::1", Place::Forbidden),
        ] {
            let parsed = address.parse().unwrap();
            assert_eq!(Place::of(parsed), expected, "{address}");
        }
    }
}
